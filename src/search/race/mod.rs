//! The race: buys next whatever look is expected to be worth most for its price.
//!
//! All configurations look at prefixes of the one order of instances, so comparisons are paired. It opens with as many
//! families of configurations (those that differ only in n) as the budget could tell apart, on two instances each. Then,
//! after every few purchases, the model of [`crate::stats::racing`] is fitted to everything told, and each possible look
//! (a configuration on its next so many instances) is valued by the knowledge gradient with correlated beliefs (Frazier,
//! Powell & Dayanik 2009): how much the best posterior mean is expected to rise. The look with the largest
//! gain / price^0.7 is bought.
//!
//! * A look shows relatives too: other prompts of the same model, other n of the same configuration. Smaller n of what
//!   was bought have their samples already, so they are asked with it, for nothing.
//! * Looks that were decided but not told count as made, with the expected result; a plan spends a tenth of the money
//!   that is left, buys at least a twentieth of the evaluations made so far, and then waits for its results. Where
//!   results come in rounds of a batch API, it opens on four instances at once, spends three tenths and buys at least half.
//! * New configurations are looked at when that is worth more than another look at an old one, but only as many join
//!   as the budget could tell apart.
//! * Production costs are learnt as they are told; relatives predict them. What production likely cannot afford is
//!   neither recommended nor, where that is sure, looked at; the gain of a look counts as far as it is affordable.
//! * It ends when no look is expected to change who is best, or when the user's margin is reached, though money be left.
//!
//! At most 96 configurations are thought about at a time: those looked at that may still be best by the additive model,
//! and a changing sample of others. So the work of a plan is bounded but for going through what was told, and since plans
//! grow with it, the work of a search is O(evaluations), as is its memory, beside the configurations listed or drawn.

mod opening;
mod value;

use std::collections::{BTreeMap, HashSet, VecDeque};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;

use super::draws::Draws;
use super::simulate::{SURE, family, samples};
use super::{Ask, Outcome, Problem, Strategy, Told};
use crate::money::Usd;
use crate::space::Configuration;
use crate::stats::additive::{self, Observation};
use crate::stats::racing::assess::{Assessment, Evidence, assess, scale, select};
use crate::stats::racing::costs::{Bill, Costs, Input, normal_cdf};
use crate::stats::racing::{Belief, Line, Prior, Variances};
use value::{Look, Option_, Plan};

/// What can be set.
#[derive(Clone, Debug)]
pub struct Knobs {
    /// The exponent of the price.
    alpha: f64,
    /// How many are bought at a time.
    block: usize,
    /// Share of the money left that is bought between two fits.
    share: f64,
    /// Families to begin with.
    families: usize,
    /// Looks at each family in a round of halving, for counting how many families a budget is enough for.
    first: f64,
    /// Share of the budget that beginnings may cost.
    init_share: f64,
    /// Instances that the families of the opening are shown.
    opening: usize,
    /// So many of them at a time.
    step: usize,
    /// What production can afford with less than this probability is not looked at.
    out: f64,
    /// The least share of what was bought that a plan buys.
    growth: f64,
    prior: Prior,
}

impl Default for Knobs {
    fn default() -> Knobs {
        Knobs {
            alpha: 0.7,
            block: 6,
            share: 0.1,
            families: 8,
            first: 6.0,
            init_share: 0.3,
            opening: 2,
            step: 1,
            out: 0.1,
            growth: 0.05,
            prior: Prior::default(),
        }
    }
}

impl Knobs {
    /// Where results come in rounds that take hours: few and large plans, at the price of some looks that the results of
    /// others would have spared.
    fn in_rounds(self) -> Knobs {
        Knobs { block: 12, share: 0.3, opening: 4, step: 4, growth: 0.5, ..self }
    }
}

/// How many configurations are thought about at a time.
const WORKING: usize = 96;
/// How many of them at most were looked at.
const WORKING_TRIED: usize = 72;
/// How many looks at most are decided between two fits.
const MOST_LOOKS: usize = 64;
/// The expected gain, in standard deviations of a single value, below which a look cannot pay.
const NO_GAIN: f64 = 1e-6;
/// How many families there are at most where no budget limits them.
const FAMILIES_UNLIMITED: usize = 128;
/// So many standard deviations from the leader a rival is likely enough to look closer.
const NEAR: f64 = 3.0;
/// The share of the budget that at most is kept for the baseline's sake.
const KEPT: f64 = 0.05;
/// The doubt that the user's margin leaves.
const DOUBT: f64 = 0.05;
/// How many candidates are drawn of a space that cannot be listed.
const DRAWN: usize = 1024;
/// So many standard deviations above its mean a candidate is thought about for.
const REACH: f64 = 2.0;

