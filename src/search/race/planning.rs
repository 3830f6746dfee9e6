//! What is looked at next: the model is fitted to everything told, and looks are bought by what they are worth for their price.

use std::collections::{BTreeMap, HashSet};

use rand::seq::SliceRandom;
use serde_json::Value;

use super::Race;
use super::value::{Look, Option_, Plan};
use crate::money::Usd;
use crate::stats::additive;
use crate::stats::racing::assess::{Assessment, Evidence, assess, observations, scale, select};
use crate::stats::racing::costs::{Bill, Costs, Input, SURE, normal_cdf};
use crate::stats::racing::promise::promises;
use crate::stats::racing::{Belief, Line, Prior};

/// How many configurations are thought about at a time.
const WORKING: usize = 96;
/// How many of them at most were looked at.
pub(super) const WORKING_TRIED: usize = 72;
/// Of how many that were not looked at the most promising are sought.
const SAMPLE: usize = 256;
/// How many looks at most are decided between two fits.
const MOST_LOOKS: usize = 64;
/// The expected gain, in standard deviations of a single value, below which a look cannot pay.
const NO_GAIN: f64 = 1e-6;
/// What production can afford with less than this probability is not looked at.
const OUT: f64 = 0.1;
/// While it is unsure whether production can afford one, a plan buys no more of it than so many blocks.
const TELLING: usize = 4;
/// The doubt that the user's margin leaves.
const DOUBT: f64 = 0.05;
/// So many standard deviations above its mean a candidate is thought about for.
const REACH: f64 = 2.0;

/// What is believed of the candidates that are thought about, by their rows in the model.
pub(super) struct View {
    pub working: Vec<usize>,
    pub belief: Belief,
    costs: Option<Costs>,
    /// The probability that production can afford each.
    pub within: Vec<f64>,
    /// Who may be recommended: looked at, and likely within the inference budget.
    open: Vec<bool>,
    /// The best of them.
    pub leader: Option<usize>,
    /// The leader, or where there is none, the best of those that production can rather afford than not.
    pub foremost: Option<usize>,
    /// No mean is larger.
    ceiling: f64,
    /// The standard deviation of a single value.
    deviation: f64,
    /// Values were divided by it.
    scale: f64,
}

/// What is known of some candidates, as the model takes it.
struct Known {
    lines: Vec<Line>,
    /// Values were divided by it.
    scale: f64,
    production: Vec<Bill>,
    inputs: Vec<Option<Input>>,
}

impl Known {
    fn evidence<'a>(&'a self, configurations: &'a [&'a BTreeMap<String, Value>], instances: usize) -> Evidence<'a> {
        let Known { lines, production, inputs, .. } = self;
        Evidence { configurations, lines, production, inputs, instances }
    }
}

impl Race {
    /// What is known of candidates, which are numbered anew as they are given.
    fn known(&mut self, rows: &[usize]) -> Known {
        let mut row_of = vec![u32::MAX; self.candidates.len()];
        rows.iter().enumerate().for_each(|(row, &at)| row_of[at] = row as u32);
        let scale = scale(&self.lines);
        Known {
            lines: self.lines.iter().map(|line| select(line, &row_of, scale)).collect(),
            scale,
            production: rows.iter().map(|&at| self.candidates[at].bill.clone()).collect(),
            inputs: rows.iter().map(|&at| self.input(at)).collect(),
        }
    }

