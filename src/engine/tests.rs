//! The engine over a model that reads nothing but its cache: whatever a sequence's next token is,
//! it proves that every key of its context was there, in order, and of its own adapter.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use futures_util::FutureExt;
use proptest::prelude::*;

use super::handle::{EngineHandle, EventStream, SubmitError, channel};
use super::request::{Event, FinishReason, Request, RequestId, SamplingParams};
use super::scheduler::SchedulerConfig;
use super::*;
use crate::adapter::delta::{AdapterId, LowRankDelta, ModuleSpec};
use crate::adapter::registry::AdapterVersion;
use crate::kv_cache::block_manager::BlockManager;
use crate::kv_cache::storage::{KvCache, KvShape};
use crate::model::contract::{CausalLm, ForwardInput};

const VOCAB: usize = 32;
const MAX_MODEL_LEN: usize = 64;
/// Generating this token makes the fake model answer with NaN from then on.
const POISON: u32 = 31;

/// Writes each token's id as its key; a row's logits are a hash of the keys it sees.
struct FakeLm {
    fail: bool,
}

impl CausalLm for FakeLm {
    fn forward(
        &self,
        input: &ForwardInput<'_>,
        cache: &mut KvCache,
    ) -> candle_core::Result<Tensor> {
        if self.fail {
            candle_core::bail!("the fake device is broken");
        }
        let keys = &cache.layer(0).keys;
        let mut pool: Vec<f32> = keys.flatten_all()?.to_vec1()?;
        for (&slot, &token) in input.slot_mapping.iter().zip(input.input_ids) {
            pool[slot as usize] = token as f32;
        }
        keys.slice_set(&Tensor::new(pool.as_slice(), &Device::Cpu)?.reshape(keys.shape())?, 0, 0)?;
        let adapter_of = |row: usize| {
            let mut segments = input.segments.iter();
            segments.find(|segment| segment.rows.contains(&row)).map(|segment| segment.delta.id())
        };
        let mut rows = HashMap::new();
        for span in input.sequences {
            for (index, row) in span.rows.clone().enumerate() {
                let visible = span.context_len - span.rows.len() + index + 1;
                assert_eq!(input.positions[row] as usize, visible - 1);
                let slot = |position: usize| {
                    let block = span.block_table[position / cache.block_size()].0 as usize;
                    block * cache.block_size() + position % cache.block_size()
                };
                let seen: Vec<u32> = (0..visible).map(|p| pool[slot(p)] as u32).collect();
                rows.insert(row as u32, logits(&seen, adapter_of(row)));
            }
        }
        let wanted = input.logit_rows.iter().flat_map(|row| rows[row].clone());
        Tensor::from_iter(wanted, &Device::Cpu)?.reshape((input.logit_rows.len(), VOCAB))
    }

    fn modules(&self) -> &[ModuleSpec] {
        &[]
    }

    fn prepare(&self, delta: &LowRankDelta) -> candle_core::Result<LowRankDelta> {
        delta.to(&candle_core::Device::Cpu, DType::F32)
    }

    fn merge(&mut self, _: &LowRankDelta) -> candle_core::Result<()> {
        Ok(())
    }
}

fn logits(seen: &[u32], adapter: Option<AdapterId>) -> Vec<f32> {
    let mut hash = blake3::Hasher::new();
    for token in seen {
        hash.update(&token.to_le_bytes());
    }
    hash.update(&adapter.map_or([0; 32], |id| id.0));
    let poisoned = seen.contains(&POISON);
    let mut bytes = [0; VOCAB];
    hash.finalize_xof().fill(&mut bytes);
    let logit = |byte: u8| if poisoned { f32::NAN } else { f32::from(byte) / 16.0 };
    bytes.into_iter().map(logit).collect()
}