/// The strategy. It works on every problem.
pub fn build(problem: Problem) -> Result<Box<dyn Strategy>, String> {
    Ok(Box::new(Race::new(problem, Knobs::default())))
}

/// A configuration and what is known of it.
struct Candidate {
    configuration: Configuration,
    family: usize,
    n: f64,
    trial: Option<usize>,
    /// It was asked on the first so many instances.
    depth: usize,
    bill: Bill,
    input: Option<Option<Input>>,
    closed: bool,
    refused: bool,
}

struct Race {
    problem: Problem,
    knobs: Knobs,
    rng: ChaCha12Rng,
    candidates: Vec<Candidate>,
    families: Vec<Vec<usize>>,
    /// Families of which something was asked.
    tried: Vec<bool>,
    /// Candidates by trial.
    trials: Vec<usize>,
    /// By instance, the scores of candidates.
    lines: Vec<Line>,
    /// Candidates of which something was asked or is about to be.
    begun: usize,
    evaluations: usize,
    spent: Usd,
    queue: VecDeque<(usize, usize, usize)>,
    open: usize,
    variances: Option<Variances>,
    learnt_at: usize,
    started: usize,
    /// As many families as there shall be were begun with.
    widened: bool,
    /// The deepest that was looked at one of those that may come out best.
    depth: usize,
    /// The baseline was brought up.
    compared: bool,
    /// Something did not fit the budget any more.
    money_ends: bool,
}

impl Race {
    fn new(problem: Problem, knobs: Knobs) -> Race {
        let mut rng = ChaCha12Rng::seed_from_u64(problem.seed);
        let mut draws = Draws::random(&Problem { max_trials: None, ..problem.clone() }, &mut rng);
        let most = match problem.domain.size() {
            Some(size) if size <= 10_000 => 20_000,
            _ => DRAWN,
        };
        let mut race = Race {
            lines: Vec::new(),
            problem,
            knobs,
            rng: rng.clone(),
            candidates: Vec::new(),
            families: Vec::new(),
            tried: Vec::new(),
            trials: Vec::new(),
            begun: 0,
            evaluations: 0,
            spent: Usd::ZERO,
            queue: VecDeque::new(),
            open: 0,
            variances: None,
            learnt_at: 0,
            started: 0,
            widened: false,
            depth: 0,
            compared: false,
            money_ends: false,
        };
        let mut drawn = Vec::new();
        while drawn.len() < most {
            let Some(configuration) = draws.draw(&mut rng) else { break };
            drawn.push(configuration);
        }
        // Of a space that is not listed, the draws with other n: their samples are shared.
        let mut keys: HashSet<String> = drawn.iter().map(Configuration::key).collect();
        let siblings: Vec<Configuration> = match most {
            DRAWN => drawn.iter().flat_map(|one| race.problem.domain.siblings(one)).collect(),
            _ => Vec::new(),
        };
        drawn.extend(siblings.into_iter().filter(|one| keys.insert(one.key())));
        let mut names: BTreeMap<String, usize> = BTreeMap::new();
        for configuration in drawn {
            let next = names.len();
            let family = *names.entry(family(&configuration)).or_insert(next);
            if family == race.families.len() {
                race.families.push(Vec::new());
                race.tried.push(false);
            }
            race.families[family].push(race.candidates.len());
            race.candidates.push(Candidate {
                family,
                n: samples(&configuration),
                configuration,
                trial: None,
                depth: 0,
                bill: Bill::default(),
                input: None,
                closed: false,
                refused: false,
            });
        }
        let candidates = &race.candidates;
        race.families
            .iter_mut()
            .for_each(|members| members.sort_by(|&a, &b| candidates[a].n.total_cmp(&candidates[b].n).then(a.cmp(&b))));
        race
    }

    fn left(&self) -> Option<f64> {
        self.problem.budget.map(|budget| budget.saturating_left(self.spent).as_f64())
    }

    /// What a candidate's input costs an instance, where that is known without asking.
    fn input(&mut self, at: usize) -> Option<Input> {
        let one = &mut self.candidates[at];
        *one.input.get_or_insert_with(|| self.problem.inputs.as_ref().and_then(|price| price(&one.configuration)))
    }

