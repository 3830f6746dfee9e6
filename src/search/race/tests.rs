//! The race on small tables made for the purpose.

use std::sync::Arc;

use serde_json::json;

use super::planning::WORKING_TRIED;
use super::*;
use crate::search::simulate::{Table, Trace, run};

/// Models a (cheap) and b (ten times dearer), prompts 0..prompts, n = 1, 2, 4. Later prompts are better, and b is.
fn table(prompts: usize, instances: usize) -> Arc<Table> {
    let mut table = Table { prompts: Some(Vec::new()), ..Table::default() };
    for (model, price, skill) in [("a", 1_000, 0), ("b", 10_000, 4)] {
        for prompt in 0..prompts {
            for n in [1, 2, 4] {
                let level = 4 + skill + 8 * prompt / prompts;
                let right = |at: usize| f64::from(u8::from((at * 7 + prompt * 3 + n) % 20 < level));
                let configuration = json!({"model": model, "prompt": format!("p{prompt}"), "n": n});
                table.configurations.push(serde_json::from_value(configuration).unwrap());
                table.scores.push((0..instances).map(|at| Some(right(at))).collect());
                table.costs.push(vec![Usd::from_pico(price * (1 + n as i64)); instances]);
                table.prompts.as_mut().unwrap().push(vec![Usd::from_pico(price); instances]);
            }
        }
    }
    table.production = table.costs.clone();
    Arc::new(table)
}

fn play(table: &Arc<Table>, problem: &Problem) -> Trace {
    let order: Vec<usize> = (0..problem.instances).collect();
    run(&mut *build(problem.clone()).unwrap(), table, problem, &order).unwrap()
}

fn found(table: &Table, trace: &Trace) -> f64 {
    trace.recommendation.and_then(|row| table.mean(row)).unwrap()
}

#[test]
fn the_best_is_found_for_a_twentieth_of_the_price() {
    let table = table(8, 200);
    let best = (0..48).filter_map(|row| table.mean(row)).fold(0.0, f64::max);
    let regret = (0..4)
        .map(|seed| best - found(&table, &play(&table, &table.problem(Some(table.price().share(0.05)), seed))))
        .sum::<f64>();
    assert!(regret / 4.0 < 0.05, "{regret}");
}

#[test]
fn smaller_n_come_with_what_was_bought_and_cost_nothing() {
    let table = table(4, 60);
    let trace = play(&table, &table.problem(Some(table.price().share(0.2)), 1));
    let asked =
        |row: usize, at: usize| trace.told.iter().any(|told| trace.rows[told.trial] == row && told.instance == at);
    for told in &trace.told {
        let row = trace.rows[told.trial];
        (row - row % 3..row).for_each(|smaller| assert!(asked(smaller, told.instance)));
    }
    assert!(trace.told.iter().any(|told| told.cost == Usd::ZERO));
}

#[test]
fn what_production_cannot_afford_is_not_recommended() {
    let table = table(6, 100);
    let cap = Usd::from_pico(3_500);
    let problem = Problem { inference_budget: Some(cap), ..table.problem(Some(table.price().share(0.1)), 2) };
    let trace = play(&table, &problem);
    let row = trace.recommendation.unwrap();
    assert!(table.production[row][0] <= cap, "{}", table.configurations[row]);
    assert!(found(&table, &trace) >= 0.4, "{}", table.configurations[row]);
}

#[test]
fn it_ends_when_the_margin_is_reached() {
    let table = table(6, 200);
    let plain = table.problem(Some(table.price()), 3);
    let wide = Problem { margin: Some(0.2), ..plain.clone() };
    let (all, some) = (play(&table, &plain), play(&table, &wide));
    assert!(some.spent < all.spent.share(0.7), "{} {}", some.spent, all.spent);
    let best = (0..36).filter_map(|row| table.mean(row)).fold(0.0, f64::max);
    assert!(found(&table, &some) > best - 0.2);
}

#[test]
fn many_configurations_are_thought_about_in_parts() {
    let mut table = Table::default();
    for at in 0..400_usize {
        table.configurations.push(serde_json::from_value(json!({"prompt": format!("p{at}")})).unwrap());
        let right = |instance: usize| f64::from(u8::from((instance * 13 + at * 7) % 30 < 5 + at % 21));
        table.scores.push((0..50).map(|instance| Some(right(instance))).collect());
        table.costs.push(vec![Usd::from_pico(100); 50]);
    }
    table.production = table.costs.clone();
    let table = Arc::new(table);
    let trace = play(&table, &table.problem(Some(table.price().share(0.1)), 4));
    // More than are thought about at a time, and fewer than there are.
    assert!((WORKING_TRIED..400).contains(&trace.rows.len()), "{}", trace.rows.len());
    // The best tenth begins at 0.75.
    assert!(found(&table, &trace) > 0.7, "{}", found(&table, &trace));
}

