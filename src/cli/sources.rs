//! From arguments to what fetches adapters; and adapters of any source on this machine's disk.

use std::sync::Arc;

use anyhow::Context;

use crate::adapter::registry::{
    Delivery, Fetched, LoadError, LocationPrefix, Order, Source, Wanted,
};
use crate::config::{ServeArgs, SourcesArgs, hub, store_variables, user_cache};
use crate::remote::{Kept, Pace, Remote, RemoteError, SILENCE, Settings};

/// Below the user's cache directory.
const CACHE_DIR: &str = "fetched";

/// An adapter's directory, and what keeps it there.
#[derive(Debug)]
pub struct OnDisk {
    /// Where to read it.
    pub source: Source,
    /// Where it was fetched; it stays for as long as this lives.
    _kept: Option<Kept>,
}

/// Places that adapters may be fetched from: those that the arguments say, and those of the command
/// line's own adapters.
#[must_use]
pub fn allowed(args: &ServeArgs) -> Vec<LocationPrefix> {
    let own = args.adapter.iter().filter_map(|adapter| match &adapter.source {
        Source::Remote { location, .. } => Some(LocationPrefix::from(location.clone())),
        _ => None,
    });
    args.adapters.sources.adapter_source.iter().cloned().chain(own).collect()
}

/// What fetches adapters; `None` where nothing may be fetched.
///
/// # Errors
/// Where it cannot keep anything, or something in the environment cannot be.
pub fn remote(args: &ServeArgs) -> anyhow::Result<Option<Remote>> {
    let allowed = allowed(args);
    if allowed.is_empty() {
        return Ok(None);
    }
    let SourcesArgs { adapter_cache_dir, adapter_cache_size, max_adapter_size, .. } =
        &args.adapters.sources;
    let default = || user_cache().map(|dir| dir.join(CACHE_DIR));
    let cache_dir = adapter_cache_dir.clone().or_else(default);
    let cache_dir =
        cache_dir.context("--adapter-cache-dir is needed: there is no home directory")?;
    let shown = cache_dir.display().to_string();
    let settings = Settings {
        allowed,
        cache_dir,
        cache_bytes: adapter_cache_size.0 as u64,
        max_bytes: max_adapter_size.0 as u64,
        silence: SILENCE,
        timeout: std::time::Duration::from_secs(args.adapters.sources.adapter_fetch_timeout),
        slowest: Pace::default(),
        stores: store_variables(),
        hub: hub(),
    };
    let opened = Remote::open(settings).map_err(|error| {
        let is_disks = matches!(error, RemoteError::Disk(_) | RemoteError::Shared);
        let flag = is_disks.then(|| format!("--adapter-cache-dir {shown}"));
        let context = flag.unwrap_or_else(|| "adapters cannot be fetched".to_owned());
        anyhow::Error::from(error).context(context)
    });
    Ok(Some(opened?))
}

/// Begins to fetch an adapter, for the registry.
pub fn fetch(remote: Option<&Remote>, order: Order, delivery: Delivery) {
    let (shown, wanted) = (order.location.to_string(), delivery.asked());
    let tell = move |fetched: Result<Kept, RemoteError>| {
        let fetched = fetched.map(|kept| Arc::new(kept) as Arc<dyn Fetched>);
        let error = |error: RemoteError| LoadError::new(error.kind(), format!("{shown}: {error}"));
        delivery.finish(fetched.map_err(error));
    };
    match remote {
        Some(remote) => remote.begin(order, wanted, tell),
        None => tell(Err(RemoteError::NotAllowed)),
    }
}

/// The adapter at `source`, fetched where it lies on another machine.
///
/// # Errors
/// Where it may not or cannot be fetched.
pub fn on_disk(
    remote: Option<&Remote>,
    source: &Source,
    wanted: Wanted,
) -> Result<OnDisk, RemoteError> {
    let Source::Remote { location, digest } = source else {
        return Ok(OnDisk { source: source.clone(), _kept: None });
    };
    let remote = remote.ok_or(RemoteError::NotAllowed)?;
    let kept = remote.fetch(location, *digest, wanted)?;
    let source = Source::Directory { path: kept.dir().to_owned() };
    Ok(OnDisk { source, _kept: Some(kept) })
}
