//! Which tokens of an answer are what is said, which are thoughts, and which are calls.
//!
//! Text is taken apart by characters, and a token may lie across a border: it belongs to what is said
//! if any of its characters does. A token without a character of its own, as it only begins one,
//! belongs where that character does.

use std::collections::VecDeque;

use super::choice::OutputToken;
use crate::text::answer::Place;

/// Tokens whose places are not known yet, as some of their text is held back.
#[derive(Debug)]
pub(super) struct TokenPlaces {
    waiting: VecDeque<OutputToken>,
    /// Where stretches of the text end, in characters, and their places.
    spans: VecDeque<(usize, Place)>,
    last: Place,
}

impl TokenPlaces {
    pub(super) fn new() -> Self {
        Self { waiting: VecDeque::new(), spans: VecDeque::new(), last: Place::Content }
    }

    /// The next token; its text begins at its offset.
    pub(super) fn push(&mut self, token: OutputToken) {
        self.waiting.push_back(token);
    }

    /// The places of the next characters.
    pub(super) fn add(&mut self, spans: &[(Place, usize)]) {
        let mut end = self.spans.back().map_or(0, |(end, _)| *end);
        for (place, chars) in spans {
            end += chars;
            self.spans.push_back((end, *place));
            self.last = *place;
        }
    }

    /// The tokens that are settled now that the text has `chars` characters.
    pub(super) fn settle(&mut self, chars: usize) -> Vec<OutputToken> {
        let known = self.spans.back().map_or(0, |(end, _)| *end);
        let mut settled = Vec::new();
        while let Some(token) = self.waiting.front() {
            let start = token.text_offset;
            let end = self.waiting.get(1).map_or(chars, |next| next.text_offset);
            if known <= start || known < end || (end == start && self.waiting.len() == 1) {
                break;
            }
            settled.extend(self.take(start, end));
        }
        settled
    }

    /// All tokens that are left, at the answer's end.
    pub(super) fn finish(&mut self, chars: usize) -> Vec<OutputToken> {
        let mut settled = Vec::new();
        while let Some(token) = self.waiting.front() {
            let start = token.text_offset;
            let end = self.waiting.get(1).map_or(chars, |next| next.text_offset);
            settled.extend(self.take(start, end));
        }
        settled
    }

    /// The first token, whose text goes from `start` to `end`.
    fn take(&mut self, start: usize, end: usize) -> Option<OutputToken> {
        while self.spans.front().is_some_and(|(until, _)| *until <= start) && self.spans.len() > 1 {
            self.spans.pop_front();
        }
        let end = end.max(start + 1);
        let mut from = start;
        let mut place = None;
        for (until, at) in &self.spans {
            if from >= end {
                break;
            }
            if *until > from {
                let better = place.is_none() || *at == Place::Content;
                place = if better { Some(*at) } else { place };
                from = *until;
            }
        }
        let place = place.unwrap_or(self.last);
        self.waiting.pop_front().map(|token| OutputToken { place, ..token })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: u32, text_offset: usize) -> OutputToken {
        OutputToken { id, logprobs: None, text_offset, place: Place::Content }
    }

    fn places(tokens: Vec<OutputToken>) -> Vec<(u32, Place)> {
        tokens.into_iter().map(|token| (token.id, token.place)).collect()
    }

    #[test]
    fn tokens_wait_for_their_text_and_content_wins() {
        let mut all = TokenPlaces::new();
        all.push(token(1, 0));
        assert_eq!(all.settle(3), []);
        all.add(&[(Place::Elsewhere, 2)]);
        assert_eq!(all.settle(3), []);
        all.add(&[(Place::Content, 2), (Place::Elsewhere, 1)]);
        assert_eq!(places(all.settle(3)), [(1, Place::Content)]);
        // Two tokens make one character; a third makes the next one.
        all.push(token(2, 3));
        all.push(token(3, 3));
        all.push(token(4, 4));
        assert_eq!(
            places(all.settle(5)),
            [(2, Place::Content), (3, Place::Content), (4, Place::Elsewhere)]
        );
        // An end of sequence has no text, and an unfinished character none yet.
        all.push(token(5, 5));
        assert_eq!(all.settle(5), []);
        assert_eq!(places(all.finish(5)), [(5, Place::Elsewhere)]);
    }
}
