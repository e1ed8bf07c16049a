//! The threads that load. Requests wait for them, the engine never does.
//!
//! They read files of this machine and wait for no other: what lies elsewhere is fetched first, by
//! somebody else, and comes to them once it is here. Tenants take turns with them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::delivery::{Delivery, FetchOutcome, Fetched, Order};
use super::loader::{LoadError, LoadErrorKind, Loader, ReadAdapter, Stamp};
use super::memory::Memory;
use super::pending::{Load, Outcome, Pending};
use super::queue::{LoadQueue, Next, Refused};
use super::slot::{Parsed, Seen, Slot, Start};
use super::source::Source;
use super::version::AdapterVersion;
use crate::background;
use crate::kernels::heap;
use crate::metrics::Metrics;
use crate::tenant::turns::Party;

/// Without a load for so long, what was freed goes back to the system.
const IDLE: Duration = Duration::from_secs(1);

/// One load to do. It is in the queues of all who asked for it, and done once.
#[derive(Debug, Clone)]
struct Job {
    slot: Arc<Slot>,
    pending: Arc<Pending>,
    asker: Party,
    /// When it began to be fetched, where it has to be.
    since: Option<Instant>,
    /// What came.
    fetched: Option<Arc<dyn Fetched>>,
}

/// What the threads share.
#[derive(Debug)]
struct Shared {
    loader: Arc<dyn Loader>,
    memory: Arc<Memory>,
    metrics: Arc<Metrics>,
    patience: Duration,
    queue: LoadQueue<Job>,
}

/// The threads. They end when this is dropped and the loads that were asked for are done.
#[derive(Debug)]
pub(super) struct Workers {
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
        let threads = threads.max(1);
        let queue = LoadQueue::new(threads, metrics.work("adapter"));
        let shared = Arc::new(Shared { loader, memory, metrics, patience, queue });
        // Dropped where a thread could not be started, it ends the others.
        let workers = Self { shared: Arc::clone(&shared) };
        let start = |index| {
            let shared = Arc::clone(&shared);
            let builder = std::thread::Builder::new().name(format!("adapters-{index}"));
            builder.spawn(move || {
                background::enter();
                shared.run();
            })
        };
        let handles = (0..threads).map(start).collect::<std::io::Result<Vec<_>>>()?;
        let threads = handles.iter().map(|handle| handle.thread().clone()).collect();
        shared.memory.ledger.set_loaders(threads);
        Ok(workers)
    }

    /// Gets a version, from memory or by loading it once for all who ask.
    ///
    /// A load that tenants ask for is done in the turn of that tenant whose turn comes first, and not at
    /// all where all of them have left before. What the operator asks for is done in any case.
    pub fn get(&self, slot: &Arc<Slot>, asker: Party) -> Begun {
        let load = match slot.start() {
            Start::Resident(version) => return Begun::Resident(version),
            Start::Failed(error) => return Begun::Failed(error),
            Start::Joined(load) => load,
            Start::New(pending) => pending.load(),
        };
        self.shared.begin(slot, load, asker)
    }

    /// Looks through a version's files without reading the weights.
    pub fn check(&self, slot: &Slot) -> Result<(), LoadError> {
        self.shared.loader.check(&slot.source)
    }

    /// The stamp of a version's files as they are now.
    pub fn stamp(&self, slot: &Slot) -> Option<Stamp> {
        self.shared.loader.stamp(&slot.source)
    }

    /// Reads a version's files again; what is in memory serves until it
    /// is replaced. Somebody who reads them already is left to it.
    pub fn refresh(&self, slot: &Arc<Slot>) {
        if let Some(pending) = slot.restart() {
            self.shared.begin(slot, pending.load(), Party::OPERATOR);
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.queue.close();
    }
}

impl Job {
    /// What has to be fetched first: all that lies on another machine, but for a content that is in
    /// memory as it was read and may be no other.
    fn order(&self) -> Option<Order> {
        let Source::Remote { location, digest } = &self.slot.source else { return None };
        let here = !self.slot.follows_files && self.slot.parsed(Seen::Files(None)).is_some();
        if here || self.fetched.is_some() {
            return None;
        }
        let (location, wanted) = (location.clone(), self.slot.wanted());
        Some(Order { location, digest: *digest, wanted, asker: self.asker })
    }

    /// Goes on to the threads with what came.
    fn fetched(mut self, outcome: FetchOutcome, shared: &Weak<Shared>) {
        let shared = shared.upgrade();
        if shared.as_ref().map_or(self.pending.is_begun(), |shared| shared.is_over(&self)) {
            return;
        }
        match (outcome, shared) {
            (Ok(fetched), Some(shared)) => {
                self.fetched = Some(fetched);
                // Whoever waits is told of an error.
                let _ = shared.send(self);
            }
            (Err(error), Some(shared)) if error.kind() == LoadErrorKind::Busy => {
                shared.turn_away(&self, error);
            }
            (Err(error), shared) => {
                self.slot.fail(error.clone(), None);
                match shared {
                    Some(shared) => shared.finish(&self, Err(error)),
                    None => self.pending.finish(Err(error)),
                }
            }
            (Ok(_), None) => self.pending.finish(Err(going_down())),
        }
    }
}

fn going_down() -> LoadError {
    LoadError::new(LoadErrorKind::Unreachable, "the server is going down")
}

impl Shared {
    /// Puts a load into the queue of `asker`, where it is not in it.
    fn begin(self: &Arc<Self>, slot: &Arc<Slot>, load: Load, asker: Party) -> Begun {
        let pending = load.pending();
        if asker == Party::OPERATOR {
            pending.keep();
        }
        if pending.is_new_to(asker.tenant) {
            let (slot, pending) = (Arc::clone(slot), Arc::clone(pending));
            if let Err(error) = self.send(Job { slot, pending, asker, since: None, fetched: None })
            {
                return Begun::Failed(error);
            }
        }
        Begun::Loading(load)
    }