/// What a request must answer, computed without an engine.
fn oracle(request: &Request) -> (Vec<u32>, FinishReason) {
    let adapter = request.adapter.as_ref().map(|version| version.id());
    let mut sampler = sampler::Sampler::new(request, 0);
    let mut tokens = request.prompt.clone();
    let mut output = Vec::new();
    loop {
        let token = sampler.sample(&mut logits(&tokens, adapter)).unwrap().token;
        tokens.push(token);
        output.push(token);
        if request.sampling.stop_token_ids.contains(&token) {
            return (output, FinishReason::Stop(token));
        }
        if output.len() == request.sampling.max_tokens || tokens.len() == MAX_MODEL_LEN {
            return (output, FinishReason::Length);
        }
    }
}

fn adapters() -> Vec<Option<Arc<AdapterVersion>>> {
    let version = |byte: u8| {
        let delta = Arc::new(LowRankDelta::new(AdapterId([byte; 32]), Vec::new()));
        Some(Arc::new(AdapterVersion { name: format!("adapter-{byte}"), delta }))
    };
    vec![None, version(1), version(2), version(3)]
}

struct Rig {
    handle: EngineHandle,
    engine: Engine,
    next: u64,
}

impl Rig {
    fn new(num_blocks: usize, block_size: usize, max_num_seqs: usize, budget: usize) -> Self {
        Self::with_model(FakeLm { fail: false }, num_blocks, block_size, max_num_seqs, budget)
    }

    fn with_model(model: FakeLm, blocks: usize, size: usize, seqs: usize, budget: usize) -> Self {
        let (handle, submissions) = channel(64);
        let config = SchedulerConfig {
            max_num_seqs: seqs,
            max_num_batched_tokens: budget,
            max_model_len: MAX_MODEL_LEN,
        };
        let shape = KvShape { num_layers: 1, num_kv_heads: 1, head_dim: 1 };
        let cache = KvCache::new(shape, blocks, size, DType::F32, &Device::Cpu).unwrap();
        let scheduler = Scheduler::new(config, BlockManager::new(blocks, size));
        let runner = ModelRunner::new(Box::new(model), cache);
        let engine = Engine::new(submissions, scheduler, runner, Metrics::new());
        Self { handle, engine, next: 0 }
    }

    fn submit(&mut self, mut request: Request) -> Vec<EventStream> {
        self.next += 1;
        request.id = RequestId(self.next);
        self.handle.submit(request).unwrap()
    }

    /// Steps without ever waiting for a request.
    fn step(&mut self) {
        if !self.engine.scheduler.is_idle() || self.handle.has_submissions() {
            self.engine.step();
            self.check_books();
        }
    }

    fn run_until_idle(&mut self) {
        let mut steps = 0;
        while !self.engine.scheduler.is_idle() || self.handle.has_submissions() {
            self.engine.step();
            self.check_books();
            steps += 1;
            assert!(steps < 100_000, "the engine makes no progress");
        }
    }

    fn check_books(&self) {
        let scheduler = &self.engine.scheduler;
        let mut counts = vec![0_u32; scheduler.blocks().num_blocks()];
        for block in scheduler.running().iter().flat_map(|s| s.block_table.blocks()) {
            counts[block.0 as usize] += 1;
        }
        let used = counts.iter().filter(|&&count| count > 0).count();
        assert_eq!(used + scheduler.blocks().num_free(), scheduler.blocks().num_blocks());
    }

    fn free_blocks(&self) -> usize {
        self.engine.scheduler.blocks().num_free()
    }
}

fn request(prompt: Vec<u32>, max_tokens: usize) -> Request {
    let stop_token_ids = vec![0];
    Request {
        id: RequestId(0),
        arrived: Instant::now(),
        prompt,
        n: 1,
        sampling: SamplingParams {
            temperature: 0.0,
            max_tokens,
            stop_token_ids,
            logit_bias: vec![(POISON, -1000.0)],
            ..SamplingParams::default()
        },
        logprobs: None,
        prompt_logprobs: None,
        adapter: None,
    }
}

fn drain(stream: &mut EventStream) -> Vec<Event> {
    std::iter::from_fn(|| stream.next().now_or_never().flatten()).collect()
}

fn tokens(events: &[Event]) -> Vec<u32> {
    let token = |event: &Event| match event {
        Event::Token { token, .. } => Some(*token),
        _ => None,
    };
    events.iter().filter_map(token).collect()
}

