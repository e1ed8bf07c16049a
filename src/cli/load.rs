//! From arguments to a running engine: open the model, read the adapters, size the cache.

use std::io::IsTerminal;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use super::adapter_watch::Followed;
use super::changes::{Look, Looks};
use super::end_tokens;
use super::model_source::ModelSource;
use super::names::{self, base_names};
use super::text_files::TextFiles;
use crate::adapter::delta::FactorDType;
use crate::adapter::registry::{Registry, Source};
use crate::config::{
    AdapterArg, AdapterDTypeArg, DTypeArg, DeviceArg, QuantizeArg, ServeArgs, is_valid_name,
};
use crate::engine::Engine;
use crate::engine::handle::channel;
use crate::engine::model_runner::ModelRunner;
use crate::engine::scheduler::{Scheduler, SchedulerConfig};
use crate::grammar::GrammarCompiler;
use crate::kv_cache::block_manager::BlockManager;
use crate::kv_cache::storage::KvCache;
use crate::layers::packed_weight::Bits;
use crate::model::builder::{LoadOptions, Quantization};
use crate::model::generation_config::GenerationConfig;
use crate::model::llama::LlamaForCausalLm;
use crate::server::form;
use crate::server::state::{AppState, SamplingDefaults, Serving};

/// Tokens per cache block.
const BLOCK_SIZE: usize = 16;
/// Cache memory where none is given.
const DEFAULT_CACHE_BYTES: usize = 1 << 30;
/// Memory of the grammars that are remembered.
const GRAMMAR_CACHE_BYTES: u64 = 64 << 20;

/// A served model.
pub struct Loaded {
    /// The engine's thread.
    pub engine: JoinHandle<()>,
    /// What is served, in one line.
    pub summary: String,
}

/// Finds what is wrong with the arguments before anything is opened.
///
/// # Errors
/// A sentence about the first contradiction.
pub fn check(args: &ServeArgs) -> anyhow::Result<()> {
    for name in &args.served_model_name {
        ensure!(is_valid_name(name), "--served-model-name {name:?} is no name for a model");
    }
    let (tokens, seqs) = (args.engine.max_num_batched_tokens, args.engine.max_num_seqs);
    ensure!(
        tokens >= seqs,
        "--max-num-batched-tokens {tokens} is less than --max-num-seqs {seqs}: each running \
         sequence needs one token per step"
    );
    check_quantize(args)?;
    ensure!(
        args.adapters.adapter_dtype == AdapterDTypeArg::Auto || args.base.is_none(),
        "--adapter-dtype q8: beside the residual of a SORSA checkpoint the factors hold most of \
         each weight, and 8 bits are too few for them"
    );
    let names = if args.base.is_some() { base_names(args) } else { Vec::new() };
    if let Some(adapter) = args.adapter.iter().find(|adapter| names.contains(&adapter.name)) {
        bail!("--adapter {}: that is the checkpoint's own name already", adapter.name);
    }
    let fetched = |adapter: &&AdapterArg| matches!(adapter.source, Source::Remote { .. });
    if args.base.is_some()
        && let Some(adapter) = args.adapter.iter().find(fetched)
    {
        bail!("--adapter {}: beside --base, checkpoints are read and not fetched", adapter.name);
    }
    if let Some(flag) = args.adapters.runtime_flag() {
        ensure!(
            args.base.is_none() && args.merge.is_none(),
            "{flag}: adapters that come while serving are relative to a base model's own weights; \
             with --base and --merge others are served"
        );
    }
    let Some(merge) = &args.merge else { return Ok(()) };
    let own = names.contains(merge);
    match args.adapter.as_slice() {
        [] if own => Ok(()),
        [adapter] if adapter.name == *merge => Ok(()),
        adapters if own || adapters.iter().any(|adapter| adapter.name == *merge) => bail!(
            "--merge {merge} changes the weights that the other adapters are relative to: serve \
             them from another server, or without --merge"
        ),
        _ => match names.first() {
            Some(name) => bail!(
                "--merge {merge}: give that checkpoint with --adapter {merge}=PATH, or merge the \
                 one served with --merge {name}"
            ),
            None => bail!("--merge {merge}: give that adapter with --adapter {merge}=PATH"),
        },
    }
}

