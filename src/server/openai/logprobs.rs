//! Log-probabilities in the three shapes of the wire: completions', chats' and prompts'.

use super::types::{
    ChatLogprob, ChatLogprobs, CompletionLogprobs, InOrder, PromptLogprob, PromptLogprobEntry,
    TokenLogprob,
};
use crate::engine::request::{Logprob, TokenLogprobs};
use crate::server::choice::OutputToken;
use crate::server::generation::PromptLogprobs;
use crate::text::tokenizer::Tokenizer;

/// JSON has no infinity: a token that cannot occur gets this, as vLLM writes it.
const FLOOR: f32 = -9999.0;

/// A finite log-probability.
fn finite(logprob: f32) -> f32 {
    logprob.max(FLOOR)
}

/// A token's text, or `bytes:\x..` where its bytes are no whole characters.
#[must_use]
pub fn token_string(tokenizer: &Tokenizer, id: u32) -> String {
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
pub fn completion(tokenizer: &Tokenizer, tokens: Vec<OutputToken>) -> CompletionLogprobs {
    let mut logprobs = CompletionLogprobs::default();
    for token in tokens {
        logprobs.tokens.push(token_string(tokenizer, token.id));
        logprobs.text_offset.push(token.text_offset);
        let chosen = token.logprobs.as_ref().map(|logprobs| finite(logprobs.chosen.logprob));
        logprobs.token_logprobs.push(chosen);
        logprobs.top_logprobs.push(token.logprobs.map(|at| by_text(tokenizer, &at)));
    }
    logprobs
}

/// The top tokens and the chosen one by their text. Of tokens with one text the chosen one wins,
/// then the best.
fn by_text(tokenizer: &Tokenizer, at: &TokenLogprobs) -> InOrder<String, f32> {
    let mut entries: Vec<(String, f32)> = Vec::with_capacity(at.top.len() + 1);
    for Logprob { token, logprob } in &at.top {
        let text = token_string(tokenizer, *token);
        if !entries.iter().any(|(known, _)| *known == text) {
            entries.push((text, finite(*logprob)));
        }
    }
    let (text, logprob) = (token_string(tokenizer, at.chosen.token), finite(at.chosen.logprob));
    match entries.iter_mut().find(|(known, _)| *known == text) {
        Some(entry) => entry.1 = logprob,
        None => entries.push((text, logprob)),
    }
    InOrder(entries)
}

/// The chats' shape of a run of tokens.
#[must_use]
pub fn chat(tokenizer: &Tokenizer, tokens: Vec<OutputToken>) -> ChatLogprobs {
    let write = |Logprob { token, logprob }: &Logprob| TokenLogprob {
        token: token_string(tokenizer, *token),
        logprob: finite(*logprob),
        bytes: tokenizer.token_bytes(*token).unwrap_or_default(),
    };
    let content = tokens
        .into_iter()
        .filter_map(|token| token.logprobs)
        .map(|at| ChatLogprob {
            chosen: write(&at.chosen),
            top_logprobs: at.top.iter().map(write).collect(),
        })
        .collect();
    ChatLogprobs { content, refusal: None }
}

/// vLLM's shape of a prompt's, with the `top` best tokens at each place.
#[must_use]
pub fn prompt(
    tokenizer: &Tokenizer,
    logprobs: &PromptLogprobs,
    top: usize,
) -> Vec<Option<PromptLogprobEntry>> {
    let write = |at: &TokenLogprobs| {
        let entry = |found: &Logprob, rank: Option<usize>| {
            let decoded_token = token_string(tokenizer, found.token);
            (found.token, PromptLogprob { logprob: finite(found.logprob), rank, decoded_token })
        };
        let best = at.top.iter().enumerate().map(|(place, found)| entry(found, Some(place + 1)));
        let mut entries: Vec<_> = best.take(top).collect();
        if !entries.iter().any(|(token, _)| *token == at.chosen.token) {
            entries.push(entry(&at.chosen, None));
        }
        InOrder(entries)
    };
    logprobs.iter().map(|at| at.as_ref().map(write)).collect()
}
