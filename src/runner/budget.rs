//! The cap: what may be sent, decided in the order of asking. Two sums stay within it: the study's own cost and the
//! money really spent.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::diagnostic::Result;
use crate::money::Usd;

/// A budget and the two sums that it limits. Without a limit everything is admitted, and still counted.
#[derive(Debug)]
pub struct Purse {
    accounts: Mutex<Accounts>,
    /// Something was given back, or nobody is left who could.
    changed: Notify,
}

#[derive(Clone, Debug)]
struct Accounts {
    /// What the study's own cost may come to.
    study_limit: Option<Usd>,
    /// What the money spent may come to.
    spent_limit: Option<Usd>,
    /// Only the money spent decides (`--reuse-savings`): what the store gives is free.
    reuse_savings: bool,
    study_settled: Usd,
    study_held: Usd,
    spent: Usd,
    /// What of it was spent before.
    before: Usd,
    /// What of it requests lost that failed.
    lost: Usd,
    held: Usd,
    holds: usize,
    /// Holds that wait for money for another attempt, by their places in the order of asking: the first comes first.
    waiting: BTreeSet<Ticket>,
    /// Holds given out so far.
    tickets: u64,
    /// Holds that wait for another evaluation of the same request.
    blocked: usize,
}

/// A place in the order of asking, and the part of a hold that was divided.
type Ticket = (u64, u32);

/// The answer to whether an evaluation may be sent.
#[derive(Debug)]
pub enum Admission {
    /// It may; its worst case is held.
    Go(Hold),
    /// Not before earlier ones have settled.
    Wait,
    /// It does not fit although all have settled. True where it is money spent (lost requests, an earlier crash) that
    /// keeps it out, and not the study's own cost.
    Never {
        /// The money spent is what binds.
        for_spent: bool,
    },
}

impl Purse {
    /// A purse with one limit for both sums, of a study that has spent some already (before it was resumed).
    pub fn new(limit: Option<Usd>, reuse_savings: bool, spent: Usd) -> Arc<Purse> {
        Purse::with_limits(limit, limit, reuse_savings, spent)
    }

    /// The same with a limit for each sum.
    pub fn with_limits(
        study_limit: Option<Usd>,
        spent_limit: Option<Usd>,
        reuse_savings: bool,
        spent: Usd,
    ) -> Arc<Purse> {
        let zero = Usd::ZERO;
        let accounts = Accounts {
            study_limit,
            spent_limit,
            reuse_savings,
            study_settled: zero,
            study_held: zero,
            spent,
            before: spent,
            lost: zero,
            held: zero,
            holds: 0,
            waiting: BTreeSet::new(),
            tickets: 0,
            blocked: 0,
        };
        Arc::new(Purse { accounts: Mutex::new(accounts), changed: Notify::new() })
    }

    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        // Every change is a few additions that cannot panic half-way.
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks to send something that costs the study at most `study` and in money at most `real`.
    pub fn admit(self: &Arc<Purse>, study: Usd, real: Usd) -> Admission {
        let mut accounts = self.accounts();
        if !accounts.waiting.is_empty() {
            // Who was asked earlier has the first right to what settles.
            return Admission::Wait;
        }
        let study_sum = accounts.study_settled + accounts.study_held + study;
        let study_fits = accounts.reuse_savings || within(accounts.study_limit, study_sum);
        // What needs no money is not kept out by money lost before.
        let spent_fits = real == Usd::ZERO || within(accounts.spent_limit, accounts.spent + accounts.held + real);
        if !(study_fits && spent_fits) {
            return match accounts.holds {
                0 => Admission::Never { for_spent: study_fits && !accounts.reuse_savings },
                _ => Admission::Wait,
            };
        }
        accounts.study_held += study;
        accounts.held += real;
        accounts.holds += 1;
        accounts.tickets += 1;
        let ticket = (accounts.tickets, 0);
        let (paid, at_risk) = (Usd::ZERO, Usd::ZERO);
        Admission::Go(Hold { purse: self.clone(), study, real, paid, at_risk, ticket, divided: false })
    }

