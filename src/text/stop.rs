//! Stop strings in streamed text: found across pieces, never shown, never cut inside a character.
//!
//! The first match by *position* wins, as if the whole text had been searched at once: text that
//! may still become an earlier match is waited for. Of stops that match at the same position the
//! shortest wins (the text before it is the same), of equal stops the first. Stop tokens are not
//! its business.

use std::sync::Arc;

/// An empty stop string, which would match everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stop string {index} is empty")]
pub struct EmptyStop {
    /// Which one, from 0.
    pub index: usize,
}

/// What a piece of text led to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopOutcome {
    /// Text that can be shown: no stop string begins in it.
    pub text: String,
    /// The index of the stop string that has matched, once one has. Nothing is shown from then on.
    pub stopped: Option<usize>,
}

/// Searches one text. A clone made before the first push searches another one, sharing the tables.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    patterns: Arc<[Pattern]>,
    /// Per pattern: how many of its bytes the text seen so far ends with.
    matched: Vec<usize>,
    /// The text not shown yet is `buffer[shown..]`.
    buffer: String,
    shown: usize,
    /// Where in `buffer` the best match so far begins, and its pattern.
    best: Option<(usize, usize)>,
    stopped: Option<usize>,
}

/// A stop string with its failure function (Knuth, Morris, Pratt 1977).
#[derive(Debug)]
struct Pattern {
    bytes: Vec<u8>,
    /// `failure[n]`: the longest proper prefix of the first `n + 1` bytes that is also their suffix.
    failure: Vec<usize>,
}

impl StopMatcher {
    /// Prepares the search; without stops all text passes.
    ///
    /// # Errors
    /// [`EmptyStop`] names the first empty stop string.
    pub fn new(stops: Vec<String>) -> Result<Self, EmptyStop> {
        if let Some(index) = stops.iter().position(String::is_empty) {
            return Err(EmptyStop { index });
        }
        let patterns: Arc<[Pattern]> = stops.into_iter().map(Pattern::new).collect();
        Ok(Self {
            matched: vec![0; patterns.len()],
            patterns,
            buffer: String::new(),
            shown: 0,
            best: None,
            stopped: None,
        })
    }

    /// Takes the next piece of text and returns what can be shown now.
    pub fn push(&mut self, text: &str) -> StopOutcome {
        self.search(text, true)
    }

    /// The same for text in which no stop string may end yet; one may begin in it.
    pub fn push_early(&mut self, text: &str) -> StopOutcome {
        self.search(text, false)
    }

    fn search(&mut self, text: &str, counts: bool) -> StopOutcome {
        if self.stopped.is_some() {
            return StopOutcome { text: String::new(), stopped: self.stopped };
        }
        let mut position = self.buffer.len();
        self.buffer.push_str(text);
        for &byte in text.as_bytes() {
            position += 1;
            self.step(byte, position, counts);
            if let Some((start, pattern)) = self.best
                && self.earliest_open(position) >= start
            {
                return self.stop(start, pattern);
            }
        }
        let open = self.earliest_open(position);
        StopOutcome { text: self.show(open), stopped: None }
    }

    /// Ends the text: a match that waited for an earlier one now counts, else the rest is shown.
    pub fn finish(&mut self) -> StopOutcome {
        match self.best {
            _ if self.stopped.is_some() => {
                StopOutcome { text: String::new(), stopped: self.stopped }
            }
            Some((start, pattern)) => self.stop(start, pattern),
            None => StopOutcome { text: self.show(self.buffer.len()), stopped: None },
        }
    }

    /// Reads the byte that ends at `position` of the buffer; a match that ends there counts or not.
    fn step(&mut self, byte: u8, position: usize, counts: bool) {
        for (index, pattern) in self.patterns.iter().enumerate() {
            let matched = pattern.step(self.matched[index], byte);
            let whole = matched == pattern.bytes.len();
            // What is no match may end with the beginning of one.
            self.matched[index] =
                if whole && !counts { pattern.failure[matched - 1] } else { matched };
            if whole && counts {
                let start = position - matched;
                if self.best.is_none_or(|(best, _)| start < best) {
                    self.best = Some((start, index));
                }
            }
        }
    }

