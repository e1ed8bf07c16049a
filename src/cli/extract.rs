//! `sorsa extract`: from a whole fine-tuned model and its base, the small adapter between them.
//!
//! Of an un-merged checkpoint of the reference library, `W − Wr` is the principal part that
//! training took out, of exactly the adapter's rank: the initial factors are recovered from it, and
//! no weight is decomposed. Of any other fine-tuned model, `W' − W` is approximated module by
//! module and written as a LoRA. Errors are relative to the size of W, as the rounding of a
//! stored weight is.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use candle_core::{DType, Device};
use rayon::prelude::*;

use super::base_check::base_digest;
use super::removed_part::{MAX_ERROR, Pair, RemovedPart, ensure_in_base, relative};
use super::staging::{Staging, ensure_vacant};
use super::table::Table;
use crate::adapter::compact::Tolerance;
use crate::adapter::delta::{LowRankDelta, LowRankFactors, ModuleSpec};
use crate::adapter::peft::write_lora_dir;
use crate::adapter::principal::principal_part;
use crate::adapter::range_finder::largest_directions;
use crate::adapter::sorsa::{SorsaConfig, SorsaFactors, SorsaModule, write_adapter_dir};
use crate::model::checkpoint::Checkpoint;
use crate::model::sorsa::{AdaptedModule, SorsaCheckpoint, lineage};
use crate::model::weights::Weights;

/// Extracts the adapter that turns a base model into a fine-tuned one.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Fine-tuned model: an un-merged checkpoint of SORSA's reference library, or an ordinary model
    /// directory
    checkpoint: PathBuf,
    /// Model it was trained from
    #[arg(long)]
    base: PathBuf,
    /// Adapter directory to write; must be absent or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Largest part of a weight, by Frobenius norm, that the adapter may fail to reproduce. The
    /// default is what rounding to bfloat16 may cost
    #[arg(long, value_name = "FRACTION", default_value_t = MAX_ERROR)]
    max_error: f64,
    /// For an ordinary model: directions kept per module; a checkpoint keeps its own rank
    #[arg(long, value_name = "N", default_value = "64")]
    rank: std::num::NonZeroUsize,
    /// For an ordinary model: drop directions below this fraction of a module's largest
    #[arg(long, value_name = "FRACTION", default_value = "1e-6")]
    tolerance: Tolerance,
}

/// Runs the command.
///
/// # Errors
/// Where either model cannot be used, the base is another one, the models differ in more than an
/// adapter can hold, the error is above the limit, or writing fails. Nothing is left behind.
pub fn run(args: &Args) -> anyhow::Result<()> {
    ensure_vacant(&args.out)?;
    let base = Checkpoint::open(&args.base)
        .with_context(|| format!("cannot open the base model {}", args.base.display()))?;
    if SorsaCheckpoint::is_at(&args.checkpoint)? {
        let checkpoint = SorsaCheckpoint::open(&args.checkpoint)?;
        lineage::check(&checkpoint, &base.weights)?;
        from_residual(args, &base, &checkpoint)
    } else {
        from_merged(args, &base, &Checkpoint::open(&args.checkpoint)?)
    }
}

/// What was kept of one module's difference.
struct Extracted<T> {
    spec: ModuleSpec,
    found: T,
    rank: usize,
    /// What is missing, relative to the base weight.
    error: f64,
}

fn from_residual(
    args: &Args,
    base: &Checkpoint,
    checkpoint: &SorsaCheckpoint,
) -> anyhow::Result<()> {
    let specs = base.linear_modules();
    let adapted = checkpoint.modules();
    ensure_in_base(&specs, checkpoint)?;
    let is_adapted = |name: &str| {
        adapted.iter().any(|module| name.strip_suffix(".weight") == Some(&module.spec.path))
    };
    ensure_unchanged(base, &checkpoint.weights, is_adapted)?;
    let recover = |module: &AdaptedModule| -> anyhow::Result<_> {
        let RemovedPart { initial, error } = RemovedPart::of(base, checkpoint, module)?;
        let (path, trained) = (module.spec.path.clone(), checkpoint.factors(module)?);
        let found = SorsaModule { path, trained, initial };
        Ok(Extracted { spec: module.spec.clone(), found, rank: module.rank, error })
    };
    let extracted: Vec<_> = adapted.par_iter().map(recover).collect::<anyhow::Result<_>>()?;
    report(&extracted, args.max_error)?;
    let modules: Vec<SorsaModule> = extracted.into_iter().map(|module| module.found).collect();
    let digest = base_digest(&base.weights)?;
    let config = SorsaConfig { base_digest: Some(digest), ..checkpoint.config.clone() };
    let staging = Staging::new(&args.out)?;
    write_adapter_dir(staging.path(), &config, &modules)?;
    staging.publish(&args.out)
}

