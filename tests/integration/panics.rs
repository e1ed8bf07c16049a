//! A pass of the real model that panics in the middle of its cache, on the project's kernels and on
//! candle's operations: who made it panic fails alone, and the cache serves everybody else, then and
//! later.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result};
use serde_json::json;
use sorsa::adapter::delta::{LowRankDelta, ModuleSpec};
use sorsa::engine::Engine;
use sorsa::engine::handle::{EngineHandle, EventStream, QueueShare, channel};
use sorsa::engine::model_runner::ModelRunner;
use sorsa::engine::request::{
    Event, PromptTokens, Request, RequestId, SamplingParams, TenantShare,
};
use sorsa::engine::scheduler::{Scheduler, SchedulerConfig};
use sorsa::kv_cache::block_manager::BlockManager;
use sorsa::kv_cache::storage::KvCache;
use sorsa::layers::backend::Backend;
use sorsa::metrics::Metrics;
use sorsa::model::contract::{CausalLm, ForwardInput, ForwardOutput};
use sorsa::model::llama::LlamaForCausalLm;

use crate::tiny_llama::{TinyLlama, fast};

/// A pass that reads this token panics.
const CULPRIT: u32 = 30;
const VOCAB_SIZE: usize = 31;
const BLOCK_SIZE: usize = 4;
const NUM_BLOCKS: usize = 64;

/// The real model, which panics over one token: with the last layer's keys and values written, and
/// while their storage is locked.
struct Panicking {
    model: LlamaForCausalLm,
    panics: Arc<AtomicUsize>,
}

/// Panics where a kernel writes in place.
struct Panic;

impl InplaceOp1 for Panic {
    fn name(&self) -> &'static str {
        "panic"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        panic!("a kernel panics while it writes")
    }
}

impl CausalLm for Panicking {
    fn forward(&self, input: &ForwardInput<'_>, cache: &mut KvCache) -> Result<ForwardOutput> {
        let output = self.model.forward(input, cache)?;
        if input.input_ids.contains(&CULPRIT) {
            let layer = cache.layer(1);
            let turn = self.panics.fetch_add(1, Ordering::SeqCst);
            [&layer.keys, &layer.values][turn % 2].inplace_op1(&Panic)?;
        }
        Ok(output)
    }

    fn take_back(&self, values: Vec<f32>) {
        self.model.take_back(values);
    }

    fn modules(&self) -> &[ModuleSpec] {
        self.model.modules()
    }

    fn prepare(&self, delta: &LowRankDelta) -> Result<LowRankDelta> {
        self.model.prepare(delta)
    }

    fn merge(&mut self, delta: &LowRankDelta) -> Result<()> {
        self.model.merge(delta)
    }
}

fn engine(model: LlamaForCausalLm, panics: &Arc<AtomicUsize>) -> EngineHandle {
    let (handle, submissions) = channel(64);
    let config = SchedulerConfig {
        max_num_seqs: 16,
        max_num_batched_tokens: 64,
        max_model_len: 64,
        long_prefill_token_threshold: None,
    };
    let (shape, dtype) = (model.config().kv_shape(), model.kv_cache_dtypes()[0]);
    let cache = KvCache::new(shape, NUM_BLOCKS, BLOCK_SIZE, dtype, &Device::Cpu).unwrap();
    let model = Panicking { model, panics: Arc::clone(panics) };
    let scheduler = Scheduler::new(config, BlockManager::new(NUM_BLOCKS, BLOCK_SIZE));
    let runner = ModelRunner::new(Box::new(model), cache);
    Engine::new(submissions, scheduler, runner, Metrics::new()).spawn(|| ()).unwrap();
    handle
}

fn submit(engine: &EngineHandle, prompt: &[u32]) -> EventStream {
    let request = Request {
        id: RequestId(0),
        arrived: Instant::now(),
        prompt: PromptTokens::new(prompt.to_vec(), VOCAB_SIZE).unwrap(),
        n: 1,
        sampling: SamplingParams {
            temperature: 0.0,
            max_tokens: 12,
            logit_bias: [(CULPRIT, -1000.0)].into(),
            ..SamplingParams::default()
        },
        logprobs: None,
        prompt_logprobs: None,
        adapter: None,
        tenant: TenantShare::default(),
        cache_owner: String::new(),
        cache_salt: Arc::default(),
        grammar: None,
        num_speculative_tokens: 0,
        pooling: None,
    };
    let share = QueueShare { waiting: Arc::default(), limit: usize::MAX };
    engine.submit(request, &share).unwrap().remove(0)
}

/// The tokens of an answer; `None` where it failed.
async fn answer(mut stream: EventStream) -> Option<Vec<u32>> {
    let mut tokens = Vec::new();
    loop {
        match stream.next().await.expect("the engine lives") {
            Event::PromptComputed { .. } => {}
            Event::Token { token, .. } => tokens.push(token),
            Event::Finished(_) => return Some(tokens),
            Event::Failed(_) => return None,
            other => panic!("unexpected: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_the_middle_of_the_cache_is_one_sequences_matter() {
    let tiny = TinyLlama::new(&json!({}), 7);
    let paths = [(Backend::Candle, DType::F32), (fast(), DType::F32), (fast(), DType::BF16)];
    for (backend, dtype) in paths {
        let panics = Arc::default();
        let engine = engine(tiny.load(dtype, backend), &panics);
        let prompts: Vec<Vec<u32>> = (0..6).map(|first| (first..first + 7).collect()).collect();
        let all = async || {
            let streams: Vec<_> = prompts.iter().map(|prompt| submit(&engine, prompt)).collect();
            let mut answers = Vec::new();
            for stream in streams {
                answers.push(answer(stream).await);
            }
            answers
        };
        let expected = all().await;
        assert!(expected.iter().all(|tokens| tokens.as_ref().is_some_and(|it| it.len() == 12)));
        for round in 0..3 {
            let bad = submit(&engine, &[1, 2, CULPRIT, 4]);
            assert_eq!(all().await, expected, "{dtype:?} {round}");
            assert_eq!(answer(bad).await, None, "{dtype:?} {round}");
        }
        assert!(panics.load(Ordering::SeqCst) >= 6, "keys and values, more than once");
        assert_eq!(all().await, expected, "{dtype:?} afterwards");
    }
}
