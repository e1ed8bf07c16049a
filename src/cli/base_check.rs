//! Whether an adapter, or a checkpoint, was made for the base model at hand: every command that uses
//! both asks here, and refuses or warns alike.

use std::path::Path;

use crate::adapter::base::BaseDigest;
use crate::adapter::check::RecordedBase;
use crate::adapter::error::AdapterError;
use crate::adapter::file::LoadedAdapter;
use crate::config::user_cache;
use crate::model::digest_cache;
use crate::model::sorsa::{SorsaCheckpoint, SorsaError};
use crate::model::weights::Weights;

/// What another base than the recorded one leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMismatch {
    /// An error.
    Refuse,
    /// A warning.
    Warn,
}

/// The digest that adapters record of a base with these weights.
///
/// # Errors
/// Where the weights cannot be read.
pub fn base_digest(weights: &Weights) -> anyhow::Result<BaseDigest> {
    Ok(digest_cache::digests(weights, user_cache().as_deref())?.base())
}

impl OnMismatch {
    /// By the flag `--allow-base-mismatch`.
    #[must_use]
    pub fn new(allow_base_mismatch: bool) -> Self {
        if allow_base_mismatch { Self::Warn } else { Self::Refuse }
    }

    /// Compares the base that an adapter records, where it records one, with the digest of the
    /// base's weights, which is not asked for otherwise.
    ///
    /// # Errors
    /// Where they differ, or the digest cannot be told.
    pub fn check_adapter(
        self,
        path: &Path,
        adapter: &LoadedAdapter,
        base: impl FnOnce() -> anyhow::Result<BaseDigest>,
    ) -> anyhow::Result<()> {
        if adapter.base_digest.is_none() {
            return Ok(());
        }
        match adapter.check_base(base()?) {
            Err(error) if self == Self::Warn => {
                tracing::warn!(path = %path.display(), "used all the same: {error}");
                Ok(())
            }
            checked => Ok(checked?),
        }
    }

    /// Compares the base that an adapter's configuration records, where it records one.
    ///
    /// # Errors
    /// Where it is another, and that is not allowed.
    pub fn check_recorded(
        self,
        recorded: &RecordedBase,
        served: BaseDigest,
    ) -> Result<(), AdapterError> {
        match recorded.digest {
            Some(_) if self == Self::Refuse => recorded.check(served),
            _ => Ok(()),
        }
    }

    /// Compares what training leaves alone with the base's own.
    ///
    /// # Errors
    /// Where they differ, or cannot be read.
    pub fn check_checkpoint(
        self,
        checkpoint: &SorsaCheckpoint,
        base: &Weights,
    ) -> Result<(), SorsaError> {
        match checkpoint.check_untouched(base) {
            Err(error @ SorsaError::OtherTensor { .. }) if self == Self::Warn => {
                let path = checkpoint.path().display();
                tracing::warn!(%path, "used all the same: {error}");
                Ok(())
            }
            checked => checked,
        }
    }
}