fn assert_answers(events: &[Event], request: &Request) {
    let (expected, reason) = oracle(request);
    assert_eq!(tokens(events), expected);
    assert_eq!(events.last(), Some(&Event::Finished(reason)));
    let ends = |e: &&Event| matches!(e, Event::Finished(_) | Event::Failed(_));
    assert_eq!(events.iter().filter(ends).count(), 1, "exactly one end");
}

#[derive(Debug, Clone)]
enum Action {
    Submit { prompt: Vec<u32>, max_tokens: usize, n: usize, adapter: usize, seed: Option<u64> },
    Step,
    HangUp(usize),
}

fn action() -> impl Strategy<Value = Action> {
    let submit = (
        proptest::collection::vec(1..30_u32, 1..40),
        1..24_usize,
        1..4_usize,
        0..4_usize,
        proptest::option::of(any::<u64>()),
    );
    prop_oneof![
        2 => submit.prop_map(|(prompt, max_tokens, n, adapter, seed)| {
            Action::Submit { prompt, max_tokens, n, adapter, seed }
        }),
        5 => Just(Action::Step),
        1 => any::<usize>().prop_map(Action::HangUp),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Arrivals, aborts, forks, chunks and preemption in any mix: every answer that anyone still
    /// listens to is what the request gives alone, and every block comes back.
    #[test]
    fn in_any_batch_each_request_answers_as_it_does_alone(
        actions in proptest::collection::vec(action(), 1..60),
        block_size in 1..9_usize,
        spare_blocks in 0..12_usize,
        max_num_seqs in 1..9_usize,
        budget in 9..80_usize,
    ) {
        let blocks = MAX_MODEL_LEN.div_ceil(block_size) + spare_blocks;
        let mut rig = Rig::new(blocks, block_size, max_num_seqs, budget);
        let adapters = adapters();
        let mut open: Vec<(Request, usize, EventStream)> = Vec::new();
        for action in actions {
            match action {
                Action::Submit { prompt, max_tokens, n, adapter, seed } => {
                    let mut request = request(prompt, max_tokens);
                    request.n = n;
                    request.adapter = adapters[adapter].clone();
                    if seed.is_some() {
                        request.sampling.temperature = 0.8;
                        request.sampling.seed = seed;
                    }
                    let streams = rig.submit(request.clone());
                    for (choice, stream) in streams.into_iter().enumerate() {
                        open.push((request.clone(), choice, stream));
                    }
                }
                Action::Step => rig.step(),
                Action::HangUp(index) if !open.is_empty() => {
                    drop(open.swap_remove(index % open.len()));
                }
                Action::HangUp(_) => {}
            }
        }
        rig.run_until_idle();
        prop_assert_eq!(rig.free_blocks(), blocks);
        for (request, choice, stream) in &mut open {
            let events = drain(stream);
            if request.sampling.is_greedy() || *choice == 0 {
                assert_answers(&events, request);
            } else {
                prop_assert!(matches!(events.last(), Some(Event::Finished(_))));
            }
        }
    }
}

#[test]
fn preemption_happens_and_changes_nothing() {
    let mut rig = Rig::new(16, 4, 8, 64);
    let requests: Vec<_> = (0..6).map(|i| request(vec![i + 1; 8], 30)).collect();
    let mut streams: Vec<_> =
        requests.iter().map(|request| rig.submit(request.clone()).remove(0)).collect();
    let mut preempted = false;
    while !rig.engine.scheduler.is_idle() || rig.handle.has_submissions() {
        let before = rig.engine.scheduler.num_running();
        rig.step();
        let scheduler = &rig.engine.scheduler;
        preempted |= scheduler.num_running() < before && scheduler.num_waiting() > 0;
    }
    assert!(preempted, "the pool was meant to be too small");
    for (stream, request) in streams.iter_mut().zip(&requests) {
        assert_answers(&drain(stream), request);
    }
}

#[test]
fn a_poisoned_sequence_fails_alone() {
    let mut rig = Rig::new(64, 4, 8, 64);
    let healthy = request(vec![5, 6, 7], 12);
    let mut poisoned = request(vec![8, 9], 12);
    poisoned.sampling.logit_bias = vec![(POISON, 1000.0)];
    let mut good = rig.submit(healthy.clone()).remove(0);
    let mut bad = rig.submit(poisoned).remove(0);
    rig.run_until_idle();
    assert_answers(&drain(&mut good), &healthy);
    let events = drain(&mut bad);
    assert_eq!(tokens(&events), [POISON]);
    assert!(
        matches!(events.last(), Some(Event::Failed(message)) if message.contains("not a number"))
    );
    assert_eq!(rig.free_blocks(), 64);
}

#[test]
fn a_failed_forward_pass_ends_its_requests_and_not_the_engine() {
    let mut rig = Rig::with_model(FakeLm { fail: true }, 32, 4, 4, 32);
    let mut streams = rig.submit(Request { n: 3, ..request(vec![1, 2], 4) });
    rig.run_until_idle();
    for stream in &mut streams {
        assert_eq!(drain(stream), [Event::Failed("the forward pass failed".into())]);
    }
    assert_eq!(rig.free_blocks(), 32);
    assert!(rig.handle.is_alive());
}

#[test]
fn scoring_a_prompt_needs_no_generated_token() {
    let mut rig = Rig::new(64, 4, 8, 5);
    let prompt: Vec<u32> = (1..=17).collect();
    let mut scored = request(prompt.clone(), 0);
    scored.prompt_logprobs = Some(2);
    let mut stream = rig.submit(scored).remove(0);
    rig.run_until_idle();
    let events = drain(&mut stream);
    let [Event::PromptLogprobs(scores), Event::Finished(FinishReason::Length)] = &events[..] else {
        panic!("unexpected events: {events:?}");
    };
    assert_eq!(scores.len(), prompt.len());
    assert!(scores[0].is_none());
    for (position, score) in scores.iter().enumerate().skip(1) {
        let row = logits(&prompt[..position], None);
        let expected = sampler::score(&row, prompt[position], 2).unwrap();
        assert_eq!(score.as_ref(), Some(&expected));
    }
}

#[test]
fn a_single_prompt_token_is_scored_too() {
    let mut rig = Rig::new(32, 4, 8, 8);
    let mut scored = request(vec![3], 1);
    scored.prompt_logprobs = Some(0);
    let mut stream = rig.submit(scored).remove(0);
    rig.run_until_idle();
    assert_eq!(drain(&mut stream)[0], Event::PromptLogprobs(vec![None]));
}

#[test]
fn hanging_up_frees_the_blocks_in_the_next_step() {
    let mut rig = Rig::new(64, 4, 8, 64);
    let streams: Vec<_> = (0..4).flat_map(|i| rig.submit(request(vec![i + 1; 9], 24))).collect();
    rig.step();
    rig.step();
    assert!(rig.free_blocks() < 64);
    drop(streams);
    rig.step();
    assert_eq!(rig.free_blocks(), 64);
    assert!(rig.engine.scheduler.is_idle());
}

#[test]
fn a_full_queue_refuses_at_once_and_a_place_is_free_again_once_scheduled() {
    let (handle, submissions) = channel(2);
    let _streams = (handle.submit(request(vec![1], 1)), handle.submit(request(vec![1], 1)));
    let full = handle.submit(request(vec![1], 1)).map(|_| ());
    assert_eq!(full, Err(SubmitError::QueueFull { limit: 2 }));
    drop(submissions);
    assert_eq!(handle.submit(request(vec![1], 1)).map(|_| ()), Err(SubmitError::Dead));
    assert!(!handle.is_alive());
}

#[test]
fn the_context_end_is_a_length_finish() {
    let mut rig = Rig::new(64, 4, 8, 64);
    let long = request(vec![2; MAX_MODEL_LEN - 3], 50);
    let mut stream = rig.submit(long.clone()).remove(0);
    rig.run_until_idle();
    assert_answers(&drain(&mut stream), &long);
}
