//! One choice on its way to the client: token events in, pieces of text out.
//!
//! It applies what the engine cannot know: how tokens become text, strings that end it, and which of
//! the text is thought, said, or a call. It writes no JSON.

use std::sync::Arc;

use uuid::Uuid;

use super::error::ApiError;
use super::token_places::TokenPlaces;
use crate::engine::handle::EventStream;
use crate::engine::request::{Event, FinishReason, Queued, TokenLogprobs};
use crate::metrics::Metrics;
use crate::text::answer::{AnswerParser, Parsed, Part, Place};
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
    /// What its text is part of.
    pub place: Place,
}

/// A piece of a function call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallDelta {
    /// Which call of the choice.
    pub index: usize,
    /// Its id and its function's name; on its first piece.
    pub head: Option<CallHead>,
    /// More of its arguments, JSON as the model wrote it.
    pub arguments: String,
}

impl CallDelta {
    /// The same in the pieces that clients expect: the head alone, then arguments.
    pub fn head_first(self) -> impl Iterator<Item = Self> {
        let Self { index, head, arguments } = self;
        let alone = |head| Self { index, head: Some(head), arguments: String::new() };
        let rest = Self { index, head: None, arguments };
        head.map(alone).into_iter().chain(Some(rest).filter(|rest| !rest.arguments.is_empty()))
    }
}

/// What a function call begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallHead {
    /// No other call has it.
    pub id: String,
    /// The function's name, one of those that were offered.
    pub name: String,
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
    /// Nothing: no token could come next.
    Stuck,
}

/// The end of a choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finish {
    /// `stop`, `length` or `tool_calls`, the wire's word.
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
    /// More of what the model thinks before it speaks.
    pub reasoning: String,
    /// More of its calls, in order.
    pub calls: Vec<CallDelta>,
    /// More tokens, whether their text is in this piece or a later one.
    pub tokens: Vec<OutputToken>,
    /// How many tokens were generated since the last piece; `tokens` may follow later.
    pub generated: usize,
    /// How many of `tokens` were thoughts.
    pub reasoning_tokens: usize,
    /// How many of the prompt's tokens were found in the cache; on the first choice's first piece.
    pub cached: usize,
    /// How long the request waited before it was begun; on the first choice's first piece.
    pub queued: Option<Queued>,
    /// Set on the last piece.
    pub finish: Option<Finish>,
}

impl Delta {
    /// Appends the piece that follows.
    pub fn absorb(&mut self, next: Self) {
        self.index = next.index;
        self.text.push_str(&next.text);
        self.reasoning.push_str(&next.reasoning);
        for call in next.calls {
            match self.calls.iter_mut().find(|known| known.index == call.index) {
                Some(known) => known.arguments.push_str(&call.arguments),
                None => self.calls.push(call),
            }
        }
        self.tokens.extend(next.tokens);
        self.generated += next.generated;
        self.reasoning_tokens += next.reasoning_tokens;
        self.cached += next.cached;
        self.queued = self.queued.or(next.queued);
        self.finish = next.finish;
    }

    /// Adds tokens whose places are known.
    fn take_tokens(&mut self, tokens: Vec<OutputToken>) {
        let thought = tokens.iter().filter(|token| token.place == Place::Reasoning);
        self.reasoning_tokens += thought.count();
        self.tokens.extend(tokens);
    }

    /// True where there is nothing to read in it, and it is not the last.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        let texts = self.text.is_empty() && self.reasoning.is_empty();
        texts && self.calls.is_empty() && self.finish.is_none()
    }
}

/// How an answer's text is taken apart.
#[derive(Debug, Clone, Default)]
pub struct AnswerRules {
    /// Takes it apart, cloned for each choice; without one, all is said.
    pub parser: Option<AnswerParser>,
    /// Leaves thoughts out.
    pub hide_reasoning: bool,
    /// Whether one function must be called: its call is then no reason to end.
    pub forced_call: bool,
    /// Writes ids of calls as nine letters and digits, which some templates insist on.
    pub short_ids: bool,
}

