//! Tells what a model thinks first, between `<think>` and `</think>`, from what it says.
//!
//! Only an answer's beginning is thought; a tag further on is text. White space around the tags
//! belongs to neither part.

use super::markers::{Markers, Match};
use super::parsed::{Parsed, Place};

/// Opens the thoughts.
pub const OPEN: &str = "<think>";
/// Ends them.
pub const CLOSE: &str = "</think>";

/// The thoughts of one answer.
#[derive(Debug, Clone)]
pub(super) struct ReasoningParser {
    state: State,
    markers: Markers,
    /// White space that may belong to what follows it.
    space: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Beginning,
    /// Within the tags, before the first word.
    Opened,
    Thinking,
    /// Behind the tags, before the first word.
    Closed,
    Done,
}

impl ReasoningParser {
    /// `opened` where the prompt has opened the thoughts.
    pub(super) fn new(opened: bool) -> Self {
        let state = if opened { State::Opened } else { State::Beginning };
        Self { state, markers: Markers::default(), space: String::new() }
    }

    /// Reads `c`; returns what is none of the thoughts.
    pub(super) fn push(&mut self, c: char, parsed: &mut Parsed) -> String {
        match self.state {
            State::Beginning => return self.begin(c, parsed),
            State::Opened | State::Thinking => self.think(c, parsed),
            State::Closed if c.is_whitespace() => parsed.skip(1),
            State::Closed | State::Done => {
                self.state = State::Done;
                return c.to_string();
            }
        }
        String::new()
    }

    /// Ends the text; returns what was held and is none of the thoughts.
    pub(super) fn finish(&mut self, parsed: &mut Parsed) -> String {
        let held = self.markers.finish();
        match self.state {
            State::Beginning => return std::mem::take(&mut self.space) + &held,
            State::Opened | State::Thinking => self.add(&held, parsed),
            State::Closed | State::Done => {}
        }
        parsed.span(Place::Reasoning, self.space.chars().count());
        String::new()
    }

    fn begin(&mut self, c: char, parsed: &mut Parsed) -> String {
        if c.is_whitespace() && self.markers.is_empty() {
            self.space.push(c);
            return String::new();
        }
        match self.markers.push(c, &[OPEN]) {
            Match::Whole(marker) => {
                let chars = self.space.chars().count() + marker.chars().count();
                self.space.clear();
                parsed.span(Place::Reasoning, chars);
                self.state = State::Opened;
                String::new()
            }
            Match::Held(before) if before.is_empty() => String::new(),
            Match::Held(before) => {
                self.state = State::Done;
                std::mem::take(&mut self.space) + &before + &self.markers.finish()
            }
            Match::Passed(before) => {
                self.state = State::Done;
                let mut text = std::mem::take(&mut self.space) + &before;
                text.push(c);
                text
            }
        }
    }

    fn think(&mut self, c: char, parsed: &mut Parsed) {
        match self.markers.push(c, &[CLOSE]) {
            Match::Whole(marker) => {
                let chars = self.space.chars().count() + marker.chars().count();
                self.space.clear();
                parsed.span(Place::Reasoning, chars);
                self.state = State::Closed;
            }
            Match::Held(before) => self.add(&before, parsed),
            Match::Passed(before) => {
                self.add(&before, parsed);
                if self.state == State::Opened && c.is_whitespace() {
                    parsed.span(Place::Reasoning, 1);
                } else if c.is_whitespace() {
                    self.space.push(c);
                } else {
                    self.add(c.encode_utf8(&mut [0; 4]), parsed);
                }
            }
        }
    }

    /// Adds thoughts, with the white space before them.
    fn add(&mut self, text: &str, parsed: &mut Parsed) {
        if !text.is_empty() {
            self.state = State::Thinking;
            parsed.reasoning(&std::mem::take(&mut self.space));
            parsed.reasoning(text);
        }
    }
}
