//! The tokens of a prompt, each of which the model knows: an id beyond its vocabulary would fail
//! the forward pass of everybody, and no prompt gets to the engine but through here.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use super::TokenSet;

/// A token that is not the model's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("token {token} is not the model's, which has {vocab_size}")]
pub struct UnknownToken {
    /// The token.
    pub token: u32,
    /// Tokens that the model knows: 0 to this, exclusive.
    pub vocab_size: usize,
}

/// Tokens of a prompt. Clones share them.
#[derive(Clone, PartialEq, Eq)]
pub struct PromptTokens(Arc<Inner>);

#[derive(PartialEq, Eq)]
struct Inner {
    tokens: Vec<u32>,
    vocab_size: usize,
    /// Found out for the first choice that penalises repetition.
    distinct: OnceLock<Vec<u32>>,
}

impl PromptTokens {
    /// Checks tokens against a model that knows ids up to `vocab_size`, exclusive: the rows of its
    /// embedding, whatever its tokenizer has.
    ///
    /// # Errors
    /// The first token that is not the model's.
    pub fn new(tokens: Vec<u32>, vocab_size: usize) -> Result<Self, UnknownToken> {
        let unknown = |token: &&u32| **token as usize >= vocab_size;
        match tokens.iter().find(unknown) {
            Some(&token) => Err(UnknownToken { token, vocab_size }),
            None => Ok(Self(Arc::new(Inner { tokens, vocab_size, distinct: OnceLock::new() }))),
        }
    }

    /// The tokens there are, each once, ascending. Found out once for all clones.
    #[must_use]
    pub fn distinct(&self) -> &[u32] {
        let Inner { tokens, vocab_size, distinct } = &*self.0;
        distinct.get_or_init(|| TokenSet::new(tokens, *vocab_size).iter().collect())
    }

    /// True where two are clones, and not only equal.
    #[must_use]
    pub fn shares_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for PromptTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.tokens.fmt(f)
    }
}

impl Deref for PromptTokens {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        &self.0.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_beyond_the_embedding_is_named() {
        assert_eq!(
            PromptTokens::new(vec![0, 9, 10, 11], 10),
            Err(UnknownToken { token: 10, vocab_size: 10 })
        );
        assert_eq!(&*PromptTokens::new(vec![0, 9], 10).unwrap(), [0, 9]);
        assert!(PromptTokens::new(vec![u32::MAX], 10).is_err());
    }

    #[test]
    fn distinct_tokens_are_found_once_for_all_clones() {
        let tokens = PromptTokens::new(vec![7, 3, 7, 0, 3], 8).unwrap();
        let clone = tokens.clone();
        assert_eq!(tokens.distinct(), [0, 3, 7]);
        assert!(std::ptr::eq(tokens.distinct(), clone.distinct()));
        assert!(tokens.shares_with(&clone));
    }
}
