//! Adapters that lie on other machines: object stores, web servers, the Hugging Face hub. Their files
//! are fetched to a directory on this machine's disk, and read there like any adapter's.
//!
//! ```text
//! location → allowed? → one fetch at a time (flights) → place (store, web, hub)
//!                                                         ↓ files, resumed, bounded (transfer)
//!                        adapter reader ← kept on disk (cache) ← all of one version (fetch)
//! ```
//!
//! Who asks blocks until the files are there: the registry's threads do, the engine and the threads
//! that answer HTTP never. One thread of its own moves the bytes. It knows which files an adapter has
//! and nothing of what is in them.

mod cache;
mod clients;
mod entry;
mod error;
mod fetch;
mod flights;
mod hub;
mod place;
mod settings;
mod store;
mod transfer;
mod web;

use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::{Builder, Runtime};

use self::cache::Cache;
use self::clients::Clients;
use self::fetch::Fetch;
use self::flights::Flights;
use self::place::{Failure, Place};
use self::store::Store;
use self::transfer::Tries;
use self::web::{Hosts, Web};
use crate::adapter::registry::{FileDigest, Location, Scheme, Wanted};

pub use self::cache::Kept;
pub use self::error::RemoteError;
pub use self::settings::{Hub, Settings, Token, Variables};

/// Fetches adapters.
#[derive(Debug)]
pub struct Remote {
    settings: Settings,
    clients: Clients,
    cache: Arc<Cache>,
    flights: Flights,
    /// There until this is dropped.
    runtime: Option<Runtime>,
}

impl Remote {
    /// Opens the directory and starts the thread.
    ///
    /// # Errors
    /// Where the directory cannot be used or belongs to another process, or a setting cannot be.
    pub fn open(settings: Settings) -> Result<Self, RemoteError> {
        let endpoint = hub::endpoint(&settings.hub)?;
        let clients = Clients::new(Hosts::of(&settings.allowed), &endpoint)?;
        let cache = Cache::open(&settings.cache_dir, settings.cache_bytes)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("adapter-fetch")
            .enable_all()
            .build()?;
        let (flights, runtime) = (Flights::default(), Some(runtime));
        Ok(Self { settings, clients, cache, flights, runtime })
    }

    /// The files of the adapter at `location`, on this machine's disk for as long as the result
    /// lives. Its weights must have `digest`. Blocks; not for async threads.
    ///
    /// # Errors
    /// Where they may not or cannot be had.
    pub fn fetch(
        &self,
        location: &Location,
        digest: Option<FileDigest>,
        wanted: Wanted,
    ) -> Result<Kept, RemoteError> {
        if !self.settings.allowed.iter().any(|prefix| prefix.holds(location)) {
            return Err(RemoteError::NotAllowed);
        }
        self.flights.alone(location, || {
            if let Wanted::Same(content) = wanted
                && let Some(kept) = self.cache.holding(location, content)
            {
                return Ok(kept);
            }
            if location.scheme() == Scheme::Hf && self.settings.hub.offline {
                return self.cache.newest(location).ok_or(RemoteError::Offline);
            }
            match self.fetch_now(location, digest) {
                Err(error) if wanted == Wanted::Newest && error.leaves_something() => {
                    let kept = self.cache.newest(location).ok_or(error)?;
                    tracing::warn!(%location, "nobody answers there: what was fetched before is used");
                    Ok(kept)
                }
                done => done,
            }
        })
    }

    fn fetch_now(
        &self,
        location: &Location,
        digest: Option<FileDigest>,
    ) -> Result<Kept, RemoteError> {
        let started = Instant::now();
        let seconds = self.settings.timeout.as_secs();
        let work = async {
            let place = self.place(location).await?;
            let limit = self.settings.max_bytes.min(self.settings.cache_bytes);
            Fetch::new(&place, location, &self.cache, limit)?.run(digest).await
        };
        // Made within the runtime, whose clock it needs.
        let work = async { tokio::time::timeout(self.settings.timeout, work).await };
        let Some(runtime) = &self.runtime else { return Err(RemoteError::TimedOut { seconds }) };
        let kept = runtime.block_on(work).map_err(|_| RemoteError::TimedOut { seconds })??;
        let (bytes, took) = (kept.0.bytes, started.elapsed());
        tracing::info!(%location, bytes, ?took, "adapter fetched, or found unchanged");
        Ok(kept)
    }

    async fn place(&self, location: &Location) -> Result<Place, RemoteError> {
        let Settings { stores, hub, .. } = &self.settings;
        match location.scheme() {
            Scheme::S3 | Scheme::Gs | Scheme::Az => {
                Ok(Place::Store(Store::new(location, stores, &self.clients.plain)?))
            }
            Scheme::Http | Scheme::Https => {
                let base = format!("{location}/").parse();
                let base = base.map_err(|_| RemoteError::Settings("that is no address".into()))?;
                let client = self.clients.web.clone();
                Ok(Place::Web(Web { client, base, token: None, version: None }))
            }
            Scheme::Hf => {
                let mut tries = Tries::default();
                loop {
                    match hub::open(location, hub, &self.clients.plain, &self.clients.hub).await {
                        Ok(web) => return Ok(Place::Web(web)),
                        Err(Failure::Lasting(error)) => return Err(error),
                        Err(Failure::Passing(what)) => tries.pause(what).await?,
                    }
                }
            }
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // Waits for nothing: the last holder may be an async thread.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests;
