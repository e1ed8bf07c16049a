//! One choice of one request on its way through the engine: its tokens, its blocks, its client.

use std::sync::Arc;
use std::time::Instant;

use super::handle::{QueuePlace, Reply, Submission};
use super::pooling::{Pool, PoolingError};
use super::prompt_lookup::{self, DraftLength};
use super::request::{Event, FinishReason, Queued, Request, TokenLogprobs};
use super::row_cost::cost;
use super::sampler::Sampler;
use crate::kv_cache::block_manager::BlockTable;
use crate::kv_cache::prefix_cache::HashChain;

/// Names a sequence within the engine; ascending in order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u64);

/// When things happened to a sequence.
#[derive(Debug, Clone, Copy)]
pub struct Timeline {
    /// The request reached the server.
    pub arrived: Instant,
    /// The engine's step before which it came.
    pub came: u64,
    /// Its first token was computed.
    pub scheduled: Option<Instant>,
    /// Its first token was generated.
    pub first_token: Option<Instant>,
    /// Its latest token was generated.
    pub last_token: Option<Instant>,
}

/// A choice that has not been forked off yet: it waits for the shared prompt.
#[derive(Debug)]
struct PendingChoice {
    choice: usize,
    reply: Reply,
}

/// A sequence of tokens that grows by one per step once its prompt is computed.
#[derive(Debug)]
pub struct Sequence {
    /// Its name.
    pub id: SequenceId,
    /// Cache blocks of the computed tokens.
    pub block_table: BlockTable,
    /// Names what its blocks hold; `None` where nothing of it is remembered.
    pub chain: Option<HashChain>,
    /// Chooses its tokens.
    pub sampler: Sampler,
    /// How far its next tokens are guessed.
    pub draft_length: DraftLength,
    /// When things happened.
    pub timeline: Timeline,
    request: Arc<Request>,
    choice: usize,
    reply: Reply,
    place: Option<QueuePlace>,
    pending: Vec<PendingChoice>,
    tokens: Vec<u32>,
    num_computed: usize,
    num_cached: Option<usize>,
    /// Tokens that have been counted for its tenant, however often they are computed.
    num_charged: usize,
    /// How often it lost its blocks.
    num_preempted: usize,
    /// How often others that came later were begun before it.
    num_passed: usize,
    prompt_logprobs: Vec<Option<TokenLogprobs>>,
    prompt_scored: bool,
    pool: Option<Pool>,
}

impl Sequence {
    /// The sequence of a request's first choice; further choices fork off it after the prompt.
    ///
    /// # Panics
    /// Where the submission has no reply: a request has at least one choice.
    #[must_use]
    pub fn new(id: SequenceId, submission: Submission) -> Self {
        let Submission { request, replies, place } = submission;
        let mut replies = replies.into_iter().enumerate();
        let (choice, reply) = replies.next().expect("bug: a request without a choice");
        Self {
            id,
            block_table: BlockTable::default(),
            chain: None,
            sampler: Sampler::new(&request, choice),
            draft_length: draft_length(&request),
            timeline: Timeline {
                arrived: request.arrived,
                came: 0,
                scheduled: None,
                first_token: None,
                last_token: None,
            },
            choice,
            reply,
            place: Some(place),
            pending: replies.map(|(choice, reply)| PendingChoice { choice, reply }).collect(),
            tokens: request.prompt.to_vec(),
            num_computed: 0,
            num_cached: None,
            num_charged: 0,
            num_preempted: 0,
            num_passed: 0,
            prompt_logprobs: vec![None; usize::from(request.prompt_logprobs.is_some())],
            prompt_scored: request.prompt_logprobs.is_none(),
            pool: request.pooling.map(Pool::new),
            request: Arc::new(request),
        }
    }

