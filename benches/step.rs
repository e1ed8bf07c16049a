//! Time of a decode step of a whole model, without scheduler, sampler and HTTP:
//! `cargo bench --bench step -- MODEL [ROWS...]`.
//!
//! Prints for each number of rows the median of several steps and in brackets the best: of the base
//! model, and with a different adapter of rank 16 on every linear layer for each row. Beside them
//! stand the bytes of weights and adapters that a step reads, and how fast that is.

mod support;

use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use candle_core::{DType, Device, Tensor};
use sorsa::adapter::delta::{AdapterId, LowRankDelta, LowRankFactors, ModuleSpec};
use sorsa::adapter::segments::Segments;
use sorsa::kv_cache::BlockId;
use sorsa::kv_cache::storage::KvCache;
use sorsa::model::builder::LoadOptions;
use sorsa::model::checkpoint::Checkpoint;
use sorsa::model::contract::{CausalLm, ForwardInput, SequenceSpan};
use sorsa::model::llama::LlamaForCausalLm;
use support::{measure, values};

const ROWS: [usize; 4] = [1, 8, 16, 32];
const CONTEXT: usize = 192;
const BLOCK_SIZE: usize = 16;
const RANK: usize = 16;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let (path, rows) = args.split_first().context("which model? step MODEL [ROWS...]")?;
    let chosen: Vec<usize> = rows.iter().map(|rows| rows.parse()).collect::<Result<_, _>>()?;
    let checkpoint = Checkpoint::open(Path::new(path))?;
    let options = LoadOptions::new(DType::BF16, Device::Cpu);
    let model =
        LlamaForCausalLm::load(&checkpoint.config, &checkpoint.weights, options, &mut |_| {})?;
    let weights: usize = checkpoint.linear_modules().iter().map(bf16_bytes).sum();
    let config = &checkpoint.config;
    let weights = weights + 2 * config.vocab_size * config.hidden_size;
    for rows in ROWS.into_iter().filter(|it| chosen.is_empty() || chosen.contains(it)) {
        let base = time(&model, &vec![None; rows])?;
        report(rows, "base", weights, &base)?;
        let deltas = (0..rows).map(|seed| Ok(Some(Arc::new(delta(&model, seed)?))));
        let deltas: Vec<_> = deltas.collect::<anyhow::Result<_>>()?;
        let bytes: usize = deltas.iter().flatten().map(|delta| delta.size_bytes()).sum();
        report(rows, "adapters", weights + bytes, &time(&model, &deltas)?)?;
    }
    Ok(())
}

fn bf16_bytes(module: &ModuleSpec) -> usize {
    2 * module.in_features * module.out_features
}

/// An adapter for every module, in the form that the model's batches take.
fn delta(model: &LlamaForCausalLm, seed: usize) -> anyhow::Result<LowRankDelta> {
    let factors = |module: &ModuleSpec| {
        let (inner, outer) = (module.in_features, module.out_features);
        let numbers = |len| values(len + seed).split_off(seed);
        let down = Tensor::from_vec(numbers(RANK * inner), (RANK, inner), &Device::Cpu)?;
        let up = Tensor::from_vec(numbers(outer * RANK), (outer, RANK), &Device::Cpu)?;
        Ok(Some(LowRankFactors { down: (down * 0.02)?, up: (up * 0.02)? }))
    };
    let modules = model.modules().iter().map(factors).collect::<anyhow::Result<_>>()?;
    let id = AdapterId([u8::try_from(seed)?; 32]);
    Ok(model.prepare(&LowRankDelta::new(id, modules))?)
}

/// The times of steps in which each row is the next token of another sequence, with its adapter.
fn time(
    model: &LlamaForCausalLm,
    deltas: &[Option<Arc<LowRankDelta>>],
) -> anyhow::Result<Vec<Duration>> {
    let rows = deltas.len();
    let blocks = CONTEXT.div_ceil(BLOCK_SIZE);
    let dtype = model.kv_cache_dtypes()[0];
    let shape = model.config().kv_shape();
    let mut cache = KvCache::new(shape, rows * blocks, BLOCK_SIZE, dtype, &Device::Cpu)?;
    let table: Vec<BlockId> = (0..u32::try_from(rows * blocks)?).map(BlockId).collect();
    let span = |row: usize| SequenceSpan {
        rows: row..row + 1,
        context_len: CONTEXT,
        block_table: &table[row * blocks..(row + 1) * blocks],
    };
    let numbers = |of: fn(usize, Range<usize>) -> usize| {
        (0..rows).map(|row| Ok(u32::try_from(of(row, 0..blocks))?)).collect::<anyhow::Result<_>>()
    };
    let input_ids: Vec<u32> = numbers(|row, _| 100 + row)?;
    let slots: Vec<u32> = numbers(|row, own| (row * own.len()) * BLOCK_SIZE + CONTEXT - 1)?;
    let logit_rows: Vec<u32> = numbers(|row, _| row)?;
    let sequences: Vec<_> = (0..rows).map(span).collect();
    let segments = Segments::from_runs(deltas.iter().map(|delta| (1, delta.as_ref())));
    let input = ForwardInput {
        input_ids: &input_ids,
        positions: &vec![u32::try_from(CONTEXT - 1)?; rows],
        slot_mapping: &slots,
        sequences: &sequences,
        segments: &segments,
        logit_rows: &logit_rows,
        logit_segments: &segments,
        hidden_rows: &[],
    };
    let mut failed = None;
    let times = measure(|| failed = model.forward(&input, &mut cache).err());
    failed.map_or(Ok(times), |error| Err(error.into()))
}

fn report(rows: usize, what: &str, bytes: usize, times: &[Duration]) -> io::Result<()> {
    let (median, best) = (times[times.len() / 2].as_secs_f64(), times[0].as_secs_f64());
    let rate = bytes as f64 / 1e9;
    writeln!(
        io::stdout(),
        "{rows:3} rows, {what:>8}: {:7.2} ({:.2}) ms a step, {:6.0} tokens/s, {:.3} GB at {:.1} ({:.1}) GB/s",
        median * 1e3,
        best * 1e3,
        rows as f64 / median,
        rate,
        rate / median,
        rate / best
    )
}