    /// Where the earliest match that is still open may begin; `position` where none is.
    fn earliest_open(&self, position: usize) -> usize {
        let open = self.patterns.iter().zip(&self.matched);
        let open = open.filter(|(pattern, matched)| **matched < pattern.bytes.len());
        position - open.map(|(_, matched)| *matched).max().unwrap_or(0)
    }

    fn stop(&mut self, start: usize, pattern: usize) -> StopOutcome {
        self.stopped = Some(pattern);
        StopOutcome { text: self.show(start), stopped: self.stopped }
    }

    /// Shows the text up to `end`, or up to the best match where that is earlier. Both are borders
    /// of characters: a stop string begins with one.
    fn show(&mut self, end: usize) -> String {
        let end = self.best.map_or(end, |(start, _)| end.min(start));
        let text = self.buffer[self.shown..end].to_owned();
        self.shown = end;
        // Dropping the shown half only keeps the cost per byte constant.
        if self.shown > self.buffer.len() / 2 {
            self.buffer.drain(..self.shown);
            self.best = self.best.map(|(start, pattern)| (start - self.shown, pattern));
            self.shown = 0;
        }
        text
    }
}

impl Pattern {
    fn new(stop: String) -> Self {
        let mut pattern = Self { bytes: stop.into_bytes(), failure: vec![0] };
        for end in 1..pattern.bytes.len() {
            let longest = pattern.step(pattern.failure[end - 1], pattern.bytes[end]);
            pattern.failure.push(longest);
        }
        pattern
    }

