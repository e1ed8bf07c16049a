//! How well an adapter on its base gives back the weights of the un-merged checkpoint that it was made
//! of, beside how well any adapter could.

use anyhow::ensure;
use candle_core::Tensor;
use rayon::prelude::*;

use super::removed_part::{Pair, RemovedPart, ensure_in_base, relative};
use crate::adapter::delta::{LowRankDelta, LowRankFactors, ModuleSpec};
use crate::adapter::range_finder::frobenius_norm;
use crate::model::checkpoint::Checkpoint;
use crate::model::sorsa::SorsaCheckpoint;

/// Of what is left by the best factors, what others of the same rank may leave: those that training
/// really began with leave all of the rounding, the best ones hide a part of it in themselves.
const ROOM: f64 = 2.0;
/// Errors of this size are those of float32 sums.
const EXACT: f64 = 1e-5;

/// One weight, relative to its size.
#[derive(Debug)]
pub struct Restored {
    path: String,
    /// What base and adapter differ by from residual and factors.
    error: f64,
    /// What the best factors of the checkpoint's rank leave.
    bound: f64,
}

/// Every weight that the adapter or the checkpoint changes.
#[derive(Debug)]
pub struct RestoredWeights(Vec<Restored>);

impl RestoredWeights {
    /// Compares base and `delta`, for a model of these `specs`, with the checkpoint.
    ///
    /// # Errors
    /// Where a weight or factor cannot be used, or the base lacks an adapted module.
    pub fn compare(
        base: &Checkpoint,
        checkpoint: &SorsaCheckpoint,
        specs: &[ModuleSpec],
        delta: &LowRankDelta,
    ) -> anyhow::Result<Self> {
        ensure_in_base(specs, checkpoint)?;
        let restored = specs
            .par_iter()
            .enumerate()
            .map(|(index, spec)| restored(base, checkpoint, spec, delta.factors(index)));
        let restored: Vec<Option<Restored>> = restored.collect::<anyhow::Result<_>>()?;
        Ok(Self(restored.into_iter().flatten().collect()))
    }

    /// True where the residual is not rounded, so that an adapter can give all of it back.
    #[must_use]
    pub fn are_exact(&self) -> bool {
        self.0.iter().all(|weight| weight.bound <= EXACT)
    }

    /// The largest error and what it could be at best.
    #[must_use]
    pub fn worst(&self) -> Option<(f64, f64)> {
        let worst = self.0.iter().max_by(|a, b| a.error.total_cmp(&b.error))?;
        Some((worst.error, worst.bound))
    }

    /// Refuses an adapter that leaves more than it must, and a residual of which any leaves more than
    /// `max_error`.
    ///
    /// # Errors
    /// The first such weight.
    pub fn check(&self, max_error: f64) -> anyhow::Result<()> {
        for Restored { path, error, bound } in &self.0 {
            // A NaN is no agreement.
            ensure!(
                *error <= ROOM * bound + EXACT,
                "the adapter gives {path} back only up to {error:.1e} of its size, and the checkpoint \
                 allows {bound:.1e}: was it made of this checkpoint?"
            );
            ensure!(
                *bound <= max_error,
                "no adapter gives {path} back better than up to {bound:.1e} of its size, the limit is \
                 {max_error:.1e}: is this the base it was trained from?"
            );
        }
        Ok(())
    }
}

/// `None` for a weight that neither changes.
fn restored(
    base: &Checkpoint,
    checkpoint: &SorsaCheckpoint,
    spec: &ModuleSpec,
    factors: Option<&LowRankFactors>,
) -> anyhow::Result<Option<Restored>> {
    let adapted = checkpoint.modules().iter().find(|module| module.spec == *spec);
    if adapted.is_none() && factors.is_none() {
        return Ok(None);
    }
    let (mut left, size) = Pair { base, other: &checkpoint.weights }.difference(spec, -1.0)?;
    let bound = match adapted {
        Some(module) => {
            left = (left - product(&checkpoint.principal_part(module)?)?)?;
            RemovedPart::of(base, checkpoint, module)?.error
        }
        None => relative(frobenius_norm(&left)?, size),
    };
    if let Some(factors) = factors {
        left = (left + product(factors)?)?;
    }
    let error = relative(frobenius_norm(&left)?, size);
    Ok(Some(Restored { path: spec.path.clone(), error, bound }))
}

fn product(factors: &LowRankFactors) -> candle_core::Result<Tensor> {
    factors.up.matmul(&factors.down)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(weights: &[(f64, f64)]) -> anyhow::Result<()> {
        let restored = |(error, bound): &(f64, f64)| Restored {
            path: "q_proj".to_owned(),
            error: *error,
            bound: *bound,
        };
        RestoredWeights(weights.iter().map(restored).collect()).check(0.004)
    }

    #[test]
    fn an_adapter_may_leave_what_the_checkpoint_leaves_and_no_more() {
        check(&[]).unwrap();
        check(&[(0.0, 0.0), (2e-6, 1e-7), (0.0015, 0.001), (0.002, 0.002)]).unwrap();
        for wrong in
            [(1e-4, 1e-7), (0.003, 0.001), (f64::NAN, 0.001), (0.05, 0.05), (0.0, f64::NAN)]
        {
            assert!(check(&[(0.0, 0.0), wrong]).is_err(), "{wrong:?}");
        }
    }
}