    /// True where its input alone is more than production can afford.
    fn too_dear(&mut self, at: usize) -> bool {
        let Some(budget) = self.problem.inference_budget.map(Usd::as_f64) else { return false };
        self.input(at).is_some_and(|input| input.exact && input.dollars > budget)
    }

    fn trials_left(&self) -> usize {
        self.problem.max_trials.unwrap_or(usize::MAX).saturating_sub(self.begun)
    }

    /// Asks a candidate on instances up to a depth, and what comes free with it.
    fn buy(&mut self, candidate: usize, depth: usize) {
        let depth = depth.min(self.problem.instances);
        let members = self.families[self.candidates[candidate].family].clone();
        let n = self.candidates[candidate].n;
        let smaller = members.into_iter().rev().filter(|&member| self.candidates[member].n < n && member != candidate);
        let wanted: Vec<usize> = std::iter::once(candidate).chain(smaller).collect();
        for member in wanted {
            let one = &self.candidates[member];
            if !one.closed && !one.refused && (one.depth > 0 || self.trials_left() > 0) {
                self.queue_up(member, depth);
            }
        }
    }

    /// Asks a candidate on instances up to a depth.
    fn queue_up(&mut self, member: usize, depth: usize) {
        let one = &mut self.candidates[member];
        if one.depth >= depth {
            return;
        }
        self.begun += usize::from(one.depth == 0);
        self.queue.push_back((member, one.depth, depth));
        self.tried[one.family] = true;
        one.depth = depth;
    }

    /// The candidates that are thought about now: those looked at that may be best by the additive model, and a changing
    /// sample of others.
    fn working(&mut self) -> Vec<usize> {
        if self.candidates.len() <= WORKING {
            return (0..self.candidates.len()).collect();
        }
        let mut tried: Vec<usize> = self.trials.iter().copied().filter(|&at| !self.candidates[at].closed).collect();
        if tried.len() > WORKING_TRIED {
            let cells: Vec<Observation> = self
                .lines
                .iter()
                .enumerate()
                .flat_map(|(column, line)| {
                    line.iter().map(move |&(at, value)| Observation { row: at as usize, column, value })
                })
                .collect();
            let simple = additive::fit(&cells, self.candidates.len(), self.problem.instances);
            let reach = |at: usize| match (simple.mean[at], simple.sd[at]) {
                (Some(mean), Some(sd)) => mean + REACH * sd,
                _ => f64::MIN,
            };
            tried.sort_by(|&a, &b| reach(b).total_cmp(&reach(a)).then(a.cmp(&b)));
            tried.truncate(WORKING_TRIED);
        }
        let mut fresh: Vec<usize> =
            (0..self.candidates.len()).filter(|&at| self.candidates[at].trial.is_none()).collect();
        let count = (WORKING - tried.len()).min(fresh.len());
        let (some, _) = fresh.partial_shuffle(&mut self.rng, count);
        tried.extend(some.iter());
        tried.sort_unstable();
        tried
    }

