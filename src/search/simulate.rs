//! Strategies tried out in memory: a study without models, on a table of scores and costs.
//!
//! [`drive`] keeps to the protocol as the real study does and checks that the strategy does too; [`run`] is a whole
//! search on a recorded [`Table`], which benchmarks of strategies are made of.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use rand::RngExt;
use rand_chacha::ChaCha12Rng;

use super::{Ask, Domain, InputPrice, Outcome, Problem, Strategy, Told};
use crate::money::Usd;
use crate::space::Configuration;
use crate::stats::racing::assess::{Eligible, Evidence, Standing, indifferent, recommended, standings};
use crate::stats::racing::costs::{Bill, Input, SURE};
use crate::stats::{Running, racing};

/// A recorded search space: every configuration on every instance.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// The rows; distinct by key.
    pub configurations: Vec<Configuration>,
    /// `scores[row][instance]`, larger is better; `None` is missing.
    pub scores: Vec<Vec<Option<f64>>>,
    /// `costs[row][instance]`: what the evaluation costs if nothing of it was bought before.
    pub costs: Vec<Vec<Usd>>,
    /// `production[row][instance]`: what production would pay.
    pub production: Vec<Vec<Usd>>,
    /// `prompts[row][instance]`: the part of the cost that is the prompt. Where it is given, rows that differ only in
    /// `n` share samples on an instance: going from k to n pays the prompt again and the completions that are lacking.
    pub prompts: Option<Vec<Vec<Usd>>>,
}

impl Table {
    /// How many instances there are.
    pub fn instances(&self) -> usize {
        self.scores.first().map_or(0, Vec::len)
    }

    /// The mean score of a row over the instances where it is not missing; `None` where all are.
    pub fn mean(&self, row: usize) -> Option<f64> {
        let scores: Vec<f64> = self.scores.get(row)?.iter().flatten().copied().collect();
        (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64)
    }

    /// What evaluating every row on every instance costs, sharing samples where rows do.
    pub fn price(&self) -> Usd {
        let mut purse = Purse::new(self);
        // The largest n first: what comes after it is free.
        let mut rows: Vec<usize> = (0..self.configurations.len()).collect();
        rows.sort_by(|a, b| self.configurations[*b].samples().total_cmp(&self.configurations[*a].samples()));
        let mut sum = Usd::ZERO;
        for row in rows {
            for instance in 0..self.instances() {
                sum += purse.price(row, instance);
                purse.buy(row, instance);
            }
        }
        sum
    }

    /// A problem on this table: its rows are the space.
    pub fn problem(self: &Arc<Table>, budget: Option<Usd>, seed: u64) -> Problem {
        let table = Arc::clone(self);
        let rows: HashMap<String, usize> =
            self.configurations.iter().enumerate().map(|(row, configuration)| (configuration.key(), row)).collect();
        let price = move |configuration: &Configuration| {
            let prompts = &table.prompts.as_ref()?[*rows.get(&configuration.key())?];
            let sum: Usd = prompts.iter().copied().sum();
            Some(Input { dollars: Usd::mean(sum, prompts.len() as u64).as_f64(), counted: prompts.len(), error: 0.0 })
        };
        Problem {
            domain: Arc::clone(self) as Arc<dyn Domain>,
            inputs: self.prompts.as_ref().map(|_| Arc::new(price) as InputPrice),
            ceiling: None,
            baseline: false,
            instances: self.instances(),
            budget,
            max_trials: None,
            seed,
            first: Vec::new(),
            margin: None,
            inference_budget: None,
        }
    }
}

impl Domain for Table {
    fn sample(&self, rng: &mut ChaCha12Rng) -> Option<Configuration> {
        let count = self.configurations.len();
        (count > 0).then(|| self.configurations[rng.random_range(0..count)].clone())
    }

    fn enumerate(&self, limit: usize) -> Result<Vec<Configuration>, String> {
        if self.configurations.len() > limit {
            return Err(format!("there are more than {limit} configurations"));
        }
        Ok(self.configurations.clone())
    }

