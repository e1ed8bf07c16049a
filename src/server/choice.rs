//! One choice on its way to the client: token events in, pieces of text out.
//!
//! It applies what the engine cannot know: how tokens become text, and strings that end it. It
//! writes no JSON.

use std::sync::Arc;
use std::time::Duration;

use super::error::ApiError;
use crate::engine::handle::EventStream;
use crate::engine::request::{Event, FinishReason, TokenLogprobs};
use crate::metrics::Metrics;
use crate::text::detokenizer::Detokenizer;
use crate::text::stop::{StopMatcher, StopOutcome};

/// A token that belongs to an answer: generated, or echoed from the prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputToken {
    /// Its id.
    pub id: u32,
    /// Where the request asked for them; also absent for the first token of a prompt.
    pub logprobs: Option<TokenLogprobs>,
    /// Characters of the choice's text before this token's.
    pub text_offset: usize,
}

/// What ended a choice from within.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// An end-of-sequence token of the model, or the length.
    Model,
    /// This string of the request.
    Text(String),
    /// This stop token.
    Token(u32),
}

/// The end of a choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finish {
    /// `stop` or `length`, the wire's word.
    pub reason: &'static str,
    /// What it stopped at.
    pub stop_reason: StopReason,
}

/// A piece of one choice. Pieces of a choice, absorbed in order, are its whole answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Delta {
    /// The choice: prompt times `n` plus its number.
    pub index: usize,
    /// More text, often none: it is held back while it may be part of a character or a stop.
    pub text: String,
    /// More tokens, whether their text is in this piece or a later one.
    pub tokens: Vec<OutputToken>,
    /// How many of `tokens` were generated.
    pub generated: usize,
    /// How many of the prompt's tokens were found in the cache; on the first choice's first piece.
    pub cached: usize,
    /// How long the request waited before it was begun; on the first choice's first piece.
    pub queued: Option<Duration>,
    /// Set on the last piece.
    pub finish: Option<Finish>,
}

impl Delta {
    /// Appends the piece that follows.
    pub fn absorb(&mut self, next: Self) {
        self.index = next.index;
        self.text.push_str(&next.text);
        self.tokens.extend(next.tokens);
        self.generated += next.generated;
        self.cached += next.cached;
        self.queued = self.queued.or(next.queued);
        self.finish = next.finish;
    }
}

/// What decides where a choice's text ends.
#[derive(Debug)]
pub struct StopRules {
    /// Finds the strings that end it and are not part of it; cloned for each choice.
    pub matcher: StopMatcher,
    /// Those strings.
    pub strings: Vec<String>,
    /// Tokens that end it and whose text is not part of it, in ascending order.
    pub token_ids: Vec<u32>,
    /// The model's own end-of-sequence tokens among them.
    pub eos_token_ids: Vec<u32>,
    /// Tokens before which no string ends it.
    pub min_tokens: usize,
}

/// A choice that is being generated. Dropping it aborts it in the engine.
#[derive(Debug)]
pub struct Choice {
    index: usize,
    /// `None` once it has ended.
    events: Option<EventStream>,
    detokenizer: Detokenizer,
    matcher: StopMatcher,
    rules: Arc<StopRules>,
    metrics: Arc<Metrics>,
    generated: usize,
    /// Tokens of the prompt that were found in the cache, until a piece says so.
    cached: usize,
    /// How long the request waited, until a piece says so.
    queued: Option<Duration>,
    /// Characters that came out of the detokenizer, and before it those of the echo.
    chars: usize,
    opening: Option<Delta>,
}