    /// Decides what is looked at next. False: nothing.
    fn plan(&mut self) -> bool {
        if self.problem.instances == 0 || self.candidates.is_empty() {
            return false;
        }
        if self.begin() {
            return true;
        }
        if self.evaluations == 0 {
            return self.others();
        }
        if self.money_ends && !self.compared {
            // What is left for the baseline would be refused later, for others hold it.
            self.compare();
            if !self.queue.is_empty() {
                return true;
            }
        }
        let working = self.working();
        let inputs: Vec<Option<Input>> = working.iter().map(|&at| self.input(at)).collect();
        let mut row_of = vec![u32::MAX; self.candidates.len()];
        working.iter().enumerate().for_each(|(row, &at)| row_of[at] = row as u32);
        let maps: Vec<&BTreeMap<String, serde_json::Value>> =
            working.iter().map(|&at| &self.candidates[at].configuration.0).collect();
        let seen: Vec<Bill> = working.iter().map(|&at| self.candidates[at].bill.clone()).collect();
        let scale = scale(&self.lines);
        let lines: Vec<Line> = self.lines.iter().map(|line| select(line, &row_of, scale)).collect();
        let rounds = usize::from(self.evaluations as f64 >= 1.4 * self.learnt_at as f64);
        if rounds > 0 {
            self.learnt_at = self.evaluations;
        }
        let evidence = Evidence {
            configurations: &maps,
            lines: &lines,
            production: &seen,
            inputs: &inputs,
            instances: self.problem.instances,
        };
        let Assessment { belief, costs, variances } =
            assess(&evidence, &self.knobs.prior, self.variances.take().filter(|_| scale == 1.0), rounds);
        let deviation = variances.total.sqrt();
        self.variances = Some(variances);

        // Who may be recommended: looked at, and likely within the inference budget.
        let within: Vec<f64> = (0..working.len())
            .map(|row| match (self.problem.inference_budget.map(Usd::as_f64), &costs) {
                (Some(budget), _) if inputs[row].is_some_and(|input| input.exact && input.dollars > budget) => 0.0,
                (Some(budget), Some(costs)) => costs.within(row, budget),
                _ => 1.0,
            })
            .collect();
        let open: Vec<bool> = working
            .iter()
            .enumerate()
            .map(|(row, &at)| belief.count[row] > 0 && !self.candidates[at].closed && within[row] >= SURE)
            .collect();
        if self.settled(&belief, &within, scale) {
            self.compare();
            return !self.queue.is_empty();
        }
        let mut options = self.options(&working, costs.as_ref(), &within);
        let leader = (0..working.len())
            .filter(|&row| open[row])
            .max_by(|&a, &b| belief.mean[a].total_cmp(&belief.mean[b]).then(b.cmp(&a)));
        // What is known of the leader in full is no luck: only then does it matter that nothing can be better than perfect.
        let known = leader.is_some_and(|row| belief.count[row] >= self.problem.instances);
        let ceiling = self.problem.ceiling.filter(|_| known).map_or(f64::MAX, |ceiling| ceiling / scale);
        // As deep as any that may come out best: the last fit is a new one.
        let sd = |row: usize| belief.covariance.at(row, row).max(0.0).sqrt();
        let best = leader.map_or(f64::MAX, |row| belief.mean[row]);
        let near = (0..working.len()).filter(|&row| open[row] && belief.mean[row] + sd(row) >= best);
        self.depth = near.map(|row| self.candidates[working[row]].depth).max().unwrap_or(0);
        let mut plan = Plan::new(&belief, self.problem.instances, open, within.clone(), ceiling);
        let (looks, price) = self.closing();
        let money = self.left().map(|left| left - looks as f64 * price);
        let mut room = money.unwrap_or(f64::MAX);
        // A plan buys a share of the money left, and of the evaluations made: so there are few plans however long it goes on.
        let share = money.map_or(0.0, |money| (money * self.knobs.share).max(self.spent.as_f64() * self.knobs.growth));
        let least = (self.evaluations as f64 * self.knobs.growth) as usize;
        let block = least.div_ceil(MOST_LOOKS).max(1);
        let (mut bought, mut asked) = (0.0, 0);
        let unknown = |race: &Race, row: usize| !race.tried[race.candidates[working[row]].family];
        let mut new = self.room_for_new();
        let mut looks = plan.looks(&options, room, &self.knobs);
        for _ in 0..MOST_LOOKS {
            let mut allowed = looks.clone();
            if new == 0 {
                for (look, option) in allowed.iter_mut().zip(&options) {
                    *look = look.filter(|_| !unknown(self, option.row));
                }
            }
            let pays = |at: Option<usize>, looks: &[Option<Look>]| {
                at.and_then(|at| Some((at, looks[at]?))).filter(|(_, look)| look.gain > NO_GAIN * deviation)
            };
            let mut found = pays(plan.best(&mut allowed, &options, room, &self.knobs), &allowed);
            if found.is_none() && new == 0 && self.queue.is_empty() && self.problem.budget.is_some() {
                // Nothing is left to learn of these: others may join.
                found = pays(plan.best(&mut looks, &options, room, &self.knobs), &looks);
            }
            for (look, known) in looks.iter_mut().zip(&allowed) {
                *look = known.or(*look);
            }
            let Some((at, Look { row, instances, .. })) = found else { break };
            // Of what is dear for the money left, less at a time: its results are worth waiting for.
            let worth = |dollars: f64| match options[at].price > 0.0 && money.is_some() {
                true => (dollars / options[at].price) as usize,
                false => usize::MAX,
            };
            let piece = worth(share).max(1);
            let instances = instances
                .min(self.knobs.block.max(instances / 4))
                .min(piece)
                .max(block)
                .min(options[at].left)
                .min(worth(room).max(1));
            let option = &mut options[at];
            let next = option.next;
            option.left -= instances;
            option.next += instances;
            let price = option.price * instances as f64;
            let candidate = working[row];
            if unknown(self, row) {
                new = new.saturating_sub(1);
                self.tried[self.candidates[candidate].family] = true;
            }
            self.buy(candidate, next + instances);
            plan.take(row, next, instances);
            looks[at] = if options[at].left == 0 { None } else { looks[at] };
            bought += price;
            room -= price;
            asked += instances;
            if (bought >= share && asked >= least) || room <= 0.0 {
                break;
            }
        }
        // Nothing is better than the best there can be.
        let perfect = leader.is_some_and(|row| belief.mean[row] >= ceiling - 1e-9 * ceiling.abs());
        if !perfect && (asked < least && room > 0.0 || self.queue.is_empty()) {
            self.confirm(&working, &belief, &within, least.saturating_sub(asked), room);
        }
        if self.queue.is_empty() {
            self.compare();
        }
        !self.queue.is_empty()
    }