    fn size(&self) -> Option<u128> {
        Some(self.configurations.len() as u128)
    }
}

/// What was bought of a table.
struct Purse<'a> {
    table: &'a Table,
    families: Vec<usize>,
    /// The row with the most samples that was bought, by family and instance.
    bought: HashMap<(usize, usize), usize>,
}

impl<'a> Purse<'a> {
    fn new(table: &'a Table) -> Purse<'a> {
        let mut known = HashMap::new();
        let families = table
            .configurations
            .iter()
            .enumerate()
            .map(|(row, configuration)| match table.prompts {
                Some(_) => *known.entry(configuration.family()).or_insert(row),
                None => row,
            })
            .collect();
        Purse { table, families, bought: HashMap::new() }
    }

    fn price(&self, row: usize, instance: usize) -> Usd {
        let cost = self.table.costs[row][instance];
        match (self.bought.get(&(self.families[row], instance)), &self.table.prompts) {
            (Some(&other), Some(prompts)) => {
                let lacking = self.table.configurations[row].samples() > self.table.configurations[other].samples();
                let there = self.table.costs[other][instance];
                if lacking { prompts[row][instance] + cost.saturating_left(there) } else { Usd::ZERO }
            }
            _ => cost,
        }
    }

    fn buy(&mut self, row: usize, instance: usize) {
        let configurations = &self.table.configurations;
        let bought = self.bought.entry((self.families[row], instance)).or_insert(row);
        if configurations[row].samples() > configurations[*bought].samples() {
            *bought = row;
        }
    }
}

/// What is answered to one evaluation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reply {
    /// What became of it.
    pub outcome: Outcome,
    /// What it cost.
    pub cost: Usd,
    /// The trial is over the inference budget, as is known from this result on.
    pub drop: bool,
}

/// A search from beginning to end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    /// The configuration of each trial.
    pub trials: Vec<Configuration>,
    /// Everything told, in the order of asking.
    pub told: Vec<Told>,
}

/// Runs a strategy to its end. Every evaluation is answered when it is asked, and told as late as the strategy's look-ahead
/// allows: after each result the strategy is asked until it has that many evaluations ahead.
///
/// The error says how the strategy broke the protocol: an instance asked twice or out of range, trials not numbered
/// through, a configuration missing, given twice or not new, more trials than allowed, work asked of a dropped trial,
/// waiting for nothing, or more than `limit` evaluations.
pub fn drive(
    strategy: &mut dyn Strategy,
    problem: &Problem,
    limit: usize,
    mut answer: impl FnMut(usize, &Configuration, usize) -> Reply,
) -> Result<Log, String> {
    let mut log = Log::default();
    let mut keys = HashSet::new();
    let mut asked: HashSet<(usize, usize)> = HashSet::new();
    let mut dropped: HashSet<usize> = HashSet::new();
    let mut ahead: VecDeque<(Told, bool)> = VecDeque::new();
    let mut done = false;
    loop {
        while !done && ahead.len() < strategy.look_ahead().max(1) {
            let (trial, configuration, instances) = match strategy.ask() {
                Ask::Evaluate { trial, configuration, instances } => (trial, configuration, instances),
                Ask::Wait if ahead.is_empty() => return Err("it waits, but nothing is under way".into()),
                Ask::Wait => break,
                Ask::Done => {
                    done = true;
                    break;
                }
            };
            match configuration {
                Some(_) if trial != log.trials.len() => {
                    return Err(format!("a new trial is numbered {trial} after {} trials", log.trials.len()));
                }
                Some(configuration) if !keys.insert(configuration.key()) => {
                    return Err(format!("trial {trial} repeats a configuration: {configuration}"));
                }
                Some(configuration) => log.trials.push(configuration),
                None if trial >= log.trials.len() => {
                    return Err(format!("trial {trial} came without its configuration"));
                }
                None if dropped.contains(&trial) => return Err(format!("trial {trial} was dropped and asked again")),
                None => {}
            }
            if problem.max_trials.is_some_and(|most| log.trials.len() > most) {
                return Err(format!("more than {} trials", log.trials.len() - 1));
            }
            if instances.is_empty() {
                return Err(format!("trial {trial} was asked on no instance"));
            }
            for instance in instances {
                if instance >= problem.instances || !asked.insert((trial, instance)) {
                    return Err(format!("instance {instance} of trial {trial} is out of range or was asked before"));
                }
                if asked.len() > limit {
                    return Err(format!("no end after {limit} evaluations"));
                }
                let reply = answer(trial, &log.trials[trial], instance);
                let told = Told { trial, instance, outcome: reply.outcome, cost: reply.cost };
                ahead.push_back((told, reply.drop));
            }
        }
        let Some((told, drop)) = ahead.pop_front() else {
            if done {
                return Ok(log);
            }
            return Err("it asks for nothing and is not done".into());
        };
        strategy.tell(told);
        log.told.push(told);
        if drop && dropped.insert(told.trial) {
            strategy.dropped(told.trial);
        }
    }
}

