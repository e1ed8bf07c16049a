//! The engine over a model that reads nothing but its cache: whatever a sequence's next token is,
//! it proves that every key of its context was there, in order, and of its own adapter.

mod fairness;
mod grammars;
mod isolation;
mod pooling;
mod preemption;
mod prefix;
mod speculation;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use futures_util::FutureExt;
use proptest::prelude::*;

use super::handle::{EngineHandle, EventStream, QueueShare, SubmitError, channel};
use super::request::{
    Event, FinishReason, PromptTokens, Request, RequestId, SamplingParams, TenantShare, TokenSet,
};
use super::scheduler::SchedulerConfig;
use super::*;
use crate::adapter::delta::{AdapterId, LowRankDelta, ModuleSpec};
use crate::adapter::registry::AdapterVersion;
use crate::kv_cache::block_manager::BlockManager;
use crate::kv_cache::storage::{KvCache, KvShape};
use crate::model::contract::{CausalLm, ForwardInput, ForwardOutput};

const VOCAB: usize = 32;
const MAX_MODEL_LEN: usize = 64;
/// Generating this token makes the fake model answer with NaN from then on.
const POISON: u32 = 31;

/// Added to a token's key for each unit of its adapter's tag.
const ADAPTER_STEP: u32 = 64;

/// Writes each token's id and its adapter's tag as its key; a row's logits are a function of the
/// keys it sees, all of which must be its own adapter's.
#[derive(Clone, Default)]
struct FakeLm {
    fails: Arc<AtomicBool>,
    /// A pass that reads the token [`isolation::CULPRIT`] fails: by an error, or by a panic.
    fails_at_culprit: Arc<AtomicBool>,
    panics: Arc<AtomicBool>,
    /// A pass of more than one sequence fails.
    fails_together: Arc<AtomicBool>,
    passes: Arc<AtomicUsize>,
    failures: Arc<AtomicUsize>,
    rows_computed: Arc<AtomicUsize>,
}

fn tag(adapter: Option<AdapterId>) -> u32 {
    adapter.map_or(0, |id| u32::from(id.0[0]))
}

