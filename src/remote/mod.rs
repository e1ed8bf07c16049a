//! Adapters that lie on other machines: object stores, web servers, the Hugging Face hub. Their files
//! are fetched to a directory on this machine's disk, and read there like any adapter's.
//!
//! ```text
//! location → allowed? → its turn (turns) → one fetch at a time (flights) → place (store, web, hub)
//!                                                         ↓ files, resumed, bounded (transfer)
//!                        adapter reader ← kept on disk (cache) ← all of one version (fetch)
//! ```
//!
//! Fetches have threads of their own, so many for each place: who asks is called back, and no thread
//! that loads, answers HTTP or computes waits for another machine. One more thread moves the bytes. It
//! knows which files an adapter has and nothing of what is in them.

mod cache;
mod client;
mod entry;
mod error;
mod fetch;
mod flights;
mod hub;
mod place;
mod redirects;
mod settings;
mod store;
mod transfer;
mod turns;
mod web;
mod wire;

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use reqwest::Client;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use self::cache::Cache;
use self::client::client;
use self::fetch::{Fetch, FetchBounds};
use self::flights::Flights;
use self::place::{Failure, Place};
use self::redirects::Allowed;
use self::store::Store;
use self::transfer::Tries;
use self::turns::{Entered, Turns};
use self::web::Web;
use crate::adapter::registry::{FileDigest, Location, Order, Scheme, Wanted};
use crate::background;
use crate::tenant::turns::Party;

pub use self::cache::Kept;
pub use self::error::RemoteError;
pub use self::settings::{Hub, Pace, SILENCE, Settings, Token, Variables};

/// Fetches adapters. What is under way when it is dropped is given up.
#[derive(Debug)]
pub struct Remote(Arc<Fetcher>);

/// What the threads that fetch share.
#[derive(Debug)]
struct Fetcher {
    settings: Settings,
    client: Client,
    /// Where redirects of the web may lead, and those of the hub.
    web: Allowed,
    hub: Allowed,
    cache: Arc<Cache>,
    flights: Flights,
    turns: Turns<Job>,
    /// True once nobody wants anything any more.
    closed: watch::Sender<bool>,
    /// There until this is dropped.
    runtime: Option<Runtime>,
}

/// A fetch that waits for its turn.
struct Job {
    order: Order,
    since: Instant,
    /// Whether anybody still waits for it.
    wanted: Arc<dyn Fn() -> bool + Send + Sync>,
    done: Box<dyn FnOnce(Result<Kept, RemoteError>) + Send>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.order.fmt(f)
    }
}

impl Remote {
    /// Opens the directory and starts the thread that moves bytes.
    ///
    /// # Errors
    /// Where the directory cannot be used or belongs to another process, or a setting cannot be.
    pub fn open(settings: Settings) -> Result<Self, RemoteError> {
        let endpoint = hub::endpoint(&settings.hub)?;
        let (client, web) = (client()?, Allowed::of(&settings.allowed));
        let hub = web.clone().with_hub(&endpoint);
        let cache = Cache::open(&settings.cache_dir, settings.cache_bytes)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("adapter-fetch")
            .on_thread_start(background::enter)
            .enable_all()
            .build()?;
        let (flights, turns, runtime) = (Flights::default(), Turns::default(), Some(runtime));
        let closed = watch::Sender::new(false);
        Ok(Self(Arc::new(Fetcher {
            settings,
            client,
            web,
            hub,
            cache,
            flights,
            turns,
            closed,
            runtime,
        })))
    }

    /// Begins a fetch, and calls `done` with the adapter's files, which are on this machine's disk for
    /// as long as the result lives, or with why there are none. Returns at once. One that is not `wanted`
    /// any more when its turn comes is dropped.
    pub fn begin(
        &self,
        order: Order,
        wanted: Arc<dyn Fn() -> bool + Send + Sync>,
        done: impl FnOnce(Result<Kept, RemoteError>) + Send + 'static,
    ) {
        if !self.0.allows(&order.location) {
            return done(Err(RemoteError::NotAllowed));
        }
        // What is here already waits for nobody else's.
        let place = match order.wanted {
            Wanted::Same(content) if self.0.cache.has(&order.location, content) => DISK.to_owned(),
            _ => place_of(&order.location),
        };
        self.0.enter(place, Job { order, since: Instant::now(), wanted, done: Box::new(done) });
    }

