//! `sorsa merge`: a base model and an adapter, or a reference checkpoint's residual and its
//! factors, as an ordinary Hugging Face directory.
//!
//! Tensor by tensor: sum in float32, one rounding. Memory is that of a few tensors: one a thread.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use candle_core::{DType, Tensor};
use half::{bf16, f16};
use serde_json::Value;

use super::base_check::{OnMismatch, base_digest};
use super::model_files::{write_config, write_tokenizer};
use super::staging::{Staging, ensure_vacant};
use super::tensor_files::{PlannedTensor, WeightType, write_stored, write_tensors};
use super::tensor_sink::TensorSink;
use crate::adapter::delta::{LowRankDelta, LowRankFactors, ModuleSpec};
use crate::adapter::{self, Limits};
use crate::config::ByteSize;
use crate::model::checkpoint::Checkpoint;
use crate::model::sorsa::{SorsaCheckpoint, lineage};
use crate::model::weights::Weights;

/// How much of a weight is summed at a time: so little that its memory is reused and not given back
/// to the system every time, and that no library finds it worth a thread.
const BLOCK_ELEMENTS: usize = 3 << 13;

/// Merges an adapter into its base model and writes an ordinary Hugging Face model directory.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Base model: a Hugging Face directory or a GGUF file
    base: PathBuf,
    /// SORSA or LoRA adapter directory, or an un-merged checkpoint of SORSA's reference library
    adapter: PathBuf,
    /// Directory to write; must be absent or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Type to which weights are rounded [default: each tensor's own type in the base, float32 for
    /// a GGUF file]
    #[arg(long, value_enum)]
    dtype: Option<WeightType>,
    /// Maximum bytes of tensors in one file
    #[arg(long, value_name = "SIZE", default_value = "5GB")]
    max_shard_size: ByteSize,
    /// Warn, instead of refusing, if the adapter or checkpoint was made for another base
    #[arg(long)]
    allow_base_mismatch: bool,
}

/// Runs the command.
///
/// # Errors
/// Where the base or the adapter cannot be used, the directory is taken, or writing fails. Nothing
/// is left behind.
pub fn run(args: &Args) -> anyhow::Result<()> {
    ensure_vacant(&args.out)?;
    let base = Checkpoint::open(&args.base)
        .with_context(|| format!("cannot open the base model {}", args.base.display()))?;
    let used = || format!("cannot use {}", args.adapter.display());
    let specs = base.linear_modules();
    let on_mismatch = OnMismatch::new(args.allow_base_mismatch);
    if args.adapter.join("adapter_config.json").exists() || !is_reference(&args.adapter) {
        let loaded = adapter::load(&args.adapter, &specs, &Limits::default());
        let loaded = loaded.with_context(used)?;
        let digest = || base_digest(&base.weights);
        on_mismatch.check_adapter(&args.adapter, &loaded, digest).with_context(used)?;
        let delta = loaded.delta;
        return write(args, &base, &base.weights, &base.config_json, &by_weight(&specs, &delta));
    }
    let checkpoint = SorsaCheckpoint::open(&args.adapter).with_context(used)?;
    lineage::check(&checkpoint, &base.weights).with_context(used)?;
    on_mismatch.check_checkpoint(&checkpoint, &base.weights).with_context(used)?;
    let specs: Vec<ModuleSpec> = checkpoint.modules().iter().map(|m| m.spec.clone()).collect();
    let delta = checkpoint.delta(&specs).with_context(used)?;
    let mut config = base.config_json.clone();
    config["tie_word_embeddings"] =
        checkpoint.model_config(&base.config)?.tie_word_embeddings.into();
    write(args, &base, &checkpoint.weights, &config, &by_weight(&specs, &delta))
}

/// Whether the directory holds a whole model with factors in it. What cannot be told is left to
/// the adapter reader, whose errors say more.
fn is_reference(path: &Path) -> bool {
    !path.join("init.safetensors").exists() && SorsaCheckpoint::is_at(path).unwrap_or(false)
}

/// Factors by the name of the weight that they add to.
fn by_weight<'a>(
    specs: &[ModuleSpec],
    delta: &'a LowRankDelta,
) -> HashMap<String, &'a LowRankFactors> {
    let entry = |(i, spec): (usize, &ModuleSpec)| {
        Some((format!("{}.weight", spec.path), delta.factors(i)?))
    };
    specs.iter().enumerate().filter_map(entry).collect()
}

fn write(
    args: &Args,
    base: &Checkpoint,
    weights: &Weights,
    config: &Value,
    factors: &HashMap<String, &LowRankFactors>,
) -> anyhow::Result<()> {
    let staging = Staging::new(&args.out)?;
    let dtype = args.dtype.or_else(|| args.base.is_file().then_some(WeightType::F32));
    write_config(&staging, base, config, dtype)?;
    write_tokenizer(&staging, base, &args.base)?;
    let own = |name: &str| -> anyhow::Result<WeightType> {
        let dtype = match base.weights.dtype(name)? {
            Some(dtype) => Some(dtype),
            None => weights.dtype(name)?,
        };
        Ok(WeightType::holding(dtype.unwrap_or(DType::F32)))
    };
    let planned = PlannedTensor::all(weights, |name| args.dtype.map_or_else(|| own(name), Ok))?;
    let limit = args.max_shard_size.0;
    write_tensors(
        staging.path(),
        &planned,
        limit,
        &|tensor, sink| match factors.get(&tensor.name) {
            Some(factors) => write_merged(weights, tensor, factors, sink),
            None => write_stored(weights, tensor, sink),
        },
    )?;
    staging.publish(&args.out)?;
    tracing::info!(modules = factors.len(), out = %args.out.display(), "merged");
    Ok(())
}

/// Writes a weight with its delta added, some rows at a time: what lies between stays in the cache.
fn write_merged(
    weights: &Weights,
    tensor: &PlannedTensor,
    factors: &LowRankFactors,
    sink: &mut TensorSink<'_>,
) -> anyhow::Result<()> {
    let &[rows, columns] = tensor.shape.as_slice() else {
        bail!("{:?} is no matrix", tensor.name);
    };
    let wide = |factor: &Tensor| factor.to_dtype(DType::F32);
    let (up, down) = (wide(&factors.up)?, wide(&factors.down)?);
    // What is not stored as plain numbers is decoded as a whole, once.
    let in_parts = weights.bytes(&tensor.name).is_some();
    let step = if in_parts { (BLOCK_ELEMENTS / columns.max(1)).max(1) } else { rows.max(1) };
    for start in (0..rows).step_by(step) {
        let count = step.min(rows - start);
        let delta = up.narrow(0, start, count)?.matmul(&down)?;
        let mut sums: Vec<f32> = delta.flatten_all()?.to_vec1()?;
        let block = weights.rows(&tensor.name, start, count)?.flatten_all()?;
        match block.dtype() {
            DType::BF16 => add(&mut sums, &block.to_vec1()?, bf16::to_f32),
            DType::F16 => add(&mut sums, &block.to_vec1()?, f16::to_f32),
            _ => add(&mut sums, &block.to_dtype(DType::F32)?.to_vec1()?, |value: f32| value),
        }
        sink.write(&tensor.dtype.rounded(&sums)?)?;
    }
    Ok(())
}

fn add<T: Copy>(sums: &mut [f32], values: &[T], widened: impl Fn(T) -> f32) {
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += widened(*value));
}
