//! Log-probabilities in the three shapes of the wire: completions', chats' and prompts'.

use super::types::{
    ChatLogprob, ChatLogprobs, CompletionLogprobs, InOrder, PromptLogprob, PromptLogprobEntry,
    TokenLogprob,
};
use crate::engine::request::{Logprob, TokenLogprobs};
use crate::server::choice::OutputToken;
use crate::server::generation::PromptLogprobs;
use crate::text::answer::Place;
use crate::text::tokenizer::Tokenizer;

/// JSON has no infinity: a token that cannot occur gets this, as vLLM writes it.
const FLOOR: f32 = -9999.0;

/// A finite log-probability.
fn finite(logprob: f32) -> f32 {
    logprob.max(FLOOR)
}

/// How tokens are called.
#[derive(Debug, Clone, Copy)]
pub struct TokenNames<'a> {
    /// Knows their texts.
    pub tokenizer: &'a Tokenizer,
    /// Whether they are called by their ids instead.
    pub as_ids: bool,
}

impl TokenNames<'_> {
    /// A token's name: `token_id:` and its id, or its text.
    fn of(self, id: u32) -> String {
        if self.as_ids { format!("token_id:{id}") } else { token_string(self.tokenizer, id) }
    }
}

/// A token's text, or `bytes:\x..` where its bytes are no whole characters.
fn token_string(tokenizer: &Tokenizer, id: u32) -> String {
    match String::from_utf8(tokenizer.token_bytes(id).unwrap_or_default()) {
        Ok(text) => text,
        Err(error) => error.as_bytes().iter().fold("bytes:".to_owned(), |mut text, byte| {
            text.push_str(&format!("\\x{byte:02x}"));
            text
        }),
    }
}

/// The completions' shape of a run of tokens.
#[must_use]
pub fn completion(names: TokenNames<'_>, tokens: Vec<OutputToken>) -> CompletionLogprobs {
    let mut logprobs = CompletionLogprobs::default();
    for token in tokens {
        logprobs.tokens.push(names.of(token.id));
        logprobs.text_offset.push(token.text_offset);
        let chosen = token.logprobs.as_ref().map(|logprobs| finite(logprobs.chosen.logprob));
        logprobs.token_logprobs.push(chosen);
        logprobs.top_logprobs.push(token.logprobs.map(|at| by_name(names, &at)));
    }
    logprobs
}

/// The top tokens and the chosen one by their names. Of tokens with one name the chosen one wins,
/// then the best.
fn by_name(names: TokenNames<'_>, at: &TokenLogprobs) -> InOrder<String, f32> {
    let mut entries: Vec<(String, f32)> = Vec::with_capacity(at.top.len() + 1);
    for Logprob { token, logprob } in &at.top {
        let text = names.of(*token);
        if !entries.iter().any(|(known, _)| *known == text) {
            entries.push((text, finite(*logprob)));
        }
    }
    let (text, logprob) = (names.of(at.chosen.token), finite(at.chosen.logprob));
    match entries.iter_mut().find(|(known, _)| *known == text) {
        Some(entry) => entry.1 = logprob,
        None => entries.push((text, logprob)),
    }
    InOrder(entries)
}

/// The chats' shape of those among a run of tokens that are what is said.
#[must_use]
pub fn chat(names: TokenNames<'_>, tokens: &[OutputToken]) -> ChatLogprobs {
    let write = |Logprob { token, logprob }: &Logprob| TokenLogprob {
        token: names.of(*token),
        logprob: finite(*logprob),
        bytes: names.tokenizer.token_bytes(*token).unwrap_or_default(),
    };
    let content = tokens
        .iter()
        .filter(|token| token.place == Place::Content)
        .filter_map(|token| token.logprobs.as_ref())
        .map(|at| ChatLogprob {
            chosen: write(&at.chosen),
            top_logprobs: at.top.iter().map(write).collect(),
        })
        .collect();
    ChatLogprobs { content: Some(content), refusal: None }
}

/// vLLM's shape of a prompt's, with the `top` best tokens at each place.
#[must_use]
pub fn prompt(
    names: TokenNames<'_>,
    logprobs: &PromptLogprobs,
    top: usize,
) -> Vec<Option<PromptLogprobEntry>> {
    let write = |at: &TokenLogprobs| {
        let entry = |found: &Logprob, rank: usize| {
            let decoded_token = names.of(found.token);
            (found.token, PromptLogprob { logprob: finite(found.logprob), rank, decoded_token })
        };
        let best = at.top.iter().enumerate().map(|(place, found)| entry(found, place + 1));
        let mut entries: Vec<_> = best.take(top).collect();
        if !entries.iter().any(|(token, _)| *token == at.chosen.token) {
            entries.push(entry(&at.chosen, at.rank));
        }
        InOrder(entries)
    };
    logprobs.iter().map(|at| at.as_ref().map(write)).collect()
}