    /// Splits off the next pending choice, which continues from the same computed tokens.
    /// `block_table` is a fork of this sequence's.
    pub fn fork(&mut self, id: SequenceId, block_table: BlockTable) -> Option<Self> {
        let PendingChoice { choice, reply } = self.pending.pop()?;
        Some(Self {
            id,
            block_table,
            chain: self.chain.clone(),
            sampler: Sampler::new(&self.request, choice),
            draft_length: draft_length(&self.request),
            timeline: self.timeline,
            request: Arc::clone(&self.request),
            choice,
            reply,
            place: None,
            pending: Vec::new(),
            tokens: self.tokens.clone(),
            num_computed: self.num_computed,
            num_cached: self.num_cached,
            num_charged: self.num_charged,
            num_preempted: 0,
            num_passed: 0,
            prompt_logprobs: Vec::new(),
            prompt_scored: true,
            pool: None,
        })
    }

    /// What was asked.
    #[must_use]
    pub fn request(&self) -> &Arc<Request> {
        &self.request
    }

    /// Which of the request's choices this is.
    #[must_use]
    pub fn choice(&self) -> usize {
        self.choice
    }

    /// Prompt and generated tokens.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens whose keys and values are in the cache.
    #[must_use]
    pub fn num_computed(&self) -> usize {
        self.num_computed
    }

    /// Tokens that still have to be run; at least 1 while the sequence is alive.
    #[must_use]
    pub fn num_uncomputed(&self) -> usize {
        self.tokens.len() - self.num_computed
    }

    /// Tokens generated so far.
    #[must_use]
    pub fn num_generated(&self) -> usize {
        self.tokens.len() - self.request.prompt.len()
    }

    /// Tokens that were found in the cache when it first started; `None` where nobody looked.
    #[must_use]
    pub fn num_cached(&self) -> Option<usize> {
        self.num_cached
    }

    /// How often it lost its blocks.
    #[must_use]
    pub fn num_preempted(&self) -> usize {
        self.num_preempted
    }

    /// How often others that came later were begun before it.
    #[must_use]
    pub fn num_passed(&self) -> usize {
        self.num_passed
    }

    /// Another that came later is begun before it.
    pub fn pass(&mut self) {
        self.num_passed += 1;
    }

    /// Tokens up to `to` are computed. Of those that have not been counted for its tenant yet, which are
    /// counted now: how many were generated, and what all cost beside a row for each of these. What is
    /// computed again is not counted.
    pub fn charge(&mut self, to: usize) -> (usize, usize) {
        let (from, prompt) = (self.num_charged, self.request.prompt.len());
        self.num_charged = to.max(from);
        let to = self.num_charged;
        let generated = to.max(prompt) - from.max(prompt);
        (cost(from, to - from) - generated, generated)
    }

    /// Tokens that may come next, as the text itself suggests. Greedy choices alone are guessed for,
    /// once they are being answered, and never beyond the end that `max_model_len`, the request or
    /// its grammar sets.
    #[must_use]
    pub fn draft(&mut self, max_model_len: usize, limit: usize) -> Vec<u32> {
        let generated = self.num_generated();
        if !self.request.sampling.is_greedy() || generated == 0 || self.num_uncomputed() != 1 {
            return Vec::new();
        }
        let to_generate = self.request.sampling.max_tokens.saturating_sub(generated);
        let left = to_generate.min(max_model_len.saturating_sub(self.tokens.len()));
        // Right guesses are followed by one more token.
        let count = self.draft_length.next().min(limit).min(left.saturating_sub(1));
        let mut drafts = prompt_lookup::propose(&self.tokens, count);
        drafts.truncate(self.sampler.count_allowed(&drafts));
        drafts
    }

    /// Sequences this one stands for: itself and the choices that will fork off it.
    #[must_use]
    pub fn num_choices(&self) -> usize {
        1 + self.pending.len()
    }

    /// True where log-probabilities of the prompt are still to be computed.
    #[must_use]
    pub fn wants_prompt_logprobs(&self) -> bool {
        !self.prompt_scored
    }

    /// True where rows of the prompt are wanted that the cache cannot give.
    #[must_use]
    pub fn needs_every_row(&self) -> bool {
        self.wants_prompt_logprobs() || (self.pool.is_some() && self.request.needs_every_row())
    }

