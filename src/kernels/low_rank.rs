//! Adding an adapter's low-rank delta: `y += (x downᵀ) upᵀ`.

use super::level::Kernels;
use super::linear::{Epilogue, LinearShape, Weights};

/// The dimensions of one low-rank product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LowRankShape {
    /// Rows of the batch that this adapter serves.
    pub rows: usize,
    /// Columns of `x` and of `down`.
    pub in_features: usize,
    /// Rows of `up`, columns of `y`.
    pub out_features: usize,
    /// Rows of `down`, columns of `up`.
    pub rank: usize,
}

impl Kernels {
    /// `y += (x downᵀ) upᵀ`, with `x` of `rows x in_features`, `down` of `rank x in_features`,
    /// `up` of `out_features x rank` and `y` of `rows x out_features`.
    ///
    /// # Panics
    /// Where a slice does not have the length that `shape` says.
    pub fn low_rank_add(
        self,
        x: &[f32],
        down: Weights<'_>,
        up: Weights<'_>,
        y: &mut [f32],
        shape: LowRankShape,
    ) {
        let LowRankShape { rows, in_features, out_features, rank } = shape;
        let mut inner = vec![0.0; rows * rank];
        let shape = LinearShape { rows, in_features, out_features: rank };
        self.product(x, down, Epilogue::Store(None), &mut inner, shape);
        let shape = LinearShape { rows, in_features: rank, out_features };
        self.product(&inner, up, Epilogue::Accumulate, y, shape);
    }
}
