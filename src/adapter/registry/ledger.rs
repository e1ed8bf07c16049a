//! Bytes of adapters in memory against their budget.
//!
//! A [`Charge`] lives as long as the memory it stands for. Giving one back takes no lock: the
//! engine may be the last to let go of a version.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Instant;

use metrics::Gauge;

/// What is in memory, and what may be.
pub(super) struct Ledger {
    limit: usize,
    used: AtomicUsize,
    /// Given back since [`Ledger::take_freed`] was asked.
    freed: AtomicUsize,
    gauge: Gauge,
    /// Woken when something is given back.
    loaders: OnceLock<Vec<Thread>>,
}

/// Some bytes of a [`Ledger`], until dropped.
#[derive(Debug)]
pub struct Charge {
    ledger: Arc<Ledger>,
    bytes: usize,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger")
            .field("limit", &self.limit)
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

impl Ledger {
    /// An empty one, which keeps `gauge` at what is used.
    pub fn new(limit: usize, gauge: Gauge) -> Arc<Self> {
        let (used, freed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { limit, used, freed, gauge, loaders: OnceLock::new() })
    }

    /// Says which threads may wait in [`Ledger::wait`]. Only the first call counts.
    pub fn set_loaders(&self, threads: Vec<Thread>) {
        // A second set of threads does not exist.
        let _ = self.loaders.set(threads);
    }

    /// Bytes in memory.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// Bytes that may be.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that were given back since this was last asked.
    pub fn take_freed(&self) -> usize {
        self.freed.swap(0, Ordering::Relaxed)
    }

    /// Charges `bytes`, where they fit.
    pub fn charge(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).ok()?;
        self.gauge.increment(bytes as f64);
        Some(Charge { ledger: Arc::clone(self), bytes })
    }

    /// Waits until something may have been given back, at most until `deadline`. Only for the
    /// threads of [`Ledger::set_loaders`].
    pub fn wait(&self, deadline: Instant) {
        // A wake-up that comes before is kept, and makes this return at once.
        std::thread::park_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.ledger.used.fetch_sub(self.bytes, Ordering::AcqRel);
        self.ledger.freed.fetch_add(self.bytes, Ordering::Relaxed);
        self.ledger.gauge.decrement(self.bytes as f64);
        self.ledger.loaders.get().into_iter().flatten().for_each(Thread::unpark);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn charges_fit_or_are_refused_and_come_back() {
        let ledger = Ledger::new(100, Gauge::noop());
        let first = ledger.charge(60).unwrap();
        assert!(ledger.charge(41).is_none() && ledger.charge(usize::MAX).is_none());
        let second = ledger.charge(40).unwrap();
        assert_eq!(ledger.used(), 100);
        drop(first);
        assert_eq!(ledger.used(), 40);
        drop(second);
        assert_eq!(ledger.used(), 0);
    }

    #[test]
    fn who_waits_is_woken_by_what_is_given_back() {
        let ledger = Ledger::new(1, Gauge::noop());
        let charge = ledger.charge(1).unwrap();
        let waiting = Arc::clone(&ledger);
        let (registered, go) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            go.recv().unwrap();
            let deadline = Instant::now() + Duration::from_secs(60);
            while waiting.charge(1).is_none() {
                waiting.wait(deadline);
            }
            deadline > Instant::now()
        });
        ledger.set_loaders(vec![thread.thread().clone()]);
        registered.send(()).unwrap();
        drop(charge);
        assert!(thread.join().unwrap());
    }
}