#[test]
fn who_is_recommended_was_looked_at_for_a_tenth_of_the_budget_whatever_relatives_say() {
    let mut table = Table::default();
    for at in 0..64_usize {
        let parts = [at % 4, at / 4 % 4, at / 16];
        let [a, b, c] = parts.map(|part| format!("v{part}"));
        table.configurations.push(serde_json::from_value(json!({"prompt": a, "stop": b, "model": c})).unwrap());
        // Each part does its own; the sum is what is right.
        let level = 8 + 2 * parts.iter().sum::<usize>();
        let right = |instance: usize| f64::from(u8::from((instance * 13 + at * 7) % 30 < level));
        table.scores.push((0..300).map(|instance| Some(right(instance))).collect());
        table.costs.push(vec![Usd::from_pico(100 * 4_i64.pow(parts[2] as u32)); 300]);
    }
    table.production = table.costs.clone();
    let table = Arc::new(table);
    for seed in 0..3 {
        // As much as thirty looks at the dearest cost.
        let trace = play(&table, &table.problem(Some(Usd::from_pico(6400 * 30)), seed));
        let row = trace.recommendation.unwrap();
        let looks = trace.told.iter().filter(|told| trace.rows[told.trial] == row).count();
        assert!(looks >= 3, "seed {seed}: {looks} looks at {}", table.configurations[row]);
    }
}

/// Counts the rounds of a search: how often it had asked something and then waited for results.
struct Counting {
    inner: Box<dyn Strategy>,
    asked: bool,
    rounds: usize,
}

impl Strategy for Counting {
    fn ask(&mut self) -> Ask {
        let ask = self.inner.ask();
        self.rounds += usize::from(self.asked && !matches!(ask, Ask::Evaluate { .. }));
        self.asked = matches!(ask, Ask::Evaluate { .. });
        ask
    }

    fn tell(&mut self, told: Told) {
        self.inner.tell(told);
    }

    fn dropped(&mut self, trial: usize) {
        self.inner.dropped(trial);
    }

    fn look_ahead(&self) -> usize {
        16_384
    }
}

#[test]
fn in_rounds_it_needs_few_of_them_and_finds_as_good() {
    let table = table(8, 200);
    let best = (0..48).filter_map(|row| table.mean(row)).fold(0.0, f64::max);
    let (mut regret, mut most, mut least) = (0.0, 0, usize::MAX);
    for seed in 0..3 {
        let problem = table.problem(Some(table.price().share(0.06)), seed);
        let order: Vec<usize> = (0..problem.instances).collect();
        let [rounds, usual] = [true, false].map(|in_rounds| {
            let mut inner = build(problem.clone()).unwrap();
            if in_rounds {
                inner.in_rounds();
            }
            let mut counting = Counting { inner, asked: false, rounds: 0 };
            let trace = run(&mut counting, &table, &problem, &order).unwrap();
            if in_rounds {
                regret += best - found(&table, &trace);
            }
            counting.rounds
        });
        (most, least) = (most.max(rounds), least.min(usual));
    }
    assert!(most <= 8 && least > most, "{most} rounds where the usual way takes {least}");
    assert!(regret / 3.0 < 0.05, "{regret}");
}

#[test]
fn what_is_too_dear_by_its_prompt_alone_costs_nothing() {
    let table = table(4, 40);
    let cap = Usd::from_pico(9_000);
    let problem = Problem { inference_budget: Some(cap), ..table.problem(Some(table.price().share(0.2)), 3) };
    let trace = play(&table, &problem);
    // Model b's prompts cost 10,000.
    assert!(!trace.told.is_empty() && trace.rows.iter().all(|&row| row < 12), "{:?}", trace.rows);
}

#[test]
fn the_baseline_is_brought_to_the_leaders_instances() {
    let table = table(4, 60);
    let baseline = table.configurations[0].clone();
    let problem = Problem { first: vec![baseline], baseline: true, ..table.problem(Some(table.price().share(0.3)), 2) };
    let trace = play(&table, &problem);
    let seen = |row: usize| trace.told.iter().filter(|told| trace.rows[told.trial] == row).count();
    let winner = trace.recommendation.unwrap();
    assert!(winner != 0 && seen(0) >= seen(winner).min(50), "{} {}", seen(0), seen(winner));
}

#[test]
fn what_is_perfect_ends_the_search() {
    let mut all = (*table(4, 60)).clone();
    all.scores[0] = vec![Some(1.0); 60];
    // Nearly as good, and therefore worth many looks where more than perfect is thought possible.
    all.scores[3] = (0..60).map(|at| Some(f64::from(u8::from(at != 50)))).collect();
    let all = Arc::new(all);
    let spent = |ceiling: Option<f64>| {
        let problem = Problem { ceiling, ..all.problem(Some(all.price()), 2) };
        let trace = play(&all, &problem);
        (trace.spent, found(&all, &trace))
    };
    let (with, without) = (spent(Some(1.0)), spent(None));
    // Two instances on which everything is right are no reason to stop.
    let lucky = |row: &Vec<Option<f64>>| [vec![Some(1.0); 4], row[4..].to_vec()].concat();
    let begun = Arc::new(Table { scores: table(4, 60).scores.iter().map(lucky).collect(), ..(*all).clone() });
    let problem = Problem { ceiling: Some(1.0), ..begun.problem(Some(all.price()), 2) };
    assert!(play(&begun, &problem).told.iter().any(|told| told.instance > 8));
    assert!(with.0 < without.0 && with.1 >= 0.95, "{with:?} {without:?}");
}

#[test]
fn one_configuration_alone_is_looked_at_on_everything() {
    let whole = table(1, 100);
    let one = Arc::new(Table {
        configurations: whole.configurations[..1].to_vec(),
        scores: whole.scores[..1].to_vec(),
        costs: whole.costs[..1].to_vec(),
        production: whole.production[..1].to_vec(),
        prompts: None,
    });
    let seen = |budget: Usd| play(&one, &one.problem(Some(budget), 1)).told.len();
    assert_eq!((seen(one.price().times(5)), seen(one.price().share(0.5)) >= 45), (100, true));
}