    /// Asks to send something, and waits for what is in flight to settle where it does not fit yet. `None` where it does
    /// not fit although everything has. Callers that ask one after the other are admitted in that order.
    pub async fn admit_in_time(self: &Arc<Purse>, study: Usd, real: Usd) -> Option<Hold> {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            match self.admit(study, real) {
                Admission::Go(hold) => return Some(hold),
                Admission::Never { .. } => return None,
                Admission::Wait => changed.await,
            }
        }
    }

    /// The same for something of which `bounds` says what it costs in money at most: as it is quickly known, or, told to,
    /// counted as near as may be. Counting is left for what does not fit else. A study's own cost is nothing.
    pub async fn admit_within(self: &Arc<Purse>, bounds: impl Fn(bool) -> Result<Usd>) -> Result<Option<Hold>> {
        let loose = bounds(false)?;
        if let Some(hold) = self.admit_in_time(Usd::ZERO, loose).await {
            return Ok(Some(hold));
        }
        let tight = bounds(true)?;
        Ok(if tight < loose { self.admit_in_time(Usd::ZERO, tight).await } else { None })
    }

    /// Someone with a hold now waits for another evaluation of the same request, or no longer does.
    pub fn block(&self, blocked: bool) {
        let mut accounts = self.accounts();
        accounts.blocked = if blocked { accounts.blocked + 1 } else { accounts.blocked.saturating_sub(1) };
        drop(accounts);
        self.changed.notify_waiters();
    }

    /// The study's own cost so far.
    pub fn study_cost(&self) -> Usd {
        self.accounts().study_settled
    }

    /// The money spent so far: bills and lost requests.
    pub fn spent(&self) -> Usd {
        self.accounts().spent
    }

    /// More of the money spent since it was made was lost to requests that failed than was billed for answers.
    pub fn mostly_lost(&self) -> bool {
        let accounts = self.accounts();
        accounts.lost > accounts.spent - accounts.before - accounts.lost
    }

    /// What the study's own cost may come to.
    pub fn limit(&self) -> Option<Usd> {
        self.accounts().study_limit
    }

    /// What is held for requests in flight, in money.
    pub fn held(&self) -> Usd {
        self.accounts().held
    }

    /// What is spent already and what is in flight may come to, in either sum that is limited.
    pub fn committed(&self) -> Usd {
        let accounts = self.accounts();
        let study = if accounts.reuse_savings { Usd::ZERO } else { accounts.study_settled + accounts.study_held };
        study.max(accounts.spent + accounts.held)
    }

    /// Sets a limit for each sum: for a budget that was changed while the study runs.
    pub fn set_limits(&self, study: Option<Usd>, spent: Option<Usd>) {
        let mut accounts = self.accounts();
        (accounts.study_limit, accounts.spent_limit) = (study, spent);
        drop(accounts);
        self.changed.notify_waiters();
    }

    /// Sets both limits: for the held-out test after a search that had only a share of the budget.
    pub fn set_limit(&self, limit: Option<Usd>) {
        let mut accounts = self.accounts();
        (accounts.study_limit, accounts.spent_limit) = (limit, limit);
    }
}

fn within(limit: Option<Usd>, sum: Usd) -> bool {
    limit.is_none_or(|limit| sum <= limit)
}

/// The worst case of something admitted, held until it settles. Dropped unsettled, it is given back, but for what is at risk:
/// that is lost.
#[derive(Debug)]
pub struct Hold {
    purse: Arc<Purse>,
    study: Usd,
    real: Usd,
    paid: Usd,
    /// What a request that is at an endpoint now may be billed.
    at_risk: Usd,
    /// Its place in the order of asking.
    ticket: Ticket,
    /// It waits for its parts.
    divided: bool,
}

impl Hold {
    /// The money booked on it so far.
    pub fn paid(&self) -> Usd {
        self.paid
    }

    /// What is held in money.
    pub fn real(&self) -> Usd {
        self.real
    }