impl CausalLm for FakeLm {
    fn forward(
        &self,
        input: &ForwardInput<'_>,
        cache: &mut KvCache,
    ) -> candle_core::Result<ForwardOutput> {
        let adapter_of = |row: usize| {
            let mut segments = input.segments.iter();
            segments.find(|segment| segment.rows.contains(&row)).map(|segment| segment.delta.id())
        };
        let keys = &cache.layer(0).keys;
        let mut pool: Vec<f32> = keys.flatten_all()?.to_vec1()?;
        for (row, (&slot, &token)) in input.slot_mapping.iter().zip(input.input_ids).enumerate() {
            pool[slot as usize] = (token + ADAPTER_STEP * tag(adapter_of(row))) as f32;
        }
        self.passes.fetch_add(1, Ordering::Relaxed);
        let culprit = input.input_ids.contains(&isolation::CULPRIT);
        let fails = self.fails.load(Ordering::Relaxed)
            || culprit && self.fails_at_culprit.load(Ordering::Relaxed)
            || input.sequences.len() > 1 && self.fails_together.load(Ordering::Relaxed);
        if fails {
            // What is in the slots now is undefined.
            input.slot_mapping.iter().for_each(|&slot| pool[slot as usize] = 1e6);
        }
        keys.slice_set(&Tensor::new(pool.as_slice(), &Device::Cpu)?.reshape(keys.shape())?, 0, 0)?;
        if fails {
            self.failures.fetch_add(1, Ordering::Relaxed);
            assert!(!self.panics.load(Ordering::Relaxed), "the fake device panics");
            candle_core::bail!("the fake device is broken");
        }
        self.rows_computed.fetch_add(input.input_ids.len(), Ordering::Relaxed);
        let mut rows = HashMap::new();
        for span in input.sequences {
            for (index, row) in span.rows.clone().enumerate() {
                let visible = span.context_len - span.rows.len() + index + 1;
                assert_eq!(input.positions[row] as usize, visible - 1);
                let slot = |position: usize| {
                    let block = span.block_table[position / cache.block_size()].0 as usize;
                    block * cache.block_size() + position % cache.block_size()
                };
                let own = |key: u32| {
                    assert_eq!(key / ADAPTER_STEP, tag(adapter_of(row)), "another adapter's key");
                    key % ADAPTER_STEP
                };
                let seen: Vec<u32> = (0..visible).map(|p| own(pool[slot(p)] as u32)).collect();
                rows.insert(row as u32, logits(&seen, adapter_of(row)));
            }
        }
        let of = |wanted: &[u32]| {
            let values = wanted.iter().flat_map(|row| rows[row].clone());
            Tensor::from_iter(values, &Device::Cpu)?.reshape((wanted.len(), VOCAB))
        };
        // A state as good as any: what it hashes to.
        let (logits, hidden_states) = (of(input.logit_rows)?, of(input.hidden_rows)?);
        Ok(ForwardOutput { logits, hidden_states })
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

/// A hash of what was seen; three times of four, what followed the last token before is likeliest.
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
    let mut row: Vec<f32> = bytes.into_iter().map(logit).collect();
    let followed = seen.split_last().and_then(|(last, before)| {
        before.iter().rposition(|token| token == last).map(|at| seen[at + 1])
    });
    if let Some(followed) = followed.filter(|_| bytes[0] % 4 != 0) {
        row[followed as usize] += 32.0;
    }
    row
}

/// What a request must answer, computed without an engine.
fn oracle(request: &Request) -> (Vec<sampler::Sampled>, FinishReason) {
    let adapter = request.adapter.as_ref().map(|version| version.id());
    let mut sampler = sampler::Sampler::new(request, 0);
    let mut tokens = request.prompt.to_vec();
    let mut output = Vec::new();
    loop {
        let sampled = match sampler.sample(&logits(&tokens, adapter)) {
            Ok(sampled) => sampled,
            Err(error) => return (output, sampler.end_after(error).unwrap()),
        };
        let token = sampled.token;
        tokens.push(token);
        output.push(sampled);
        if request.sampling.stop_token_ids.contains(&token) {
            return (output, FinishReason::Stop(token));
        }
        if sampler.is_complete() {
            return (output, FinishReason::Complete);
        }
        if output.len() == request.sampling.max_tokens || tokens.len() == MAX_MODEL_LEN {
            return (output, FinishReason::Length);
        }
    }
}

fn adapters() -> Vec<Option<Arc<AdapterVersion>>> {
    let version = |byte: u8| {
        let delta = Arc::new(LowRankDelta::new(AdapterId([byte; 32]), Vec::new()));
        Some(Arc::new(AdapterVersion::new(format!("adapter-{byte}"), delta)))
    };
    vec![None, version(1), version(2), version(3)]
}

fn share(limit: usize) -> QueueShare {
    QueueShare { waiting: Arc::default(), limit }
}

struct Rig {
    handle: EngineHandle,
    engine: Engine,
    model: FakeLm,
    metrics: Arc<Metrics>,
    next: u64,
    /// What the grammars of some texts take in each step beside what they really take.
    grammar_time: Duration,
}

impl Rig {
    fn new(num_blocks: usize, block_size: usize, max_num_seqs: usize, budget: usize) -> Self {
        let blocks = BlockManager::new(num_blocks, block_size).with_prefix_cache([9; 32]);
        Self::over(blocks, max_num_seqs, budget)
    }

    fn over(blocks: BlockManager, max_num_seqs: usize, budget: usize) -> Self {
        let config = SchedulerConfig {
            max_num_seqs,
            max_num_batched_tokens: budget,
            max_model_len: MAX_MODEL_LEN,
            long_prefill_token_threshold: None,
        };
        Self::with_config(blocks, config)
    }

    fn with_config(blocks: BlockManager, config: SchedulerConfig) -> Self {
        let (handle, submissions) = channel(64);
        let shape = KvShape { num_layers: 1, num_kv_heads: 1, head_dim: 1 };
        let (count, size) = (blocks.num_blocks(), blocks.block_size());
        let cache = KvCache::new(shape, count, size, DType::F32, &Device::Cpu).unwrap();
        let (model, metrics) = (FakeLm::default(), Metrics::new());
        let runner = ModelRunner::new(Box::new(model.clone()), cache);
        let scheduler = Scheduler::new(config, blocks);
        let engine = Engine::new(submissions, scheduler, runner, Arc::clone(&metrics));
        Self { handle, engine, model, metrics, next: 0, grammar_time: Duration::ZERO }
    }

    /// Rows that the model has computed so far.
    fn rows_computed(&self) -> usize {
        self.model.rows_computed.load(Ordering::Relaxed)
    }

