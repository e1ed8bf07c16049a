//! `sorsa convert`: a GGUF file as a Hugging Face directory, its weights dequantised and rounded.
//!
//! The directory appears whole or not at all.

use std::path::PathBuf;

use anyhow::bail;

use super::model_files::{write_config, write_tokenizer};
use super::staging::{Staging, ensure_vacant};
use super::tensor_files::{PlannedTensor, WeightType, stored, write_tensors};
use crate::model::checkpoint::{Checkpoint, TokenizerSource};

/// Writes a GGUF model as a Hugging Face directory.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The GGUF file to read.
    model: PathBuf,
    /// The directory to write; must be absent or empty.
    directory: PathBuf,
    /// The type the weights are rounded to.
    #[arg(long, value_enum, default_value_t = WeightType::Bf16)]
    dtype: WeightType,
}

/// Runs the command.
///
/// # Errors
/// Where the file is no GGUF model this server reads, the directory is taken, or writing fails.
/// Nothing is left behind.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::open(&args.model)?;
    if !matches!(checkpoint.tokenizer()?, TokenizerSource::Gguf(_)) {
        bail!("{} is a model directory already", args.model.display())
    }
    ensure_vacant(&args.directory)?;
    let staging = Staging::new(&args.directory)?;
    write_config(&staging, &checkpoint, &checkpoint.config_json, Some(args.dtype))?;
    write_tokenizer(&staging, &checkpoint, &args.model)?;
    let weights = &checkpoint.weights;
    let planned = PlannedTensor::all(weights, |_| Ok(args.dtype))?;
    write_tensors(staging.path(), &planned, usize::MAX, &|tensor| stored(weights, tensor))?;
    staging.publish(&args.directory)
}
