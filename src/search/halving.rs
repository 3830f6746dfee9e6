//! Successive halving on shared instances, in dollars.
//!
//! Jamieson & Talwalkar (2016) and Karnin, Koren & Somekh (2013), as TRIPLE-SH (Shi et al. 2024) has it for prompts,
//! with what evaluations of language models ask for beyond that:
//!
//! * All trials look at prefixes of the one order of instances and keep what they saw, so comparisons are paired; trials
//!   are ranked by the additive model ([`crate::stats::additive`]).
//! * Prices are unknown and may differ 300 to 1. A first look at one instance shows them; how many candidates there are
//!   to be follows from what such looks cost. Rungs have equal shares of the money that is left, counted from settled
//!   costs, and within a rung the number of instances goes with one over the square root of the price, which for a given sum makes
//!   the errors of all comparisons smallest (Neyman's allocation).
//! * Configurations that differ only in `n` share samples: such a family costs what its largest member costs. So it is
//!   families that are halved, and within each the members; the largest n is asked first.
//! * When the rungs are done, the leader and its likeliest rivals go on to all instances, as far as money lasts. Money
//!   that is left then goes to a fresh set of candidates.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};

use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;

use super::draws::Draws;
use super::{Ask, Outcome, Problem, Strategy, Told};
use crate::money::Usd;
use crate::stats::additive::{self, Observation, Posterior};

/// How many candidates begin together at most.
const MOST_CANDIDATES: usize = 512;
/// How many candidates there are at most where no budget limits them.
const CANDIDATES_UNLIMITED: usize = 128;
/// The first batch of candidates; each later one doubles their number.
const FIRST_BATCH: usize = 4;
/// The same where results come in slow rounds: fewer rounds, with more in each.
const FIRST_BATCH_IN_ROUNDS: usize = 16;
/// How many instances the first rung shall be able to show of each candidate, on average.
const FIRST_RUNG: f64 = 4.0;
/// The exponent of the price that the number of instances goes with.
const PRICE_EXPONENT: f64 = 0.5;
/// Within a rung a trial grows at most this much before prices are looked at again.
const GROWTH: usize = 4;
/// The same in slow rounds.
const GROWTH_IN_ROUNDS: usize = 16;
/// A trial is near-best while so many of its standard deviations reach the leader.
const NEAR: f64 = 2.5;

/// The strategy. It works on every problem.
pub fn build(problem: Problem) -> Result<Box<dyn Strategy>, String> {
    Ok(Box::new(Halving::new(problem)))
}

/// A configuration and what is known of it.
struct Trial {
    /// Which family of configurations that differ only in `n`.
    family: usize,
    n: f64,
    /// It was asked on the first so many instances.
    depth: usize,
    told: usize,
    scores: Vec<(usize, f64)>,
    cost: Usd,
    production: Usd,
    /// Still a candidate of this round of halving.
    racing: bool,
    /// Over the inference budget: nothing more may be asked.
    dropped: bool,
    /// Refused once: it does not fit the money that is left.
    too_dear: bool,
}

impl Trial {
    fn may_grow(&self, instances: usize) -> bool {
        !self.dropped && !self.too_dear && self.depth < instances
    }

    /// Dollars per instance, if nothing of it were shared.
    fn price(&self) -> f64 {
        let per = |sum: Usd, count: usize| if count == 0 { 0.0 } else { sum.as_f64() / count as f64 };
        per(self.production, self.scores.len()).max(per(self.cost, self.told))
    }
}

enum Phase {
    /// New candidates are looked at on one instance each: the first trial of the latest batch, and what had been spent
    /// before it.
    Look { batch: usize, before: f64 },
    /// A rung with this many dollars, and so many rungs in all from this one on.
    Rung { dollars: f64, rungs: usize },
    /// The leader and its rivals go on to all instances.
    Finish,
}

struct Halving {
    problem: Problem,
    rng: ChaCha12Rng,
    draws: Draws,
    trials: Vec<Trial>,
    families: BTreeMap<String, usize>,
    phase: Phase,
    /// The first trial of this round of halving, and what had been spent before it.
    round: (usize, f64),
    spent: Usd,
    queue: VecDeque<Ask>,
    open: usize,
    /// Results come in slow rounds.
    in_rounds: bool,
}

impl Halving {
    fn new(problem: Problem) -> Halving {
        let mut rng = ChaCha12Rng::seed_from_u64(problem.seed);
        Halving {
            draws: Draws::random(&problem, &mut rng),
            problem,
            rng,
            trials: Vec::new(),
            families: BTreeMap::new(),
            phase: Phase::Look { batch: 0, before: 0.0 },
            round: (0, 0.0),
            spent: Usd::ZERO,
            queue: VecDeque::new(),
            open: 0,
            in_rounds: false,
        }
    }

