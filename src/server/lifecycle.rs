//! Where the server stands between its start and its end, and how many requests it is answering.
//!
//! It decides nothing: [`super::serve`] moves it forward, handlers ask it.

use std::sync::Arc;

use tokio::sync::watch;

use super::error::ApiError;

/// The server's phases, in order; it never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Requests are taken.
    Serving,
    /// Running requests finish, new ones are refused.
    Draining,
    /// Running requests are ended.
    Aborting,
}

/// The phase, and the number of running requests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    phase: Arc<watch::Sender<Phase>>,
    running: Arc<watch::Sender<usize>>,
}

/// One running request, counted until dropped: a stream keeps it to its last byte.
#[derive(Debug)]
pub struct Running {
    running: Arc<watch::Sender<usize>>,
    phase: watch::Receiver<Phase>,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            phase: Arc::new(watch::Sender::new(Phase::Serving)),
            running: Arc::new(watch::Sender::new(0)),
        }
    }
}

impl Lifecycle {
    /// The present phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Goes to `phase`, unless it is past it.
    pub fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|present| {
            let moved = *present < phase;
            *present = (*present).max(phase);
            moved
        });
    }

    /// Takes a request in.
    ///
    /// # Errors
    /// Where the server is shutting down.
    pub fn admit(&self) -> Result<Running, ApiError> {
        // Counted before the look at the phase: a drain that begins between the two waits for it.
        self.running.send_modify(|running| *running += 1);
        let running = Running { running: Arc::clone(&self.running), phase: self.phase.subscribe() };
        if self.phase() == Phase::Serving { Ok(running) } else { Err(ApiError::draining()) }
    }

    /// Requests being answered.
    #[must_use]
    pub fn running(&self) -> usize {
        *self.running.borrow()
    }

    /// Returns once no request is being answered.
    pub async fn idle(&self) {
        let mut running = self.running.subscribe();
        // An error means that the sender is gone, and `self` holds it.
        let _ = running.wait_for(|running| *running == 0).await;
    }
}

impl Running {
    /// Returns once running requests must end.
    pub async fn aborted(&mut self) {
        // An error means that the server's state is gone, and every reason to go on with it.
        let _ = self.phase.wait_for(|phase| *phase == Phase::Aborting).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.running.send_modify(|running| *running -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_waits_for_what_runs_and_takes_nothing_new() {
        let lifecycle = Lifecycle::default();
        let first = lifecycle.admit().unwrap();
        lifecycle.advance(Phase::Draining);
        assert_eq!(lifecycle.admit().unwrap_err(), ApiError::draining());
        assert_eq!(lifecycle.running(), 1);
        let waiting = lifecycle.idle();
        drop(first);
        waiting.await;
        lifecycle.advance(Phase::Serving);
        assert_eq!(lifecycle.phase(), Phase::Draining);
    }
}
