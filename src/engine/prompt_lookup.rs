//! Guesses what a text goes on with: what followed its last words the time before. No model is
//! asked; where a text repeats itself, the guess is often right, and checking several tokens in one
//! step costs less than computing them one by one.
//!
//! Guessing only. Whether a guess holds is decided by the sampler, row by row, so that a right one
//! changes when a token comes and never which one.

/// Tokens of the longest end of a text that is looked for; a longer match is a better guess.
const LONGEST: usize = 4;
/// Tokens of the shortest.
const SHORTEST: usize = 2;

/// At most `count` tokens that may follow `tokens`; none where its last tokens are new.
#[must_use]
pub fn propose(tokens: &[u32], count: usize) -> Vec<u32> {
    if count == 0 {
        return Vec::new();
    }
    let found = (SHORTEST..=LONGEST).rev().find_map(|len| latest_repeat(tokens, len));
    let Some(start) = found else { return Vec::new() };
    // Past its own end the guess goes on with itself: the text is taken to be periodic.
    let period = tokens.len() - start;
    (0..count).map(|index| tokens[start + index % period]).collect()
}

/// Where the text went on, the last time that its last `len` tokens stood in it before.
fn latest_repeat(tokens: &[u32], len: usize) -> Option<usize> {
    let (_, before) = tokens.split_last()?;
    let end = tokens.get(tokens.len().checked_sub(len)?..)?;
    before.windows(len).rposition(|window| window == end).map(|start| start + len)
}

/// How many tokens are guessed at a time: more while the guesses hold, fewer where they fail.
#[derive(Debug, Clone, Copy)]
pub struct DraftLength {
    limit: usize,
    next: usize,
}

impl DraftLength {
    /// At most `limit` at a time; 0 never guesses.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, next: limit }
    }

    /// Tokens to guess next.
    #[must_use]
    pub fn next(&self) -> usize {
        self.next
    }

    /// Of `drafted` tokens, at least one, the first `accepted` were right.
    pub fn learn(&mut self, drafted: usize, accepted: usize) {
        let next = if accepted == drafted { 2 * drafted } else { accepted + 1 };
        self.next = next.min(self.limit);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_latest_and_longest_match_is_followed() {
        assert_eq!(propose(&[1, 2, 9, 1, 2, 8, 1, 2], 2), [8, 1], "the latest");
        assert_eq!(propose(&[7, 1, 2, 9, 5, 1, 2, 8, 7, 1, 2], 1), [9], "the longest");
        assert_eq!(propose(&[1, 2, 3, 4, 5], 3), [0; 0], "nothing repeats");
        assert_eq!(propose(&[5, 6, 5], 3), [0; 0], "one token is no match");
    }

    #[test]
    fn a_text_of_one_period_goes_on() {
        assert_eq!(propose(&[4, 4, 4], 5), [4; 5]);
        assert_eq!(propose(&[1, 2, 3, 1, 2, 3], 5), [1, 2, 3, 1, 2]);
    }

    #[test]
    fn short_texts_are_no_trouble() {
        for len in 0..3 {
            assert!(propose(&vec![1; len], 4).is_empty());
        }
    }

    #[test]
    fn the_length_follows_the_luck_and_always_comes_back() {
        let mut length = DraftLength::new(6);
        length.learn(6, 0);
        assert_eq!(length.next(), 1);
        let mut lengths = Vec::new();
        for _ in 0..4 {
            length.learn(length.next(), length.next());
            lengths.push(length.next());
        }
        assert_eq!(lengths, [2, 4, 6, 6]);
        length.learn(6, 3);
        assert_eq!(length.next(), 4);
        assert_eq!(DraftLength::new(0).next(), 0);
    }

    proptest! {
        /// A guess is what stood after an earlier copy of the text's end.
        #[test]
        fn a_guess_continues_an_earlier_copy(tokens in prop::collection::vec(0..4_u32, 0..40), count in 0..9_usize) {
            let guess = propose(&tokens, count);
            prop_assert!(guess.is_empty() || guess.len() == count);
            let mut whole = tokens.clone();
            whole.extend(&guess);
            if !guess.is_empty() {
                let end = &tokens[tokens.len() - SHORTEST..];
                let copies = (SHORTEST..tokens.len()).filter(|&at| &tokens[at - SHORTEST..at] == end);
                prop_assert!(copies.into_iter().any(|at| whole[at..].starts_with(&guess)));
            }
        }
    }
}