    /// Dollars left; `None` where there is no budget.
    fn left(&self) -> Option<f64> {
        self.problem.budget.map(|budget| budget.saturating_left(self.spent).as_f64())
    }

    /// Decides what comes next, when everything asked was told. False: nothing.
    fn plan(&mut self) -> bool {
        if self.problem.instances == 0 {
            return false;
        }
        loop {
            match self.phase {
                Phase::Look { batch, before } => {
                    if self.look(batch, before) {
                        return true;
                    }
                    if self.trials.len() == self.round.0 {
                        return false;
                    }
                    let rungs = rungs(self.racing_families().into_iter().map(|(_, members)| members.len()));
                    self.phase = self.rung(rungs);
                }
                Phase::Rung { dollars, rungs } => {
                    if self.climb(dollars, rungs) {
                        return true;
                    }
                    self.halve();
                    let over = rungs <= 1 || self.trials.iter().filter(|trial| trial.racing).count() < 2;
                    self.phase = if over { Phase::Finish } else { self.rung(rungs - 1) };
                }
                Phase::Finish => {
                    if self.finish() {
                        return true;
                    }
                    // A second round is worth it only with money for one, and ends only if there is a budget.
                    let budget = self.problem.budget.map_or(0.0, Usd::as_f64);
                    if self.left().is_none_or(|left| left < 0.1 * budget)
                        || self.trials.iter().any(|trial| trial.too_dear)
                    {
                        return false;
                    }
                    self.trials.iter_mut().for_each(|trial| trial.racing = false);
                    self.round = (self.trials.len(), self.spent.as_f64());
                    self.phase = Phase::Look { batch: self.round.0, before: self.round.1 };
                }
            }
        }
    }

    fn rung(&self, rungs: usize) -> Phase {
        Phase::Rung { dollars: self.left().map_or(f64::INFINITY, |left| left / rungs as f64), rungs }
    }

    /// Asks a first look at a batch of new candidates, if there shall be more, which is judged by what the batch before
    /// cost: siblings of what is known already come cheap.
    fn look(&mut self, batch_from: usize, before: f64) -> bool {
        let (first_trial, spent_before) = self.round;
        let known = self.trials.len() - first_trial;
        let refused = self.trials[first_trial..].iter().any(|trial| trial.too_dear);
        let most = if self.problem.budget.is_some() { MOST_CANDIDATES } else { CANDIDATES_UNLIMITED };
        let first = if self.in_rounds { FIRST_BATCH_IN_ROUNDS } else { FIRST_BATCH };
        let mut batch =
            if known == 0 { first.max(self.problem.first.len()) } else { known }.min(most.saturating_sub(known));
        if let Some(left) = self.left()
            && known > 0
        {
            // Looks may cost what leaves the first rung `FIRST_RUNG` of them for each candidate.
            let spent = self.spent.as_f64() - spent_before;
            let last = (self.spent.as_f64() - before) / (self.trials.len() - batch_from).max(1) as f64;
            let sizes = self.racing_families().into_iter().map(|(_, members)| members.len());
            let allowed = (spent + left) / rungs(sizes) as f64 / FIRST_RUNG - spent;
            if last > 0.0 {
                batch = batch.min((allowed / last).clamp(0.0, 1e9) as usize);
            }
            if refused || allowed < 0.0 {
                batch = 0;
            }
        }
        let from = self.trials.len();
        let mut drawn = Vec::new();
        for _ in 0..batch {
            match self.draws.draw(&mut self.rng) {
                Some(configuration) => drawn.push((configuration.family(), configuration)),
                None => break,
            }
        }
        // What shall be tried first stays first; among the rest siblings stand together, the largest n first.
        let fixed = if from == 0 { self.problem.first.len().min(drawn.len()) } else { 0 };
        drawn[fixed..].sort_by(|a, b| a.0.cmp(&b.0).then(b.1.samples().total_cmp(&a.1.samples())));
        for (name, configuration) in drawn {
            let next = self.families.len();
            let family = *self.families.entry(name).or_insert(next);
            let trial = self.trials.len();
            self.trials.push(Trial {
                family,
                n: configuration.samples(),
                depth: 1,
                told: 0,
                scores: Vec::new(),
                cost: Usd::ZERO,
                production: Usd::ZERO,
                racing: true,
                dropped: false,
                too_dear: false,
            });
            self.queue.push_back(Ask::Evaluate { trial, configuration: Some(configuration), instances: vec![0] });
        }
        self.phase = Phase::Look { batch: from, before: self.spent.as_f64() };
        self.trials.len() > from
    }

