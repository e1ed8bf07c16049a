//! The model's tokens as bytes, in the tree in which a grammar looks for those that may come next.

use std::sync::Arc;

use llguidance::toktrie::{
    INVALID_TOKEN, SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv,
};

/// Longest token that a text may be made of; a longer one is never allowed.
const MAX_TOKEN_BYTES: usize = 512;

/// The tokens of a model.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    words: Vec<Vec<u8>>,
    eos_token_ids: Vec<u32>,
}

impl Vocabulary {
    /// A vocabulary of `vocab_size` ids, none of which is known yet: such an id (padding, a hole in
    /// the tokenizer) is never allowed. `eos_token_ids` end a text, and are never part of one.
    #[must_use]
    pub fn new(vocab_size: usize, eos_token_ids: &[u32]) -> Self {
        let known = |id: &u32| (*id as usize) < vocab_size;
        let eos_token_ids = eos_token_ids.iter().copied().filter(known).collect();
        Self { words: vec![Vec::new(); vocab_size], eos_token_ids }
    }

    /// Makes token `id` known: the bytes it adds to a text, or for a special token its name, which
    /// is never text. An id beyond the vocabulary is not the model's, and ignored.
    pub fn insert(&mut self, id: u32, bytes: &[u8], special: bool) {
        let special = special || self.eos_token_ids.contains(&id);
        let Some(word) = self.words.get_mut(id as usize) else { return };
        if bytes.is_empty() || bytes.len() > MAX_TOKEN_BYTES {
            return;
        }
        *word = match special {
            true => [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat(),
            // No text holds this byte; a token that begins with it would be taken for a special one.
            false if bytes[0] == TokTrie::SPECIAL_TOKEN_MARKER => Vec::new(),
            false => bytes.to_vec(),
        };
    }

    /// The tree.
    pub(super) fn into_env(self) -> TokEnv {
        let size = u32::try_from(self.words.len()).expect("token ids are 32 bits");
        let eos = self.eos_token_ids.first().copied().unwrap_or(INVALID_TOKEN);
        let mut trie = TokTrie::from(&TokRxInfo::new(size, eos), &self.words);
        if !self.eos_token_ids.is_empty() {
            trie = trie.with_eos_tokens(&self.eos_token_ids);
        }
        Arc::new(Tree(trie))
    }
}

/// The tokens that a text may be made of, and with those that may end it. A grammar can name tokens
/// by their numbers; it gets none beyond these.
#[derive(Debug)]
pub(super) struct Writable {
    pub(super) within: SimpleVob,
    pub(super) at_end: SimpleVob,
}

impl Writable {
    /// The known tokens of a tree.
    pub(super) fn new(trie: &TokTrie) -> Self {
        let mut within = trie.alloc_token_set();
        for id in (0..).take(trie.vocab_size()).filter(|id| !trie.token(*id).is_empty()) {
            within.allow_token(id);
        }
        let mut at_end = within.clone();
        for id in trie.eos_tokens().iter().filter(|id| (**id as usize) < trie.vocab_size()) {
            within.disallow_token(*id);
            at_end.allow_token(*id);
        }
        Self { within, at_end }
    }
}

/// The tree alone: a text is never cut into tokens here, the model does that.
struct Tree(TokTrie);

impl TokenizerEnv for Tree {
    fn tok_trie(&self) -> &TokTrie {
        &self.0
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.0.greedy_tokenize(bytes)
    }

    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}
