//! `sorsa verify`: by how much the ways of serving one adapter differ, measured.
//!
//! Batched is the base with the adapter's delta beside it, merged the delta folded into the
//! weights; a checkpoint of the reference library, where it is given, is served as trained, its
//! residual with its own factors. All of them see the same few prompts. A residual that was rounded
//! moves the logits whatever the adapter: there the weights are compared, with what `sorsa extract`
//! finds that an adapter can give back of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use candle_core::{DType, Device};
use serde::Serialize;

use super::base_check::{OnMismatch, base_digest};
use super::removed_part::MAX_ERROR;
use super::restored::RestoredWeights;
use super::table::Table;
use super::text_files::TextFiles;
use crate::adapter::delta::LowRankDelta;
use crate::adapter::segments::Segments;
use crate::adapter::{self, Limits};
use crate::config::DTypeArg;
use crate::kv_cache::BlockId;
use crate::kv_cache::storage::KvCache;
use crate::model::builder::LoadOptions;
use crate::model::checkpoint::Checkpoint;
use crate::model::config::ModelConfig;
use crate::model::contract::{CausalLm, ForwardInput, SequenceSpan};
use crate::model::llama::LlamaForCausalLm;
use crate::model::sorsa::{SorsaCheckpoint, lineage};
use crate::model::weights::Weights;

/// What every model is asked.
const PROMPTS: [&str; 4] = [
    "The capital of France is",
    "Natalia sold 48 clips in April and half as many in May. How many did she sell in all?",
    "def fibonacci(n):\n    ",
    "Once upon a time, in a village by the sea, there lived",
];
const BLOCK_SIZE: usize = 16;

/// Compares merged, batched and reference outputs of an adapter.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Base model: a Hugging Face directory or a GGUF file
    base: PathBuf,
    /// SORSA or LoRA adapter directory
    adapter: PathBuf,
    /// Un-merged checkpoint that the adapter was extracted from
    #[arg(long)]
    checkpoint: Option<PathBuf>,
    /// Type of the weights; in a narrow type a merge is rounded, and differs accordingly
    #[arg(long, value_enum, default_value_t = DTypeArg::F32)]
    dtype: DTypeArg,
    /// Largest difference that passes, relative to the spread of the logits. If a checkpoint's
    /// residual is rounded, its weights are held to --max-error instead of its logits to this
    #[arg(long, value_name = "FRACTION", default_value_t = 1e-3)]
    tolerance: f32,
    /// Largest part of the checkpoint's weights, by Frobenius norm, that no adapter could
    /// reproduce, as with `sorsa extract`
    #[arg(long, value_name = "FRACTION", default_value_t = MAX_ERROR)]
    max_error: f64,
    /// Warn, instead of refusing, if the adapter or checkpoint was made for another base
    #[arg(long)]
    allow_base_mismatch: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// One comparison of one prompt's logits after its last token.
#[derive(Debug, Serialize)]
struct Difference {
    prompt: usize,
    tokens: usize,
    compared: &'static str,
    largest: f32,
    /// By the spread of the logits: the largest less the least.
    relative: f32,
    same_choice: bool,
}

/// Runs the command.
///
/// # Errors
/// Where a model or the adapter cannot be used, and where a difference is above the tolerance.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::open(&args.base)
        .with_context(|| format!("cannot open the base model {}", args.base.display()))?;
    let tokenizer = TextFiles::open(&checkpoint)?.tokenizer;
    let prompts: Vec<Vec<u32>> =
        PROMPTS.iter().map(|text| tokenizer.encode(text, true)).collect::<Result<_, _>>()?;
    let dtype = args.dtype.resolve(checkpoint.config.dtype.unwrap_or(DType::F32));
    let mut model = load(&checkpoint.config, &checkpoint.weights, dtype)?;
    let loaded = adapter::load(&args.adapter, model.modules(), &Limits::default())
        .with_context(|| format!("cannot use {}", args.adapter.display()))?;
    let on_mismatch = OnMismatch::new(args.allow_base_mismatch);
    let digest = || base_digest(&checkpoint.weights);
    on_mismatch
        .check_adapter(&args.adapter, &loaded, digest)
        .with_context(|| format!("cannot use {}", args.adapter.display()))?;
    let prepared = Arc::new(model.prepare(&loaded.delta)?);
    let batched = all_logits(&model, &prompts, Some(&prepared))?;
    drop(prepared);
    model.merge(&loaded.delta)?;
    let merged = all_logits(&model, &prompts, None)?;
    let specs = model.modules().to_vec();
    drop(model);
    let mut found = compare("merged", &prompts, &batched, &merged);
    let mut held = found.len();
    let mut restored = None;
    if let Some(path) = &args.checkpoint {
        let trained = open_trained(path, &checkpoint, on_mismatch)?;
        let residual = residual(&trained, &checkpoint, (dtype, &prompts))?;
        found.extend(compare("residual", &prompts, &batched, &residual));
        let weights = RestoredWeights::compare(&checkpoint, &trained, &specs, &loaded.delta)?;
        held = if weights.are_exact() { found.len() } else { held };
        restored = Some(weights);
    }
    print(args, &found)?;
    if let Some(restored) = restored {
        if let Some((error, bound)) = restored.worst() {
            tracing::info!(error, bound, "the adapter gives the checkpoint's weights back");
        }
        restored.check(args.max_error)?;
    }
    ensure!(found.iter().all(|found| found.relative.is_finite()), "a logit is no number");
    let worst = found[..held].iter().map(|difference| difference.relative).fold(0.0, worse);
    ensure!(
        worst <= args.tolerance,
        "the logits differ by {worst:.1e} of their spread, the tolerance is {:.1e}",
        args.tolerance
    );
    Ok(())
}

