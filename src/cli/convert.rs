//! `sorsa convert`: a GGUF file as a Hugging Face directory, its weights dequantised and rounded;
//! an adapter as a LoRA directory of PEFT's layout.
//!
//! The directory appears whole or not at all.

use std::path::PathBuf;

use anyhow::bail;
use candle_core::DType;
use clap::ValueEnum;

use super::model_files::{write_config, write_tokenizer};
use super::staging::{Staging, ensure_vacant};
use super::tensor_files::{PlannedTensor, WeightType, write_stored, write_tensors};
use crate::adapter::compact::{Tolerance, compact};
use crate::adapter::file::AdapterKind;
use crate::adapter::peft::write_lora_dir;
use crate::adapter::survey::survey;
use crate::adapter::{self, Limits};
use crate::model::checkpoint::{Checkpoint, TokenizerSource};

/// Writes a GGUF model as a Hugging Face directory, or an adapter as a PEFT LoRA directory.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// GGUF file, or adapter directory, to read
    model: PathBuf,
    /// Directory to write; must be absent or empty
    directory: PathBuf,
    /// Format to write
    #[arg(long, value_enum, default_value_t = Target::HuggingFace)]
    to: Target,
    /// Type to which values are rounded [default: bf16 for a model, f32 for an adapter]
    #[arg(long, value_enum)]
    dtype: Option<WeightType>,
    /// Recompute the adapter's factors by an SVD and drop directions below this fraction of a
    /// module's largest. Without it a SORSA adapter of rank r becomes a LoRA of rank 2r, value by
    /// value
    #[arg(long, value_name = "FRACTION")]
    adapter_tolerance: Option<Tolerance>,
}

/// What can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// A Hugging Face model directory, from a GGUF file.
    #[value(name = "hf")]
    HuggingFace,
    /// A LoRA directory as PEFT and vLLM load it, from an adapter.
    Peft,
    /// A SORSA adapter directory: always refused, with the reason.
    #[value(hide = true)]
    Sorsa,
}

/// Runs the command.
///
/// # Errors
/// Where the file is nothing that the target is made from, the directory is taken, or writing
/// fails. Nothing is left behind.
pub fn run(args: &Args) -> anyhow::Result<()> {
    match args.to {
        Target::HuggingFace => model(args),
        Target::Peft => lora(args),
        Target::Sorsa => bail!(
            "no SORSA adapter can be made from a LoRA: its factors are a change of the weights, and \
             not the principal part of any; serve the LoRA as it is"
        ),
    }
}

fn model(args: &Args) -> anyhow::Result<()> {
    if args.model.join("adapter_config.json").exists() {
        bail!("{} is an adapter: convert it with --to peft", args.model.display())
    }
    if args.adapter_tolerance.is_some() {
        bail!("--adapter-tolerance is for adapters, with --to peft")
    }
    let checkpoint = Checkpoint::open(&args.model)?;
    if !matches!(checkpoint.tokenizer()?, TokenizerSource::Gguf(_)) {
        bail!("{} is a model directory already", args.model.display())
    }
    ensure_vacant(&args.directory)?;
    let dtype = args.dtype.unwrap_or(WeightType::Bf16);
    let staging = Staging::new(&args.directory)?;
    write_config(&staging, &checkpoint, &checkpoint.config_json, Some(dtype))?;
    write_tokenizer(&staging, &checkpoint, &args.model)?;
    let weights = &checkpoint.weights;
    let planned = PlannedTensor::all(weights, |_| Ok(dtype))?;
    write_tensors(staging.path(), &planned, usize::MAX, &|tensor, sink| {
        write_stored(weights, tensor, sink)
    })?;
    staging.publish(&args.directory)
}

fn lora(args: &Args) -> anyhow::Result<()> {
    let limits = Limits::default();
    let specs = survey(&args.model, &limits)?.specs();
    let loaded = adapter::load(&args.model, &specs, &limits)?;
    if loaded.kind == AdapterKind::Lora && args.adapter_tolerance.is_none() && args.dtype.is_none()
    {
        bail!("{} is a LoRA directory already", args.model.display())
    }
    ensure_vacant(&args.directory)?;
    let delta = match args.adapter_tolerance {
        Some(tolerance) => compact(&loaded.delta, &specs, tolerance)?.0,
        None => loaded.delta,
    };
    let dtype = args.dtype.map_or(DType::F32, WeightType::dtype);
    let staging = Staging::new(&args.directory)?;
    let base = loaded.base_model_name.as_deref();
    write_lora_dir(staging.path(), &specs, &delta, base, dtype)?;
    staging.publish(&args.directory)
}
