//! The user's hand on a run that goes on: stop it, pause asking, and lower or raise the budget.
//!
//! A changed budget takes effect between two evaluations, in the order of asking, and is kept with that place. A study that
//! is run again changes its budget at the same place, so it decides the same. Pausing changes no decision.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::diagnostic::Result;
use crate::money::Usd;

/// A budget that was changed while the study ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetChange {
    /// From this evaluation on, counted from 0 in the order of asking.
    pub from: usize,
    /// The budget in all.
    #[serde(rename = "budget_usd")]
    pub budget: Usd,
}

/// Keeps the changes so far before the newest takes effect.
pub type Keep = Box<dyn Fn(&[BudgetChange]) -> Result<()> + Send + Sync>;

/// What the user wishes of a run.
#[derive(Default)]
pub struct Control {
    paused: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// A search listens.
    open: bool,
    wanted: Option<Usd>,
    /// Changes that were made, and where the run is replayed, those that are to come.
    changes: Vec<BudgetChange>,
    /// So many of them have taken effect.
    done: usize,
    keep: Option<Keep>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("paused", &self.paused).finish_non_exhaustive()
    }
}

impl Control {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where changes of the budget are kept: called with all of them before the newest takes effect. One that cannot be kept
    /// is not made.
    pub fn keep_changes(&self, keep: Keep) {
        self.state().keep = Some(keep);
    }

    /// Nothing more is sent until it goes on; what is in flight lands.
    pub(super) fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::SeqCst);
    }

    /// True while it is paused.
    pub fn paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    /// Wishes another budget in all. It takes effect before the next evaluation; one below what is spent and in flight
    /// becomes that.
    pub(super) fn want_budget(&self, budget: Usd) {
        self.state().wanted = Some(budget);
    }

    /// A search begins, whose earlier part changed its budget so.
    pub(super) fn open(&self, changes: &[BudgetChange]) {
        let mut state = self.state();
        (state.open, state.done) = (true, 0);
        state.changes = changes.to_vec();
    }

    /// The search is over: nothing is changed any more.
    pub(super) fn close(&self) {
        self.state().open = false;
    }

    /// The budget that holds from the evaluation `next` on, where it changes there. `least` is what is spent and in flight.
    pub(super) fn due(&self, next: usize, least: impl FnOnce() -> Usd) -> Option<BudgetChange> {
        let mut state = self.state();
        if !state.open {
            return None;
        }
        if let Some(change) = state.changes.get(state.done).copied() {
            // What an earlier part did comes first; new wishes wait until it is over.
            if change.from > next {
                return None;
            }
            state.done += 1;
            return Some(change);
        }
        let change = BudgetChange { from: next, budget: state.wanted.take()?.max(least()) };
        state.changes.push(change);
        if let Some(Err(error)) = state.keep.as_ref().map(|keep| keep(&state.changes)) {
            tracing::warn!(%error, "the changed budget cannot be kept, so it stays as it was");
            state.changes.pop();
            return None;
        }
        state.done += 1;
        Some(change)
    }
}

/// The user's wish to stop, from Ctrl-C or a live view, and what else is wished of the run.
#[derive(Debug, Default)]
pub struct Stop {
    wish: AtomicU8,
    changed: Notify,
    control: Control,
}

impl Stop {
    /// One more wish: the first lets what is in flight land, the second stops at once.
    pub fn press(&self) -> u8 {
        let wish = self.wish.fetch_add(1, Ordering::SeqCst) + 1;
        self.changed.notify_one();
        wish
    }

    /// Waits until it was wished at least once.
    pub async fn until_asked(&self) {
        while !self.asked() {
            self.changed.notified().await;
        }
    }

    /// Pauses asking, or goes on.
    pub fn pause(&self, paused: bool) {
        self.control.pause(paused);
        self.changed.notify_one();
    }

    /// Wishes another budget in all: see [`Control`].
    pub fn set_budget(&self, budget: Usd) {
        self.control.want_budget(budget);
        self.changed.notify_one();
    }

    /// What is wished beside stopping.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// It was wished at least once.
    pub fn asked(&self) -> bool {
        self.wish.load(Ordering::SeqCst) > 0
    }

    /// It was wished more than once.
    pub fn at_once(&self) -> bool {
        self.wish.load(Ordering::SeqCst) > 1
    }

    /// Waits for the next wish; at once where nobody waited for the last one. For one waiter at a time.
    pub async fn wished(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn usd(pico: i64) -> Usd {
        Usd::from_pico(pico)
    }

    #[test]
    fn a_wish_is_kept_with_its_place_and_made_again_there() {
        let control = Control::default();
        let kept: Arc<Mutex<Vec<BudgetChange>>> = Arc::default();
        let notes = kept.clone();
        control.keep_changes(Box::new(move |changes| {
            *notes.lock().unwrap() = changes.to_vec();
            Ok(())
        }));
        control.want_budget(usd(7));
        assert_eq!(control.due(3, || usd(5)), None, "no search listens");
        control.open(&[]);
        let made = control.due(4, || usd(5)).unwrap();
        assert_eq!((made.from, made.budget), (4, usd(7)));
        assert_eq!(control.due(5, || usd(5)), None);
        control.want_budget(usd(1));
        assert_eq!(control.due(9, || usd(6)).unwrap().budget, usd(6), "no less than is gone");
        let changes = kept.lock().unwrap().clone();
        assert_eq!(changes.iter().map(|change| change.from).collect::<Vec<_>>(), [4, 9]);

        let again = Control::default();
        again.open(&changes);
        again.want_budget(usd(100));
        let at = |next| again.due(next, || usd(0)).map(|change| change.budget);
        assert_eq!([at(0), at(3), at(4), at(8), at(9)], [None, None, Some(usd(7)), None, Some(usd(6))]);
        assert_eq!(at(9), Some(usd(100)), "then what is wished now");
    }

    #[test]
    fn what_cannot_be_kept_is_not_made() {
        let control = Control::default();
        control.keep_changes(Box::new(|_| Err(crate::diagnostic::Error::usage("no room"))));
        control.open(&[]);
        control.want_budget(usd(7));
        assert_eq!((control.due(1, || usd(0)), control.due(2, || usd(0))), (None, None));
    }
}