fn check_quantize(args: &ServeArgs) -> anyhow::Result<()> {
    let flag = match args.quantize {
        QuantizeArg::Auto | QuantizeArg::None => return Ok(()),
        QuantizeArg::Q8 => "--quantize q8",
        QuantizeArg::Q4 => "--quantize q4",
    };
    ensure!(args.device == DeviceArg::Cpu, "{flag} is for --device cpu: nothing else computes so");
    ensure!(
        args.dtype != DTypeArg::F16,
        "{flag} goes with --dtype f32 or bf16, which is how adapters are then held"
    );
    if let Some(merge) = &args.merge {
        bail!(
            "--merge {merge} with {flag}: write the merged model with sorsa merge, and serve that one \
             with {flag}"
        );
    }
    Ok(())
}

/// Loads everything and starts the engine; `state` serves from then on. Adapters are looked for by
/// `looks` too.
///
/// # Errors
/// Where the device, the model, its tokenizer or an adapter cannot be used.
pub fn load(args: &ServeArgs, state: &AppState, looks: (Look, Looks)) -> anyhow::Result<Loaded> {
    let device = args.device.open()?;
    let source = ModelSource::open(args)?;
    let (checkpoint, config) = (&source.model, source.config());
    let text = TextFiles::open(checkpoint)?;
    text.warn_of_unknown_tokens(config.vocab_size);
    let chat = text.chat(&args.chat)?;
    let options = source.load_options(args, &device)?;
    let held = held_as(&options);
    let progress = progress_bar(source.weights().total_elements());
    let mut model = LlamaForCausalLm::load(config, source.weights(), options.clone(), &mut |n| {
        progress.inc(n)
    })?;
    progress.finish_and_clear();
    let registry = names::registry(args, &source, &mut model, &options, &state.metrics)?;
    let registry = Arc::new(registry);
    Followed::open(&args.adapters, Arc::clone(&registry))?.watch(looks)?;
    registry.warm_up();
    let kv_dtype = args.engine.kv_cache_dtype.resolve(&model.kv_cache_dtypes())?;

    let cache = CacheSize::new(args, config.max_position_embeddings, |tokens| {
        tokens * config.kv_shape().bytes_per_token(kv_dtype)
    })?;
    let kv_cache =
        KvCache::new(config.kv_shape(), cache.num_blocks, BLOCK_SIZE, kv_dtype, &device)?;
    let scheduler = Scheduler::new(
        SchedulerConfig {
            max_num_seqs: args.engine.max_num_seqs.get(),
            max_num_batched_tokens: args.engine.max_num_batched_tokens.get(),
            max_model_len: cache.max_model_len,
            long_prefill_token_threshold: args.engine.long_prefill_token_threshold.map(usize::from),
        },
        block_manager(args, cache.num_blocks, source.digest.0),
    );
    let eos_token_ids = end_tokens::of_model(checkpoint, &text, chat.as_ref());
    let vocabulary = form::vocabulary(&text.tokenizer, config.vocab_size, &eos_token_ids);
    let grammars = Arc::new(GrammarCompiler::new(vocabulary, GRAMMAR_CACHE_BYTES)?);
    let (handle, submissions) = channel(args.engine.max_waiting_requests.get());
    let runner = ModelRunner::new(Box::new(model), kv_cache);
    let engine = Engine::new(submissions, scheduler, runner, Arc::clone(&state.metrics));
    let engine = engine.spawn(crate::kernels::pin_caller)?;

    let summary = format!(
        "serving {} ({} layers, {} vocabulary, {}, {}) with {}, {} tokens of context, \
         {} tokens of cache in {}",
        registry.base_name(),
        config.num_hidden_layers,
        config.vocab_size,
        held,
        if device.is_cpu() { "cpu" } else { "cuda" },
        counted(&registry),
        cache.max_model_len,
        cache.num_blocks * BLOCK_SIZE,
        kv_dtype.as_str(),
    );
    let root = source.digest.to_string();
    state.set_serving(Serving {
        engine: handle,
        adapter_load_timeout: Duration::from_secs(args.adapters.adapter_load_timeout),
        registry,
        grammars,
        tokenizer: text.tokenizer,
        chat,
        max_model_len: cache.max_model_len,
        vocab_size: config.vocab_size,
        eos_token_ids,
        speculative_lookup: args.engine.speculative_lookup.into(),
        sampling_defaults: sampling_defaults(&checkpoint.generation_config),
        root,
        created: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
        tokenizer_config: text.tokenizer_config,
    });
    Ok(Loaded { engine, summary })
}

