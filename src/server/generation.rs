//! All choices of one HTTP request, merged as they come: the same pieces feed a stream and a whole
//! answer.
//!
//! Dropping it, because the client went away or a sibling failed, aborts every choice.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream, SelectAll};

use super::call::Call;
use super::choice::{AnswerRules, Choice, Delta, OutputToken, StopRules};
use super::error::ApiError;
use super::form::Form;
use super::state::{AppState, Serving};
use super::tenancy::account::{Account, record};
use super::tenancy::admission::Admission;
use crate::adapter::registry::AdapterVersion;
use crate::engine::handle::EventStream;
use crate::engine::request::{
    Event, PromptTokens, Reported, Request, SamplingParams, TokenLogprobs,
};
use crate::grammar::Grammar;
use crate::text::answer::Place;
use crate::text::detokenizer::Detokenizer;
use crate::text::stop::StopMatcher;

/// Log-probabilities of a prompt's tokens.
pub type PromptLogprobs = Vec<Option<TokenLogprobs>>;

/// One prompt, tokenised and checked against the context.
#[derive(Debug)]
pub struct Prompt {
    /// Its tokens: at least one.
    pub tokens: PromptTokens,
    /// Tokens to generate at most.
    pub max_tokens: usize,
    /// Continues its text.
    pub detokenizer: Detokenizer,
    /// Where its choices begin with the prompt itself.
    pub echo: Option<Echo>,
}

/// A prompt as the beginning of an answer.
#[derive(Debug, Clone)]
pub struct Echo {
    /// Its text.
    pub text: String,
    /// For each token, the characters before its own.
    pub text_offsets: Vec<usize>,
}

/// A request in the server's terms: several prompts, one way to answer them.
#[derive(Debug)]
pub struct Job {
    /// What is answered.
    pub prompts: Vec<Prompt>,
    /// Choices per prompt.
    pub n: usize,
    /// How tokens are chosen; `max_tokens` stands at each prompt.
    pub sampling: SamplingParams,
    /// Top tokens to report at each generated one.
    pub logprobs: Option<usize>,
    /// Reports these instead.
    pub logprob_token_ids: Option<Arc<[u32]>>,
    /// Top tokens to report at each of the prompt's.
    pub prompt_logprobs: Option<usize>,
    /// Strings that end a choice.
    pub stop: Vec<String>,
    /// Whether what ends a choice's text is part of it.
    pub include_stop: bool,
    /// How a choice's text is taken apart.
    pub answer: AnswerRules,
    /// The adapter; `None` is the base model.
    pub adapter: Option<Arc<AdapterVersion>>,
    /// Cached prompts are shared among requests of one salt.
    pub cache_salt: Arc<str>,
    /// What each choice's text obeys.
    pub grammar: Option<Arc<Grammar>>,
    /// The same before it is compiled.
    pub form: Option<Form>,
    /// Tokens to guess ahead at most.
    pub num_speculative_tokens: usize,
}

/// Tokens read and written so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenCounts {
    /// Of the prompts, each counted once.
    pub prompt: usize,
    /// Of those, how many were found in the cache.
    pub cached: usize,
    /// Of all choices, stop tokens included.
    pub completion: usize,
    /// Of those, how many were thoughts, where thoughts are told apart.
    pub reasoning: Option<usize>,
}

