//! What training took out of a base weight, as far as the residual in an un-merged checkpoint tells it:
//! `W − Wr` is of exactly the rank of the factors, up to the rounding of `Wr`. What is left beyond that
//! rank bounds how well any adapter on `W` can give the checkpoint back.
//!
//! Errors are relative to the size of `W`, as the rounding of a stored weight is.

use anyhow::{bail, ensure};
use candle_core::{DType, Device, Tensor};

use crate::adapter::delta::ModuleSpec;
use crate::adapter::range_finder::{LowRank, frobenius_norm, largest_directions};
use crate::adapter::sorsa::SorsaFactors;
use crate::model::checkpoint::Checkpoint;
use crate::model::sorsa::{AdaptedModule, SorsaCheckpoint};
use crate::model::weights::Weights;

/// The largest part of a weight, by Frobenius norm, that an adapter may fail to give back: what rounding
/// to bfloat16 may cost.
pub const MAX_ERROR: f64 = 1.0 / 256.0;

/// A base model and what was made of it.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a> {
    /// The base.
    pub base: &'a Checkpoint,
    /// The other's weights, under the same names.
    pub other: &'a Weights,
}

impl Pair<'_> {
    /// `sign · (other − base)` of a module's weight, float32, and the base weight's norm.
    ///
    /// # Errors
    /// Where a weight is missing or not finite.
    pub fn difference(&self, spec: &ModuleSpec, sign: f64) -> anyhow::Result<(Tensor, f64)> {
        let name = format!("{}.weight", spec.path);
        let shape = [spec.out_features, spec.in_features];
        let weight = self.base.weights.tensor(&name, &shape, DType::F32, &Device::Cpu)?;
        let size = frobenius_norm(&weight)?;
        let other = self.other.tensor(&name, &shape, DType::F32, &Device::Cpu)?;
        let difference = if sign < 0.0 { (weight - other)? } else { (other - weight)? };
        let norm = frobenius_norm(&difference)?;
        ensure!(norm.is_finite(), "{name} holds a value that is not finite");
        Ok((difference, size))
    }
}

/// What was taken out of one weight.
#[derive(Debug)]
pub struct RemovedPart {
    /// Its factors, of the rank of the trained ones.
    pub initial: SorsaFactors,
    /// What of `W − Wr` they leave.
    pub error: f64,
}

impl RemovedPart {
    /// What the residual of `module` tells.
    ///
    /// # Errors
    /// Where a weight is missing or not finite.
    pub fn of(
        base: &Checkpoint,
        checkpoint: &SorsaCheckpoint,
        module: &AdaptedModule,
    ) -> anyhow::Result<Self> {
        let pair = Pair { base, other: &checkpoint.weights };
        let (difference, size) = pair.difference(&module.spec, -1.0)?;
        let LowRank { mut factors, error, .. } = largest_directions(&difference, module.rank)?;
        factors.s = (factors.s / checkpoint.scale())?;
        Ok(Self { initial: factors, error: relative(error, size) })
    }
}

/// Refuses adapted modules that the base does not have.
///
/// # Errors
/// The first.
pub fn ensure_in_base(specs: &[ModuleSpec], checkpoint: &SorsaCheckpoint) -> anyhow::Result<()> {
    match checkpoint.modules().iter().find(|module| !specs.contains(&module.spec)) {
        Some(other) => {
            bail!("{} is adapted, and no module of its own in the base model", other.spec.path)
        }
        None => Ok(()),
    }
}

/// A part of something of this size.
#[must_use]
pub fn relative(part: f64, size: f64) -> f64 {
    if part == 0.0 { 0.0 } else { part / size }
}