    /// A request is sent now that may be billed so much, whoever still waits for its answer: until that is booked, or
    /// [`unbilled`](Self::unbilled) says that there is nothing to book, letting go of this loses it.
    pub(super) fn risk(&mut self, worst: Usd) {
        self.at_risk = worst;
    }

    /// The request that was sent will not be billed.
    pub(super) fn unbilled(&mut self) {
        self.at_risk = Usd::ZERO;
    }

    /// Books money: a bill, or a request lost at its worst case. That much of the hold is used up.
    pub fn spend(&mut self, amount: Usd) {
        self.at_risk = Usd::ZERO;
        let mut accounts = self.purse.accounts();
        let used = amount.min(self.real);
        accounts.spent += amount;
        accounts.held -= used;
        drop(accounts);
        self.real -= used;
        self.paid += amount;
        self.purse.changed.notify_waiters();
    }

    /// So much more beside all that is spent and held fits.
    pub(super) fn fits_beside(&self, more: Usd) -> bool {
        let accounts = self.purse.accounts();
        within(accounts.spent_limit, accounts.spent + accounts.held + more)
    }

    /// Wakes who waits: something changed that no account shows.
    pub(super) fn wake(&self) {
        self.purse.changed.notify_waiters();
    }

    /// Waits while this holds.
    pub(super) async fn wait_while(&self, holds: impl Fn(&Hold) -> bool) {
        loop {
            let changed = self.purse.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if !holds(self) {
                return;
            }
            changed.await;
        }
    }

    /// Books what a request that failed may be billed.
    pub fn lose(&mut self, worst: Usd) {
        self.spend(worst);
        self.purse.accounts().lost += worst;
    }

    /// Makes sure that at least `worst` is held for another attempt; false where that does not fit.
    pub fn top_up(&mut self, worst: Usd) -> bool {
        let missing = worst.saturating_left(self.real);
        let mut accounts = self.purse.accounts();
        if accounts.waiting.first().is_some_and(|first| *first < self.ticket) {
            return false;
        }
        if !within(accounts.spent_limit, accounts.spent + accounts.held + missing) {
            return false;
        }
        accounts.held += missing;
        drop(accounts);
        self.real += missing;
        true
    }

    /// The same, but waits for others to settle where it does not fit yet. False where it does not fit although nobody is
    /// left who could give anything back.
    pub async fn top_up_in_time(&mut self, worst: Usd) -> bool {
        let purse = self.purse.clone();
        let _waits = Waits::new(&purse, self.ticket);
        loop {
            let changed = purse.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if self.top_up(worst) {
                return true;
            }
            {
                let accounts = purse.accounts();
                let first = accounts.waiting.first() == Some(&self.ticket);
                if first && accounts.waiting.len() + accounts.blocked >= accounts.holds {
                    return false;
                }
            }
            changed.await;
        }
    }

    /// The same with bounds as of [`Purse::admit_within`].
    pub async fn top_up_within(&mut self, bounds: impl Fn(bool) -> Usd) -> bool {
        let loose = bounds(false);
        if self.real >= loose || self.top_up_in_time(loose).await {
            return true;
        }
        let tight = bounds(true);
        tight < loose && self.top_up_in_time(tight).await
    }

    /// Divides its money into equal parts, for requests that are sent side by side. Each part is given back by itself as
    /// soon as it is dropped; the whole waits for them until [`gather`](Self::gather).
    pub fn divide(&mut self, parts: u32) -> Vec<Hold> {
        let mut accounts = self.purse.accounts();
        accounts.holds += parts as usize;
        accounts.blocked += usize::from(!self.divided);
        drop(accounts);
        self.divided = true;
        let (mut left, ticket) = (std::mem::take(&mut self.real), self.ticket);
        let part = |number: u32| {
            let share = Usd::from_pico(left.pico().div_euclid(i64::from(parts - number)));
            left -= share;
            let ticket = (ticket.0, ticket.1 + number + 1);
            let (purse, study, paid, at_risk) = (self.purse.clone(), Usd::ZERO, Usd::ZERO, Usd::ZERO);
            Hold { purse, study, real: share, paid, at_risk, ticket, divided: false }
        };
        (0..parts).map(part).collect()
    }