/// The running choices of one request.
pub struct Generation {
    pieces: SelectAll<BoxStream<'static, Result<Delta, ApiError>>>,
    choices: usize,
    counts: TokenCounts,
    prompt_logprobs: Vec<Option<PromptLogprobs>>,
    prompt_tokens: Vec<PromptTokens>,
    account: Account,
    // After the account: what was charged flows back when it is closed.
    admission: Admission,
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation")
            .field("choices", &self.choices)
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

impl Generation {
    /// Submits every prompt, all or none, and waits for the prompts' log-probabilities where they
    /// were asked for.
    ///
    /// # Errors
    /// Where the tenant has not so many tokens left, the queue is full, the engine dead, or scoring
    /// a prompt failed.
    pub async fn start(
        state: &AppState,
        serving: &Serving,
        job: Job,
        call: &Call,
        mut admission: Admission,
    ) -> Result<Self, ApiError> {
        let share = call.caller.queue_share(serving.engine.max_waiting());
        job.check_prompts(share.limit)?;
        admission.charge(job.most_tokens())?;
        admission.release_body();
        let rules = Arc::new(StopRules {
            matcher: job.stop_matcher()?,
            strings: job.stop.clone(),
            token_ids: Arc::clone(&job.sampling.stop_token_ids),
            eos_token_ids: serving.eos_token_ids.clone(),
            min_tokens: job.sampling.min_tokens,
            include_stop: job.include_stop,
            answer: job.answer.clone(),
        });
        let submitted = job
            .prompts
            .iter()
            .map(|prompt| serving.engine.submit(job.request(state, prompt, call), &share))
            .collect::<Result<Vec<_>, _>>()?;
        let choices = job.prompts.len() * job.n;
        let tokens = job.prompts.iter().map(|prompt| prompt.tokens.len()).sum();
        let record = record(serving, job.adapter.as_ref(), tokens);
        let counts = TokenCounts {
            prompt: tokens,
            cached: 0,
            completion: 0,
            reasoning: job.answer.tells_thoughts().then_some(0),
        };
        let slot = admission.take_slot();
        let mut generation = Self {
            pieces: SelectAll::new(),
            choices,
            counts,
            prompt_logprobs: Vec::with_capacity(job.prompts.len()),
            prompt_tokens: Vec::with_capacity(job.prompts.len()),
            account: Account::new(state, call, slot, choices, record),
            admission,
        };
        generation.admission.set_used(generation.account.used());
        for (number, (prompt, streams)) in job.prompts.into_iter().zip(submitted).enumerate() {
            let mut streams = streams.into_iter();
            let mut first = streams.next().ok_or_else(ApiError::internal)?;
            let logprobs = match job.prompt_logprobs {
                Some(_) => Some(generation.receive_prompt_logprobs(&mut first).await?),
                None => None,
            };
            for (k, events) in std::iter::once(first).chain(streams).enumerate() {
                let detokenizer = prompt.detokenizer.clone();
                let (rules, metrics) = (Arc::clone(&rules), Arc::clone(&state.metrics));
                let index = number * job.n + k;
                let mut choice = Choice::new(index, events, detokenizer, rules, metrics);
                if let Some(echo) = &prompt.echo {
                    let tokens = echo.tokens(&prompt.tokens, logprobs.as_ref(), job.logprobs);
                    choice = choice.echoing(echo.text.clone(), tokens);
                }
                generation.add(choice);
            }
            generation.prompt_logprobs.push(logprobs);
            generation.prompt_tokens.push(prompt.tokens);
        }
        Ok(generation)
    }

    fn add(&mut self, choice: Choice) {
        let pieces = stream::unfold(choice, |mut choice| async move {
            let piece = choice.next().await?;
            Some((piece, choice))
        });
        self.pieces.push(pieces.boxed());
    }

    /// The first event of a prompt's first choice.
    async fn receive_prompt_logprobs(
        &mut self,
        events: &mut EventStream,
    ) -> Result<PromptLogprobs, ApiError> {
        let event = tokio::select! {
            event = events.next() => event,
            () = self.admission.aborted() => return Err(ApiError::draining()),
        };
        match event {
            Some(Event::PromptLogprobs(logprobs)) => Ok(logprobs),
            Some(Event::Failed(message)) => Err(ApiError::failed(message)),
            None => Err(ApiError::engine_dead()),
            Some(other) => {
                tracing::error!(?other, "bug: an event came before the prompt's logprobs");
                Err(ApiError::internal())
            }
        }
    }