impl AnswerRules {
    /// True where thoughts are told from what is said.
    #[must_use]
    pub fn tells_thoughts(&self) -> bool {
        self.parser.as_ref().is_some_and(AnswerParser::tells_thoughts)
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
    pub token_ids: Arc<[u32]>,
    /// The model's own end-of-sequence tokens among them.
    pub eos_token_ids: Vec<u32>,
    /// Tokens before which no string ends it, though one may begin there.
    pub min_tokens: usize,
    /// Whether what ends the text is part of it.
    pub include_stop: bool,
    /// How the text is taken apart.
    pub answer: AnswerRules,
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
    queued: Option<Queued>,
    /// Characters that came out of the detokenizer, and before it those of the echo.
    chars: usize,
    opening: Option<Delta>,
    /// With the tokens whose text it has not taken apart yet.
    parser: Option<(AnswerParser, TokenPlaces)>,
    calls: usize,
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
            parser: rules.answer.parser.clone().map(|parser| (parser, TokenPlaces::new())),
            calls: 0,
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
        let mut delta = Delta { index: self.index, generated: 1, ..Delta::default() };
        let token = OutputToken { id, logprobs, text_offset: self.chars, place: Place::Content };
        match &mut self.parser {
            Some((_, places)) => places.push(token),
            None => delta.tokens.push(token),
        }
        // The engine ends here too: a stop token is no text, whatever it would decode to.
        if self.rules.include_stop || self.rules.token_ids.binary_search(&id).is_err() {
            // A model may know ids that its tokenizer does not (padding): they have no text.
            let text = self.detokenizer.push(id).unwrap_or_default();
            self.add_text(&text, &mut delta);
        }
        delta
    }

    fn finish(&mut self, reason: FinishReason) -> Result<Delta, ApiError> {
        let mut delta = Delta { index: self.index, ..Delta::default() };
        let (reason, stop_reason) = match reason {
            FinishReason::Stop(token) if self.rules.eos_token_ids.contains(&token) => {
                ("stop", StopReason::Model)
            }
            FinishReason::Stop(token) => ("stop", StopReason::Token(token)),
            FinishReason::Complete => ("stop", StopReason::Model),
            FinishReason::Length => ("length", StopReason::Model),
            // Not complete, which is what clients read in the word.
            FinishReason::Stuck => ("length", StopReason::Stuck),
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
            self.complete(reason, stop_reason, &mut delta);
        }
        Ok(delta)
    }

    /// Adds new text up to the first stop string; one of them ends the choice.
    fn add_text(&mut self, text: &str, delta: &mut Delta) {
        self.chars += text.chars().count();
        let outcome = if self.generated <= self.rules.min_tokens {
            self.matcher.push_early(text)
        } else {
            self.matcher.push(text)
        };
        self.add_outcome(outcome, delta);
    }

    fn add_outcome(&mut self, outcome: StopOutcome, delta: &mut Delta) {
        self.show(&outcome.text, delta);
        if let Some(index) = outcome.stopped.filter(|_| delta.finish.is_none()) {
            let stop = self.rules.strings[index].clone();
            if self.rules.include_stop {
                self.show(&stop, delta);
            }
            self.complete("stop", StopReason::Text(stop), delta);
        }
    }

    /// Adds text that is certain, each part of it where it belongs.
    fn show(&mut self, text: &str, delta: &mut Delta) {
        let Some((parser, _)) = &mut self.parser else {
            delta.text.push_str(text);
            return;
        };
        let parsed = parser.push(text);
        let ended = parsed.ended;
        self.add_parsed(parsed, delta);
        if ended && delta.finish.is_none() {
            self.complete("stop", StopReason::Model, delta);
        }
    }

    fn add_parsed(&mut self, parsed: Parsed, delta: &mut Delta) {
        if let Some((_, places)) = &mut self.parser {
            places.add(&parsed.spans);
            delta.take_tokens(places.settle(self.chars));
        }
        for part in parsed.parts {
            match part {
                Part::Content(text) => delta.text.push_str(&text),
                Part::Reasoning(_) if self.rules.answer.hide_reasoning => {}
                Part::Reasoning(text) => delta.reasoning.push_str(&text),
                Part::Call(name) => {
                    let head = Some(CallHead { id: self.call_id(), name });
                    let index = self.calls;
                    delta.calls.push(CallDelta { index, head, arguments: String::new() });
                    self.calls += 1;
                }
                Part::Arguments(arguments) => {
                    let index = self.calls.saturating_sub(1);
                    match delta.calls.last_mut().filter(|call| call.index == index) {
                        Some(call) => call.arguments.push_str(&arguments),
                        None => delta.calls.push(CallDelta { index, head: None, arguments }),
                    }
                }
            }
        }
    }

    fn call_id(&self) -> String {
        let id = Uuid::new_v4().simple().to_string();
        if self.rules.answer.short_ids { id[..9].to_owned() } else { format!("call_{id}") }
    }

    /// The last piece of the choice, which ends for `reason`.
    fn complete(&mut self, reason: &'static str, stop_reason: StopReason, delta: &mut Delta) {
        if let Some((parser, _)) = &mut self.parser {
            let parsed = parser.finish();
            self.add_parsed(parsed, delta);
        }
        if let Some((_, places)) = &mut self.parser {
            delta.take_tokens(places.finish(self.chars));
        }
        self.end(reason);
        let called = reason == "stop" && self.calls > 0 && !self.rules.answer.forced_call;
        let reason = if called { "tool_calls" } else { reason };
        delta.finish = Some(Finish { reason, stop_reason });
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