/// What a search on a table came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// What it cost; never above the budget.
    pub spent: Usd,
    /// The row of each trial.
    pub rows: Vec<usize>,
    /// Everything told, in the order of asking.
    pub told: Vec<Told>,
    /// The row that a ranking would put first by all that was told; of those as good the cheapest. `None` where nothing was
    /// scored.
    pub recommendation: Option<usize>,
}

/// Runs a strategy on a table. `order[place]` is the table's instance at a place of the study's order. Evaluations are
/// admitted in the order of asking, each if its price still fits the budget.
///
/// The error says how the strategy broke the protocol, or that the order does not fit the table.
pub fn run(
    strategy: &mut dyn Strategy,
    table: &Arc<Table>,
    problem: &Problem,
    order: &[usize],
) -> Result<Trace, String> {
    if problem.instances > order.len() || order.iter().any(|&instance| instance >= table.instances()) {
        return Err("the order does not fit the table".into());
    }
    let rows: HashMap<String, usize> =
        table.configurations.iter().enumerate().map(|(row, configuration)| (configuration.key(), row)).collect();
    let mut purse = Purse::new(table);
    let mut spent = Usd::ZERO;
    let limit = table.configurations.len().saturating_mul(problem.instances);
    let mut production: HashMap<usize, Running> = HashMap::new();
    let log = drive(strategy, problem, limit, |trial, configuration, place| {
        let missing = Reply { outcome: Outcome::Missing, cost: Usd::ZERO, drop: false };
        let Some(&row) = rows.get(&configuration.key()) else { return missing };
        let instance = order[place];
        let cost = purse.price(row, instance);
        if problem.budget.is_some_and(|budget| spent + cost > budget) {
            return Reply { outcome: Outcome::Refused, ..missing };
        }
        spent += cost;
        purse.buy(row, instance);
        let outcome = match table.scores[row][instance] {
            Some(score) => Outcome::Scored {
                score,
                production: table.production[row][instance],
                input: table.prompts.as_ref().map(|prompts| prompts[row][instance]),
            },
            None => Outcome::Missing,
        };
        // Dropped when it is sure that production cannot afford it, by a simpler rule than the study's.
        let mut drop = false;
        if let (Some(budget), Outcome::Scored { production: cost, .. }) = (problem.inference_budget, outcome) {
            let costs = production.entry(trial).or_default();
            costs.add(cost.as_f64());
            let error = (costs.squares / (costs.count - 1.0).max(1.0) / costs.count).sqrt();
            drop = costs.count >= 8.0 && costs.mean - 1.96 * error > budget.as_f64();
        }
        Reply { outcome, cost, drop }
    })?;
    let trial_rows: Vec<usize> =
        log.trials.iter().filter_map(|configuration| rows.get(&configuration.key()).copied()).collect();
    let recommendation = recommend(&log, problem);
    let recommendation = recommendation.and_then(|trial| trial_rows.get(trial).copied());
    Ok(Trace { spent, rows: trial_rows, told: log.told, recommendation })
}