    /// How far the baseline is to be looked at in the end, for what is said of it and the winner: as far as the deepest of those
    /// that lead, or as a small part of the budget pays for: so many looks, and what one costs.
    fn closing(&self) -> (usize, f64) {
        let baseline = &self.candidates[0];
        if !self.problem.baseline || self.compared || baseline.closed || baseline.refused || baseline.depth == 0 {
            return (0, 0.0);
        }
        let price = baseline.bill.mean;
        let most = match self.problem.budget.map(Usd::as_f64) {
            Some(budget) if price > 0.0 => (KEPT * budget / price) as usize,
            _ => usize::MAX,
        };
        let looks = self.depth.saturating_sub(baseline.depth).min(most);
        (looks, price)
    }

    /// The last of it: the baseline where those that lead were looked at.
    fn compare(&mut self) {
        let (looks, price) = self.closing();
        let fit = self.left().filter(|_| price > 0.0).map_or(usize::MAX, |left| (left / price) as usize);
        self.compared = true;
        self.queue_up(0, self.candidates[0].depth + looks.min(fit));
    }

    /// Where no single look is expected to change who is best: more of the leader and of its likeliest rivals, those that
    /// were seen less first, for about so many evaluations; without a budget and a rival, the rest of the leader.
    fn confirm(&mut self, working: &[usize], belief: &Belief, within: &[f64], least: usize, mut room: f64) {
        let may = |race: &Race, row: usize| {
            let one = &race.candidates[working[row]];
            !one.closed && within[row] > 0.5 && belief.count[row] > 0
        };
        let rows: Vec<usize> = (0..working.len()).filter(|&row| may(self, row)).collect();
        let better = |a: &usize, b: &usize| belief.mean[*a].total_cmp(&belief.mean[*b]).then(b.cmp(a));
        let Some(leader) = rows.iter().copied().max_by(better) else { return };
        let all = self.problem.instances;
        let open = |race: &Race, row: usize| {
            let one = &race.candidates[working[row]];
            !one.refused && one.depth < all
        };
        let covariance = &belief.covariance;
        let distance = |row: usize| {
            let sum = covariance.at(row, row) + covariance.at(leader, leader) - 2.0 * covariance.at(row, leader);
            (belief.mean[leader] - belief.mean[row]) / sum.max(1e-12).sqrt()
        };
        let mut rivals: Vec<(usize, f64)> = rows
            .iter()
            .filter(|&&row| row != leader && (open(self, row) || open(self, leader)))
            .map(|&row| (row, distance(row)))
            .filter(|(_, distance)| *distance < NEAR)
            .collect();
        rivals.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
        let block = (all / 16).max(self.knobs.block).max(least / 4);
        let (mut asked, before) = (0, self.queue.len());
        for (rival, _) in rivals {
            if asked > 0 && asked >= least || room <= 0.0 {
                break;
            }
            let mut pair = [leader, rival];
            pair.sort_by_key(|&row| (self.candidates[working[row]].depth, row));
            if let Some(row) = pair.into_iter().find(|&row| open(self, row)) {
                let one = &self.candidates[working[row]];
                let affordable = if one.bill.mean > 0.0 { (room / one.bill.mean) as usize } else { usize::MAX };
                let depth = (one.depth + block.min(affordable)).min(all);
                if depth == one.depth {
                    continue;
                }
                asked += depth - one.depth;
                room -= (depth - one.depth) as f64 * one.bill.mean;
                self.buy(working[row], depth);
            }
        }
        if self.queue.len() == before && self.problem.budget.is_none() {
            self.buy(working[leader], all);
        }
    }

