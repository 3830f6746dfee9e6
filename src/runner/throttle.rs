//! Requests wait here for their turn: each passes every limit that applies to it (the run's, its groups', its endpoint's, its
//! model's) at once, so nothing is held while waiting for something else, and there is no deadlock. The smallest priority
//! goes first, then who came first; who waits for a limit is not overtaken at it. At an endpoint that holds one model at a
//! time, requests for the model that it holds go before those for another. Joining, going and leaving take
//! O(log n) in the number of those who wait.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::limits::{Ended, Latency, Limit, Short};

/// All limits of a runner, and who waits for them.
#[derive(Debug, Default)]
pub(super) struct Throttle(Mutex<State>);

/// Requests that pass the same limits: those of a model at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lane(usize);

/// Smaller goes first; then the number of arrival.
type Turn = (i32, u64);

#[derive(Debug, Default)]
struct State {
    limits: Vec<Limit>,
    lanes: Vec<Queue>,
    arrived: u64,
    /// Requests that went.
    sent: u64,
    /// Lanes in the order of their first ones' turns, those that would load another model behind; kept for its memory.
    order: Vec<((i32, bool, u64), usize)>,
    /// The lane that went last at endpoints which hold one model at a time, by their limit.
    loaded: BTreeMap<usize, usize>,
}

#[derive(Debug)]
struct Queue {
    /// Indices of the limits.
    limits: Vec<usize>,
    /// The limit of its endpoint, where that holds one model at a time.
    swaps: Option<usize>,
    waiting: BTreeMap<Turn, Waiting>,
    latency: Latency,
}

#[derive(Debug)]
struct Waiting {
    tokens: u64,
    /// When to look again, where only time is wanting.
    again: Option<Instant>,
    notify: Arc<Notify>,
}

impl Throttle {
    /// Adds the limits of a place; gives their number.
    pub fn add_limit(&self, limit: Limit) -> usize {
        let mut state = self.state();
        state.limits.push(limit);
        state.limits.len() - 1
    }

    /// Adds a lane that passes these limits, each counted once; `swaps` is that of an endpoint that holds one model at a time.
    pub fn add_lane(&self, mut limits: Vec<usize>, swaps: Option<usize>) -> Lane {
        limits.sort_unstable();
        limits.dedup();
        let mut state = self.state();
        state.lanes.push(Queue { limits, swaps, waiting: BTreeMap::new(), latency: Latency::default() });
        Lane(state.lanes.len() - 1)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is a few additions that cannot panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a request of so many tokens may be sent. Dropped before, it leaves the queue.
    pub async fn enter(self: &Arc<Throttle>, lane: Lane, priority: i32, tokens: u64) -> Slot {
        let notify = Arc::new(Notify::new());
        let mut seat = {
            let mut state = self.state();
            state.arrived += 1;
            let turn = (priority, state.arrived);
            let waiting = Waiting { tokens, again: None, notify: notify.clone() };
            if let Some(queue) = state.lanes.get_mut(lane.0) {
                queue.waiting.insert(turn, waiting);
            }
            Seat { throttle: self, lane, turn, tokens, taken: false }
        };
        loop {
            let again = {
                let mut state = self.state();
                state.advance(Instant::now());
                match state.lanes.get(lane.0).and_then(|queue| queue.waiting.get(&seat.turn)) {
                    Some(waiting) => waiting.again,
                    None => {
                        seat.taken = true;
                        let number = state.sent;
                        return Slot { throttle: self.clone(), lane, tokens, number, ended: false };
                    }
                }
            };
            match again {
                None => notify.notified().await,
                Some(at) => tokio::select! {
                    () = notify.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
            }
        }
    }
}

impl State {
    /// Lets go who may.
    fn advance(&mut self, now: Instant) {
        loop {
            let mut order = std::mem::take(&mut self.order);
            order.clear();
            let first = |(lane, queue): (usize, &Queue)| {
                let (priority, number) = *queue.waiting.first_key_value()?.0;
                let loaded = queue.swaps.and_then(|at| self.loaded.get(&at));
                Some(((priority, loaded.is_some_and(|loaded| *loaded != lane), number), lane))
            };
            order.extend(self.lanes.iter().enumerate().filter_map(first));
            order.sort_unstable();
            let mut claimed = 0_u128;
            let went = order
                .iter()
                .any(|&((priority, _, number), lane)| self.try_one((priority, number), lane, &mut claimed, now));
            self.order = order;
            if !went {
                return;
            }
        }
    }

    /// Lets the first of a lane go, where no limit wants anything and none is claimed by who came before.
    fn try_one(&mut self, turn: Turn, lane: usize, claimed: &mut u128, now: Instant) -> bool {
        let State { limits, lanes, loaded, .. } = self;
        let queue = &mut lanes[lane];
        let Some(waiting) = queue.waiting.get_mut(&turn) else { return false };
        let tokens = waiting.tokens;
        let (mut place, mut time) = (false, None);
        for &at in &queue.limits {
            // Limits beyond the width of the claims are never claimed: then only fairness between lanes is less.
            let bit = 1_u128.checked_shl(at as u32).unwrap_or(0);
            place |= *claimed & bit != 0;
            match limits[at].short(tokens, now) {
                None => {}
                Some(Short::Place) => (place, *claimed) = (true, *claimed | bit),
                Some(Short::Time(when)) => (time, *claimed) = (time.max(Some(when)), *claimed | bit),
            }
        }
        if place || time.is_some() {
            // Whoever ends looks again; time alone must be watched by who waits for it.
            let again = if place { None } else { time };
            if again != waiting.again {
                waiting.again = again;
                waiting.notify.notify_one();
            }
            return false;
        }
        for &at in &queue.limits {
            limits[at].take(tokens, now);
        }
        if let Some(waiting) = queue.waiting.remove(&turn) {
            waiting.notify.notify_one();
        }
        if let Some(at) = queue.swaps {
            loaded.insert(at, lane);
        }
        self.sent += 1;
        true
    }
}

/// A place in a queue; dropped before its turn, it is given up.
struct Seat<'a> {
    throttle: &'a Throttle,
    lane: Lane,
    turn: Turn,
    tokens: u64,
    taken: bool,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let mut state = self.throttle.state();
        let now = Instant::now();
        let State { limits, lanes, .. } = &mut *state;
        let Some(queue) = lanes.get_mut(self.lane.0) else { return };
        if queue.waiting.remove(&self.turn).is_none() {
            // Its turn came, and nobody took it.
            queue.limits.iter().for_each(|&at| limits[at].undo(self.tokens, now));
        }
        state.advance(now);
    }
}