    /// Whether anything may be fetched from there.
    #[must_use]
    pub fn allows(&self, location: &Location) -> bool {
        self.0.allows(location)
    }

    /// The same for who can wait, and out of turn. Blocks; not for async threads.
    ///
    /// # Errors
    /// Where they may not or cannot be had.
    pub fn fetch(
        &self,
        location: &Location,
        digest: Option<FileDigest>,
        wanted: Wanted,
    ) -> Result<Kept, RemoteError> {
        self.0.fetch(location, digest, wanted)
    }
}

/// Where what was fetched before is taken from. No place has such a name.
const DISK: &str = "disk";

/// Whose fetches are one after the other, beyond a number: the bucket, the host or the organisation.
fn place_of(location: &Location) -> String {
    format!("{}://{}", location.scheme().name(), location.root())
}

impl Fetcher {
    fn allows(&self, location: &Location) -> bool {
        self.settings.allowed.iter().any(|prefix| prefix.holds(location))
    }

    /// Lets a fetch begin in its turn.
    fn enter(self: &Arc<Self>, place: String, job: Job) {
        let asker = job.order.asker;
        match self.turns.enter(&place, asker, job) {
            Entered::Now(job) => self.start(place, asker, job),
            Entered::Waits => {}
            Entered::Refused(job) => (job.done)(Err(RemoteError::Busy)),
        }
    }

    /// Lets a thread fetch, and then what waits for the same place.
    fn start(self: &Arc<Self>, place: String, asker: Party, job: Job) {
        let Some(runtime) = &self.runtime else { return };
        let fetcher = Arc::clone(self);
        runtime.spawn_blocking(move || {
            let mut next = Some((asker, job));
            while let Some((asker, job)) = next {
                let begun = Instant::now();
                if (job.wanted)() {
                    fetcher.run(&place, job);
                }
                next = fetcher.turns.leave(&place, asker, begun.elapsed());
            }
        });
    }

    fn run(self: &Arc<Self>, place: &str, job: Job) {
        if place == DISK {
            let Wanted::Same(content) = job.order.wanted else { return };
            return match self.cache.holding(&job.order.location, content) {
                Some(kept) => (job.done)(Ok(kept)),
                // It was damaged.
                None => self.enter(place_of(&job.order.location), job),
            };
        }
        let Job { order, since, done, .. } = job;
        // Who waits for a sick place waits no longer than who asks it.
        let fetched = if since.elapsed() > self.settings.timeout {
            Err(RemoteError::Busy)
        } else {
            let fetch = || self.fetch(&order.location, order.digest, order.wanted);
            // Whoever waits is told, and the next has his turn.
            catch_unwind(AssertUnwindSafe(fetch)).unwrap_or_else(|_| {
                tracing::error!(location = %order.location, "bug: fetching an adapter panicked");
                Err(RemoteError::Bug)
            })
        };
        done(fetched);
    }

    fn fetch(
        &self,
        location: &Location,
        digest: Option<FileDigest>,
        wanted: Wanted,
    ) -> Result<Kept, RemoteError> {
        if !self.allows(location) {
            return Err(RemoteError::NotAllowed);
        }
        let here = || match wanted {
            Wanted::Same(content) => self.cache.holding(location, content),
            Wanted::Now | Wanted::Newest => None,
        };
        if let Some(kept) = here() {
            return Ok(kept);
        }
        self.flights.alone(location, || {
            self.cache.revive()?;
            // Somebody else may have brought it meanwhile.
            if let Some(kept) = here() {
                return Ok(kept);
            }
            if location.scheme() == Scheme::Hf && self.settings.hub.offline {
                return self.last(location, digest).ok_or(RemoteError::Offline);
            }
            match self.fetch_now(location, digest) {
                Err(error) if wanted == Wanted::Newest && error.tells_nothing() => {
                    let Some(kept) = self.last(location, digest) else { return Err(error) };
                    tracing::warn!(%location, "what was fetched before is used: {error}");
                    Ok(kept)
                }
                done => done,
            }
        })
    }