    /// How many bytes match once `byte` follows `matched` matching ones.
    fn step(&self, mut matched: usize, byte: u8) -> usize {
        loop {
            if self.bytes.get(matched) == Some(&byte) {
                return matched + 1;
            }
            if matched == 0 {
                return 0;
            }
            matched = self.failure[matched - 1];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Searches the whole text at once, in the plainest way.
    fn naive(text: &str, stops: &[String]) -> (String, Option<usize>) {
        let found = stops
            .iter()
            .enumerate()
            .filter_map(|(index, stop)| Some((text.find(stop.as_str())?, stop.len(), index)))
            .min();
        match found {
            Some((start, _, index)) => (text[..start].to_owned(), Some(index)),
            None => (text.to_owned(), None),
        }
    }

    /// Pushes pieces until one stops, as a server does.
    fn streamed(pieces: &[&str], stops: &[String]) -> (String, Option<usize>) {
        let mut matcher = StopMatcher::new(stops.to_vec()).unwrap();
        let mut shown = String::new();
        for piece in pieces {
            let outcome = matcher.push(piece);
            shown.push_str(&outcome.text);
            if outcome.stopped.is_some() {
                assert_eq!(matcher.push("more").text, "");
                assert_eq!(matcher.finish(), StopOutcome { text: String::new(), ..outcome });
                return (shown, outcome.stopped);
            }
        }
        let outcome = matcher.finish();
        shown.push_str(&outcome.text);
        (shown, outcome.stopped)
    }

    fn stops(stops: &[&str]) -> Vec<String> {
        stops.iter().map(|&stop| stop.to_owned()).collect()
    }

    #[test]
    fn holds_back_exactly_the_longest_open_prefix() {
        let mut matcher = StopMatcher::new(stops(&["<|end|>", "ab"])).unwrap();
        let shown = |outcome: StopOutcome| {
            assert_eq!(outcome.stopped, None);
            outcome.text
        };
        assert_eq!(shown(matcher.push("x<|en")), "x");
        assert_eq!(shown(matcher.push("a")), "<|en");
        assert_eq!(shown(matcher.push("é<")), "aé");
        assert_eq!(shown(matcher.finish()), "<");
    }

    #[test]
    fn an_earlier_match_is_waited_for() {
        let both = stops(&["b", "abc"]);
        assert_eq!(streamed(&["xa", "b", "c"], &both), ("x".to_owned(), Some(1)));
        assert_eq!(streamed(&["xa", "b", "d"], &both), ("xa".to_owned(), Some(0)));
        // The text ends before the earlier one is complete: the later one has matched.
        assert_eq!(streamed(&["xa", "b"], &both), ("xa".to_owned(), Some(0)));
    }

    #[test]
    fn of_several_at_one_position_the_shortest_wins_then_the_first() {
        assert_eq!(streamed(&["1abc"], &stops(&["abc", "ab", "ab"])), ("1".to_owned(), Some(1)));
        // Both end at the same byte: the one that begins earlier.
        assert_eq!(streamed(&["1abc"], &stops(&["bc", "abc"])), ("1".to_owned(), Some(1)));
    }

    #[test]
    fn every_stop_position_and_every_split_of_a_text_with_wide_characters() {
        let text = "naïve 日本語 👩‍👩‍👧 end\n🙂🙂";
        let borders: Vec<usize> =
            text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        for (i, &from) in borders.iter().enumerate() {
            for &to in &borders[i + 1..] {
                let stop = vec![text[from..to].to_owned()];
                let expected = naive(text, &stop);
                assert_eq!(streamed(&[text], &stop), expected);
                for &split in &borders {
                    let (left, right) = text.split_at(split);
                    assert_eq!(streamed(&[left, right], &stop), expected, "{stop:?} {split}");
                }
            }
        }
    }

    #[test]
    fn a_stop_may_begin_where_none_may_end() {
        let mut matcher = StopMatcher::new(stops(&["abab", "x"])).unwrap();
        assert_eq!(matcher.push_early("xab").text, "x");
        assert_eq!(matcher.push_early("ab").text, "ab", "a match that does not count is shown");
        let outcome = matcher.push("ab-");
        assert_eq!((&*outcome.text, outcome.stopped), ("", Some(0)));
    }

    #[test]
    fn empty_stops_are_refused_and_no_stops_pass_everything() {
        let error = StopMatcher::new(stops(&["a", ""])).unwrap_err();
        assert_eq!(error.to_string(), "stop string 1 is empty");
        assert_eq!(streamed(&["a", "", "b"], &[]), ("ab".to_owned(), None));
    }

    #[test]
    fn the_buffer_does_not_grow_with_the_text() {
        let mut matcher = StopMatcher::new(stops(&[&"a".repeat(100), "xyz"])).unwrap();
        for _ in 0..1000 {
            matcher.push(&"a".repeat(99));
            matcher.push("bx");
            assert!(matcher.buffer.len() <= 2 * 200, "{}", matcher.buffer.len());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Of text in which no stop may end yet, only its beginning may be a part of one.
        #[test]
        fn a_stop_counts_where_it_ends_late_enough(
            pieces in prop::collection::vec("[ab日🙂]{0,3}", 0..10),
            stops in prop::collection::vec("[ab日🙂]{1,4}", 0..4),
            early in 0..10_usize,
        ) {
            let text = pieces.concat();
            let from = pieces.iter().take(early).map(String::len).sum();
            let ends_late = |(start, stop): (usize, &String)| start + stop.len() > from;
            let found = (0..text.len()).filter(|at| text.is_char_boundary(*at)).find_map(|at| {
                let here = stops.iter().enumerate().filter(|(_, stop)| {
                    text[at..].starts_with(stop.as_str()) && ends_late((at, stop))
                });
                here.map(|(index, stop)| (stop.len(), index)).min().map(|(_, index)| (at, index))
            });
            let expected = match found {
                Some((at, index)) => (text[..at].to_owned(), Some(index)),
                None => (text.clone(), None),
            };
            let mut matcher = StopMatcher::new(stops).unwrap();
            let (mut shown, mut stopped) = (String::new(), None);
            for (index, piece) in pieces.iter().enumerate() {
                let outcome =
                    if index < early { matcher.push_early(piece) } else { matcher.push(piece) };
                shown.push_str(&outcome.text);
                stopped = outcome.stopped;
            }
            if stopped.is_none() {
                let outcome = matcher.finish();
                shown.push_str(&outcome.text);
                stopped = outcome.stopped;
            }
            prop_assert_eq!((shown, stopped), expected);
        }

        #[test]
        fn streaming_equals_searching_at_once(
            pieces in prop::collection::vec("[ab日🙂]{0,5}", 0..8),
            stops in prop::collection::vec("[ab日🙂]{1,4}", 0..4),
        ) {
            let text = pieces.concat();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(streamed(&pieces, &stops), naive(&text, &stops));
        }
    }
}
