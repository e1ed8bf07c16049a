//! Time of a decode step of a whole model, without scheduler, sampler and HTTP:
//! `cargo bench --bench step -- MODEL [--rows 1,8,32] [--adapters 0,1,8,32] [--rank 32] [--q8]`.
//!
//! Each row is the next token of another sequence; as many different adapters as asked for, on every
//! linear layer, are dealt out to the rows. Several rounds take all cases by turns. For each stands
//! the median of its steps and in brackets the best, what adapters weigh, and by how much the best
//! step exceeds its bound: the best without adapters plus the adapters' bytes at the speed at which
//! a loop on as many threads reads memory.

mod support;

use std::io::{self, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use clap::Parser;
use sorsa::adapter::delta::{AdapterId, FactorDType, LowRankDelta, LowRankFactors, ModuleSpec};
use sorsa::adapter::segments::Segments;
use sorsa::kernels::Kernels;
use sorsa::kv_cache::BlockId;
use sorsa::kv_cache::storage::KvCache;
use sorsa::model::builder::LoadOptions;
use sorsa::model::checkpoint::Checkpoint;
use sorsa::model::contract::{CausalLm, ForwardInput, SequenceSpan};
use sorsa::model::llama::LlamaForCausalLm;
use support::{measure, values};

const CONTEXT: usize = 192;
const BLOCK_SIZE: usize = 16;
/// What is read to find the memory's speed: far more than any cache.
const READ_BYTES: usize = 1 << 29;

/// Times decode steps.
#[derive(Debug, Parser)]
struct Args {
    /// A model directory.
    model: PathBuf,
    /// Sequences of a step.
    #[arg(long, value_delimiter = ',', default_value = "1,8,16,32")]
    rows: Vec<usize>,
    /// Different adapters among them; the rows' number at most.
    #[arg(long, value_delimiter = ',', default_value = "0,1,8,16,32")]
    adapters: Vec<usize>,
    /// The adapters' rank.
    #[arg(long, default_value_t = 32)]
    rank: usize,
    /// Holds the adapters in 8 bits.
    #[arg(long)]
    q8: bool,
    /// How often all cases take turns.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Rows and adapters, the times of the steps, and the adapters' bytes.
struct Case {
    rows: usize,
    deltas: Vec<Option<Arc<LowRankDelta>>>,
    distinct: usize,
    bytes: usize,
    times: Vec<Duration>,
}

impl Case {
    /// The best step, in milliseconds.
    fn best_ms(&self) -> f64 {
        self.times[0].as_secs_f64() * 1e3
    }
}

fn main() -> anyhow::Result<()> {
    // As the server computes.
    sorsa::kernels::heap::share();
    let args = Args::parse();
    let checkpoint = Checkpoint::open(&args.model)?;
    let factors = if args.q8 { FactorDType::Q8 } else { FactorDType::Bf16 };
    let options = LoadOptions { factors, ..LoadOptions::new(DType::BF16, Device::Cpu) };
    let model =
        LlamaForCausalLm::load(&checkpoint.config, &checkpoint.weights, options, &mut |_| {})?;
    let most = args.adapters.iter().copied().max().unwrap_or(0);
    let deltas = (0..most).map(|seed| Ok(Arc::new(delta(&model, args.rank, seed)?)));
    let deltas: Vec<_> = deltas.collect::<anyhow::Result<_>>()?;
    let mut cases = cases(&args, &deltas);
    let mut speed = 0.0_f64;
    for _ in 0..args.rounds {
        speed = speed.max(read_speed());
        for case in &mut cases {
            case.times.extend(time(&model, &case.deltas)?);
        }
    }
    writeln!(io::stdout(), "memory reads at {speed:.1} GB/s")?;
    cases.iter_mut().for_each(|case| case.times.sort_unstable());
    for case in &cases {
        let base = cases.iter().find(|base| base.rows == case.rows && base.distinct == 0);
        report(case, base, speed)?;
    }
    Ok(())
}

fn cases(args: &Args, deltas: &[Arc<LowRankDelta>]) -> Vec<Case> {
    let case = |rows: usize, distinct: usize| {
        let own = |row: usize| (distinct > 0).then(|| Arc::clone(&deltas[row * distinct / rows]));
        let bytes = deltas[..distinct].iter().map(|delta| delta.size_bytes()).sum();
        Case { rows, deltas: (0..rows).map(own).collect(), distinct, bytes, times: Vec::new() }
    };
    let distinct = |rows: usize| args.adapters.iter().copied().filter(move |it| *it <= rows);
    let of_rows = |rows: &usize| distinct(*rows).map(|it| case(*rows, it)).collect::<Vec<_>>();
    args.rows.iter().flat_map(of_rows).collect()
}

/// GB/s at which as many threads as compute read memory together.
fn read_speed() -> f64 {
    let threads = Kernels::best().threads();
    let memory = vec![1_u64; READ_BYTES / size_of::<u64>()];
    let sum = |part: &[u64]| part.iter().fold(0_u64, |sum, number| sum.wrapping_add(*number));
    let read = || {
        thread::scope(|scope| {
            let parts = memory.chunks(memory.len().div_ceil(threads));
            let readers: Vec<_> = parts.map(|part| scope.spawn(move || sum(part))).collect();
            readers.into_iter().map(|reader| reader.join().unwrap_or(0)).sum::<u64>()
        })
    };
    let times = measure(|| {
        std::hint::black_box(read());
    });
    READ_BYTES as f64 / times[0].as_secs_f64() / 1e9
}

/// An adapter for every module, in the form that the model's batches take.
fn delta(model: &LlamaForCausalLm, rank: usize, seed: usize) -> anyhow::Result<LowRankDelta> {
    let factors = |module: &ModuleSpec| {
        let (inner, outer) = (module.in_features, module.out_features);
        let numbers = |len| values(len + seed).split_off(seed);
        let down = Tensor::from_vec(numbers(rank * inner), (rank, inner), &Device::Cpu)?;
        let up = Tensor::from_vec(numbers(outer * rank), (outer, rank), &Device::Cpu)?;
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
    let mut failed: Option<candle_core::Error> = None;
    // As the engine does, which gives the memory of its logits back.
    let mut step = || {
        let [logits, _] = model.forward(&input, &mut cache)?.into_values()?;
        model.take_back(logits);
        Ok(())
    };
    let times = measure(|| failed = failed.take().or(step().err()));
    failed.map_or(Ok(times), |error| Err(error.into()))
}

fn report(case: &Case, base: Option<&Case>, speed: f64) -> io::Result<()> {
    let Case { rows, distinct, bytes, times, .. } = case;
    let median = times[times.len() / 2].as_secs_f64();
    let (best, gigabytes) = (case.best_ms(), *bytes as f64 / 1e9);
    let rate = *rows as f64 / median;
    let mut line = format!(
        "{rows:3} rows, {distinct:2} adapters: {:7.2} ({best:.2}) ms a step, {rate:6.0} tokens/s, {gigabytes:.3} GB",
        median * 1e3,
    );
    if let Some(base) = base {
        let bound = base.best_ms() + gigabytes / speed * 1e3;
        line += &format!(", {:.2} of the bound {bound:.2} ms", best / bound);
    }
    writeln!(io::stdout(), "{line}")
}