/// How many adapters are served, and how many are not.
fn counted(registry: &Registry) -> String {
    let (broken, refused) = (registry.num_broken(), registry.refused().len());
    let usable = registry.num_adapters().saturating_sub(broken);
    match (broken, refused) {
        (0, 0) => format!("{usable} adapters"),
        _ => format!("{usable} adapters ({broken} broken and {refused} refused beside them)"),
    }
}

/// Memory that the system could give, in words, where it says so.
fn available_memory() -> String {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map_or_else(String::new, |kib| {
        format!(", {} bytes are available", kib.saturating_mul(1024))
    })
}

/// The pool of blocks. One process serves one model all its life: what it computes depends, besides
/// adapter and tokens, on the base's content and on how the flags make it compute.
fn block_manager(args: &ServeArgs, num_blocks: usize, base: [u8; 32]) -> BlockManager {
    let blocks = BlockManager::new(num_blocks, BLOCK_SIZE);
    if args.engine.no_enable_prefix_caching { blocks } else { blocks.with_prefix_cache(base) }
}

/// How weights are held, in a word or two.
fn held_as(options: &LoadOptions) -> String {
    let factors = match options.factors {
        FactorDType::Bf16 => "",
        FactorDType::Q8 => ", adapters q8",
    };
    let dtype = options.dtype.as_str().to_owned() + factors;
    match options.quantization {
        None => dtype,
        Some(Quantization::AsStored) => format!("quantised as stored, else {dtype}"),
        Some(Quantization::Bits(Bits::Eight)) => format!("quantised to 8 bits, else {dtype}"),
        Some(Quantization::Bits(Bits::Four)) => format!("quantised to 4 bits, else {dtype}"),
    }
}

/// How many blocks there are, and how long a sequence may get.
struct CacheSize {
    num_blocks: usize,
    max_model_len: usize,
}

impl CacheSize {
    fn new(
        args: &ServeArgs,
        max_positions: usize,
        bytes: impl Fn(usize) -> usize,
    ) -> anyhow::Result<Self> {
        let max_model_len = args.max_model_len.map_or(max_positions, usize::from);
        ensure!(
            max_model_len <= max_positions,
            "--max-model-len {max_model_len} is more than the {max_positions} positions the model \
             was trained for"
        );
        let needed = bytes(max_model_len.next_multiple_of(BLOCK_SIZE));
        let given = args.engine.kv_cache_memory.map(|size| size.0);
        let memory = given.unwrap_or(DEFAULT_CACHE_BYTES.max(needed));
        ensure!(
            needed <= memory,
            "one sequence of {max_model_len} tokens needs {needed} bytes of cache and \
             --kv-cache-memory gives {memory}: raise it, or lower --max-model-len"
        );
        // An allocation that fails later would end the process without a word.
        let available = Vec::<u8>::new().try_reserve_exact(memory);
        ensure!(
            available.is_ok(),
            "--kv-cache-memory {memory}: there is no such memory{}",
            available_memory()
        );
        let num_blocks = memory / bytes(BLOCK_SIZE);
        let slots = num_blocks.checked_mul(BLOCK_SIZE);
        ensure!(
            slots.is_some_and(|slots| u32::try_from(slots).is_ok()),
            "--kv-cache-memory {memory} holds more than 2^32 tokens"
        );
        Ok(Self { num_blocks, max_model_len })
    }
}

fn sampling_defaults(config: &GenerationConfig) -> SamplingDefaults {
    SamplingDefaults {
        temperature: config.temperature.map(|value| value as f32),
        top_p: config.top_p.map(|value| value as f32),
        top_k: config.top_k.filter(|&count| count > 0),
        min_p: config.min_p.map(|value| value as f32),
        repetition_penalty: config.repetition_penalty.map(|value| value as f32),
        max_tokens: config.max_new_tokens,
    }
}

fn progress_bar(elements: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("loading {wide_bar} {percent}% {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(elements).with_style(style)
}