    /// The members still racing of every family, by family.
    fn racing_families(&self) -> Vec<(usize, Vec<usize>)> {
        let mut families: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (number, trial) in self.trials.iter().enumerate().filter(|(_, trial)| trial.racing) {
            families.entry(trial.family).or_default().push(number);
        }
        families.into_iter().collect()
    }

    /// Asks the next step of a rung with so many dollars left. False: the rung is over.
    fn climb(&mut self, dollars: f64, rungs: usize) -> bool {
        let instances = self.problem.instances;
        let growth = if self.in_rounds { GROWTH_IN_ROUNDS } else { GROWTH };
        struct Climber {
            members: Vec<usize>,
            price: f64,
            depth: usize,
            most: usize,
        }
        let mut climbers: Vec<Climber> = self
            .racing_families()
            .into_iter()
            .filter_map(|(_, members)| {
                let members: Vec<usize> =
                    members.into_iter().filter(|&member| self.trials[member].may_grow(instances)).collect();
                let depth = members.iter().map(|&member| self.trials[member].depth).min()?;
                let price = members.iter().map(|&member| self.trials[member].price()).fold(0.0, f64::max);
                Some(Climber { members, price, depth, most: (depth.max(1) * growth).min(instances) })
            })
            .collect();
        if dollars.is_infinite() {
            // Without a budget the last rung is all instances, and each before it half of the next.
            let goal = instances.div_ceil(1_usize << (rungs - 1).min(60));
            climbers.iter_mut().for_each(|climber| climber.most = goal.clamp(climber.depth, instances));
        }
        // How deep a family goes for a level: the square root law, within what it has and what it may have.
        let goal = |climber: &Climber, level: f64| {
            let depth = level / climber.price.max(1e-12).powf(PRICE_EXPONENT);
            (depth.min(instances as f64) as usize).clamp(climber.depth, climber.most)
        };
        let cost = |level: f64| -> f64 {
            climbers.iter().map(|climber| (goal(climber, level) - climber.depth) as f64 * climber.price).sum()
        };
        let (mut low, mut high) = (0.0, 1e12);
        for _ in 0..100 {
            let middle = f64::midpoint(low, high);
            if cost(middle) <= dollars {
                low = middle;
            } else {
                high = middle;
            }
        }
        let planned = cost(low);
        let mut held = false;
        climbers.sort_by(|a, b| a.price.total_cmp(&b.price).then(a.members.cmp(&b.members)));
        let goals: Vec<usize> = climbers.iter().map(|climber| goal(climber, low)).collect();
        for (climber, goal) in climbers.iter_mut().zip(goals) {
            held |= goal == climber.most && goal < instances;
            climber.members.sort_by(|&a, &b| self.trials[b].n.total_cmp(&self.trials[a].n).then(a.cmp(&b)));
            for &member in &climber.members {
                self.extend(member, goal);
            }
        }
        // What was held back goes on with the rest of the money; otherwise this was the last step.
        let rest = if held { (dollars - planned).max(0.0) } else { 0.0 };
        self.phase = Phase::Rung { dollars: rest, rungs };
        !self.queue.is_empty()
    }

    /// Asks a trial on the instances up to a depth.
    fn extend(&mut self, trial: usize, depth: usize) {
        let from = self.trials[trial].depth;
        if depth > from {
            self.trials[trial].depth = depth;
            self.queue.push_back(Ask::Evaluate { trial, configuration: None, instances: (from..depth).collect() });
        }
    }

    fn posterior(&self) -> Posterior {
        let observations: Vec<Observation> = self
            .trials
            .iter()
            .enumerate()
            .flat_map(|(row, trial)| {
                trial.scores.iter().map(move |&(column, value)| Observation { row, column, value })
            })
            .collect();
        additive::fit(&observations, self.trials.len(), self.problem.instances)
    }