    /// What was fetched last, where that is what was asked for.
    fn last(&self, location: &Location, digest: Option<FileDigest>) -> Option<Kept> {
        let kept = self.cache.newest(location)?;
        let fits = digest.is_none_or(|digest| fetch::has_digest(&kept, digest));
        fits.then_some(kept)
    }

    /// Asks the place. Where the directory goes away meanwhile, it is made anew once.
    fn fetch_now(
        &self,
        location: &Location,
        digest: Option<FileDigest>,
    ) -> Result<Kept, RemoteError> {
        match self.fetch_once(location, digest) {
            Err(RemoteError::Disk(error)) if error.kind() == ErrorKind::NotFound => {
                self.cache.revive()?;
                self.fetch_once(location, digest)
            }
            done => done,
        }
    }

    fn fetch_once(
        &self,
        location: &Location,
        digest: Option<FileDigest>,
    ) -> Result<Kept, RemoteError> {
        let Settings { timeout, silence, slowest, max_bytes, cache_bytes, .. } = self.settings;
        let (started, seconds) = (Instant::now(), timeout.as_secs());
        let bytes = max_bytes.min(cache_bytes);
        let work = async {
            // Made within the runtime, whose clock it is.
            let deadline = tokio::time::Instant::now() + timeout;
            let work = async {
                let place = self.place(location, deadline).await?;
                let bounds = FetchBounds { bytes, deadline, silence, slowest };
                Fetch::new(&place, location, &self.cache, bounds)?.run(digest).await
            };
            let mut closed = self.closed.subscribe();
            tokio::select! {
                done = tokio::time::timeout_at(deadline, work) => {
                    done.unwrap_or(Err(RemoteError::TimedOut { seconds }))
                }
                _ = closed.wait_for(|closed| *closed) => Err(RemoteError::Closed),
            }
        };
        let Some(runtime) = &self.runtime else { return Err(RemoteError::Closed) };
        let kept = runtime.block_on(work).inspect_err(|error| {
            // Who called is not told where on this machine that is.
            if let RemoteError::Disk(_) | RemoteError::Full { .. } = error {
                let dir = self.settings.cache_dir.display();
                tracing::error!(%location, "--adapter-cache-dir {dir}: {error}");
            }
        })?;
        let (bytes, took) = (kept.0.bytes, started.elapsed());
        tracing::info!(%location, bytes, ?took, "adapter fetched, or found unchanged");
        Ok(kept)
    }

    async fn place(
        &self,
        location: &Location,
        deadline: tokio::time::Instant,
    ) -> Result<Place, RemoteError> {
        let Settings { stores, hub, silence, .. } = &self.settings;
        match location.scheme() {
            Scheme::S3 | Scheme::Gs | Scheme::Az => {
                Ok(Place::Store(Store::new(location, stores, &self.client)?))
            }
            Scheme::Http | Scheme::Https => {
                let base = format!("{location}/").parse();
                let base = base.map_err(|_| RemoteError::Settings("that is no address".into()))?;
                let (client, allowed) = (self.client.clone(), self.web.clone());
                Ok(Place::Web(Web { client, allowed, base, token: None, version: None }))
            }
            Scheme::Hf => {
                let mut tries = Tries::until(deadline);
                loop {
                    let opened = hub::open(location, hub, &self.client, &self.hub);
                    match Failure::unless_silent(*silence, opened).await {
                        Ok(web) => return Ok(Place::Web(web)),
                        Err(failure) => tries.pause(failure).await?,
                    }
                }
            }
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.0.closed.send_replace(true);
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        // Waits for nothing: the last holder may be an async thread.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests;
