//! The threads that load. Requests wait for them, the engine never does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::loader::{LoadError, LoadErrorKind, Loader};
use super::memory::Memory;
use super::pending::{Load, Outcome, Pending};
use super::slot::{Slot, Start};
use super::version::AdapterVersion;
use crate::kernels::heap;
use crate::metrics::Metrics;

/// Loads that may wait for a thread.
const MAX_QUEUED: usize = 4096;

/// Without a load for so long, what was freed goes back to the system.
const IDLE: Duration = Duration::from_secs(1);

/// One load to do.
struct Job {
    slot: Arc<Slot>,
    pending: Arc<Pending>,
}

/// What the threads share.
#[derive(Debug)]
struct Shared {
    loader: Arc<dyn Loader>,
    memory: Arc<Memory>,
    metrics: Arc<Metrics>,
    patience: Duration,
}

/// The threads. They end when this is dropped and the loads that were asked for are done.
#[derive(Debug)]
pub(super) struct Workers {
    queue: SyncSender<Job>,
    shared: Arc<Shared>,
}

/// What a request for an adapter gets at once.
pub(super) enum Begun {
    /// The adapter.
    Resident(Arc<AdapterVersion>),
    /// Something to wait for.
    Loading(Load),
    /// An error.
    Failed(LoadError),
}

impl Workers {
    /// Starts `threads` of them; a load waits for room for at most `patience`.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(
        threads: usize,
        loader: Arc<dyn Loader>,
        memory: Arc<Memory>,
        metrics: Arc<Metrics>,
        patience: Duration,
    ) -> std::io::Result<Self> {
        let (queue, jobs) = sync_channel(MAX_QUEUED);
        let jobs = Arc::new(Mutex::new(jobs));
        let shared = Arc::new(Shared { loader, memory, metrics, patience });
        let start = |index| {
            let (shared, jobs) = (Arc::clone(&shared), Arc::clone(&jobs));
            let builder = std::thread::Builder::new().name(format!("adapters-{index}"));
            builder.spawn(move || shared.run(&jobs))
        };
        let handles = (0..threads.max(1)).map(start).collect::<std::io::Result<Vec<_>>>()?;
        let threads = handles.iter().map(|handle| handle.thread().clone()).collect();
        shared.memory.ledger.set_loaders(threads);
        Ok(Self { queue, shared })
    }

    /// Gets a version, from memory or by loading it once for all who ask.
    pub fn get(&self, slot: &Arc<Slot>) -> Begun {
        match slot.start() {
            Start::Resident(version) => Begun::Resident(version),
            Start::Joined(load) => Begun::Loading(load),
            Start::Failed(error) => Begun::Failed(error),
            Start::New(pending) => self.enqueue(slot, pending),
        }
    }

    /// The stamp of a version's files as they are now.
    pub fn stamp(&self, slot: &Slot) -> Option<u64> {
        self.shared.loader.stamp(&slot.source)
    }

    /// Reads a version's files again; what is in memory serves until it
    /// is replaced. Somebody who reads them already is left to it.
    pub fn refresh(&self, slot: &Arc<Slot>) {
        if let Some(pending) = slot.restart() {
            self.enqueue(slot, pending);
        }
    }

    fn enqueue(&self, slot: &Arc<Slot>, pending: Arc<Pending>) -> Begun {
        let job = Job { slot: Arc::clone(slot), pending: Arc::clone(&pending) };
        match self.queue.try_send(job) {
            Ok(()) => Begun::Loading(Load(pending)),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                let message = "too many adapters are being loaded";
                let error = LoadError::new(LoadErrorKind::NoRoom, message);
                slot.fail(error.clone(), None);
                pending.finish(Err(error.clone()));
                Begun::Failed(error)
            }
        }
    }
}

impl Shared {
    fn run(&self, jobs: &Mutex<Receiver<Job>>) {
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(IDLE);
            let Job { slot, pending } = match job {
                Ok(job) => job,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    self.tidy();
                    continue;
                }
            };
            self.memory.loading(&slot.name, true);
            let started = Instant::now();
            let outcome = catch_unwind(AssertUnwindSafe(|| self.load(&slot)));
            let outcome = outcome.unwrap_or_else(|_| {
                tracing::error!(adapter = slot.name, "bug: loading an adapter panicked");
                let error = LoadError::new(LoadErrorKind::Bug, "loading it failed of a bug");
                slot.fail(error.clone(), None);
                Err(error)
            });
            self.record(&slot, &outcome, started.elapsed());
            self.memory.loading(&slot.name, false);
            pending.finish(outcome);
        }
    }

    /// Lets the system have the memory of what was unloaded. While adapters are loaded, it is used
    /// for those.
    fn tidy(&self) {
        if self.memory.ledger.take_freed() > 0 {
            heap::give_back();
        }
    }

    fn record(&self, slot: &Slot, outcome: &Outcome, took: Duration) {
        match outcome {
            Ok(version) => {
                self.metrics.adapter(&slot.name).loaded(took);
                tracing::info!(adapter = slot.name, id = %version.id(), ?took, "adapter in memory");
            }
            Err(error) => {
                self.metrics.adapter(&slot.name).failed();
                tracing::warn!(adapter = slot.name, "adapter not loaded: {error}");
            }
        }
    }

    fn load(&self, slot: &Arc<Slot>) -> Outcome {
        let stamp = self.loader.stamp(&slot.source);
        self.read_and_install(slot, stamp).inspect_err(|error| slot.fail(error.clone(), stamp))
    }

    fn read_and_install(&self, slot: &Arc<Slot>, stamp: Option<u64>) -> Outcome {
        let read = match slot.parsed() {
            Some(parsed) => parsed,
            None => {
                let read = self.loader.read(&slot.source, slot.wanted())?;
                // Half of one adapter and half of the next would be neither.
                if self.loader.stamp(&slot.source) != stamp {
                    let message = "its files changed while they were read";
                    return Err(LoadError::new(LoadErrorKind::NoRoom, message));
                }
                read
            }
        };
        slot.check_content(read.content)?;
        let prepared = self.loader.prepare(&read.delta)?;
        if slot.is_retired() {
            // Nobody will ask for it: those who wait get it, and it is not kept.
            let version = Arc::new(AdapterVersion::new(slot.name.clone(), Arc::new(prepared)));
            slot.install(&version, read, stamp, None);
            return Ok(version);
        }
        let charge = self.memory.charge(prepared.size_bytes(), Instant::now() + self.patience)?;
        let version = Arc::new(AdapterVersion::charged(slot.name.clone(), prepared, charge));
        self.memory.install(slot, &version, read, stamp);
        Ok(version)
    }
}
