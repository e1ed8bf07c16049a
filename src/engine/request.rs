//! What the engine is asked for and what it answers: token ids in, events out. No text, no JSON.

mod prompt_tokens;
mod token_set;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::prompt_tokens::{PromptTokens, UnknownToken};
pub use self::token_set::TokenSet;

use crate::adapter::registry::AdapterVersion;
use crate::grammar::Grammar;

/// Names one request in logs and responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Temperatures below this are greedy: the likeliest token has all of the probability there, and
/// what is divided by less need not be a number. As in vLLM.
const GREEDY_BELOW: f32 = 1e-5;

/// How the next token is chosen. Values are validated against the loaded model at the edge; what may
/// be long is shared by all prompts and choices of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Below 0.00001 it is greedy.
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keep this many most probable tokens; `None` keeps all.
    pub top_k: Option<usize>,
    /// Drop tokens less probable than this share of the most probable one; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once from the logit of every token in the output.
    pub presence_penalty: f32,
    /// Subtracted per occurrence from the logit of every token in the output.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens; every id is below the vocabulary size, and none twice.
    pub logit_bias: Arc<[(u32, f32)]>,
    /// The only tokens that may be generated, where not all may.
    pub allowed_token_ids: Option<Arc<TokenSet>>,
    /// Makes the text repeatable; `None` draws a seed.
    pub seed: Option<u64>,
    /// Tokens to generate at most. 0 only scores the prompt.
    pub max_tokens: usize,
    /// Tokens before which no stop token may be chosen.
    pub min_tokens: usize,
    /// Tokens that end the sequence: the model's end-of-sequence ids, unless the request ignores
    /// them, and the request's own; ascending, none twice.
    pub stop_token_ids: Arc<[u32]>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: None,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Arc::default(),
            allowed_token_ids: None,
            seed: None,
            max_tokens: 16,
            min_tokens: 0,
            stop_token_ids: Arc::default(),
        }
    }
}

impl SamplingParams {
    /// True where the most probable token is always taken.
    #[must_use]
    pub fn is_greedy(&self) -> bool {
        self.temperature < GREEDY_BELOW
    }
}

/// For whom a request is computed, as far as the order of work depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantShare {
    /// Which tenant.
    pub id: u32,
    /// Its part beside other tenants, relative to theirs; at least 1.
    pub weight: u32,
    /// Whether there are no others.
    pub alone: bool,
}

impl Default for TenantShare {
    /// The tenant there is where there are no others.
    fn default() -> Self {
        Self { id: 0, weight: 1, alone: true }
    }
}

/// How a prompt's hidden states, after the final norm, become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean over all tokens of the prompt.
    Mean,
    /// That of the last token.
    Last,
}

/// One prompt, answered `n` times.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its name.
    pub id: RequestId,
    /// When it reached the server.
    pub arrived: Instant,
    /// Prompt tokens: at least one, fewer than the context.
    pub prompt: PromptTokens,
    /// Choices to generate, at least 1. They share the prompt's cache blocks.
    pub n: usize,
    /// How to choose tokens. Choice `k` draws from random stream `k` of the seed.
    pub sampling: SamplingParams,
    /// Which tokens to report beside each chosen one, where any are.
    pub logprobs: Option<Reported>,
    /// Top tokens to report beside each of the prompt's own; `Some(0)` reports those alone.
    pub prompt_logprobs: Option<usize>,
    /// The adapter version it is served with to its end; `None` is the base model.
    pub adapter: Option<Arc<AdapterVersion>>,
    /// For whom it is computed.
    pub tenant: TenantShare,
    /// Who may find its cached prompt: requests of the same owner, whom the server knows, ...
    pub cache_owner: String,
    /// ... and of the same salt, which the caller chose.
    pub cache_salt: Arc<str>,
    /// What each choice's text obeys.
    pub grammar: Option<Arc<Grammar>>,
    /// Tokens to guess ahead from what the text has already said, at most; 0 guesses none. Only
    /// greedy choices are guessed for, and no token of the answer depends on it.
    pub num_speculative_tokens: usize,
    /// Answers with one vector instead of tokens: `n` is 1 then, and `max_tokens` 0.
    pub pooling: Option<Pooling>,
}

impl Request {
    /// True where every token of the prompt has to be computed, whatever the cache holds.
    #[must_use]
    pub fn needs_every_row(&self) -> bool {
        self.prompt_logprobs.is_some() || self.pooling == Some(Pooling::Mean)
    }
}

/// A token with its log-probability under the model's unmodified distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Logprob {
    /// The token.
    pub token: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// Which tokens are reported beside a chosen one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reported {
    /// This many of the most probable; 0 reports the chosen one alone.
    Top(usize),
    /// These, each below the vocabulary size and none twice.
    These(Arc<[u32]>),
}

/// The log-probabilities reported for one position.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// The token at this position.
    pub chosen: Logprob,
    /// How many tokens of the vocabulary come before it, best first and of equals in order of id,
    /// plus 1.
    pub rank: usize,
    /// The most probable tokens, best first; or the chosen one and then those that were asked for, in
    /// their order. The chosen one has the same value here.
    pub top: Vec<Logprob>,
}

/// Why a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// This stop token was generated (it is the last token event).
    Stop(u32),
    /// Its text is complete: the grammar lets nothing follow.
    Complete,
    /// Its text is not complete and cannot go on: what the request allows and what its grammar does
    /// leave no token, or the grammar has become too complex to follow.
    Stuck,
    /// `max_tokens` or the end of the context was reached.
    Length,
    /// The server shut down.
    Abort,
}

/// How long a request waited in the engine for its first token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Queued {
    /// From its arrival to its first run.
    pub time: Duration,
    /// Steps that the engine made from its coming to its first token, the one that gave that included.
    pub steps: u64,
}

/// What happens to one choice, in order: [`Event::PromptLogprobs`] where asked for and
/// [`Event::PromptComputed`] (first choice only), any number of [`Event::Token`] or one
/// [`Event::Pooled`], then exactly one of the other two.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// One entry per prompt token; the first has none, as nothing precedes it.
    PromptLogprobs(Vec<Option<TokenLogprobs>>),
    /// The prompt is in the cache, and tokens follow.
    PromptComputed {
        /// How many of its tokens were found there.
        num_cached_tokens: usize,
        /// How long that took.
        queued: Queued,
    },
    /// A token was generated.
    Token {
        /// Its id.
        token: u32,
        /// Where the request asked for them.
        logprobs: Option<TokenLogprobs>,
    },
    /// The vector that was asked for, not normalised.
    Pooled(Vec<f32>),
    /// The choice is complete.
    Finished(FinishReason),
    /// The choice failed alone; the message is for the operator's log as much as for the client.
    Failed(String),
}
