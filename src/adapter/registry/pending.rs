//! A load under way, and those who wait for it.
//!
//! A plain [`Future`] without a runtime: the server awaits it, the command line blocks on it.

use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
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
}

/// Resolves to the outcome of a load. Dropping it leaves the load to the others.
#[derive(Debug)]
pub struct Load(pub(super) Arc<Pending>);

impl Pending {
    /// Ends the load; the first outcome counts.
    pub fn finish(&self, outcome: Outcome) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.outcome.get_or_insert(outcome);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
        self.done.notify_all();
    }
}

impl Load {
    /// Blocks until the load has ended. Not for async threads.
    ///
    /// # Errors
    /// Why there is no adapter.
    pub fn wait(self) -> Outcome {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(outcome) = &state.outcome {
                return outcome.clone();
            }
            state = self.0.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Future for Load {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outcome) = &state.outcome {
            return Poll::Ready(outcome.clone());
        }
        if !state.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            state.waiting.push(context.waker().clone());
        }
        Poll::Pending
    }
}