fn from_merged(args: &Args, base: &Checkpoint, tuned: &Checkpoint) -> anyhow::Result<()> {
    let specs = base.linear_modules();
    let is_linear =
        |name: &str| specs.iter().any(|spec| name.strip_suffix(".weight") == Some(&spec.path));
    ensure_unchanged(base, &tuned.weights, is_linear)?;
    let extract = |spec: &ModuleSpec| -> anyhow::Result<_> {
        let weights = Pair { base, other: &tuned.weights };
        let (difference, size) = weights.difference(spec, 1.0)?;
        let most = args.rank.get().min(spec.in_features).min(spec.out_features);
        let found = largest_directions(&difference, most)?;
        let floor = found.singular_values[0] * args.tolerance.get();
        let rank = found.singular_values.partition_point(|value| *value > floor);
        let dropped = &found.singular_values[rank..];
        let dropped: f64 = dropped.iter().map(|value| value * value).sum();
        let error = found.error.hypot(dropped.sqrt());
        let factors = shared_evenly(&spec.path, &found.factors, rank)?;
        Ok(Extracted { spec: spec.clone(), found: factors, rank, error: relative(error, size) })
    };
    let extracted: Vec<_> = specs.par_iter().map(extract).collect::<anyhow::Result<_>>()?;
    report(&extracted, args.max_error)?;
    let factors = extracted.into_iter().map(|module| module.found).collect();
    let delta = LowRankDelta::from_content(&specs, factors)?;
    ensure!(delta.num_modules() > 0, "the two models are equal in every linear module");
    let staging = Staging::new(&args.out)?;
    let name = args.base.to_string_lossy();
    write_lora_dir(staging.path(), &specs, &delta, Some(&name), DType::F32)?;
    staging.publish(&args.out)
}

/// The first `rank` directions with the root of each singular value on either side, so that both
/// round well; none of rank 0.
fn shared_evenly(
    path: &str,
    factors: &SorsaFactors,
    rank: usize,
) -> anyhow::Result<Option<LowRankFactors>> {
    if rank == 0 {
        return Ok(None);
    }
    let s = factors.s.narrow(0, 0, rank)?.sqrt()?;
    let a = factors.a.narrow(0, 0, rank)?.broadcast_mul(&s.unsqueeze(1)?)?;
    let b = factors.b.narrow(1, 0, rank)?.contiguous()?;
    Ok(Some(principal_part(path, &SorsaFactors { a, s, b }, 1.0)?))
}

/// Refuses weights that differ from the base's in another tensor than those `excepted`: an adapter
/// cannot hold that.
fn ensure_unchanged(
    base: &Checkpoint,
    weights: &Weights,
    excepted: impl Fn(&str) -> bool,
) -> anyhow::Result<()> {
    let names = base.weights.names().into_iter().filter(|name| weights.shape(name).is_none());
    if let Some(name) =
        names.into_iter().find(|name| name != HEAD || !base.config.tie_word_embeddings)
    {
        bail!("the base model has a tensor {name:?} that the fine-tuned one lacks");
    }
    for name in weights.names().into_iter().filter(|name| !excepted(name)) {
        let in_base = match base.weights.shape(&name) {
            None if name == HEAD && base.config.tie_word_embeddings => EMBEDDING,
            None => bail!("the fine-tuned model has a tensor {name:?} that the base model lacks"),
            Some(_) => &name,
        };
        if weights.stores_alike(&name, &base.weights, in_base)? {
            continue;
        }
        let shape = weights.shape(&name).unwrap_or_default();
        let dtype = weights.dtype(&name)?.unwrap_or(DType::F32);
        let ours = base.weights.tensor(in_base, &shape, dtype, &Device::Cpu)?;
        let theirs = weights.tensor(&name, &shape, dtype, &Device::Cpu)?;
        let differing = ours.ne(&theirs)?.to_dtype(DType::F32)?.max_all()?.to_scalar::<f32>()?;
        ensure!(
            differing == 0.0,
            "the models differ in {name:?}, which is the weight of no adapted module: an adapter \
             cannot hold that"
        );
    }
    Ok(())
}

const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// Prints what was found, and refuses an error above the limit.
fn report<T>(extracted: &[Extracted<T>], max_error: f64) -> anyhow::Result<()> {
    let mut table = Table::new(["module", "rank", "error"]);
    for module in extracted {
        let error = format!("{:.1e}", module.error);
        table.row([module.spec.path.clone(), module.rank.to_string(), error]);
    }
    table.print()?;
    let above = |error: f64| error > max_error || error.is_nan();
    match extracted.iter().find(|module| above(module.error)) {
        None => Ok(()),
        Some(module) => bail!(
            "{} is reproduced only up to {:.1e} of its size, the limit is {max_error:.1e}: is this \
             the base it was trained from, and is the rank large enough?",
            module.spec.path,
            module.error
        ),
    }
}
