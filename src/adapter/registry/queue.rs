//! Loads that wait for a thread. Tenants take turns: the one for which threads have worked least is
//! next, by its weight, and beside others none has more than half of the threads.
//!
//! It reads nothing and knows no adapter.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::work::WorkMetrics;
use crate::tenant::turns::{Full, Limits, Party, Turns};

/// Loads that may wait for a thread, or have one. A load that waits holds no bytes of an adapter.
const MAX_LOADS: usize = 4096;

/// Microseconds that a load counts beside its own time, so that many that fail at once are no gift.
const LOAD: usize = 100;

/// Why a load may not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// Too many do.
    #[error("too many adapters are being loaded: {0}")]
    Full(Full),
    /// Nothing is loaded any more.
    #[error("the server is going down")]
    Closed,
}

/// The loads that wait.
#[derive(Debug)]
pub(super) struct LoadQueue<J> {
    state: Mutex<State<J>>,
    changed: Condvar,
    metrics: WorkMetrics,
}

#[derive(Debug)]
struct State<J> {
    turns: Turns<(J, Instant)>,
    next_ticket: u64,
    is_closed: bool,
}

/// What a thread is to do.
#[derive(Debug)]
pub(super) enum Next<J> {
    /// A load; its turn has to be given back.
    Load(J),
    /// For a while there was none.
    Nothing,
    /// There will be none any more.
    Closed,
}

impl<J> LoadQueue<J> {
    /// A queue for `threads`.
    pub fn new(threads: usize, metrics: WorkMetrics) -> Self {
        let turns = Turns::new(Limits { places: threads, jobs: MAX_LOADS, bytes: usize::MAX });
        let state = State { turns, next_ticket: 0, is_closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), metrics }
    }

    /// Puts a load into the queue of `asker`. Where that is full, loads that are not `wanted` any more
    /// leave it first.
    ///
    /// # Errors
    /// What is full, or that the queue is closed.
    pub fn push(&self, asker: Party, load: J, wanted: impl Fn(&J) -> bool) -> Result<(), Refused>
    where
        J: Clone,
    {
        let mut state = self.state();
        if state.is_closed {
            return Err(Refused::Closed);
        }
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        let entry = (load, Instant::now());
        let entered = state.turns.enter(ticket, asker, 0, entry.clone()).or_else(|_| {
            state.turns.retain(|(load, _)| wanted(load));
            state.turns.enter(ticket, asker, 0, entry)
        });
        self.metrics.waiting.set(state.turns.waiting() as f64);
        drop(state);
        // Any thread may be the one whose turn it is not to wait any longer.
        self.changed.notify_all();
        entered.map_err(|full| {
            self.metrics.refused(full.is_own());
            Refused::Full(full)
        })
    }

    /// The load whose turn it is; waits for one for a `time`. Nothing new is begun once the queue is
    /// closed and empty.
    pub fn next(&self, time: Duration) -> Next<J> {
        let deadline = Instant::now() + time;
        let mut state = self.state();
        loop {
            if let Some((_, (load, since))) = state.turns.begin_next() {
                self.metrics.waiting.set(state.turns.waiting() as f64);
                self.metrics.waited(since.elapsed());
                return Next::Load(load);
            }
            // What waits for a place gets one from a thread that is still at work.
            if state.is_closed && state.turns.waiting() == 0 {
                return Next::Closed;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Next::Nothing;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Gives back the turn of `asker`, which took a `time`.
    pub fn done(&self, asker: Party, time: Duration) {
        let mut state = self.state();
        let took = usize::try_from(time.as_micros()).unwrap_or(usize::MAX);
        state.turns.charge(asker.tenant, took.saturating_add(LOAD));
        state.turns.leave(asker.tenant, 0, true);
        drop(state);
        self.changed.notify_all();
    }

    /// Lets threads end once nothing waits.
    pub fn close(&self) {
        self.state().is_closed = true;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn queue(threads: usize) -> LoadQueue<u32> {
        LoadQueue::new(threads, Metrics::new().work("adapter"))
    }

    fn party(tenant: u32) -> Party {
        Party { tenant, weight: 1, alone: false }
    }

    fn next(queue: &LoadQueue<u32>) -> Option<u32> {
        match queue.next(Duration::ZERO) {
            Next::Load(load) => Some(load),
            Next::Nothing | Next::Closed => None,
        }
    }

    #[test]
    fn a_load_waits_for_one_load_of_another_tenant() {
        let queue = queue(1);
        for load in 0..1000 {
            queue.push(party(1), load, |_| true).unwrap();
        }
        assert_eq!(next(&queue), Some(0));
        queue.push(party(2), 5000, |_| true).unwrap();
        queue.done(party(1), Duration::from_millis(1));
        assert_eq!(next(&queue), Some(5000));
    }

    #[test]
    fn a_thread_is_left_to_others() {
        let queue = queue(4);
        (0..9).for_each(|load| queue.push(party(1), load, |_| true).unwrap());
        assert_eq!([next(&queue), next(&queue), next(&queue)], [Some(0), Some(1), None]);
        queue.push(party(2), 100, |_| true).unwrap();
        assert_eq!(next(&queue), Some(100));
    }

    #[test]
    fn a_tenant_has_half_of_the_queue_and_what_nobody_wants_makes_room() {
        let queue = queue(2);
        let half = u32::try_from(MAX_LOADS / 2).unwrap();
        (0..half).for_each(|load| queue.push(party(1), load, |_| true).unwrap());
        let full = Refused::Full(Full::OwnJobs { limit: MAX_LOADS / 2 });
        assert_eq!(queue.push(party(1), half, |_| true), Err(full));
        queue.push(party(2), 0, |_| true).unwrap();
        queue.push(party(1), half, |load| *load > 6).unwrap();
        assert_eq!(next(&queue), Some(7));
    }

    #[test]
    fn a_closed_queue_is_emptied_first() {
        let queue = queue(2);
        queue.push(party(1), 1, |_| true).unwrap();
        queue.push(party(1), 2, |_| true).unwrap();
        queue.close();
        assert_eq!(queue.push(party(1), 3, |_| true), Err(Refused::Closed));
        assert_eq!(next(&queue), Some(1));
        assert!(matches!(queue.next(Duration::ZERO), Next::Nothing));
        queue.done(party(1), Duration::ZERO);
        assert_eq!(next(&queue), Some(2));
        queue.done(party(1), Duration::ZERO);
        assert!(matches!(queue.next(Duration::ZERO), Next::Closed));
    }
}
