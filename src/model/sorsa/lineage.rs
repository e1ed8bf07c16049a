//! Whether a checkpoint's weights are residuals of the base model at hand.
//!
//! A sound residual is `Wr = W − P₀`, where P₀ is the principal part that training began with: of
//! rank r, like the trained part P. A checkpoint saved after `merge()` with its factors still beside
//! the weights holds `W − P₀ + P` instead, and nothing in the file says so: loaded, it would apply
//! the update twice. With W at hand, `D = W − Wr` tells the two apart. `D` is of rank r where the
//! checkpoint is sound, and `D + P` is where it is not; the one that leaves less outside its r
//! largest directions is what happened. Training that moved little leaves both within the noise of
//! rounding, but then P is all but P₀, and D is either about P or about nothing.

use candle_core::{DType, Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::checkpoint::{AdaptedModule, SorsaCheckpoint};
use super::error::SorsaError;
use crate::adapter::range_finder::{frobenius_norm, orthonormal};
use crate::model::weights::Weights;

/// What rounding a residual to bfloat16 leaves, relative to W, and some room.
pub const ROUNDING: f64 = 0.005;

/// A merge folds every module alike, so a few tell.
const MODULES_COMPARED: usize = 4;
/// What is left beyond rank r, relative to W, from which on W is another model's weight. Four bits
/// a weight leave some 0.1.
const FOREIGN: f64 = 0.25;
/// The part left is a sign of rank only where it is this much smaller than the other.
const CLEARLY: f64 = 2.0;
/// `⟨D, P⟩ / ⟨P, P⟩` is above this where D is about P: some 1 after little training, and less after
/// more, and 1 less than that where P is in the weight already.
const ABOUT: f32 = 0.3;
/// Parts left are compared above this, relative to W: below is float32's own noise.
const FLOOR: f64 = 1e-4;
/// Refinements of the range: each sharpens the separation from what lies outside.
const POWER_ITERATIONS: usize = 2;

/// What comparing a sound checkpoint with its base found.
#[derive(Debug, Clone, Copy)]
pub struct Lineage {
    /// The largest part of a difference W − Wr that rank r does not explain, relative to W: the
    /// rounding of the residual, and of the base at hand.
    pub unexplained: f64,
}

/// Compares some of the checkpoint's modules with the weights of its base.
///
/// # Errors
/// [`SorsaError::AppliedTwice`] where a weight is no residual, [`SorsaError::OtherBase`] where the
/// base is another model, and where a weight is missing from either.
pub fn check(checkpoint: &SorsaCheckpoint, base: &Weights) -> Result<Lineage, SorsaError> {
    let modules = checkpoint.modules();
    // Evenly spread; the division rounds up so that no more than that many are picked.
    let picked = modules.iter().step_by(modules.len().div_ceil(MODULES_COMPARED).max(1));
    let picked: Vec<&AdaptedModule> = picked.collect();
    let left = picked.into_par_iter().map(|module| check_module(checkpoint, base, module));
    let left: Vec<f64> = left.collect::<Result<_, _>>()?;
    Ok(Lineage { unexplained: left.into_iter().fold(0.0, f64::max) })
}

fn check_module(
    checkpoint: &SorsaCheckpoint,
    base: &Weights,
    module: &AdaptedModule,
) -> Result<f64, SorsaError> {
    let BaseWeight { name, shape } = BaseWeight::of(module, base);
    let weight = base.tensor(&name, &shape, DType::F32, &Device::Cpu)?;
    let residual = checkpoint.weights.tensor(&module.weight(), &shape, DType::F32, &Device::Cpu)?;
    let factors = checkpoint.principal_part(module)?;
    let part = factors.up.matmul(&factors.down)?;
    let once = (&weight - residual)?;
    let twice = (&once + &part)?;
    let size = frobenius_norm(&weight)?;
    let of_size = |part: f64| part / size.max(f64::MIN_POSITIVE);
    let (left_once, left_twice) =
        (of_size(beyond(&once, module.rank)?), of_size(beyond(&twice, module.rank)?));
    let unexplained = left_once.min(left_twice);
    let path = module.spec.path.clone();
    // A NaN is no agreement.
    if unexplained.is_nan() || unexplained > FOREIGN {
        let percent = (unexplained * 100.0).round() as u32;
        return Err(SorsaError::OtherBase { module: path, percent });
    }
    let applied = if CLEARLY * (left_twice + FLOOR) < left_once + FLOOR {
        true
    } else if CLEARLY * (left_once + FLOOR) < left_twice + FLOOR {
        false
    } else {
        let overlap = (&once * &part)?.sum_all()?.to_scalar::<f32>()?;
        let whole = part.sqr()?.sum_all()?.to_scalar::<f32>()?;
        overlap < ABOUT * whole
    };
    if applied {
        return Err(SorsaError::AppliedTwice { module: path });
    }
    Ok(left_once)
}

/// Where the base holds a module's weight, and in which shape.
struct BaseWeight {
    name: String,
    shape: [usize; 2],
}

impl BaseWeight {
    fn of(module: &AdaptedModule, base: &Weights) -> Self {
        let shape = [module.spec.out_features, module.spec.in_features];
        let name = module.weight();
        // A tied output head is the embedding.
        if name == "lm_head.weight" && base.shape(&name).is_none() {
            return Self { name: "model.embed_tokens.weight".to_owned(), shape };
        }
        Self { name, shape }
    }
}

/// The size of what lies outside a matrix's `rank` largest directions, or very little more: a
/// randomised range finder of just that rank (arXiv 0909.4061), exact where the rank is.
fn beyond(matrix: &Tensor, rank: usize) -> Result<f64, SorsaError> {
    let (_, columns) = matrix.dims2()?;
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let values = (0..columns * rank).map(|_| random.random_range(-1.0_f32..1.0)).collect();
    let sketch = Tensor::from_vec(values, (columns, rank), &Device::Cpu)?;
    let mut range = orthonormal(&matrix.matmul(&sketch)?)?;
    for _ in 0..POWER_ITERATIONS {
        let rows = orthonormal(&matrix.t()?.matmul(&range)?)?;
        range = orthonormal(&matrix.matmul(&rows)?)?;
    }
    let inside = range.matmul(&range.t()?.matmul(matrix)?)?;
    Ok(frobenius_norm(&(matrix - inside)?)?)
}
