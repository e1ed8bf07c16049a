//! A set of tokens as a mask over the vocabulary: built once, off the engine's thread, however long
//! the list was that it comes from, and applied to a row of logits in one pass.

/// Tokens of one vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSet {
    /// Bit `id % 64` of word `id / 64`.
    words: Vec<u64>,
    len: usize,
}

const BITS: usize = u64::BITS as usize;

impl TokenSet {
    /// The set of `ids`, repeated or not. Ids from `vocab_size` on are no tokens, and left out.
    #[must_use]
    pub fn new(ids: &[u32], vocab_size: usize) -> Self {
        let mut words = vec![0_u64; vocab_size.div_ceil(BITS)];
        for id in ids.iter().map(|id| *id as usize).filter(|id| *id < vocab_size) {
            words[id / BITS] |= 1 << (id % BITS);
        }
        let len = words.iter().map(|word| word.count_ones() as usize).sum();
        Self { words, len }
    }

    /// How many tokens it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True where it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// True for one of its tokens.
    #[must_use]
    pub fn contains(&self, token: u32) -> bool {
        let (word, bit) = (token as usize / BITS, token as usize % BITS);
        self.words.get(word).is_some_and(|word| word >> bit & 1 == 1)
    }

    /// Its tokens, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        let tokens = |(word, bits): (u32, &u64)| {
            let (first, bits) = (word * u64::BITS, *bits);
            (0..u64::BITS).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| first + bit)
        };
        (0..).zip(&self.words).filter(|(_, bits)| **bits != 0).flat_map(tokens)
    }

    /// Rules every other token out of a row of logits.
    pub fn apply(&self, logits: &mut [f32]) {
        for (word, logits) in self.words.iter().zip(logits.chunks_mut(BITS)) {
            match *word {
                0 => logits.fill(f32::NEG_INFINITY),
                u64::MAX => {}
                word => {
                    for (bit, logit) in logits.iter_mut().enumerate() {
                        if word >> bit & 1 == 0 {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
        let known = self.words.len() * BITS;
        if let Some(beyond) = logits.get_mut(known..) {
            beyond.fill(f32::NEG_INFINITY);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_is_what_a_list_says(
            ids in prop::collection::vec(0..400_u32, 0..500),
            vocab_size in 1..300_usize,
            row in 1..300_usize,
        ) {
            let set = TokenSet::new(&ids, vocab_size);
            let known = |id: &u32| (*id as usize) < vocab_size;
            let expected: BTreeSet<u32> = ids.iter().copied().filter(known).collect();
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), Vec::from_iter(expected.clone()));
            prop_assert_eq!((set.len(), set.is_empty()), (expected.len(), expected.is_empty()));
            let mut logits = vec![1.0; row];
            set.apply(&mut logits);
            for (token, logit) in (0..).zip(logits) {
                prop_assert_eq!(set.contains(token), expected.contains(&token));
                prop_assert_eq!(logit == 1.0, expected.contains(&token), "token {}", token);
            }
        }
    }
}