impl Choice {
    /// A choice whose events come from `events` and become text through `detokenizer`.
    #[must_use]
    pub fn new(
        index: usize,
        events: EventStream,
        detokenizer: Detokenizer,
        rules: Arc<StopRules>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            index,
            events: Some(events),
            detokenizer,
            matcher: rules.matcher.clone(),
            rules,
            metrics,
            generated: 0,
            cached: 0,
            queued: None,
            chars: 0,
            opening: None,
        }
    }

    /// Lets the choice begin with `text` made of `tokens`; no stop string matches in it.
    #[must_use]
    pub fn echoing(mut self, text: String, tokens: Vec<OutputToken>) -> Self {
        self.chars = text.chars().count();
        self.opening = Some(Delta { index: self.index, text, tokens, ..Delta::default() });
        self
    }

    /// The next piece; `None` after the last.
    ///
    /// # Errors
    /// Where the choice failed or was aborted. Nothing follows an error.
    pub async fn next(&mut self) -> Option<Result<Delta, ApiError>> {
        if let Some(opening) = self.opening.take() {
            return Some(Ok(opening));
        }
        loop {
            let event = self.events.as_mut()?.next().await;
            let piece = match event {
                // Taken before the choice began, and asked for by no choice.
                Some(Event::PromptLogprobs(_) | Event::Pooled(_)) => continue,
                Some(Event::PromptComputed { num_cached_tokens, queued }) => {
                    self.cached = num_cached_tokens;
                    self.queued = Some(queued);
                    continue;
                }
                Some(Event::Token { token, logprobs }) => Ok(self.push(token, logprobs)),
                Some(Event::Finished(reason)) => self.finish(reason),
                Some(Event::Failed(message)) => {
                    self.end("error");
                    Err(ApiError::failed(message))
                }
                None => {
                    self.end("error");
                    Err(ApiError::engine_dead())
                }
            };
            let (cached, queued) = (std::mem::take(&mut self.cached), self.queued.take());
            return Some(piece.map(|delta| Delta { cached, queued, ..delta }));
        }
    }

    fn push(&mut self, id: u32, logprobs: Option<TokenLogprobs>) -> Delta {
        self.generated += 1;
        let token = OutputToken { id, logprobs, text_offset: self.chars };
        let mut delta =
            Delta { index: self.index, tokens: vec![token], generated: 1, ..Delta::default() };
        // The engine ends here too: a stop token is never text, whatever it would decode to.
        if self.rules.token_ids.binary_search(&id).is_err() {
            // A model may know ids that its tokenizer does not (padding): they have no text.
            let text = self.detokenizer.push(id).unwrap_or_default();
            self.add_text(&text, &mut delta);
        }
        delta
    }

    fn finish(&mut self, reason: FinishReason) -> Result<Delta, ApiError> {
        let mut delta = Delta { index: self.index, ..Delta::default() };
        let finish = match reason {
            FinishReason::Stop(token) if self.rules.eos_token_ids.contains(&token) => {
                Finish { reason: "stop", stop_reason: StopReason::Model }
            }
            FinishReason::Stop(token) => {
                Finish { reason: "stop", stop_reason: StopReason::Token(token) }
            }
            FinishReason::Length => Finish { reason: "length", stop_reason: StopReason::Model },
            FinishReason::Abort => {
                self.end("abort");
                return Err(ApiError::draining());
            }
        };
        let text = self.detokenizer.finish().unwrap_or_default();
        self.add_text(&text, &mut delta);
        if delta.finish.is_none() {
            let outcome = self.matcher.finish();
            self.add_outcome(outcome, &mut delta);
        }
        if delta.finish.is_none() {
            self.end(finish.reason);
            delta.finish = Some(finish);
        }
        Ok(delta)
    }

    /// Adds new text up to the first stop string; one of them ends the choice.
    fn add_text(&mut self, text: &str, delta: &mut Delta) {
        self.chars += text.chars().count();
        if self.generated <= self.rules.min_tokens {
            delta.text.push_str(text);
            return;
        }
        let outcome = self.matcher.push(text);
        self.add_outcome(outcome, delta);
    }

    fn add_outcome(&mut self, outcome: StopOutcome, delta: &mut Delta) {
        delta.text.push_str(&outcome.text);
        if let Some(index) = outcome.stopped {
            self.end("stop");
            let stop_reason = StopReason::Text(self.rules.strings[index].clone());
            delta.finish = Some(Finish { reason: "stop", stop_reason });
        }
    }

    /// Ends the choice: counted once, and aborted in the engine if it still runs there.
    fn end(&mut self, reason: &'static str) {
        if self.events.take().is_some() {
            self.metrics.finished(reason);
        }
    }
}

impl Drop for Choice {
    fn drop(&mut self) {
        // Whoever drops a choice before its end is a client that went away, or a sibling's error.
        self.end("abort");
    }
}