    /// Drops the worse half of the families, and of the members of those that stay.
    fn halve(&mut self) {
        let posterior = self.posterior();
        let better = |&a: &usize, &b: &usize| -> Ordering {
            let value = |trial: usize| posterior.mean[trial].unwrap_or(f64::NEG_INFINITY);
            let price = |trial: usize| self.trials[trial].price();
            value(b).total_cmp(&value(a)).then(price(a).total_cmp(&price(b))).then(a.cmp(&b))
        };
        let mut families: Vec<Vec<usize>> = self.racing_families().into_iter().map(|(_, members)| members).collect();
        for members in &mut families {
            members.sort_by(better);
            members.truncate(members.len().div_ceil(2));
        }
        families.sort_by(|a, b| better(&a[0], &b[0]));
        families.truncate(families.len().div_ceil(2));
        self.trials.iter_mut().for_each(|trial| trial.racing = false);
        families.into_iter().flatten().for_each(|trial| self.trials[trial].racing = true);
    }

    /// Asks the next block of the leader and its likeliest rival. False: every trial that may still be best is done.
    fn finish(&mut self) -> bool {
        let instances = self.problem.instances;
        let posterior = self.posterior();
        let mean = |trial: usize| posterior.mean[trial].unwrap_or(f64::NEG_INFINITY);
        let reach = |trial: usize| mean(trial) + NEAR * posterior.sd[trial].unwrap_or(0.0);
        let standing =
            (0..self.trials.len()).filter(|&trial| !self.trials[trial].dropped && posterior.mean[trial].is_some());
        let Some(leader) = standing.clone().max_by(|&a, &b| mean(a).total_cmp(&mean(b)).then(b.cmp(&a))) else {
            return false;
        };
        let rival = standing
            .filter(|&trial| trial != leader && self.trials[trial].may_grow(instances) && reach(trial) >= mean(leader))
            .max_by(|&a, &b| mean(a).total_cmp(&mean(b)).then(b.cmp(&a)));
        let block = (instances / 8).clamp(4, 64);
        let depth = |trial: usize| self.trials[trial].depth;
        let mut goals = Vec::new();
        if let Some(rival) = rival {
            // A rival that saw less catches up first.
            let goal = if depth(rival) < depth(leader) {
                depth(leader).min(depth(rival) + block)
            } else {
                depth(rival) + block
            };
            goals.push((rival, goal.min(instances)));
        }
        if self.trials[leader].may_grow(instances) && rival.is_none_or(|rival| depth(leader) <= depth(rival)) {
            goals.push((leader, (depth(leader) + block).min(instances)));
        }
        goals.sort_by(|a, b| self.trials[b.0].n.total_cmp(&self.trials[a.0].n).then(a.0.cmp(&b.0)));
        goals.into_iter().for_each(|(trial, goal)| self.extend(trial, goal));
        !self.queue.is_empty()
    }
}

/// How often so many families, of so many members, are halved until one is left.
fn rungs(members: impl Iterator<Item = usize>) -> usize {
    let (families, largest) = members.fold((0_usize, 0_usize), |(count, largest), size| (count + 1, largest.max(size)));
    (families.max(largest).max(2).next_power_of_two().trailing_zeros() as usize).max(1)
}

impl Strategy for Halving {
    fn ask(&mut self) -> Ask {
        loop {
            match self.queue.pop_front() {
                Some(Ask::Evaluate { trial, configuration, instances }) => {
                    let gone = self.trials[trial].dropped || self.trials[trial].too_dear;
                    if gone && configuration.is_none() {
                        continue;
                    }
                    self.open += instances.len();
                    return Ask::Evaluate { trial, configuration, instances };
                }
                Some(other) => return other,
                None if self.open > 0 => return Ask::Wait,
                None if self.plan() => {}
                None => return Ask::Done,
            }
        }
    }

    fn tell(&mut self, told: Told) {
        self.open = self.open.saturating_sub(1);
        self.spent += told.cost;
        let Some(trial) = self.trials.get_mut(told.trial) else { return };
        match told.outcome {
            Outcome::Scored { score, production, .. } => {
                trial.scores.push((told.instance, score));
                trial.production += production;
            }
            Outcome::Missing => {}
            Outcome::Refused => {
                trial.too_dear = true;
                return;
            }
        }
        trial.told += 1;
        trial.cost += told.cost;
    }

    fn dropped(&mut self, trial: usize) {
        if let Some(trial) = self.trials.get_mut(trial) {
            trial.dropped = true;
            trial.racing = false;
        }
    }

    fn budget(&mut self, budget: Usd) {
        let raised = self.problem.budget.is_some_and(|before| budget > before);
        self.problem.budget = Some(budget);
        if raised {
            self.trials.iter_mut().for_each(|trial| trial.too_dear = false);
        }
    }

    fn look_ahead(&self) -> usize {
        1024
    }