/// The larger; a NaN is larger than any.
fn worse(one: f32, other: f32) -> f32 {
    if one.is_nan() || other.is_nan() { f32::NAN } else { one.max(other) }
}

fn load(config: &ModelConfig, weights: &Weights, dtype: DType) -> anyhow::Result<LlamaForCausalLm> {
    let options = LoadOptions::new(dtype, Device::Cpu);
    Ok(LlamaForCausalLm::load(config, weights, options, &mut |_| {})?)
}

/// The checkpoint, once it is known to be of this base.
fn open_trained(
    path: &Path,
    base: &Checkpoint,
    on_mismatch: OnMismatch,
) -> anyhow::Result<SorsaCheckpoint> {
    let checkpoint = SorsaCheckpoint::open(path)?;
    lineage::check(&checkpoint, &base.weights)?;
    on_mismatch.check_checkpoint(&checkpoint, &base.weights)?;
    Ok(checkpoint)
}

/// The logits of the checkpoint as it was trained.
fn residual(
    checkpoint: &SorsaCheckpoint,
    base: &Checkpoint,
    (dtype, prompts): (DType, &[Vec<u32>]),
) -> anyhow::Result<Vec<Vec<f32>>> {
    let model = load(&checkpoint.model_config(&base.config)?, &checkpoint.weights, dtype)?;
    let delta = checkpoint.delta(model.modules())?;
    let delta = Arc::new(model.prepare(&delta)?);
    all_logits(&model, prompts, Some(&delta))
}

fn all_logits(
    model: &LlamaForCausalLm,
    prompts: &[Vec<u32>],
    delta: Option<&Arc<LowRankDelta>>,
) -> anyhow::Result<Vec<Vec<f32>>> {
    prompts.iter().map(|prompt| last_logits(model, prompt, delta)).collect()
}

/// The logits after the last token of a prompt.
fn last_logits(
    model: &LlamaForCausalLm,
    prompt: &[u32],
    delta: Option<&Arc<LowRankDelta>>,
) -> anyhow::Result<Vec<f32>> {
    ensure!(!prompt.is_empty(), "the tokenizer makes no token of a prompt");
    let length = u32::try_from(prompt.len())?;
    let blocks: Vec<BlockId> = (0..length.div_ceil(BLOCK_SIZE as u32)).map(BlockId).collect();
    let shape = model.config().kv_shape();
    let dtype = DType::F32;
    let mut cache = KvCache::new(shape, blocks.len(), BLOCK_SIZE, dtype, &Device::Cpu)?;
    let rows: Vec<u32> = (0..length).collect();
    let span =
        SequenceSpan { rows: 0..prompt.len(), context_len: prompt.len(), block_table: &blocks };
    let input = ForwardInput {
        input_ids: prompt,
        positions: &rows,
        slot_mapping: &rows,
        sequences: &[span],
        segments: &Segments::from_runs([(prompt.len(), delta)]),
        logit_rows: &[length - 1],
        logit_segments: &Segments::from_runs([(1, delta)]),
        hidden_rows: &[],
    };
    Ok(model.forward(&input, &mut cache)?.logits.flatten_all()?.to_vec1()?)
}

fn compare(
    compared: &'static str,
    prompts: &[Vec<u32>],
    left: &[Vec<f32>],
    right: &[Vec<f32>],
) -> Vec<Difference> {
    let difference = |(prompt, (left, right)): (usize, (&Vec<f32>, &Vec<f32>))| {
        let most = left.iter().copied().fold(f32::MIN, f32::max);
        let least = left.iter().copied().fold(f32::MAX, f32::min);
        let largest = left.iter().zip(right).map(|(a, b)| (a - b).abs()).fold(0.0, worse);
        Difference {
            prompt,
            tokens: prompts[prompt].len(),
            compared,
            largest,
            relative: largest / (most - least),
            same_choice: best(left) == best(right),
        }
    };
    left.iter().zip(right).enumerate().map(difference).collect()
}

/// The token of the largest logit.
fn best(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
}

fn print(args: &Args, found: &[Difference]) -> anyhow::Result<()> {
    if args.json {
        return super::table::print_json(&found);
    }
    let mut table =
        Table::new(["batched and", "prompt", "tokens", "largest", "relative", "choice"]);
    for difference in found {
        table.row([
            difference.compared.to_owned(),
            difference.prompt.to_string(),
            difference.tokens.to_string(),
            format!("{:.1e}", difference.largest),
            format!("{:.1e}", difference.relative),
            if difference.same_choice { "same" } else { "other" }.to_owned(),
        ]);
    }
    Ok(table.print()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_is_a_difference() {
        let prompts = [vec![1, 2]];
        let left = [vec![0.0, 1.0, 3.0]];
        let found = compare("merged", &prompts, &left, &[vec![0.0, 1.5, 3.0]]);
        assert_eq!((found[0].largest, found[0].relative), (0.5, 0.5 / 3.0));
        assert!(found[0].same_choice);
        let found = compare("merged", &prompts, &left, &[vec![f32::NAN, 1.0, 3.0]]);
        assert!(found[0].relative.is_nan());
        assert!([0.1, f32::NAN, 0.2].into_iter().fold(0.0, worse).is_nan());
    }
}
