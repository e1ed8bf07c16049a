//! Adapters registered and changed through HTTP: [`adapters`] is this server's own interface,
//! [`vllm`] the two routes that tools made for vLLM call. [`guard`] says who may.

pub mod adapters;
pub mod guard;
mod view;
pub mod vllm;

use std::path::Path;
use std::sync::Arc;

use super::blocking::blocking;
use super::error::ApiError;
use super::state::{AppState, Serving};
use crate::adapter::registry::{ChangeError, FileDigest, Registry, Source};

/// Changes the registry off the async threads: a change is written to disk, and may load.
async fn change<T, F>(serving: &Serving, work: F) -> Result<T, ApiError>
where
    T: Send + 'static,
    F: FnOnce(&Registry) -> Result<T, ChangeError> + Send + 'static,
{
    let registry = Arc::clone(&serving.registry);
    blocking("a change of adapters", move || Ok(work(&registry)?)).await
}

/// The source that a caller's path means; `param` is the field it came in.
fn source(
    state: &AppState,
    param: &str,
    path: &str,
    digest: Option<FileDigest>,
) -> Result<Source, ApiError> {
    let remote = Source::remote(path, digest);
    let remote = remote.map_err(|error| ApiError::source(param, &error))?;
    if let Some(source @ Source::Remote { location, .. }) = &remote {
        let mut allowed = state.config.adapter_sources.iter();
        let fine = allowed.any(|prefix| prefix.holds(location));
        return if fine { Ok(source.clone()) } else { Err(ApiError::not_fetched(param)) };
    }
    let roots = &state.config.adapter_roots;
    Source::beneath(roots, Path::new(path)).map_err(|error| ApiError::outside(param, &error))
}