    /// The value of a counter.
    fn metric(&self, name: &str) -> usize {
        let text = self.metrics.render();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// Answers one request alone: its events, and how many of its tokens were found in the cache.
    fn answer(&mut self, request: &Request) -> (Vec<Event>, usize) {
        let mut stream = self.submit(request.clone()).remove(0);
        self.run_until_idle();
        let events = drain(&mut stream);
        let cached = events.iter().find_map(|event| match event {
            Event::PromptComputed { num_cached_tokens, .. } => Some(*num_cached_tokens),
            _ => None,
        });
        (events, cached.expect("the prompt was not computed"))
    }

    fn submit(&mut self, mut request: Request) -> Vec<EventStream> {
        self.next += 1;
        request.id = RequestId(self.next);
        self.handle.submit(request, &share(usize::MAX)).unwrap()
    }

    /// Submits a request; each of its choices.
    fn ask(&mut self, request: &Request) -> impl Iterator<Item = Asked> + use<> {
        let (streams, request) = (self.submit(request.clone()), request.clone());
        let asked = move |(choice, stream)| Asked { request: request.clone(), choice, stream };
        streams.into_iter().enumerate().map(asked)
    }

    /// Submits requests, with a step after each, and runs until all have ended; each choice.
    fn run(&mut self, requests: &[Request]) -> Vec<Asked> {
        let mut open = Vec::new();
        for request in requests {
            open.extend(self.ask(request));
            self.step();
        }
        self.run_until_idle();
        open
    }

    /// Steps without ever waiting for a request.
    fn step(&mut self) {
        if !self.engine.scheduler.is_idle() || self.handle.has_submissions() {
            self.step_once();
        }
    }

    fn run_until_idle(&mut self) {
        let mut steps = 0;
        while !self.engine.scheduler.is_idle() || self.handle.has_submissions() {
            self.step_once();
            steps += 1;
            assert!(steps < 100_000, "the engine makes no progress");
        }
    }

    fn step_once(&mut self) {
        self.engine.step();
        self.check_books();
        let scheduler = &mut self.engine.scheduler;
        // Slow, fast and in between.
        let ids: Vec<_> = scheduler.running().iter().map(|sequence| sequence.id).collect();
        for id in ids {
            scheduler.grammar_took(id, self.grammar_time * (id.0 % 3) as u32);
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

fn known(tokens: Vec<u32>) -> PromptTokens {
    PromptTokens::new(tokens, VOCAB).unwrap()
}

fn request(prompt: Vec<u32>, max_tokens: usize) -> Request {
    let stop_token_ids = [0].into();
    Request {
        id: RequestId(0),
        arrived: Instant::now(),
        prompt: known(prompt),
        n: 1,
        sampling: SamplingParams {
            temperature: 0.0,
            max_tokens,
            stop_token_ids,
            logit_bias: [(POISON, -1000.0)].into(),
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
    }
}

/// Adds to the logit of a token.
fn bias(request: &mut Request, token: u32, bias: f32) {
    let biases = request.sampling.logit_bias.iter().copied();
    request.sampling.logit_bias = biases.chain([(token, bias)]).collect();
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
    let sampled = |event: &Event| match event.clone() {
        Event::Token { token, logprobs } => Some(sampler::Sampled { token, logprobs }),
        _ => None,
    };
    assert_eq!(events.iter().filter_map(sampled).collect::<Vec<_>>(), expected);
    assert_eq!(events.last(), Some(&Event::Finished(reason)));
    let ends = |e: &&Event| matches!(e, Event::Finished(_) | Event::Failed(_));
    assert_eq!(events.iter().filter(ends).count(), 1, "exactly one end");
}

#[derive(Debug, Clone)]
enum Action {
    Submit(Box<Request>),
    Step,
    HangUp(usize),
}

/// One choice of a request, and what comes of it.
struct Asked {
    request: Request,
    choice: usize,
    stream: EventStream,
}

impl Asked {
    /// Whether it is known what it has to answer: a choice behind the first has a seed of its own.
    fn is_known(&self) -> bool {
        self.request.sampling.is_greedy() || self.choice == 0
    }

    /// Checks that it answered as its request does alone, as far as that is known.
    fn assert_answers(&mut self) {
        let events = drain(&mut self.stream);
        if self.is_known() {
            assert_answers(&events, &self.request);
        } else {
            assert!(matches!(events.last(), Some(Event::Finished(_))));
        }
    }
}

/// Prompts of any tokens, and prompts that begin alike.
fn prompt() -> impl Strategy<Value = Vec<u32>> {
    let alike = |(branch, len): (usize, usize)| {
        let token = |p: usize| if p < 12 * branch { p % 29 + 1 } else { (7 * p + branch) % 29 + 1 };
        (0..len).map(|p| token(p) as u32).collect()
    };
    prop_oneof![
        proptest::collection::vec(1..30_u32, 1..40),
        proptest::collection::vec(1..4_u32, 1..40),
        (0..4_usize, 1..40_usize).prop_map(alike),
    ]
}

fn any_request() -> impl Strategy<Value = Request> {
    let sampling = (
        1..24_usize,
        proptest::option::of(any::<u64>()),
        prop_oneof![Just(0.0), 0.5..2.0_f32],
        0..6_usize,
    );
    let rest = (0..4_usize, 0..2_usize, 0..9_usize, proptest::option::of(0..3_usize), 1..4_usize);
    let grammar = proptest::option::weighted(0.4, prop::sample::select(grammars::all()));
    (prompt(), sampling, rest, grammar).prop_map(|(prompt, sampling, rest, grammar)| {
        let (max_tokens, seed, penalty, min_tokens) = sampling;
        let (adapter, salt, num_speculative_tokens, logprobs, n) = rest;
        let logprobs = logprobs.map(request::Reported::Top);
        let mut request = request(prompt, max_tokens);
        if seed.is_some() {
            request.sampling.temperature = 0.8;
            request.sampling.seed = seed;
        }
        request.sampling.frequency_penalty = penalty;
        request.sampling.min_tokens = min_tokens.min(max_tokens);
        let adapter = adapters()[adapter].clone();
        let cache_salt = ["", "salt"][salt].into();
        Request { n, adapter, cache_salt, num_speculative_tokens, logprobs, grammar, ..request }
    })
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        2 => any_request().prop_map(|request| Action::Submit(Box::new(request))),
        5 => Just(Action::Step),
        1 => any::<usize>().prop_map(Action::HangUp),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Arrivals, aborts, forks, chunks, preemption, cached prefixes and guesses in any mix: every
    /// answer that anyone still listens to is what the request gives alone, to the last bit, and
    /// every block comes back.
    #[test]
    fn in_any_batch_each_request_answers_as_it_does_alone(
        actions in proptest::collection::vec(action(), 1..60),
        block_size in 1..9_usize,
        spare_blocks in 0..12_usize,
        max_num_seqs in 1..9_usize,
        budget in 9..80_usize,
        grammar_millis in prop::sample::select(vec![0, 1, 5]),
    ) {
        let blocks = MAX_MODEL_LEN.div_ceil(block_size) + spare_blocks;
        let mut rig = Rig::new(blocks, block_size, max_num_seqs, budget);
        rig.grammar_time = Duration::from_millis(grammar_millis);
        let mut open: Vec<Asked> = Vec::new();
        for action in actions {
            match action {
                Action::Submit(request) => open.extend(rig.ask(&request)),
                Action::Step => rig.step(),
                Action::HangUp(index) if !open.is_empty() => {
                    drop(open.swap_remove(index % open.len()));
                }
                Action::HangUp(_) => {}
            }
        }
        rig.run_until_idle();
        prop_assert_eq!(rig.free_blocks(), blocks);
        open.iter_mut().for_each(Asked::assert_answers);
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
    poisoned.sampling.logit_bias = [(POISON, 1000.0)].into();
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
    let mut rig = Rig::new(32, 4, 4, 32);
    rig.model.fails.store(true, Ordering::Relaxed);
    let mut streams = rig.submit(Request { n: 3, ..request(vec![1, 2], 4) });
    rig.run_until_idle();
    for stream in &mut streams {
        assert_eq!(drain(stream), [Event::Failed("the forward pass failed".into())]);
    }
    assert_eq!(rig.free_blocks(), 32);
    assert!(rig.handle.is_alive());
}

/// What panics beside every sequence, in the scheduler say, leaves books that nobody can trust: the
/// engine ends, whoever waits is told, and whoever started it learns of it and ends the process.
#[test]
fn a_panic_beside_all_sequences_ends_the_engine() {
    let rig = Rig::new(32, 4, 4, 32);
    let (engine, handle) = (rig.engine, rig.handle);
    let mut waits = handle.submit(request(vec![1, 2], 4), &share(1)).unwrap().remove(0);
    let thread = engine.spawn(|| panic!("a bug of the scheduler")).unwrap();
    assert!(thread.join().is_err());
    assert!(!handle.is_alive());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(waits.next()), None);
    assert!(matches!(handle.submit(request(vec![1], 1), &share(1)), Err(SubmitError::Dead)));
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
    let [
        Event::PromptLogprobs(scores),
        Event::PromptComputed { num_cached_tokens: 0, .. },
        Event::Finished(FinishReason::Length),
    ] = &events[..]
    else {
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
    let (greedy, other) = (share(1), share(2));
    let submit = |share| handle.submit(request(vec![1], 1), share).map(|_| ());
    assert_eq!(submit(&greedy), Ok(()));
    assert_eq!(submit(&greedy), Err(SubmitError::ShareFull { limit: 1 }));
    assert_eq!(submit(&other), Ok(()));
    assert_eq!(submit(&other), Err(SubmitError::QueueFull { limit: 2 }));
    assert_eq!(other.waiting.load(Ordering::Relaxed), 1, "who was refused does not wait");
    drop(submissions);
    assert_eq!(submit(&other), Err(SubmitError::Dead));
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