    /// The next piece of any choice; `None` after the last.
    ///
    /// # Errors
    /// Where a choice failed, the engine died or the server ends: nothing follows an error.
    pub async fn next(&mut self) -> Option<Result<Delta, ApiError>> {
        let piece = tokio::select! {
            biased;
            () = self.admission.aborted() => Some(Err(ApiError::draining())),
            piece = self.pieces.next() => piece,
        };
        match &piece {
            Some(Ok(delta)) => {
                self.counts.completion += delta.generated;
                if let Some(reasoning) = &mut self.counts.reasoning {
                    *reasoning += delta.reasoning_tokens;
                }
                self.counts.cached += delta.cached;
                self.account.piece(delta);
                self.admission.set_used(self.account.used());
            }
            Some(Err(error)) => {
                self.pieces.clear();
                if *error != ApiError::draining() {
                    self.account.failed();
                }
            }
            None => {}
        }
        piece
    }

    /// Waits for every choice's whole answer, in the order of their indices; `note` sees every piece
    /// as it comes.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn collect(&mut self, mut note: impl FnMut(&Delta)) -> Result<Vec<Delta>, ApiError> {
        let mut answers = vec![Delta::default(); self.choices];
        while let Some(piece) = self.next().await {
            let piece = piece?;
            note(&piece);
            answers[piece.index].absorb(piece);
        }
        Ok(answers)
    }

    /// How many choices there are.
    #[must_use]
    pub fn choices(&self) -> usize {
        self.choices
    }

    /// Tokens so far.
    #[must_use]
    pub fn counts(&self) -> TokenCounts {
        self.counts
    }

    /// The tokens of each prompt.
    #[must_use]
    pub fn prompt_tokens(&self) -> &[PromptTokens] {
        &self.prompt_tokens
    }

    /// The log-probabilities of each prompt, where they were asked for.
    #[must_use]
    pub fn prompt_logprobs(&self) -> &[Option<PromptLogprobs>] {
        &self.prompt_logprobs
    }
}

impl Job {
    /// The queue could never take more: every retry would be a 429.
    fn check_prompts(&self, limit: usize) -> Result<(), ApiError> {
        if self.prompts.len() <= limit {
            return Ok(());
        }
        Err(ApiError::invalid("prompt", format!("`prompt` must hold at most {limit} prompts")))
    }

    /// Tokens that its answers can have, and those of its prompts.
    fn most_tokens(&self) -> u64 {
        let tokens = |prompt: &Prompt| (prompt.tokens.len() + self.n * prompt.max_tokens) as u64;
        self.prompts.iter().map(tokens).sum()
    }

    fn stop_matcher(&self) -> Result<StopMatcher, ApiError> {
        StopMatcher::new(self.stop.clone())
            .map_err(|error| ApiError::invalid("stop", format!("`stop` is wrong: {error}")))
    }

    fn reported(&self) -> Option<Reported> {
        let top = self.logprobs?;
        let these = self.logprob_token_ids.as_ref().map(Arc::clone);
        Some(these.map_or(Reported::Top(top), Reported::These))
    }

    fn request(&self, state: &AppState, prompt: &Prompt, call: &Call) -> Request {
        Request {
            id: state.request_id(),
            arrived: call.arrived,
            prompt: prompt.tokens.clone(),
            n: self.n,
            sampling: SamplingParams { max_tokens: prompt.max_tokens, ..self.sampling.clone() },
            logprobs: self.reported(),
            prompt_logprobs: self.prompt_logprobs,
            adapter: self.adapter.clone(),
            tenant: call.caller.share(),
            cache_owner: call.caller.cache_owner(),
            cache_salt: Arc::clone(&self.cache_salt),
            grammar: self.grammar.clone(),
            num_speculative_tokens: self.num_speculative_tokens,
            pooling: None,
        }
    }
}

impl Echo {
    /// The prompt's tokens with their log-probabilities, `top` best ones at each.
    fn tokens(
        &self,
        ids: &[u32],
        logprobs: Option<&PromptLogprobs>,
        top: Option<usize>,
    ) -> Vec<OutputToken> {
        let logprobs = |place: usize| {
            let mut at = logprobs?.get(place).cloned().flatten()?;
            at.top.truncate(top?);
            Some(at)
        };
        let places = ids.iter().zip(&self.text_offsets).enumerate();
        places
            .map(|(place, (id, text_offset))| OutputToken {
                id: *id,
                logprobs: logprobs(place),
                text_offset: *text_offset,
                place: Place::Content,
            })
            .collect()
    }
}
