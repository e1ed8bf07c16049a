//! What a piece of an answer's text turned out to be.

/// Where a stretch of the text belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// To what is said.
    Content,
    /// To what was thought before.
    Reasoning,
    /// To a call, or to the marks around any of them.
    Elsewhere,
}

/// A part of an answer. Neighbours of one kind are one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// More of what is said.
    Content(String),
    /// More of what is thought.
    Reasoning(String),
    /// A function is called; its name is one of those that were offered.
    Call(String),
    /// More of the last call's arguments: JSON as the model wrote it.
    Arguments(String),
}

/// The parts that are certain now, and where each character of the text belongs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parsed {
    /// In the order of the text.
    pub parts: Vec<Part>,
    /// Stretches of the text in order, by their length in characters: every character is in
    /// exactly one.
    pub spans: Vec<(Place, usize)>,
    /// True once the one call that may be made is complete: nothing after it counts.
    pub ended: bool,
}

impl Parsed {
    pub(super) fn content(&mut self, text: &str) {
        self.span(Place::Content, text.chars().count());
        match self.parts.last_mut() {
            Some(Part::Content(last)) => last.push_str(text),
            _ if text.is_empty() => {}
            _ => self.parts.push(Part::Content(text.to_owned())),
        }
    }

    pub(super) fn reasoning(&mut self, text: &str) {
        self.span(Place::Reasoning, text.chars().count());
        match self.parts.last_mut() {
            Some(Part::Reasoning(last)) => last.push_str(text),
            _ if text.is_empty() => {}
            _ => self.parts.push(Part::Reasoning(text.to_owned())),
        }
    }

    pub(super) fn call(&mut self, name: &str) {
        self.parts.push(Part::Call(name.to_owned()));
    }

    pub(super) fn arguments(&mut self, text: &str) {
        match self.parts.last_mut() {
            Some(Part::Arguments(last)) => last.push_str(text),
            _ if text.is_empty() => {}
            _ => self.parts.push(Part::Arguments(text.to_owned())),
        }
    }

    /// `chars` characters that belong to `place` and to no text.
    pub(super) fn span(&mut self, place: Place, chars: usize) {
        match self.spans.last_mut() {
            Some((last, count)) if *last == place => *count += chars,
            _ if chars == 0 => {}
            _ => self.spans.push((place, chars)),
        }
    }

    /// Characters that are shown nowhere.
    pub(super) fn skip(&mut self, chars: usize) {
        self.span(Place::Elsewhere, chars);
    }
}