    /// True where every client of this sequence, and of the choices it carries, has gone.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.reply.is_closed() && self.pending.iter().all(|pending| pending.reply.is_closed())
    }

    /// Leaves the waiting queue: frees its place there.
    pub fn start(&mut self) {
        self.place = None;
        self.timeline.scheduled.get_or_insert_with(Instant::now);
    }

    /// Begins with what was found in the cache: `block_table` holds its first `num_tokens` tokens.
    pub fn attach(&mut self, block_table: BlockTable, num_tokens: usize) {
        self.block_table = block_table;
        self.num_computed = num_tokens;
        // What is found costs nothing.
        self.num_charged = self.num_charged.max(num_tokens);
        if self.chain.is_some() && !self.request.needs_every_row() {
            self.num_cached.get_or_insert(num_tokens);
        }
    }

    /// `num_tokens` more tokens are in the cache.
    pub fn advance(&mut self, num_tokens: usize) {
        self.num_computed += num_tokens;
        debug_assert!(self.num_computed <= self.tokens.len(), "bug: computed a token twice");
    }

    /// Forgets what is in the cache; its blocks were given back. Tokens and sampler stay.
    pub fn reset(&mut self) {
        self.num_computed = 0;
        self.num_preempted += 1;
        if !self.prompt_scored {
            self.prompt_logprobs.truncate(1);
        }
        if let Some(pool) = &mut self.pool {
            pool.clear();
        }
    }

    /// Adds the log-probabilities of the next prompt token; the last one sends them all.
    pub fn push_prompt_logprobs(&mut self, logprobs: TokenLogprobs) {
        self.prompt_logprobs.push(Some(logprobs));
        self.finish_prompt_logprobs();
    }

    /// Sends the prompt's log-probabilities once they are complete.
    pub fn finish_prompt_logprobs(&mut self) {
        if !self.prompt_scored && self.prompt_logprobs.len() == self.request.prompt.len() {
            self.prompt_scored = true;
            self.reply.send(Event::PromptLogprobs(std::mem::take(&mut self.prompt_logprobs)));
        }
    }

    /// Takes the hidden state of the next token of a prompt that becomes a vector.
    pub fn push_hidden_state(&mut self, row: &[f32]) {
        if let Some(pool) = &mut self.pool {
            pool.push(row);
        }
    }

    /// Sends the prompt's vector, where one was asked for: its last row has come.
    ///
    /// # Errors
    /// Where it is none.
    pub fn finish_pool(&mut self) -> Result<(), PoolingError> {
        if let Some(pool) = self.pool.take() {
            self.reply.send(Event::Pooled(pool.finish()?));
        }
        Ok(())
    }

    /// Tells the client that the prompt is computed, by the engine's step of this number.
    pub fn finish_prompt(&self, step: u64) {
        let num_cached_tokens = self.num_cached.unwrap_or(0);
        let begun = self.timeline.scheduled.unwrap_or(self.timeline.arrived);
        let time = begun.duration_since(self.timeline.arrived);
        let queued = Queued { time, steps: step - self.timeline.came };
        self.reply.send(Event::PromptComputed { num_cached_tokens, queued });
    }

    /// Appends a generated token and tells the client.
    pub fn push(&mut self, token: u32, logprobs: Option<TokenLogprobs>) {
        let now = Instant::now();
        self.timeline.first_token.get_or_insert(now);
        self.timeline.last_token = Some(now);
        self.tokens.push(token);
        self.reply.send(Event::Token { token, logprobs });
    }

    /// Why the sequence ends after its latest token, where it does.
    #[must_use]
    pub fn finish_reason(&self, max_model_len: usize) -> Option<FinishReason> {
        let sampling = &self.request.sampling;
        let generated = self.num_generated();
        if let Some(&last) = self.tokens.last()
            && generated > 0
            && generated >= sampling.min_tokens
            && sampling.stop_token_ids.contains(&last)
        {
            return Some(FinishReason::Stop(last));
        }
        if self.sampler.is_complete() {
            return Some(FinishReason::Complete);
        }
        let full = generated >= sampling.max_tokens || self.tokens.len() >= max_model_len;
        full.then_some(FinishReason::Length)
    }

    /// Tells the client, and those of pending choices, that nothing more comes.
    pub fn send_last(&self, event: &Event) {
        self.reply.send(event.clone());
        for pending in &self.pending {
            pending.reply.send(event.clone());
        }
    }
}

fn draft_length(request: &Request) -> DraftLength {
    DraftLength::new(request.num_speculative_tokens)
}