/// The trial that a ranking would put first ([`recommended`]), of those that production can afford almost surely, as their
/// own bills have it too; where there is none, likely; else the one that it can afford most likely.
fn recommend(log: &Log, problem: &Problem) -> Option<usize> {
    let trials = log.trials.len();
    let mut lines: Vec<racing::Line> = vec![Vec::new(); problem.instances];
    let mut bills = vec![Bill::default(); trials];
    for told in &log.told {
        if let Outcome::Scored { score, production, input } = told.outcome {
            lines[told.instance].push((told.trial as u32, score));
            bills[told.trial].add(production, input);
        }
    }
    let configurations: Vec<_> = log.trials.iter().map(|configuration| &configuration.0).collect();
    let inputs: Vec<Option<Input>> =
        log.trials.iter().map(|configuration| problem.inputs.as_ref().and_then(|price| price(configuration))).collect();
    let evidence = Evidence {
        configurations: &configurations,
        lines: &lines,
        production: &bills,
        inputs: &inputs,
        instances: problem.instances,
    };
    let standings = standings(&evidence, &vec![true; trials], problem.seed);
    let mut judged: Vec<(usize, Standing)> = (0..trials).filter_map(|trial| Some((trial, standings[trial]?))).collect();
    let cost = |trial: usize| bills[trial].mean;
    judged.sort_by(|a, b| {
        b.1.mean.total_cmp(&a.1.mean).then_with(|| cost(a.0).total_cmp(&cost(b.0))).then(a.0.cmp(&b.0))
    });
    let affordable =
        |standing: &Standing| problem.inference_budget.map_or(1.0, |budget| standing.affordable(budget.as_f64()));
    let above = |trial: usize| problem.inference_budget.is_some_and(|budget| cost(trial) > budget.as_f64());
    let complete = evidence.complete();
    let best = |least: f64| {
        let may = |(trial, standing): &(usize, Standing)| affordable(standing) >= least && !above(*trial);
        let rows: Vec<(usize, Standing)> = judged.iter().copied().filter(may).collect();
        let best_first: Vec<_> = rows
            .iter()
            .map(|&(trial, Standing { mean, best, .. })| Eligible {
                mean,
                cost: cost(trial),
                best: if complete { 0.0 } else { best },
            })
            .collect();
        recommended(&best_first, indifferent(&lines)).map(|place| rows[place].0)
    };
    best(SURE).or_else(|| best(0.5)).or_else(|| {
        let likeliest = judged.iter().rev().max_by(|a, b| affordable(&a.1).total_cmp(&affordable(&b.1)));
        likeliest.map(|(trial, _)| *trial)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Two families of n = 1 and n = 3; a prompt and a completion cost a picodollar each.
    fn shared_table() -> Arc<Table> {
        let rows = [("a", 1), ("a", 3), ("b", 1), ("b", 3)];
        let costs: Vec<Vec<Usd>> = rows.iter().map(|(_, n)| vec![Usd::from_pico(1 + n); 2]).collect();
        Arc::new(Table {
            configurations: rows
                .iter()
                .map(|(prompt, n)| serde_json::from_value(json!({"prompt": prompt, "n": n})).unwrap())
                .collect(),
            scores: vec![
                vec![Some(0.0), Some(1.0)],
                vec![Some(1.0), Some(1.0)],
                vec![None, None],
                vec![Some(0.0), None],
            ],
            production: costs.clone(),
            costs,
            prompts: Some(vec![vec![Usd::from_pico(1); 2]; 4]),
        })
    }

    #[test]
    fn siblings_share_samples() {
        let table = shared_table();
        // Two families, two instances, a prompt and three completions each.
        assert_eq!(table.price(), Usd::from_pico(16));
        let mut purse = Purse::new(&table);
        purse.buy(0, 0);
        assert_eq!(
            (purse.price(1, 0), purse.price(1, 1), purse.price(3, 0)),
            (Usd::from_pico(3), Usd::from_pico(4), Usd::from_pico(4))
        );
        purse.buy(1, 0);
        assert_eq!(
            (purse.price(0, 0), purse.price(1, 0), purse.price(0, 1)),
            (Usd::ZERO, Usd::ZERO, Usd::from_pico(2))
        );
    }

    #[test]
    fn a_run_keeps_to_the_budget_and_recommends_the_best() {
        let table = shared_table();
        let problem = table.problem(None, 1);
        let mut strategy = super::super::grid::build(problem.clone()).unwrap();
        let trace = run(&mut *strategy, &table, &problem, &[1, 0]).unwrap();
        // n = 1 is bought first here, so the prompt is paid again for n = 3.
        assert_eq!((trace.spent, trace.recommendation, trace.rows), (Usd::from_pico(20), Some(1), vec![0, 1, 2, 3]));
        let problem = table.problem(Some(Usd::from_pico(5)), 1);
        let mut strategy = super::super::grid::build(problem.clone()).unwrap();
        let trace = run(&mut *strategy, &table, &problem, &[1, 0]).unwrap();
        assert_eq!((trace.spent, trace.recommendation), (Usd::from_pico(4), Some(0)));
        assert!(trace.told.iter().any(|told| told.outcome == Outcome::Refused));
    }

    /// Asks what it is given, one after the other.
    struct Script(VecDeque<Ask>);

    impl Strategy for Script {
        fn ask(&mut self) -> Ask {
            self.0.pop_front().unwrap_or(Ask::Done)
        }
        fn tell(&mut self, _: Told) {}
        fn dropped(&mut self, _: usize) {}
        fn look_ahead(&self) -> usize {
            2
        }
    }

    #[test]
    fn every_breach_of_the_protocol_is_seen() {
        let table = shared_table();
        let problem = Problem { max_trials: Some(2), ..table.problem(None, 1) };
        let ask = |trial: usize, row: Option<usize>, instances: &[usize]| Ask::Evaluate {
            trial,
            configuration: row.map(|row| table.configurations[row].clone()),
            instances: instances.to_vec(),
        };
        let breaches: [(&str, Vec<Ask>); 9] = [
            ("numbered", vec![ask(1, Some(0), &[0])]),
            ("repeats", vec![ask(0, Some(0), &[0]), ask(1, Some(0), &[0])]),
            ("without its configuration", vec![ask(0, None, &[0])]),
            ("asked before", vec![ask(0, Some(0), &[0]), ask(0, None, &[0])]),
            ("asked before", vec![ask(0, Some(0), &[1, 1])]),
            ("out of range", vec![ask(0, Some(0), &[2])]),
            ("more than 2 trials", vec![ask(0, Some(0), &[0]), ask(1, Some(1), &[0]), ask(2, Some(2), &[0])]),
            ("nothing is under way", vec![Ask::Wait]),
            ("on no instance", vec![ask(0, Some(0), &[])]),
        ];
        for (message, script) in breaches {
            let error = run(&mut Script(script.into()), &table, &problem, &[0, 1]).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
        let mut dropping = Script([ask(0, Some(0), &[0]), Ask::Wait, ask(0, None, &[1])].into());
        let reply = Reply { outcome: Outcome::Missing, cost: Usd::ZERO, drop: true };
        assert!(drive(&mut dropping, &problem, 9, |_, _, _| reply).unwrap_err().contains("dropped"));
        let mut long = Script([ask(0, Some(0), &[0, 1])].into());
        assert!(drive(&mut long, &problem, 1, |_, _, _| reply).unwrap_err().contains("no end"));
    }
}
