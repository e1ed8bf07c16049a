//! An answer's text, taken apart as it comes: what the model thinks, what it says, which functions
//! it calls.
//!
//! What comes out does not depend on where the text was cut. Which function a call names is checked
//! against those that were offered; whether arguments fit a schema is not. Ids of calls are the
//! caller's to invent.

mod call_object;
mod call_parser;
mod markers;
mod parsed;
pub mod reasoning;

use std::sync::Arc;

use call_parser::CallParser;
pub use call_parser::{Named, Shape};
pub use parsed::{Parsed, Part, Place};
use reasoning::ReasoningParser;

/// The calls an answer may hold.
#[derive(Debug, Clone)]
pub struct Calls {
    /// How the model writes them.
    pub shape: Shape,
    /// The functions that may be called.
    pub names: Arc<[String]>,
    /// Whether the answer ends with its first call.
    pub only_one: bool,
}

/// Where an answer's thoughts are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thoughts {
    /// The model opens them itself, or has none.
    Unopened,
    /// The prompt has opened them.
    Opened,
}

/// Takes one answer apart.
#[derive(Debug, Clone, Default)]
pub struct AnswerParser {
    reasoning: Option<ReasoningParser>,
    calls: Option<CallParser>,
}

impl AnswerParser {
    /// A parser for an answer that may begin with thoughts and hold calls; with neither, all is
    /// content.
    #[must_use]
    pub fn new(thoughts: Option<Thoughts>, calls: Option<Calls>) -> Self {
        Self {
            reasoning: thoughts.map(|thoughts| ReasoningParser::new(thoughts == Thoughts::Opened)),
            calls: calls.map(|calls| CallParser::new(calls.shape, calls.names, calls.only_one)),
        }
    }

    /// True where thoughts are told from what is said.
    #[must_use]
    pub fn tells_thoughts(&self) -> bool {
        self.reasoning.is_some()
    }

    /// The next piece of the text.
    pub fn push(&mut self, text: &str) -> Parsed {
        let mut parsed = Parsed::default();
        match &mut self.reasoning {
            None => say(&mut self.calls, text, &mut parsed),
            Some(reasoning) => {
                for c in text.chars() {
                    let said = reasoning.push(c, &mut parsed);
                    say(&mut self.calls, &said, &mut parsed);
                }
            }
        }
        parsed
    }

    /// Ends the text.
    pub fn finish(&mut self) -> Parsed {
        let mut parsed = Parsed::default();
        if let Some(reasoning) = &mut self.reasoning {
            let said = reasoning.finish(&mut parsed);
            say(&mut self.calls, &said, &mut parsed);
        }
        if let Some(calls) = &mut self.calls {
            calls.finish(&mut parsed);
        }
        parsed
    }
}

fn say(calls: &mut Option<CallParser>, text: &str, parsed: &mut Parsed) {
    match calls {
        None => parsed.content(text),
        Some(calls) => text.chars().for_each(|c| calls.push(c, parsed)),
    }
}

#[cfg(test)]
mod tests;