    /// Lets a job be fetched, or puts it into the threads' queue.
    fn send(self: &Arc<Self>, mut job: Job) -> Result<(), LoadError> {
        if let Some(order) = job.order() {
            job.since.get_or_insert_with(Instant::now);
            self.memory.loading(&job.slot.name, true);
            let shared = Arc::downgrade(self);
            let of = job.clone();
            let wanted = move |shared: &Weak<Self>| {
                shared.upgrade().is_some_and(|shared| !shared.is_over(&of))
            };
            let asked = Weak::clone(&shared);
            let delivery = Delivery::new(move |outcome| job.fetched(outcome, &shared));
            let delivery = delivery.wanted_while(move || wanted(&asked));
            self.loader.fetch(order, delivery);
            return Ok(());
        }
        self.queue
            .push(job.asker, job.clone(), |job| !self.is_over(job))
            .map_err(|refused| self.refuse(&job, refused))
    }

    /// Whether nothing is left to do: somebody else has begun it, or nobody wants it any more.
    fn is_over(&self, job: &Job) -> bool {
        let given_up = job.slot.give_up(&job.pending);
        if given_up {
            self.memory.loading(&job.slot.name, false);
        }
        given_up || job.pending.is_begun()
    }

    /// There is no place for it. That is no fault of the adapter, which the next may ask for.
    fn refuse(&self, job: &Job, refused: Refused) -> LoadError {
        let error = match refused {
            Refused::Full(_) => LoadError::new(LoadErrorKind::Busy, refused.to_string()),
            Refused::Closed => going_down(),
        };
        self.turn_away(job, error.clone());
        error
    }

    /// Ends a load with an error that says nothing of the adapter.
    fn turn_away(&self, job: &Job, error: LoadError) {
        job.slot.turn_away(&job.pending);
        self.memory.loading(&job.slot.name, false);
        job.pending.finish(Err(error));
    }

    /// Tells those who wait.
    fn finish(&self, job: &Job, outcome: Outcome) {
        let took = job.since.map_or(Duration::ZERO, |since| since.elapsed());
        self.record(&job.slot, &outcome, took);
        self.memory.loading(&job.slot.name, false);
        job.pending.finish(outcome);
    }

    fn run(self: &Arc<Self>) {
        loop {
            match self.queue.next(IDLE) {
                Next::Closed => return,
                Next::Nothing => self.tidy(),
                Next::Load(job) => {
                    let (asker, begun) = (job.asker, Instant::now());
                    self.run_one(job);
                    self.queue.done(asker, begun.elapsed());
                }
            }
        }
    }

    fn run_one(self: &Arc<Self>, mut job: Job) {
        if self.is_over(&job) {
            return;
        }
        if job.order().is_some() {
            // What was in memory when it was asked for has left it.
            let _ = self.send(job);
            return;
        }
        if !job.pending.begin() {
            return;
        }
        self.memory.loading(&job.slot.name, true);
        job.since.get_or_insert_with(Instant::now);
        let outcome = catch_unwind(AssertUnwindSafe(|| self.load(&job)));
        let outcome = outcome.unwrap_or_else(|_| {
            tracing::error!(adapter = job.slot.name, "bug: loading an adapter panicked");
            let error = LoadError::new(LoadErrorKind::Bug, "loading it failed of a bug");
            job.slot.fail(error.clone(), None);
            Err(error)
        });
        self.finish(&job, outcome);
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

    fn load(&self, job: &Job) -> Outcome {
        let (slot, fetched) = (&job.slot, job.fetched.as_deref());
        let stamp = self.loader.stamp(&slot.source);
        let done = self.read_and_install(slot, fetched, stamp);
        done.inspect_err(|error| slot.fail(error.clone(), stamp))
    }

    fn read_and_install(
        &self,
        slot: &Arc<Slot>,
        fetched: Option<&dyn Fetched>,
        stamp: Option<Stamp>,
    ) -> Outcome {
        let seen = fetched.map_or(Seen::Files(stamp), |fetched| Seen::Fetched(fetched.content()));
        let parsed = match slot.parsed(seen) {
            Some(parsed) => parsed,
            None => Parsed { read: self.read(slot, fetched, stamp)?, stamp },
        };
        slot.check_content(parsed.read.content)?;
        if let Some(version) = slot.confirm(&parsed) {
            return Ok(version);
        }
        let prepared = self.loader.prepare(&parsed.read.delta)?;
        // Also where nobody will keep it: those who wait for it hold it.
        let charge = self.memory.charge(prepared.size_bytes(), Instant::now() + self.patience)?;
        let version = Arc::new(AdapterVersion::charged(slot.name.clone(), prepared, charge));
        self.memory.install(slot, &version, parsed);
        Ok(version)
    }

    /// Reads a version's files, which have this stamp and must still have it afterwards: half of one
    /// adapter and half of the next would be neither.
    fn read(
        &self,
        slot: &Slot,
        fetched: Option<&dyn Fetched>,
        stamp: Option<Stamp>,
    ) -> Result<ReadAdapter, LoadError> {
        let read = self.loader.read(&slot.source, fetched)?;
        let files = |stamp: Option<Stamp>| stamp.map(|stamp| stamp.files);
        if files(self.loader.stamp(&slot.source)) == files(stamp) {
            return Ok(read);
        }
        Err(LoadError::new(LoadErrorKind::NoRoom, "its files changed while they were read"))
    }
}