/// Leave to send one request, until it is dropped. Tokens that were taken for it and not used are given back.
#[derive(Debug)]
pub(super) struct Slot {
    throttle: Arc<Throttle>,
    lane: Lane,
    tokens: u64,
    /// Its number in the order of sending.
    number: u64,
    ended: bool,
}

impl Slot {
    /// The request ended, and used so many tokens.
    pub fn end(mut self, ended: Ended, used: u64) {
        self.leave(ended, used);
    }

    /// It is not sent after all: nothing was used.
    pub fn forfeit(mut self) {
        self.ended = true;
        let mut state = self.throttle.state();
        let now = Instant::now();
        let State { limits, lanes, .. } = &mut *state;
        let Some(queue) = lanes.get(self.lane.0) else { return };
        queue.limits.iter().for_each(|&at| limits[at].undo(self.tokens, now));
        state.advance(now);
    }

    fn leave(&mut self, ended: Ended, used: u64) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let mut state = self.throttle.state();
        let now = Instant::now();
        let State { limits, lanes, sent, .. } = &mut *state;
        let Some(queue) = lanes.get_mut(self.lane.0) else { return };
        let queueing = match ended {
            Ended::Answered(latency) => queue.latency.note(latency),
            _ => false,
        };
        for &at in &queue.limits {
            let limit = &mut limits[at];
            let running = limit.running;
            limit.end(self.tokens, used, now);
            if let Some(window) = &mut limit.window {
                window.learn(ended, self.number, *sent, running, queueing);
            }
        }
        state.advance(now);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.leave(Ended::Otherwise, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;
    use crate::backend::Rates;
    use crate::runner::limits::Window;

    fn rates(requests: Option<u32>, tokens: Option<u64>, most: Option<u32>) -> Rates {
        Rates { requests_per_minute: requests, tokens_per_minute: tokens, max_concurrency: most }
    }

    fn throttle(rates: &[Rates]) -> Arc<Throttle> {
        let throttle = Arc::new(Throttle::default());
        for (at, rates) in rates.iter().enumerate() {
            throttle.add_limit(Limit::new(format!("limit {at}"), rates, Instant::now()));
        }
        throttle
    }

    fn seconds(start: Instant) -> f64 {
        (start.elapsed().as_secs_f64() * 100.0).round() / 100.0
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_holds() {
        let throttle = throttle(&[rates(Some(120), None, None)]);
        let (lane, start) = (throttle.add_lane(vec![0, 0], None), Instant::now());
        for _ in 0..22 {
            throttle.enter(lane, 0, 0).await.end(Ended::Otherwise, 0);
        }
        assert_eq!(seconds(start), 10.0, "2 at once, then 2 a second");
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_not_used_are_given_back_and_too_many_go_when_the_limit_is_full() {
        let throttle = throttle(&[rates(None, Some(60_000), None)]);
        let (lane, start) = (throttle.add_lane(vec![0], None), Instant::now());
        throttle.enter(lane, 0, 1_000).await.end(Ended::Otherwise, 500);
        throttle.enter(lane, 0, 1_000).await.end(Ended::Otherwise, 1_000);
        assert_eq!(seconds(start), 0.5);
        throttle.enter(lane, 0, 90_000).await.end(Ended::Otherwise, 90_000);
        assert_eq!(seconds(start), 1.5, "more than a minute's: sent when the bucket is full");
        throttle.enter(lane, 0, 1).await.end(Ended::Otherwise, 1);
        assert_eq!(seconds(start), 90.5, "and paid for before anything else goes");
    }

    /// Loading a model takes longer than many answers: what one model is asked is asked together.
    #[tokio::test(start_paused = true)]
    async fn a_model_that_is_loaded_is_asked_before_another_is() {
        for (swaps, expected) in [(Some(0), "bbbaaa"), (None, "ababab")] {
            let throttle = throttle(&[rates(None, None, Some(1))]);
            let lanes = [throttle.add_lane(vec![0], swaps), throttle.add_lane(vec![0], swaps)];
            let went = Arc::new(Mutex::new(String::new()));
            let held = throttle.enter(lanes[0], 0, 0).await;
            let waiting: Vec<_> = (0..6)
                .map(|number: usize| {
                    let (throttle, went, lane) = (throttle.clone(), went.clone(), lanes[number % 2]);
                    tokio::spawn(async move {
                        let slot = throttle.enter(lane, 0, 0).await;
                        went.lock().unwrap().push(if number.is_multiple_of(2) { 'a' } else { 'b' });
                        drop(slot);
                    })
                })
                .collect();
            tokio::task::yield_now().await;
            // A smaller priority goes before all; then its model is the one that is loaded.
            let mut first = std::pin::pin!(throttle.enter(lanes[1], -1, 0));
            assert!(first.as_mut().now_or_never().is_none());
            drop(held);
            let slot = first.await;
            assert!(went.lock().unwrap().is_empty());
            drop(slot);
            for one in waiting {
                one.await.unwrap();
            }
            assert_eq!(*went.lock().unwrap(), expected, "{swaps:?}");
        }
    }

    /// A request of one lane that waits for a limit of its own keeps nobody from another; one that waits for a shared
    /// limit is not overtaken at it.
    #[tokio::test(start_paused = true)]
    async fn nothing_is_held_while_waiting_and_nobody_is_overtaken() {
        let throttle =
            throttle(&[rates(None, None, Some(2)), rates(Some(60), None, None), rates(None, Some(60_000), None)]);
        let slow = throttle.add_lane(vec![0, 1], None);
        let fast = throttle.add_lane(vec![0], None);
        let start = Instant::now();
        throttle.enter(slow, 0, 0).await.end(Ended::Otherwise, 0);
        let waiting = tokio::spawn({
            let throttle = throttle.clone();
            async move { drop(throttle.enter(slow, 0, 0).await) }
        });
        tokio::task::yield_now().await;
        for _ in 0..100 {
            let (one, two) = (throttle.enter(fast, 0, 0).await, throttle.enter(fast, 0, 0).await);
            drop((one, two));
        }
        assert_eq!(seconds(start), 0.0);
        waiting.await.unwrap();
        assert_eq!(seconds(start), 1.0);

        let (large, small) = (throttle.add_lane(vec![2], None), throttle.add_lane(vec![2, 0], None));
        drop(throttle.enter(small, 0, 0).await);
        throttle.enter(small, 0, 600).await.end(Ended::Otherwise, 600);
        let waiting = tokio::spawn({
            let throttle = throttle.clone();
            async move {
                throttle.enter(large, 0, 1_000).await.end(Ended::Otherwise, 1_000);
                Instant::now()
            }
        });
        tokio::task::yield_now().await;
        let begin = Instant::now();
        throttle.enter(small, 0, 100).await.end(Ended::Otherwise, 100);
        assert!(waiting.await.unwrap() - begin < Duration::from_millis(650), "small ones would keep it away for ever");
        assert!(begin.elapsed() > Duration::from_millis(690));
    }

    #[tokio::test(start_paused = true)]
    async fn the_smaller_priority_goes_first_and_who_leaves_is_forgotten() {
        let throttle = throttle(&[rates(None, None, Some(1))]);
        let lane = throttle.add_lane(vec![0], None);
        let first = throttle.enter(lane, 0, 0).await;
        let done = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for (number, priority) in [5, 1, 5, 3, 1, -7].into_iter().enumerate() {
            let (throttle, done) = (throttle.clone(), done.clone());
            tasks.push(tokio::spawn(async move {
                let slot = throttle.enter(lane, priority, 0).await;
                done.lock().unwrap().push(number);
                tokio::time::sleep(Duration::from_secs(1)).await;
                drop(slot);
            }));
            tokio::task::yield_now().await;
        }
        tasks[3].abort();
        drop(first);
        for (number, task) in tasks.into_iter().enumerate() {
            assert_eq!(task.await.is_err(), number == 3);
        }
        assert_eq!(*done.lock().unwrap(), [5, 1, 4, 0, 2]);
        assert_eq!(throttle.state().limits[0].running, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_came_too_late_is_given_back() {
        let throttle = throttle(&[rates(Some(60), Some(60_000), Some(1))]);
        let lane = throttle.add_lane(vec![0], None);
        let slot = throttle.enter(lane, 0, 0).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let mut waits = Box::pin(throttle.enter(lane, 0, 900));
        assert!((&mut waits).now_or_never().is_none());
        drop(slot);
        assert_eq!(throttle.state().limits[0].running, 1, "granted, and not yet taken");
        drop(waits);
        let start = Instant::now();
        throttle.enter(lane, 0, 1_000).await.end(Ended::Otherwise, 0);
        assert_eq!(seconds(start), 0.0);
    }

    /// The first rounds are smaller, and soon all that the run allows are in flight.
    #[tokio::test(start_paused = true)]
    async fn a_latency_is_hidden_at_the_runs_concurrency() {
        const REQUESTS: u32 = 20_000;
        let throttle = throttle(&[rates(None, None, Some(64)), Rates::default()]);
        throttle.state().limits[1].window = Some(Window::new(64));
        let (lane, start) = (throttle.add_lane(vec![0, 1], None), Instant::now());
        let tasks: Vec<_> = (0..REQUESTS)
            .map(|_| {
                let throttle = throttle.clone();
                tokio::spawn(async move {
                    let slot = throttle.enter(lane, 0, 100).await;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    slot.end(Ended::Answered(Duration::from_millis(50)), 100);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let share = f64::from(REQUESTS) / start.elapsed().as_secs_f64() / (64.0 / 0.05);
        assert!(share > 0.95, "{share}");
    }

    /// An endpoint that bears 20: refusals are few, and it is kept busy.
    #[tokio::test(start_paused = true)]
    async fn an_endpoint_is_asked_for_what_it_bears() {
        let throttle = throttle(&[Rates::default()]);
        throttle.state().limits[0].window = Some(Window::new(256));
        let lane = throttle.add_lane(vec![0], None);
        let (busy, refused, start) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0_u32)), Instant::now());
        let tasks: Vec<_> = (0..4_000)
            .map(|_| {
                let (throttle, busy, refused) = (throttle.clone(), busy.clone(), refused.clone());
                tokio::spawn(async move {
                    loop {
                        let slot = throttle.enter(lane, 0, 0).await;
                        let bears = {
                            let mut busy = busy.lock().unwrap();
                            *busy += 1;
                            *busy <= 20
                        };
                        tokio::time::sleep(Duration::from_millis(if bears { 100 } else { 10 })).await;
                        *busy.lock().unwrap() -= 1;
                        if bears {
                            slot.end(Ended::Answered(Duration::from_millis(100)), 0);
                            return;
                        }
                        *refused.lock().unwrap() += 1;
                        slot.end(Ended::TooMuch, 0);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let refused = *refused.lock().unwrap();
        assert!(refused < 400, "{refused} refusals for 4,000 answers");
        let share = 4_000.0 / start.elapsed().as_secs_f64() / 200.0;
        assert!(share > 0.6, "{share}");
    }
}
