//! What quantising costs: `cargo run --release --example perplexity -- MODEL [TOKENIZER]`.
//!
//! MODEL is a model directory, a GGUF file or an un-merged SORSA checkpoint; TOKENIZER a Hugging
//! Face directory of the same family, needed for the latter two. Prints for each way to hold the
//! weights the perplexity of a fixed text, the mean and the largest Kullback-Leibler divergence of
//! the next token's distribution from the float32 one's, and how often the likeliest token is the
//! same. Every way runs as it is served: with its own rounding of activations.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use candle_core::{DType, Device};
use sorsa::adapter::delta::LowRankDelta;
use sorsa::adapter::segments::Segments;
use sorsa::kv_cache::BlockId;
use sorsa::kv_cache::storage::KvCache;
use sorsa::layers::packed_weight::Bits;
use sorsa::model::builder::{LoadOptions, Quantization};
use sorsa::model::checkpoint::{Checkpoint, TokenizerSource};
use sorsa::model::config::ModelConfig;
use sorsa::model::contract::{CausalLm, ForwardInput, SequenceSpan};
use sorsa::model::llama::LlamaForCausalLm;
use sorsa::model::sorsa::SorsaCheckpoint;
use sorsa::model::weights::Weights;
use sorsa::text::tokenizer::Tokenizer;

/// English prose with some code in it.
const TEXT: &str = include_str!("../tests/fixtures/perplexity.txt");
/// Tokens that are predicted from one another.
const WINDOW: usize = 512;
const BLOCK_SIZE: usize = 16;

/// The ways, the first being what the others are compared with.
const WAYS: [(&str, DType, Option<Quantization>); 6] = [
    ("f32", DType::F32, None),
    ("bf16", DType::BF16, None),
    ("as stored", DType::BF16, Some(Quantization::AsStored)),
    ("q8", DType::BF16, Some(Quantization::Bits(Bits::Eight))),
    ("q4", DType::BF16, Some(Quantization::Bits(Bits::Four))),
    ("q4, factors f32", DType::F32, Some(Quantization::Bits(Bits::Four))),
];

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let Some(model) = args.next() else { bail!("which model? perplexity MODEL [TOKENIZER]") };
    let tokenizer = args.next().unwrap_or_else(|| model.clone());
    let source = Source::open(&model, &tokenizer)?;
    let tokens = tokens(&tokenizer)?;
    let mut out = io::stdout();
    writeln!(out, "{} tokens of text in windows of {WINDOW}", tokens.len())?;
    let mut exact = None;
    for (name, dtype, quantization) in WAYS {
        let found = source.log_probabilities(&tokens, dtype, quantization)?;
        let exact = exact.get_or_insert_with(|| found.clone());
        writeln!(out, "{name:>16}: {}", compare(&tokens, exact, &found))?;
    }
    Ok(())
}

/// Weights, and the factors that belong to them.
enum Source {
    Model(Checkpoint),
    Residual(SorsaCheckpoint, ModelConfig),
}

impl Source {
    fn open(model: &Path, base: &Path) -> anyhow::Result<Self> {
        if let Ok(checkpoint) = SorsaCheckpoint::open(model) {
            let config = checkpoint.model_config(&Checkpoint::open(base)?.config)?;
            return Ok(Self::Residual(checkpoint, config));
        }
        Ok(Self::Model(Checkpoint::open(model)?))
    }

    fn parts(&self) -> (&ModelConfig, &Weights) {
        match self {
            Self::Model(checkpoint) => (&checkpoint.config, &checkpoint.weights),
            Self::Residual(checkpoint, config) => (config, &checkpoint.weights),
        }
    }

    /// For each token but each window's first, the logarithms of all tokens' probabilities.
    fn log_probabilities(
        &self,
        tokens: &[u32],
        dtype: DType,
        quantization: Option<Quantization>,
    ) -> anyhow::Result<Vec<Vec<f32>>> {
        let (config, weights) = self.parts();
        let options = LoadOptions { quantization, ..LoadOptions::new(dtype, Device::Cpu) };
        let model = LlamaForCausalLm::load(config, weights, options, &mut |_| {})?;
        let delta = match self {
            Self::Model(_) => None,
            Self::Residual(checkpoint, _) => {
                Some(Arc::new(model.prepare(&checkpoint.delta(model.modules())?)?))
            }
        };
        let windows = tokens.chunks(WINDOW).map(|window| forward(&model, window, delta.as_ref()));
        Ok(windows.collect::<anyhow::Result<Vec<_>>>()?.concat())
    }
}

fn tokens(directory: &Path) -> anyhow::Result<Vec<u32>> {
    let checkpoint = Checkpoint::open(directory)?;
    let TokenizerSource::HuggingFace(files) = checkpoint.tokenizer()? else {
        bail!("{}: name a Hugging Face directory for the tokenizer", directory.display())
    };
    let tokenizer =
        Tokenizer::from_json(&files.tokenizer).context("the tokenizer cannot be used")?;
    Ok(tokenizer.encode(TEXT, true)?)
}

fn forward(
    model: &LlamaForCausalLm,
    tokens: &[u32],
    delta: Option<&Arc<LowRankDelta>>,
) -> anyhow::Result<Vec<Vec<f32>>> {
    let length = u32::try_from(tokens.len())?;
    let blocks: Vec<BlockId> = (0..length.div_ceil(BLOCK_SIZE as u32)).map(BlockId).collect();
    let (shape, dtype) = (model.config().kv_shape(), model.activation_dtype());
    let mut cache = KvCache::new(shape, blocks.len(), BLOCK_SIZE, dtype, &Device::Cpu)?;
    let rows: Vec<u32> = (0..length).collect();
    let span =
        SequenceSpan { rows: 0..tokens.len(), context_len: tokens.len(), block_table: &blocks };
    let predicted = &rows[..rows.len() - 1];
    let input = ForwardInput {
        input_ids: tokens,
        positions: &rows,
        slot_mapping: &rows,
        sequences: &[span],
        segments: &Segments::from_runs([(tokens.len(), delta)]),
        logit_rows: predicted,
        logit_segments: &Segments::from_runs([(predicted.len(), delta)]),
        hidden_rows: &[],
    };
    let logits = model.forward(&input, &mut cache)?.logits.to_vec2::<f32>()?;
    Ok(logits.into_iter().map(log_softmax).collect())
}

fn log_softmax(mut logits: Vec<f32>) -> Vec<f32> {
    let most = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
    let offset = f64::from(most) + sum.ln();
    for logit in &mut logits {
        *logit = (f64::from(*logit) - offset) as f32;
    }
    logits
}

fn compare(tokens: &[u32], exact: &[Vec<f32>], found: &[Vec<f32>]) -> String {
    let targets = tokens.chunks(WINDOW).flat_map(|window| &window[1..]);
    let (mut loss, mut mean, mut largest, mut same) = (0.0, 0.0, 0.0_f64, 0);
    for ((exact, found), &target) in exact.iter().zip(found).zip(targets) {
        loss -= f64::from(found[target as usize]);
        let term = |(p, q): (&f32, &f32)| f64::from(*p).exp() * f64::from(p - q);
        let divergence: f64 = exact.iter().zip(found).map(term).sum();
        mean += divergence;
        largest = largest.max(divergence);
        same += usize::from(best(exact) == best(found));
    }
    let count = exact.len() as f64;
    format!(
        "perplexity {:.3}, KL mean {:.2e}, KL largest {largest:.2e}, same choice {:.1} %",
        (loss / count).exp(),
        mean / count,
        100.0 * same as f64 / count
    )
}

fn best(values: &[f32]) -> Option<usize> {
    (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b]))
}
