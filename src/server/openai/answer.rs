//! What an endpoint needs to write an answer: its id, time and model, and how usage is reported.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use uuid::Uuid;

use super::endpoint::Delivery;
use super::logprobs::TokenNames;
use super::model::Model;
use super::types::{Envelope, OptionalUsage, StopReasonField};
use super::validate::stream::StreamOptions;
use super::validate::{Common, TokenIds};
use crate::server::choice::{Finish, OutputToken, StopReason};
use crate::server::generation::{Generation, TokenCounts};
use crate::server::state::Serving;

/// The `stop_reason` of an answer that could not go on.
const STUCK: &str = "no_token_allowed";

/// The same in every chunk of an answer.
#[derive(Debug)]
pub struct Answer {
    /// Unique.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The name the client asked for.
    pub model: String,
    /// Which weights answer.
    pub system_fingerprint: String,
    /// The model.
    pub serving: Arc<Serving>,
    /// Whether log-probabilities were asked for.
    pub logprobs: bool,
    /// Which token ids it holds.
    pub ids: TokenIds,
    /// How usage is streamed.
    pub stream: Option<StreamOptions>,
}

impl Answer {
    /// A new answer; `prefix` says of which kind.
    #[must_use]
    pub fn new(prefix: &str, common: &Common, serving: &Arc<Serving>, logprobs: bool) -> Self {
        Self {
            id: format!("{prefix}-{}", Uuid::new_v4().simple()),
            created: unix_seconds(),
            model: common.model.name.clone(),
            system_fingerprint: fingerprint(&serving.root, &common.model),
            serving: Arc::clone(serving),
            logprobs,
            ids: common.token_ids,
            stream: common.stream,
        }
    }

    /// How the client wants it.
    #[must_use]
    pub fn delivery(&self) -> Delivery {
        if self.stream.is_some() { Delivery::Streamed } else { Delivery::Whole }
    }

    /// How its tokens are called.
    #[must_use]
    pub fn tokens(&self) -> TokenNames<'_> {
        TokenNames { tokenizer: &self.serving.tokenizer, as_ids: self.ids.as_tokens }
    }

    /// The ids of `tokens`, where they were asked for.
    #[must_use]
    pub fn token_ids(&self, tokens: &[OutputToken]) -> Option<Vec<u32>> {
        self.ids.returned.then(|| tokens.iter().map(|token| token.id).collect())
    }

    /// The ids of a prompt, where they were asked for.
    #[must_use]
    pub fn prompt_token_ids(&self, generation: &Generation, prompt: usize) -> Option<Vec<u32>> {
        let tokens = generation.prompt_tokens().get(prompt).filter(|_| self.ids.returned);
        tokens.map(|tokens| tokens.to_vec())
    }

    /// An object around `choices`.
    pub fn envelope<T>(&self, object: &'static str, choices: Vec<T>) -> Envelope<'_, T> {
        Envelope {
            id: &self.id,
            object,
            created: self.created,
            model: &self.model,
            system_fingerprint: &self.system_fingerprint,
            choices,
            usage: None,
            prompt_logprobs: None,
            prompt_token_ids: None,
        }
    }

    /// A chunk with one choice.
    pub fn chunk<T: Serialize>(
        &self,
        object: &'static str,
        choice: T,
        counts: TokenCounts,
    ) -> String {
        self.first_chunk(object, choice, counts, None)
    }

    /// A chunk with one choice and, where they were asked for, the prompt's tokens.
    pub fn first_chunk<T: Serialize>(
        &self,
        object: &'static str,
        choice: T,
        counts: TokenCounts,
        prompt_token_ids: Option<Vec<u32>>,
    ) -> String {
        let usage = self.chunk_usage(counts);
        to_json(&Envelope { usage, prompt_token_ids, ..self.envelope(object, vec![choice]) })
    }

    fn chunk_usage(&self, counts: TokenCounts) -> OptionalUsage {
        let options = self.stream?;
        if options.continuous_usage_stats {
            return Some(Some(counts.into()));
        }
        options.include_usage.then_some(None)
    }

    /// The chunk that holds nothing but the usage, where it was asked for.
    #[must_use]
    pub fn usage_chunk(&self, object: &'static str, counts: TokenCounts) -> Option<String> {
        self.stream.filter(|options| options.include_usage)?;
        let choices: Vec<()> = Vec::new();
        let usage = Some(Some(counts.into()));
        Some(to_json(&Envelope { usage, ..self.envelope(object, choices) }))
    }
}

/// The end of a choice on the wire.
#[must_use]
pub fn finish_fields(finish: Option<Finish>) -> (Option<&'static str>, Option<StopReasonField>) {
    let Some(Finish { reason, stop_reason }) = finish else { return (None, None) };
    let stop_reason = match stop_reason {
        StopReason::Model => None,
        StopReason::Text(text) => Some(StopReasonField::Text(text)),
        StopReason::Token(token) => Some(StopReasonField::Token(token)),
        StopReason::Stuck => Some(StopReasonField::Text(STUCK.to_owned())),
    };
    (Some(reason), stop_reason)
}

/// The beginnings of the content digests of the base and of the adapter.
fn fingerprint(root: &str, model: &Model) -> String {
    let short = |digest: &str| {
        let hex = digest.rsplit(':').next().unwrap_or_default();
        hex.chars().take(16).collect::<String>()
    };
    match model.adapter_digest() {
        Some(adapter) => format!("fp_{}_{}", short(root), short(&adapter)),
        None => format!("fp_{}", short(root)),
    }
}

/// `value` as it stands in an event.
pub(super) fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("the wire's types have string keys and finite numbers")
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
