//! The one shape every adapter has after loading: a low-rank delta per adapted linear module.
//!
//! A delta is relative to the *untouched* base weight: `y = x Wᵀ + (x downᵀ) upᵀ`. It knows no
//! file format and no name; [`crate::adapter::registry`] holds names.

use std::fmt;

use candle_core::Tensor;

/// A linear module of the base model that adapters may target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleSpec {
    /// The module's path in the checkpoint, e.g. `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// Columns of the weight.
    pub in_features: usize,
    /// Rows of the weight.
    pub out_features: usize,
}

/// The content digest (BLAKE3) of an adapter: its identity everywhere but in a user's request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdapterId(pub [u8; 32]);

impl fmt::Display for AdapterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for AdapterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AdapterId({self})")
    }
}

/// The two factors of one module's delta, `ΔW = up · down`.
#[derive(Debug, Clone)]
pub struct LowRankFactors {
    /// `rank x in_features`, contiguous.
    pub down: Tensor,
    /// `out_features x rank`, contiguous; every scale is already folded in.
    pub up: Tensor,
}

impl LowRankFactors {
    /// The number of directions, the length of the inner dimension.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.down.dims()[0]
    }
}

/// A whole adapter: factors for the modules it touches, indexed as [`ModuleSpec`]s are.
#[derive(Debug)]
pub struct LowRankDelta {
    id: AdapterId,
    modules: Vec<Option<LowRankFactors>>,
}

impl LowRankDelta {
    /// `modules[i]` belongs to the `i`-th [`ModuleSpec`] of the base model; `None` leaves it as it is.
    #[must_use]
    pub fn new(id: AdapterId, modules: Vec<Option<LowRankFactors>>) -> Self {
        Self { id, modules }
    }

    /// The content digest.
    #[must_use]
    pub fn id(&self) -> AdapterId {
        self.id
    }

    /// The factors for module `index`, where the adapter touches it.
    #[must_use]
    pub fn factors(&self, index: usize) -> Option<&LowRankFactors> {
        self.modules.get(index).and_then(Option::as_ref)
    }

    /// The largest rank over the modules.
    #[must_use]
    pub fn max_rank(&self) -> usize {
        self.touched().map(LowRankFactors::rank).max().unwrap_or(0)
    }

    /// How many modules the adapter touches.
    #[must_use]
    pub fn num_modules(&self) -> usize {
        self.touched().count()
    }

    /// Bytes of all factors.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let bytes = |t: &Tensor| t.elem_count() * t.dtype().size_in_bytes();
        self.touched().map(|f| bytes(&f.down) + bytes(&f.up)).sum()
    }

    fn touched(&self) -> impl Iterator<Item = &LowRankFactors> {
        self.modules.iter().flatten()
    }
}