    /// True where it is unlikely that another one is better than the leader by more than the margin.
    fn settled(&self, belief: &Belief, within: &[f64], scale: f64) -> bool {
        let Some(margin) = self.problem.margin.map(|margin| margin / scale) else { return false };
        let rows = || (0..belief.mean.len()).filter(|&row| within[row] > 0.5);
        let tried = rows().filter(|&row| belief.count[row] > 0);
        let Some(leader) = tried.max_by(|&a, &b| belief.mean[a].total_cmp(&belief.mean[b]).then(b.cmp(&a))) else {
            return false;
        };
        let variance = &belief.covariance;
        let doubt: f64 = rows()
            .filter(|&row| row != leader)
            .map(|row| {
                let sum = variance.at(row, row) + variance.at(leader, leader) - 2.0 * variance.at(row, leader);
                normal_cdf((belief.mean[row] - belief.mean[leader] - margin) / sum.max(1e-12).sqrt())
            })
            .sum();
        doubt < DOUBT
    }

    /// What may be looked at, and what an instance of it costs.
    fn options(&self, working: &[usize], costs: Option<&Costs>, within: &[f64]) -> Vec<Option_> {
        let mut options = Vec::new();
        let mut rows = vec![usize::MAX; self.candidates.len()];
        working.iter().enumerate().for_each(|(row, &at)| rows[at] = row);
        for (row, &at) in working.iter().enumerate() {
            let one = &self.candidates[at];
            let left = self.problem.instances - one.depth;
            if one.closed
                || one.refused
                || left == 0
                || within[row] < self.knobs.out
                || (one.trial.is_none() && self.trials_left() == 0)
            {
                continue;
            }
            let whole = costs.map_or(0.0, |costs| costs.dollars(row));
            // Of the next instances, siblings with fewer samples may have paid a part.
            let sibling = self.families[one.family].iter().rfind(|&&other| {
                self.candidates[other].n < one.n
                    && self.candidates[other].depth > one.depth
                    && rows[other] != usize::MAX
            });
            let price = match (sibling, costs) {
                (Some(&sibling), Some(costs)) => {
                    let (low, few, many) = (costs.dollars(rows[sibling]), self.candidates[sibling].n, one.n);
                    let sample = ((whole - low) / (many - few)).max(0.0);
                    let prompt = (low - few * sample).max(0.0);
                    prompt + sample * (many - few)
                }
                _ => whole,
            };
            options.push(Option_ { row, next: one.depth, left, price });
        }
        options
    }
}

impl Strategy for Race {
    fn ask(&mut self) -> Ask {
        loop {
            if let Some((at, from, to)) = self.queue.pop_front() {
                let one = &self.candidates[at];
                if one.closed || (one.refused && one.trial.is_some()) {
                    continue;
                }
                let (trial, configuration) = match one.trial {
                    Some(trial) => (trial, None),
                    None => {
                        self.trials.push(at);
                        (self.trials.len() - 1, Some(one.configuration.clone()))
                    }
                };
                self.candidates[at].trial = Some(trial);
                self.open += to - from;
                return Ask::Evaluate { trial, configuration, instances: (from..to).collect() };
            }
            if self.open > 0 {
                return Ask::Wait;
            }
            if !self.plan() {
                return Ask::Done;
            }
        }
    }

    fn tell(&mut self, told: Told) {
        self.open = self.open.saturating_sub(1);
        self.spent += told.cost;
        let Some(&at) = self.trials.get(told.trial) else { return };
        let one = &mut self.candidates[at];
        match told.outcome {
            Outcome::Scored { score, production, input } => {
                one.bill.add(production, input);
                self.evaluations += 1;
                if self.lines.len() <= told.instance {
                    self.lines.resize_with(told.instance + 1, Vec::new);
                }
                self.lines[told.instance].push((at as u32, score));
            }
            Outcome::Missing => {}
            Outcome::Refused => {
                one.refused = true;
                self.money_ends = true;
            }
        }
    }

    fn dropped(&mut self, trial: usize) {
        if let Some(&at) = self.trials.get(trial) {
            self.candidates[at].closed = true;
        }
    }

    fn look_ahead(&self) -> usize {
        1024
    }

    fn in_rounds(&mut self) {
        self.knobs = self.knobs.clone().in_rounds();
    }
}

#[cfg(test)]
mod tests;
