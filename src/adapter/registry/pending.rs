//! A load under way, and those who wait for it.
//!
//! A plain [`Future`] without a runtime: the server awaits it, the command line blocks on it.

use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::loader::LoadError;
use super::version::AdapterVersion;

/// How a load ended.
pub type Outcome = Result<Arc<AdapterVersion>, LoadError>;

/// A load that many may wait for.
#[derive(Debug, Default)]
pub(super) struct Pending {
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    outcome: Option<Outcome>,
    waiting: Vec<Waker>,
    /// Those who wait.
    loads: usize,
    /// It is wanted, whoever waits.
    is_kept: bool,
    /// A thread has begun it.
    is_begun: bool,
    /// Tenants in whose turns it comes: one that waits for it need not wait for another's turn.
    askers: Vec<u32>,
}

/// Resolves to the outcome of a load. Dropping it leaves the load to the others; a load that waits for
/// its turn and that nobody waits for is never begun.
#[derive(Debug)]
pub struct Load(Arc<Pending>);

impl Pending {
    /// Waits for it.
    pub fn load(self: &Arc<Self>) -> Load {
        self.state().loads += 1;
        Load(Arc::clone(self))
    }

    /// Makes it wanted, whoever waits.
    pub fn keep(&self) {
        self.state().is_kept = true;
    }

    /// Whether anybody wants it.
    pub fn is_wanted(&self) -> bool {
        let state = self.state();
        state.is_kept || state.loads > 0
    }

    /// Whether it has to be put into the queue of a tenant that did not ask for it before.
    pub fn is_new_to(&self, tenant: u32) -> bool {
        let mut state = self.state();
        let is_new = !state.is_begun && !state.askers.contains(&tenant);
        if is_new {
            state.askers.push(tenant);
        }
        is_new
    }

    /// Begins it; false where somebody else did. It is in the queues of all who asked.
    pub fn begin(&self) -> bool {
        !std::mem::replace(&mut self.state().is_begun, true)
    }

    /// Whether a thread has begun it, or it has ended.
    pub fn is_begun(&self) -> bool {
        self.state().is_begun
    }

    /// Ends the load; the first outcome counts.
    pub fn finish(&self, outcome: Outcome) {
        let mut state = self.state();
        state.is_begun = true;
        state.outcome.get_or_insert(outcome);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
        self.done.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load {
    /// What is waited for.
    pub(super) fn pending(&self) -> &Arc<Pending> {
        &self.0
    }

    /// Lets the load go on without who waits, who will come again.
    pub fn leave(self) {
        self.0.keep();
    }

    /// Blocks until the load has ended. Not for async threads.
    ///
    /// # Errors
    /// Why there is no adapter.
    pub fn wait(self) -> Outcome {
        let mut state = self.0.state();
        loop {
            if let Some(outcome) = &state.outcome {
                return outcome.clone();
            }
            state = self.0.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.state().loads -= 1;
    }
}

impl Future for Load {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let mut state = self.0.state();
        if let Some(outcome) = &state.outcome {
            return Poll::Ready(outcome.clone());
        }
        if !state.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            state.waiting.push(context.waker().clone());
        }
        Poll::Pending
    }
}