    /// Gives back what is left of it while it waits for others of the same evaluation; they can count on that money.
    pub async fn rest(&mut self, wait: impl Future<Output = ()>) {
        self.purse.accounts().held -= std::mem::take(&mut self.real);
        let _blocked = Blocked::new(&self.purse);
        wait.await;
    }

    /// Its parts are done, and booked so much.
    pub fn gather(&mut self, paid: Usd) {
        self.paid += paid;
        if std::mem::take(&mut self.divided) {
            self.purse.block(false);
        }
    }

    /// Ends it: the study's cost is settled, the rest of the money is given back.
    pub fn settle(self, study_cost: Usd) {
        self.purse.accounts().study_settled += study_cost;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.at_risk > Usd::ZERO {
            // Whoever waited for the answer has gone; the endpoint has the request all the same.
            self.lose(self.at_risk);
        }
        let mut accounts = self.purse.accounts();
        accounts.study_held -= self.study;
        accounts.held -= self.real;
        accounts.holds -= 1;
        accounts.blocked -= usize::from(self.divided && accounts.blocked > 0);
        drop(accounts);
        self.purse.changed.notify_waiters();
    }
}

/// Counts one who waits for another and gives nothing back, for as long as it does.
struct Blocked<'a>(&'a Purse);

impl<'a> Blocked<'a> {
    fn new(purse: &'a Purse) -> Blocked<'a> {
        purse.block(true);
        Blocked(purse)
    }
}

impl Drop for Blocked<'_> {
    fn drop(&mut self) {
        self.0.block(false);
    }
}

/// Counts one who waits, for as long as it does.
struct Waits<'a>(&'a Purse, Ticket);

