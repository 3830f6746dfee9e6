//! The first looks, before there is anything to decide by, and how many configurations a budget is enough for.

use std::collections::BTreeMap;

use super::{Candidate, Race};
use crate::money::Usd;

/// How many families there are at most where no budget limits them.
const FAMILIES_UNLIMITED: usize = 128;
/// Families to begin with.
const FAMILIES: usize = 8;
/// Looks at each family in a round of halving, for counting how many families a budget is enough for.
const FIRST: f64 = 6.0;
/// Share of the budget that beginnings may cost.
const OPENING: f64 = 0.3;

impl Race {
    /// The opening: what shall be tried first, several families on one instance, more of them as far as the budget could
    /// tell them apart, and then all of them on a few instances. False: it is over.
    pub(super) fn begin(&mut self) -> bool {
        while self.queue.is_empty() {
            if self.started == 0 {
                // What shall be tried first comes before any sibling of it.
                for at in 0..self.problem.first.len().min(self.candidates.len()) {
                    if self.trials_left() > 0 {
                        self.queue_up(at, 1);
                    }
                }
                let count = FAMILIES.saturating_sub(self.tried_families());
                self.widen(count);
                self.started = self.deepen_at_once();
            } else if self.widened && self.started >= self.pace.opening {
                return false;
            } else if !self.widened {
                let count = self.room_for_new().min(self.tried_families());
                self.widened = count == 0 || self.evaluations == 0;
                if !self.widened {
                    self.widen(count);
                    self.widened = self.queue.is_empty();
                    self.deepen_at_once();
                }
            } else {
                self.deepen();
            }
        }
        true
    }

    /// A first look at so many more families: the next ones drawn.
    fn widen(&mut self, count: usize) {
        let fresh: Vec<usize> = (0..self.families.len()).filter(|&family| !self.tried[family]).collect();
        // What is too dear by its input alone is begun only where there is nothing else.
        let may: Vec<usize> =
            fresh.iter().copied().filter(|&family| !self.too_dear(self.families[family][0])).take(count).collect();
        let none = may.is_empty() && self.tried_families() == 0;
        let next = if none { fresh.into_iter().take(count).collect() } else { may };
        next.into_iter().for_each(|family| self.buy(self.families[family][0], 1));
    }

    /// The further instances that go out together with the first; after it, for the first look at each is worth most
    /// where money ends. Gives how many instances that makes.
    fn deepen_at_once(&mut self) -> usize {
        let begun: Vec<usize> = self.queue.iter().map(|(at, ..)| *at).collect();
        for depth in 2..=self.pace.step.min(self.problem.instances) {
            begun.iter().for_each(|&at| self.queue_up(at, depth));
        }
        self.pace.step
    }

    /// One more instance of what was looked at in the opening, the cheapest first, as long as the opening may cost it.
    fn deepen(&mut self) {
        let price = |one: &Candidate| one.bill.mean;
        let open = |at: &usize| self.candidates[*at].depth == self.started;
        let mut chosen: Vec<usize> = self.trials.iter().copied().filter(open).collect();
        chosen.sort_by(|&a, &b| price(&self.candidates[a]).total_cmp(&price(&self.candidates[b])).then(a.cmp(&b)));
        if let Some(budget) = self.problem.budget {
            let mut room = budget.as_f64() * OPENING - self.spent.as_f64();
            chosen.retain(|&at| {
                room -= price(&self.candidates[at]);
                room >= 0.0
            });
        }
        self.started += 1;
        let depth = self.started;
        chosen.into_iter().for_each(|at| self.buy(at, depth));
    }

    /// Where nothing was judged yet: other families, if it was not for money. False: enough was tried.
    pub(super) fn others(&mut self) -> bool {
        let refused = self.trials.iter().any(|&at| self.candidates[at].refused);
        if refused || self.tried_families() >= FAMILIES_UNLIMITED {
            return false;
        }
        self.widen(FAMILIES);
        !self.queue.is_empty()
    }

    /// How many families that were not looked at yet may join. A budget buys more from few configurations that are told
    /// apart than from many that are not: as many as could be halved down to one at `FIRST` looks each a round.
    pub(super) fn room_for_new(&self) -> usize {
        let Some(budget) = self.problem.budget.map(Usd::as_f64) else {
            return FAMILIES_UNLIMITED.saturating_sub(self.tried_families());
        };
        let mut least: BTreeMap<usize, f64> = BTreeMap::new();
        for one in self.trials.iter().map(|&at| &self.candidates[at]).filter(|one| one.bill.count > 0) {
            let price = one.bill.mean;
            let known = least.entry(one.family).or_insert(price);
            *known = known.min(price);
        }
        let price = least.values().sum::<f64>() / least.len().max(1) as f64;
        let mut most = 2;
        while most < self.families.len() && price * most as f64 * FIRST * (most as f64).log2() <= budget {
            most += 1;
        }
        most.saturating_sub(self.tried_families())
    }

    pub(super) fn tried_families(&self) -> usize {
        self.tried.iter().filter(|tried| **tried).count()
    }
}
