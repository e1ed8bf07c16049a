//! Content digests of a checkpoint's tensors: what adapters say they are relative to.
//!
//! A tensor's digest covers its name, type, shape and bytes as they are stored; the base's covers
//! those of all tensors. How a checkpoint is cut into files, and what else they hold, plays no part.
//! `digest_cache.rs` remembers them from one start to the next.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::error::ModelError;
use super::stored_file::StoredBytes;
use super::weights::Weights;
use crate::adapter::base::BaseDigest;

/// A tensor as its file holds it.
#[derive(Debug)]
pub struct StoredTensor<'a> {
    /// Its Hugging Face name.
    pub name: String,
    /// The format's name for its type.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its bytes.
    pub bytes: StoredBytes<'a>,
}

impl StoredTensor<'_> {
    fn digest(&self) -> Result<[u8; 32], ModelError> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"sorsa base tensor 1");
        for text in [&self.name, &self.dtype] {
            update_number(&mut hasher, text.len());
            hasher.update(text.as_bytes());
        }
        update_number(&mut hasher, self.shape.len());
        self.shape.iter().for_each(|&length| update_number(&mut hasher, length));
        let bytes = self.bytes.clone();
        hasher.update_reader(bytes).map_err(ModelError::io(self.bytes.path()))?;
        Ok(*hasher.finalize().as_bytes())
    }
}

/// The digest of every tensor of a checkpoint, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightDigests(BTreeMap<String, [u8; 32]>);

impl WeightDigests {
    /// Reads every tensor, several at once.
    ///
    /// # Errors
    /// Where a tensor lies outside its file, or cannot be read.
    pub fn compute(weights: &Weights) -> Result<Self, ModelError> {
        let tensors = weights.stored_tensors()?;
        let digests = tensors.into_par_iter().map(|tensor| {
            let digest = tensor.digest()?;
            Ok((tensor.name, digest))
        });
        Ok(Self(digests.collect::<Result<_, ModelError>>()?))
    }

    /// Digests known from elsewhere.
    pub(super) fn from_known(tensors: BTreeMap<String, [u8; 32]>) -> Self {
        Self(tensors)
    }

    /// The tensors' digests, in the order of their names.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[u8; 32])> {
        self.0.iter().map(|(name, digest)| (name.as_str(), digest))
    }

    /// The digest of all of them together.
    #[must_use]
    pub fn base(&self) -> BaseDigest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"sorsa base 1");
        update_number(&mut hasher, self.0.len());
        // Each of these covers its tensor's name.
        self.0.values().for_each(|digest| {
            hasher.update(digest);
        });
        BaseDigest(*hasher.finalize().as_bytes())
    }
}

fn update_number(hasher: &mut blake3::Hasher, number: usize) {
    hasher.update(&(number as u64).to_le_bytes());
}