impl<'a> Waits<'a> {
    fn new(purse: &'a Purse, ticket: Ticket) -> Waits<'a> {
        purse.accounts().waiting.insert(ticket);
        purse.changed.notify_waiters();
        Waits(purse, ticket)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.accounts().waiting.remove(&self.1);
        self.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn usd(pico: i64) -> Usd {
        Usd::from_pico(pico)
    }

    fn go(admission: Admission) -> Hold {
        match admission {
            Admission::Go(hold) => hold,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_does_not_fit_waits_and_is_refused_only_when_all_have_settled() {
        let purse = Purse::new(Some(usd(10)), false, Usd::ZERO);
        let mut first = go(purse.admit(usd(6), usd(6)));
        assert!(matches!(purse.admit(usd(5), usd(5)), Admission::Wait));
        first.spend(usd(4));
        first.settle(usd(4));
        let second = go(purse.admit(usd(6), usd(6)));
        second.settle(usd(6));
        assert!(matches!(purse.admit(usd(1), usd(0)), Admission::Never { for_spent: false }));
        assert_eq!((purse.study_cost(), purse.spent(), purse.held()), (usd(10), usd(4), usd(0)));
    }

    #[test]
    fn money_spent_binds_by_itself() {
        let purse = Purse::new(Some(usd(10)), false, usd(8));
        assert!(matches!(purse.admit(usd(3), usd(3)), Admission::Never { for_spent: true }));
        go(purse.admit(usd(3), usd(0))).settle(usd(3));
        let overdrawn = Purse::new(Some(usd(10)), false, usd(11));
        go(overdrawn.admit(usd(3), usd(0))).settle(usd(3));
        let mut hold = go(purse.admit(usd(1), usd(1)));
        hold.spend(usd(1));
        assert!(!hold.top_up(usd(2)), "a retry after a lost request must fit too");
        assert!(hold.top_up(usd(1)));
    }

    #[test]
    fn savings_can_be_reused() {
        let purse = Purse::new(Some(usd(10)), true, Usd::ZERO);
        for _ in 0..5 {
            go(purse.admit(usd(9), usd(0))).settle(usd(9));
        }
        assert_eq!(purse.study_cost(), usd(45));
    }

    #[tokio::test]
    async fn a_hold_is_divided_and_nobody_waits_for_ever() {
        let purse = Purse::new(Some(usd(10)), false, Usd::ZERO);
        let mut hold = go(purse.admit(usd(10), usd(10)));
        let mut parts = hold.divide(3);
        assert_eq!(parts.iter().map(Hold::real).collect::<Vec<_>>(), [usd(3), usd(3), usd(4)]);
        assert_eq!(purse.held(), usd(10));
        let (mut last, mut second, first) = (parts.pop().unwrap(), parts.pop().unwrap(), parts.pop().unwrap());
        second.spend(usd(3));
        last.spend(usd(4));
        drop(first);
        assert!(second.top_up(usd(2)), "the first left its share");
        drop(second);
        // Nobody else can give anything back: the whole only waits for its parts.
        assert!(!last.top_up_in_time(usd(4)).await);
        drop(last);
        hold.gather(usd(7));
        assert_eq!((hold.paid(), purse.held(), purse.spent()), (usd(7), usd(0), usd(7)));
        hold.settle(usd(7));
        // Let go in the middle, it leaves nothing behind.
        let mut hold = go(purse.admit(usd(3), usd(3)));
        let parts = hold.divide(2);
        drop(hold);
        drop(parts);
        assert_eq!(purse.held(), usd(0));
        let mut hold = go(purse.admit(usd(1), usd(1)));
        assert!(!hold.top_up_in_time(usd(4)).await && hold.top_up_in_time(usd(3)).await);
    }

    #[tokio::test]
    async fn what_does_not_fit_by_a_quick_bound_is_counted() {
        let purse = Purse::new(Some(usd(10)), false, Usd::ZERO);
        let bounds = |loose: i64, tight: i64| move |counted: bool| Ok(usd(if counted { tight } else { loose }));
        let fits = |counted: bool| if counted { panic!("counted though it fits") } else { Ok(usd(4)) };
        let mut hold = purse.admit_within(fits).await.unwrap().unwrap();
        assert_eq!(hold.real(), usd(4));
        assert!(hold.top_up_within(|counted| usd(if counted { 0 } else { 4 })).await);
        assert!(hold.top_up_within(|counted| usd(if counted { 9 } else { 11 })).await && hold.real() == usd(9));
        assert!(!hold.top_up_within(|counted| usd(if counted { 11 } else { 12 })).await);
        drop(hold);
        let hold = purse.admit_within(bounds(11, 10)).await.unwrap().unwrap();
        assert_eq!((hold.real(), purse.held()), (usd(10), usd(10)));
        drop(hold);
        assert!(purse.admit_within(bounds(11, 11)).await.unwrap().is_none());
        assert!(purse.admit_within(bounds(12, 11)).await.unwrap().is_none());
        assert!(purse.admit_within(|_| Err(crate::Error::internal("no store"))).await.is_err());
    }

    proptest! {
        /// Whatever is asked, billed (within its worst case) and lost: no sum ever passes the limit.
        #[test]
        fn the_cap_holds(steps in proptest::collection::vec((0_i64..30, 0_i64..30, 0_u8..4), 1..80)) {
            let purse = Purse::new(Some(usd(100)), false, Usd::ZERO);
            let mut open: Vec<Hold> = Vec::new();
            for (worst, bill, what) in steps {
                match what {
                    0 | 1 => if let Admission::Go(hold) = purse.admit(usd(worst), usd(worst)) { open.push(hold) },
                    2 => if let Some(mut hold) = open.pop() {
                        let bill = usd(bill).min(hold.real());
                        hold.spend(bill);
                        hold.settle(bill);
                    },
                    _ => if let Some(hold) = open.last_mut() {
                        let lost = hold.real();
                        hold.spend(lost);
                        hold.top_up(lost);
                    },
                }
                prop_assert!(purse.spent() + purse.held() <= usd(100));
                prop_assert!(purse.study_cost() <= usd(100));
            }
        }
    }
}
