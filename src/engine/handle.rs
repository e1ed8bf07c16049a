//! The one line where async ends: a bounded queue into the engine's thread, bounded replies back.
//!
//! Below the server this is the only file that knows tokio.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::request::{Event, Request};

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// As many requests are waiting as may wait.
    #[error("the queue is full: {limit} requests are waiting")]
    QueueFull {
        /// Requests that may wait.
        limit: usize,
    },
    /// As many of one tenant's requests are waiting as may wait.
    #[error("your part of the queue is full: {limit} requests are waiting")]
    ShareFull {
        /// Requests of it that may wait.
        limit: usize,
    },
    /// The engine's thread has ended.
    #[error("the engine has stopped")]
    Dead,
}

/// The server's end. Cheap to clone; the engine stops once every clone is gone.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    submissions: mpsc::Sender<Submission>,
    places: Arc<Semaphore>,
    max_waiting: usize,
    alive: Arc<AtomicBool>,
}

/// The engine's end.
#[derive(Debug)]
pub struct Submissions {
    receiver: mpsc::Receiver<Submission>,
    alive: Arc<AtomicBool>,
}

/// A request with the places its answers go to.
#[derive(Debug)]
pub struct Submission {
    /// What is asked.
    pub request: Request,
    /// One per choice.
    pub replies: Vec<Reply>,
    /// Held while the request waits.
    pub place: QueuePlace,
}

/// A place in the queue, free again when dropped.
#[derive(Debug)]
pub struct QueuePlace {
    _permit: OwnedSemaphorePermit,
    _of_share: SharePlace,
}

/// One tenant's part of the queue: how many of its requests wait, and how many may.
#[derive(Debug, Clone)]
pub struct QueueShare {
    /// Those that wait: one number for all requests of the tenant.
    pub waiting: Arc<AtomicUsize>,
    /// Those that may.
    pub limit: usize,
}

impl QueueShare {
    fn place(&self) -> Option<SharePlace> {
        let more = |waiting: usize| (waiting < self.limit).then_some(waiting + 1);
        self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(SharePlace(Arc::clone(&self.waiting)))
    }
}

/// A counted place in a tenant's part.
#[derive(Debug)]
struct SharePlace(Arc<AtomicUsize>);

impl Drop for SharePlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Where the engine sends the events of one choice.
#[derive(Debug)]
pub struct Reply(mpsc::Sender<Event>);

/// The events of one choice. Dropping it aborts the choice.
#[derive(Debug)]
pub struct EventStream(mpsc::Receiver<Event>);

/// What came out of [`Submissions::receive`].
#[derive(Debug)]
pub enum Received {
    /// A request.
    Submission(Box<Submission>),
    /// Nothing is waiting now.
    Empty,
    /// Every [`EngineHandle`] is gone.
    Closed,
}

/// Connects a server and an engine; at most `max_waiting` requests wait between them.
#[must_use]
pub fn channel(max_waiting: usize) -> (EngineHandle, Submissions) {
    let max_waiting = max_waiting.max(1);
    let (submissions, receiver) = mpsc::channel(max_waiting);
    let alive = Arc::new(AtomicBool::new(true));
    let handle = EngineHandle {
        submissions,
        places: Arc::new(Semaphore::new(max_waiting)),
        max_waiting,
        alive: Arc::clone(&alive),
    };
    (handle, Submissions { receiver, alive })
}

impl EngineHandle {
    /// Queues a request within its tenant's part of the queue and returns one stream per choice;
    /// never waits.
    ///
    /// # Errors
    /// [`SubmitError::QueueFull`] or [`SubmitError::ShareFull`] at once where no place is free,
    /// [`SubmitError::Dead`] where the engine has ended.
    pub fn submit(
        &self,
        request: Request,
        share: &QueueShare,
    ) -> Result<Vec<EventStream>, SubmitError> {
        if !self.is_alive() {
            return Err(SubmitError::Dead);
        }
        let full = SubmitError::QueueFull { limit: self.max_waiting };
        let permit = Arc::clone(&self.places).try_acquire_owned().map_err(|_| full)?;
        let of_share = share.place().ok_or(SubmitError::ShareFull { limit: share.limit })?;
        // Every event of a choice fits: two of the prompt, a vector or else `max_tokens` tokens, and
        // the end. Who asks for a vector asks for no log-probabilities.
        let capacity = request.sampling.max_tokens + 3;
        let (replies, streams) = (0..request.n)
            .map(|_| mpsc::channel(capacity))
            .map(|(sender, receiver)| (Reply(sender), EventStream(receiver)))
            .unzip();
        let place = QueuePlace { _permit: permit, _of_share: of_share };
        let submission = Submission { request, replies, place };
        self.submissions.try_send(submission).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => full,
            mpsc::error::TrySendError::Closed(_) => SubmitError::Dead,
        })?;
        Ok(streams)
    }

    /// Requests that may wait at once.
    #[must_use]
    pub fn max_waiting(&self) -> usize {
        self.max_waiting
    }

    /// False once the engine's thread has ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }
}

#[cfg(test)]
impl EngineHandle {
    /// True where a request has been sent that the engine has not received.
    pub(super) fn has_submissions(&self) -> bool {
        self.submissions.capacity() < self.submissions.max_capacity()
    }
}

impl Submissions {
    /// The next request: waits for one where `wait` is set, else answers at once.
    pub fn receive(&mut self, wait: bool) -> Received {
        if wait {
            return match self.receiver.blocking_recv() {
                Some(submission) => Received::Submission(Box::new(submission)),
                None => Received::Closed,
            };
        }
        match self.receiver.try_recv() {
            Ok(submission) => Received::Submission(Box::new(submission)),
            Err(mpsc::error::TryRecvError::Empty) => Received::Empty,
            Err(mpsc::error::TryRecvError::Disconnected) => Received::Closed,
        }
    }
}

impl Drop for Submissions {
    fn drop(&mut self) {
        self.alive.store(false, Ordering::Release);
    }
}

impl Reply {
    /// Sends an event. A client that has gone is no error: the next look at [`Self::is_closed`]
    /// aborts the choice.
    pub fn send(&self, event: Event) {
        if let Err(mpsc::error::TrySendError::Full(event)) = self.0.try_send(event) {
            // The channel is sized for every event of a choice: this is a bug, not overload.
            tracing::error!(?event, "bug: a reply channel is too small for its events");
        }
    }

    /// True once the client has dropped its stream.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl EventStream {
    /// The next event; `None` after the last, or where the engine died before sending it.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}