    /// The candidates that are thought about now: those looked at that may be best by the additive model, and of a changing
    /// sample of others the most promising and some by chance.
    fn working(&mut self) -> Vec<usize> {
        if self.candidates.len() <= WORKING {
            return (0..self.candidates.len()).collect();
        }
        let mut tried: Vec<usize> = self.trials.iter().copied().filter(|&at| !self.candidates[at].closed).collect();
        if tried.len() > WORKING_TRIED {
            let simple = additive::fit(&observations(&self.lines), self.candidates.len(), self.problem.instances);
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
        let sample = SAMPLE.clamp(count, fresh.len());
        let (sample, _) = fresh.partial_shuffle(&mut self.rng, sample);
        let mut chosen = self.promising(&tried, sample, count / 2);
        let others: Vec<usize> = sample.iter().copied().filter(|at| !chosen.contains(at)).collect();
        chosen.extend(others.into_iter().take(count - chosen.len()));
        tried.extend(chosen);
        tried.sort_unstable();
        tried
    }

    /// Of a sample of candidates that were not looked at, the most promising ones by what those that were say; one a family.
    fn promising(&mut self, tried: &[usize], sample: &[usize], count: usize) -> Vec<usize> {
        let rows: Vec<usize> = tried.iter().chain(sample).copied().collect();
        let known = self.known(&rows);
        let configurations: Vec<_> = rows.iter().map(|&at| &self.candidates[at].configuration.0).collect();
        let budget = self.problem.inference_budget.map(Usd::as_f64);
        let evidence = known.evidence(&configurations, self.problem.instances);
        let promise = promises(&evidence, &Prior::default(), self.variances.as_ref(), budget);
        let mut order: Vec<usize> = (tried.len()..rows.len()).collect();
        order.sort_by(|&a, &b| promise[b].total_cmp(&promise[a]).then(rows[a].cmp(&rows[b])));
        let mut families = HashSet::new();
        order.retain(|&row| families.insert(self.candidates[rows[row]].family));
        order.into_iter().take(count).map(|row| rows[row]).collect()
    }

    /// Decides what is looked at next. False: nothing.
    pub(super) fn plan(&mut self) -> bool {
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
        let view = self.view();
        if self.settled(&view) {
            self.compare();
            return !self.queue.is_empty();
        }
        self.depth = self.depth_at_the_top(&view);
        let (looks, price) = self.closing();
        let (proof, each) = self.proof(&view);
        let money = self.left().map(|left| left - looks as f64 * price - proof as f64 * each);
        let least = (self.evaluations as f64 * self.pace.growth) as usize;
        let (asked, room) = self.buy_looks(&view, money, least);
        // Nothing is better than the best there can be.
        let perfect = view.leader.is_some_and(|row| view.belief.mean[row] >= view.ceiling - 1e-9 * view.ceiling.abs());
        if !perfect && (asked < least && room > 0.0 || self.queue.is_empty()) {
            self.confirm(&view, least.saturating_sub(asked), room);
        }
        if self.queue.is_empty() {
            self.prove(&view);
        }
        if self.queue.is_empty() {
            self.compare();
        }
        !self.queue.is_empty()
    }

    /// Fits the model to everything told.
    fn view(&mut self) -> View {
        let working = self.working();
        let known = self.known(&working);
        let scale = known.scale;
        let rounds = usize::from(self.evaluations as f64 >= 1.4 * self.learnt_at as f64);
        if rounds > 0 {
            self.learnt_at = self.evaluations;
        }
        let configurations: Vec<_> = working.iter().map(|&at| &self.candidates[at].configuration.0).collect();
        let evidence = known.evidence(&configurations, self.problem.instances);
        let Assessment { belief, costs, variances } =
            assess(&evidence, &Prior::default(), self.variances.take().filter(|_| scale == 1.0), rounds);
        let deviation = variances.total.sqrt();
        self.variances = Some(variances);

        let budget = self.problem.inference_budget.map(Usd::as_f64);
        let within: Vec<f64> = (0..working.len()).map(|row| evidence.within(row, costs.as_ref(), budget)).collect();
        let open: Vec<bool> = working
            .iter()
            .enumerate()
            .map(|(row, &at)| belief.count[row] > 0 && !self.candidates[at].closed && within[row] >= SURE)
            .collect();
        let best = |may: &dyn Fn(usize) -> bool| {
            let rows = (0..working.len()).filter(|&row| may(row));
            rows.max_by(|&a, &b| belief.mean[a].total_cmp(&belief.mean[b]).then(b.cmp(&a)))
        };
        let leader = best(&|row| open[row]);
        let likely = |row: usize| belief.count[row] > 0 && !self.candidates[working[row]].closed && within[row] > 0.5;
        let foremost = leader.or_else(|| best(&likely));
        // What is known of the leader in full is no luck: only then does it matter that nothing can be better than perfect.
        let in_full = leader.is_some_and(|row| belief.count[row] >= self.problem.instances);
        let ceiling = self.problem.ceiling.filter(|_| in_full).map_or(f64::MAX, |ceiling| ceiling / scale);
        View { working, belief, costs, within, open, leader, foremost, ceiling, deviation, scale }
    }

    /// How deep those were looked at that may come out best; any of them, for the last fit is a new one.
    fn depth_at_the_top(&self, view: &View) -> usize {
        let best = view.leader.map_or(f64::MAX, |row| view.belief.mean[row]);
        let near = (0..view.working.len())
            .filter(|&row| view.open[row] && view.belief.mean[row] + view.belief.sd(row) >= best);
        near.map(|row| self.candidates[view.working[row]].depth).max().unwrap_or(0)
    }

    /// Buys the looks of a plan: a share of the money, and at least so many evaluations, as long as a look is expected to
    /// gain anything. Gives the evaluations asked for, and the money left.
    fn buy_looks(&mut self, view: &View, money: Option<f64>, least: usize) -> (usize, f64) {
        let mut options = self.options(view);
        let mut plan =
            Plan::new(&view.belief, self.problem.instances, view.open.clone(), view.within.clone(), view.ceiling);
        let mut room = money.unwrap_or(f64::MAX);
        // A plan buys a share of the money left, and of the evaluations made: so there are few plans however long it goes on.
        let share = money.map_or(0.0, |money| (money * self.pace.share).max(self.spent.as_f64() * self.pace.growth));
        let block = least.div_ceil(MOST_LOOKS).max(1);
        let (mut bought, mut asked) = (0.0, 0);
        let unknown = |race: &Race, row: usize| !race.tried[race.candidates[view.working[row]].family];
        let mut new = self.room_for_new();
        let mut looks = plan.looks(&options, room);
        for _ in 0..MOST_LOOKS {
            let mut allowed = looks.clone();
            if new == 0 {
                for (look, option) in allowed.iter_mut().zip(&options) {
                    *look = look.filter(|_| !unknown(self, option.row));
                }
            }
            let pays = |at: Option<usize>, looks: &[Option<Look>]| {
                at.and_then(|at| Some((at, looks[at]?))).filter(|(_, look)| look.gain > NO_GAIN * view.deviation)
            };
            let mut found = pays(plan.best(&mut allowed, &options, room), &allowed);
            if found.is_none() && new == 0 && self.queue.is_empty() && self.problem.budget.is_some() {
                // Nothing is left to learn of these: others may join.
                found = pays(plan.best(&mut looks, &options, room), &looks);
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
            // While it is not known whether production can afford it, a plan buys no more than tells.
            let unsure = view.within[row] < SURE;
            let piece = if unsure { piece.min(TELLING * self.pace.block) } else { piece };
            let instances = instances
                .min(self.pace.block.max(instances / 4))
                .min(piece)
                .max(block)
                .min(options[at].left)
                .min(worth(room).max(1));
            let option = &mut options[at];
            let next = option.next;
            option.left -= instances;
            option.next += instances;
            let price = option.price * instances as f64;
            let candidate = view.working[row];
            if unknown(self, row) {
                new = new.saturating_sub(1);
                self.tried[self.candidates[candidate].family] = true;
            }
            self.buy(candidate, next + instances);
            plan.take(row, next, instances);
            if unsure {
                options[at].left = 0;
            }
            looks[at] = if options[at].left == 0 { None } else { looks[at] };
            bought += price;
            room -= price;
            asked += instances;
            if (bought >= share && asked >= least) || room <= 0.0 {
                break;
            }
        }
        (asked, room)
    }

    /// True where it is unlikely that another one is better than the leader by more than the margin.
    fn settled(&self, view: &View) -> bool {
        let Some(margin) = self.problem.margin.map(|margin| margin / view.scale) else { return false };
        let Some(leader) = view.foremost else { return false };
        let belief = &view.belief;
        let doubt: f64 = (0..belief.mean.len())
            .filter(|&row| row != leader && view.within[row] > 0.5)
            .map(|row| {
                normal_cdf((belief.mean[row] - belief.mean[leader] - margin) / belief.sd_of_difference(row, leader))
            })
            .sum();
        doubt < DOUBT
    }

    /// What may be looked at, and what an instance of it costs.
    fn options(&self, view: &View) -> Vec<Option_> {
        let View { working, within, costs, .. } = view;
        let costs = costs.as_ref();
        let mut options = Vec::new();
        let mut rows = vec![usize::MAX; self.candidates.len()];
        working.iter().enumerate().for_each(|(row, &at)| rows[at] = row);
        for (row, &at) in working.iter().enumerate() {
            let one = &self.candidates[at];
            let left = self.problem.instances - one.depth;
            if one.closed
                || one.refused
                || left == 0
                || within[row] < OUT
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
