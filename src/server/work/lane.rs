//! The places for one kind of work, and the jobs that wait for one: [`Turns`] says whose turn it is,
//! this wakes them. It runs nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::metrics::work::WorkMetrics;
use crate::tenant::turns::{Full, Limits, Party, Turns};

/// What a job counts beside its own work, so that many small ones are no gift.
const JOB: usize = 1024;

/// Jobs that may wait in the middle of their work: each keeps a thread of tokio's 512 waiting.
const MAX_PAUSED: usize = 128;

/// Why a job got no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The queue is full.
    #[error(transparent)]
    Full(#[from] Full),
    /// No place was free in time.
    #[error("no place was free within {} s", .0.as_secs())]
    Late(Duration),
}

/// The places for one kind of work.
#[derive(Debug)]
pub struct Lane {
    kind: &'static str,
    state: Mutex<State>,
    patience: Duration,
    metrics: WorkMetrics,
}

#[derive(Debug)]
struct State {
    turns: Turns<oneshot::Sender<()>>,
    next_ticket: u64,
    paused: usize,
}

/// A job's part in a lane: it waits, or has a place. Dropped, it is over.
#[derive(Debug)]
pub struct Place {
    at: Ticket,
    bytes: usize,
    /// What was done for other tenants: until it came, and then from there to its first turn.
    for_others: u64,
    /// Taken out of the queue in the middle of its work.
    recalled: AtomicBool,
}

/// Which job it is.
#[derive(Debug, Clone)]
pub struct Ticket {
    lane: Arc<Lane>,
    number: u64,
    tenant: u32,
}

impl Lane {
    /// A lane for work of a `kind` within `limits`; a job waits for its first turn for `patience` at most.
    #[must_use]
    pub fn new(
        kind: &'static str,
        limits: Limits,
        patience: Duration,
        metrics: WorkMetrics,
    ) -> Arc<Self> {
        let state = State { turns: Turns::new(limits), next_ticket: 0, paused: 0 };
        Arc::new(Self { kind, state: Mutex::new(state), patience, metrics })
    }

    /// Which kind of work it is for.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Waits for a place for a job that holds `bytes`. Dropping the future leaves the queue.
    ///
    /// # Errors
    /// At once where the queue is full, later where no place becomes free in time.
    pub async fn place(self: &Arc<Self>, party: Party, bytes: usize) -> Result<Place, Refused> {
        let (mut place, turn) =
            self.enter(party, bytes).inspect_err(|full| self.metrics.refused(full.is_own()))?;
        let entered = Instant::now();
        match timeout(self.patience, turn).await {
            // The sender is only dropped with the place, which is here.
            Ok(_) => {
                self.metrics.waited(entered.elapsed());
                let done = self.state().turns.done_for_others(party.tenant);
                place.for_others = done.wrapping_sub(place.for_others);
                Ok(place)
            }
            Err(_) => {
                self.metrics.late.increment(1);
                Err(Refused::Late(self.patience))
            }
        }
    }

    fn enter(
        self: &Arc<Self>,
        party: Party,
        bytes: usize,
    ) -> Result<(Place, oneshot::Receiver<()>), Full> {
        let (wake, turn) = oneshot::channel();
        let mut state = self.state();
        let ticket = state.next_ticket;
        state.turns.enter(ticket, party, bytes, wake)?;
        state.next_ticket += 1;
        let for_others = state.turns.done_for_others(party.tenant);
        self.begin(&mut state);
        drop(state);
        let at = Ticket { lane: Arc::clone(self), number: ticket, tenant: party.tenant };
        Ok((Place { at, bytes, for_others, recalled: AtomicBool::new(false) }, turn))
    }

    /// Gives free places to those whose turn it is.
    fn begin(&self, state: &mut State) {
        while let Some((_, wake)) = state.turns.begin_next() {
            // A receiver that is gone has not dropped its place yet; that comes next and frees it.
            let _ = wake.send(());
        }
        self.metrics.waiting.set(state.turns.waiting() as f64);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// What was done for other tenants while it waited for its first turn.
    #[must_use]
    pub fn done_for_others(&self) -> u64 {
        self.for_others
    }

    /// The job is begun.
    pub fn begin(&self) {
        self.charge(JOB);
    }

    /// Which job it is.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        self.at.clone()
    }

    /// So much was done: bytes of text, or what a lane counts instead.
    pub fn charge(&self, amount: usize) {
        self.at.lane.state().turns.charge(self.at.tenant, amount);
    }

    /// Lets others have the place where it is their turn, and waits for the next of its own. Blocks:
    /// not for async threads.
    pub fn take_turns(&self) {
        let Ticket { lane, number, tenant } = &self.at;
        let mut state = lane.state();
        if state.paused >= MAX_PAUSED || !state.turns.should_yield(*tenant) {
            return;
        }
        let (wake, turn) = oneshot::channel();
        state.turns.requeue(*number, *tenant, wake);
        state.paused += 1;
        lane.begin(&mut state);
        drop(state);
        let recalled = turn.blocking_recv().is_err();
        self.recalled.store(recalled, Ordering::Release);
        lane.state().paused -= 1;
    }
}

impl Ticket {
    /// Takes the job out of the queue where it waits in the middle of its work: it goes on without a
    /// place, and is to end.
    pub fn recall(&self) {
        self.lane.state().turns.remove(self.number, self.tenant);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Ticket { lane, number, tenant } = &self.at;
        let mut state = lane.state();
        let waits = state.turns.remove(*number, *tenant).is_some();
        let ran = !waits && !self.recalled.load(Ordering::Acquire);
        state.turns.leave(*tenant, self.bytes, ran);
        lane.begin(&mut state);
    }
}
