//! The last looks: where no single one is expected to change who is best, at a leader whom mostly its relatives speak for,
//! and at the baseline for comparison.

use super::Race;
use super::planning::View;
use crate::money::Usd;

/// So many standard deviations from the leader a rival is likely enough to look closer.
const NEAR: f64 = 3.0;
/// The share of the budget that at most is kept for the baseline's sake.
const KEPT: f64 = 0.05;

impl Race {
    /// So many looks bring a candidate to a depth, or as far as a share of the budget pays for; and what one of them costs.
    fn catching_up(&self, at: usize, depth: usize, share: f64) -> (usize, f64) {
        let one = &self.candidates[at];
        if one.closed || one.refused || one.depth == 0 {
            return (0, 0.0);
        }
        let price = one.bill.mean;
        let most = match self.problem.budget.map(Usd::as_f64) {
            Some(budget) if price > 0.0 => (share * budget / price) as usize,
            _ => usize::MAX,
        };
        (depth.saturating_sub(one.depth).min(most), price)
    }

    /// So many looks of a price at most fit the money left but for what is kept.
    fn fit(&self, price: f64, kept: f64) -> usize {
        self.left().filter(|_| price > 0.0).map_or(usize::MAX, |left| ((left - kept) / price) as usize)
    }

    /// The last looks at the baseline, for what is said of it and the winner, and what one costs.
    pub(super) fn closing(&self) -> (usize, f64) {
        match self.problem.baseline && !self.compared {
            true => self.catching_up(0, self.depth, KEPT),
            false => (0, 0.0),
        }
    }

    /// The last looks at the leader before it is recommended, for relatives alone are no proof, and what one costs: as deep as
    /// others were looked at, or where there are none, at everything. Without a budget the leader is looked at in any case.
    pub(super) fn proof(&self, view: &View) -> (usize, f64) {
        match view.leader.filter(|_| self.problem.budget.is_some()) {
            Some(leader) => {
                let depth = if self.begun == 1 { self.problem.instances } else { self.depth };
                self.catching_up(view.working[leader], depth, self.pace.proof)
            }
            None => (0, 0.0),
        }
    }

    /// Looks at the leader for what was kept for it, a part at a time: another may lead then.
    pub(super) fn prove(&mut self, view: &View) {
        let ((looks, price), (others, other)) = (self.proof(view), self.closing());
        let Some(leader) = view.leader.map(|row| view.working[row]) else { return };
        let looks = looks.min(self.fit(price, others as f64 * other)).min(self.pace.block.max(looks / 4));
        self.buy(leader, self.candidates[leader].depth + looks);
    }

    /// The last of it: the baseline where those that lead were looked at.
    pub(super) fn compare(&mut self) {
        let (looks, price) = self.closing();
        self.compared = true;
        self.queue_up(0, self.candidates[0].depth + looks.min(self.fit(price, 0.0)));
    }

    /// Where no single look is expected to change who is best: more of the leader and of its likeliest rivals, those that
    /// were seen less first, for about so many evaluations; without a budget and a rival, the rest of the leader.
    pub(super) fn confirm(&mut self, view: &View, least: usize, mut room: f64) {
        let View { working, belief, within, .. } = view;
        let may = |race: &Race, row: usize| {
            let one = &race.candidates[working[row]];
            !one.closed && within[row] > 0.5 && belief.count[row] > 0
        };
        let Some(leader) = view.foremost else { return };
        let rows: Vec<usize> = (0..working.len()).filter(|&row| may(self, row)).collect();
        let all = self.problem.instances;
        let open = |race: &Race, row: usize| {
            let one = &race.candidates[working[row]];
            !one.refused && one.depth < all
        };
        let distance = |row: usize| (belief.mean[leader] - belief.mean[row]) / belief.sd_of_difference(row, leader);
        let mut rivals: Vec<(usize, f64)> = rows
            .iter()
            .filter(|&&row| row != leader && (open(self, row) || open(self, leader)))
            .map(|&row| (row, distance(row)))
            .filter(|(_, distance)| *distance < NEAR)
            .collect();
        rivals.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
        let block = (all / 16).max(self.pace.block).max(least / 4);
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
}