    fn in_rounds(&mut self) {
        self.in_rounds = true;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::super::simulate::{Table, run};
    use super::*;

    /// Prompts 0..prompts with n = 1, 2, 4; later prompts are better and, with `dear`, ten times dearer from the middle on.
    fn table(prompts: usize, instances: usize, dear: bool) -> Arc<Table> {
        let mut table = Table { prompts: Some(Vec::new()), ..Table::default() };
        for prompt in 0..prompts {
            let price = if dear && prompt >= prompts / 2 { 10_000 } else { 1_000 };
            for n in [1, 2, 4] {
                let right = |at: usize| f64::from((at * 7 + prompt * 3) % 20 < 3 + prompt);
                table.configurations.push(serde_json::from_value(json!({"prompt": prompt, "n": n})).unwrap());
                table.scores.push((0..instances).map(|at| Some(right(at))).collect());
                table.costs.push(vec![Usd::from_pico(price * (1 + n)); instances]);
                table.prompts.as_mut().unwrap().push(vec![Usd::from_pico(price); instances]);
            }
        }
        table.production = table.costs.clone();
        Arc::new(table)
    }

    fn play(table: &Arc<Table>, problem: &Problem) -> super::super::simulate::Trace {
        let order: Vec<usize> = (0..problem.instances).collect();
        run(&mut *build(problem.clone()).unwrap(), table, problem, &order).unwrap()
    }

    #[test]
    fn the_money_goes_to_the_best() {
        let table = table(16, 100, true);
        let problem = table.problem(Some(table.price().share(0.3)), 3);
        let trace = play(&table, &problem);
        assert!(trace.spent > table.price().share(0.27), "{}", trace.spent);
        assert_eq!(trace.recommendation.map(|row| row / 3), Some(15));
        let depth = |prompt: usize| {
            (0..trace.rows.len())
                .filter(|&trial| trace.rows[trial] / 3 == prompt)
                .map(|trial| trace.told.iter().filter(|told| told.trial == trial).count())
                .max()
        };
        assert!(depth(15) > Some(60) && depth(1) <= Some(25), "{:?} {:?}", depth(15), depth(1));
    }

    #[test]
    fn without_a_budget_the_last_are_evaluated_on_everything() {
        let table = table(8, 64, false);
        let trace = play(&table, &table.problem(None, 3));
        let best = (0..trace.rows.len()).find(|&trial| Some(trace.rows[trial]) == trace.recommendation).unwrap();
        assert_eq!(trace.told.iter().filter(|told| told.trial == best).count(), 64);
        assert!(trace.told.len() < 24 * 64 * 2 / 3, "{} evaluations: nothing was saved", trace.told.len());
    }

    #[test]
    fn the_largest_n_is_asked_first() {
        let table = table(4, 40, false);
        let trace = play(&table, &table.problem(Some(Usd::MAX), 3));
        // Within the latest batch of first looks siblings stand together, so a smaller n after a larger one is free.
        let after_larger = trace.told.windows(2).filter(|pair| {
            let (a, b) = (trace.rows[pair[0].trial], trace.rows[pair[1].trial]);
            a / 3 == b / 3 && a > b && pair[0].instance == pair[1].instance
        });
        let costs: Vec<Usd> = after_larger.map(|pair| pair[1].cost).collect();
        assert!(!costs.is_empty() && costs.iter().all(|cost| *cost == Usd::ZERO), "{costs:?}");
    }

    #[test]
    fn what_is_refused_is_left_and_cheaper_trials_go_on() {
        let table = table(8, 50, true);
        let problem = table.problem(Some(table.price().share(0.1)), 3);
        let mut strategy = build(problem.clone()).unwrap();
        let log = super::super::simulate::drive(&mut *strategy, &problem, 9_999, |_, configuration, _| {
            let dear = configuration.get("prompt").and_then(serde_json::Value::as_u64) >= Some(4);
            let outcome = if dear {
                Outcome::Refused
            } else {
                Outcome::Scored { score: 0.5, production: Usd::from_pico(5), input: None }
            };
            super::super::simulate::Reply { outcome, cost: Usd::ZERO, drop: false }
        })
        .unwrap();
        let refused = log.told.iter().filter(|told| told.outcome == Outcome::Refused).count();
        assert!(refused > 0 && refused <= 12, "{refused}");
        assert!(log.told.len() > 50);
    }

    #[test]
    fn rungs_halve_families_and_members_until_one_is_left() {
        let count = |sizes: &[usize]| rungs(sizes.iter().copied());
        assert_eq!(
            (count(&[]), count(&[1]), count(&[1, 1]), count(&[1; 5]), count(&[10]), count(&[1; 64])),
            (1, 1, 1, 3, 4, 6)
        );
    }
}
