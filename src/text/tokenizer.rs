//! A model's tokenizer: text to token ids and back, from the contents of a `tokenizer.json`.
//!
//! Encoding is the `tokenizers` crate's. Decoding is [`super::detokenizer`]'s, so that a streamed
//! text and a whole one are the same by construction; it agrees with the crate's own decoders,
//! except that a broken character in a run of `<0xNN>` tokens leaves its neighbours alone, as in
//! SentencePiece itself. `clean_up_tokenization_spaces` is not applied: text is never changed
//! after decoding.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::detokenizer::Detokenizer;
use super::guard::Guard;
use super::pieces::{Decoding, PieceTable};

pub use super::pieces::DecoderError;

/// Why a tokenizer could not be loaded, or a text not be converted.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The bytes are no `tokenizer.json`.
    #[error("tokenizer.json cannot be read: {0}")]
    Load(String),
    /// Its decoder is not supported.
    #[error(transparent)]
    Decoder(#[from] DecoderError),
    /// The text could not be encoded.
    #[error("the text cannot be tokenized: {0}")]
    Encode(String),
    /// An id that is no token.
    #[error("{id} is not a token: the vocabulary has {vocab_size} tokens")]
    UnknownToken {
        /// The id.
        id: u32,
        /// One more than the largest id.
        vocab_size: usize,
    },
}

/// A tokenizer, cheap to clone and shared between threads.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

/// How many tokens a tokenizer adds around a text, where it is asked to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Added {
    /// Before its first token.
    pub before: usize,
    /// Behind its last one.
    pub after: usize,
}

struct Inner {
    encoder: tokenizers::Tokenizer,
    pieces: PieceTable,
    guard: Guard,
    added: Added,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Loads the contents of a `tokenizer.json`. Truncation and padding written there are put
    /// off: a prompt is encoded whole, and its length is the caller's to judge.
    ///
    /// # Errors
    /// [`TokenizerError::Load`] where it cannot be read, [`TokenizerError::Decoder`] where its
    /// decoder is none of byte-level, Metaspace or SentencePiece with byte fallback.
    pub fn from_json(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let mut encoder = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|error| TokenizerError::Load(error.to_string()))?;
        encoder.with_padding(None);
        encoder.with_truncation(None).map_err(|error| TokenizerError::Load(error.to_string()))?;
        let decoder = serde_json::to_value(encoder.get_decoder())
            .map_err(|error| TokenizerError::Load(error.to_string()))?;
        let decoding = Decoding::parse(&decoder)?;

        let added = encoder.get_added_tokens_decoder();
        let mut tokens: BTreeMap<u32, (String, bool)> =
            encoder.get_vocab(false).into_iter().map(|(token, id)| (id, (token, false))).collect();
        tokens.extend(added.into_iter().map(|(id, token)| (id, (token.content, token.special))));
        let tokens = tokens.into_iter().map(|(id, (token, special))| (id, token, special));
        let pieces = PieceTable::new(decoding, tokens);
        let added = added_by(&encoder).unwrap_or_default();
        Ok(Self(Arc::new(Inner { encoder, pieces, guard: Guard::new(), added })))
    }

    /// The token ids of `text`. Added tokens written in the text (`<|im_end|>`) become their id;
    /// `add_special_tokens` adds what the model expects around a text, such as its first token.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`] with the tokenizer's reason.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizerError> {
        self.0
            .encoder
            .encode_fast(text, add_special_tokens)
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|error| TokenizerError::Encode(error.to_string()))
    }

    /// What `add_special_tokens` adds.
    #[must_use]
    pub fn added(&self) -> Added {
        self.0.added
    }

    /// Where each token of `text` begins in it, in characters: where the token before it ends. What
    /// the tokenizer adds around a text has no characters of it.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`] with the tokenizer's reason.
    pub fn text_offsets(
        &self,
        text: &str,
        add_special_tokens: bool,
    ) -> Result<Vec<usize>, TokenizerError> {
        let encoding = self.0.encoder.encode_char_offsets(text, add_special_tokens);
        let encoding = encoding.map_err(|error| TokenizerError::Encode(error.to_string()))?;
        let mut end = 0;
        let begins = encoding.get_offsets().iter().map(|(_, token_end)| {
            let begin = end;
            end = end.max(*token_end);
            begin
        });
        Ok(begins.collect())
    }

    /// A client's string for a chat template, with every special token in it made harmless. What
    /// is rendered from it must go through [`Self::encode_rendered`] or [`Self::reveal`].
    #[must_use]
    pub fn protect<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.0.guard.protect(&self.0.encoder, text)
    }

    /// `text` without what [`Self::protect`] put into it.
    #[must_use]
    pub fn reveal(&self, text: &str) -> String {
        self.0.guard.reveal(text)
    }

    /// The token ids of a rendered template: its own special tokens become their ids, those in
    /// strings that were protected are ordinary text.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`] with the tokenizer's reason.
    pub fn encode_rendered(
        &self,
        text: &str,
        add_special_tokens: bool,
    ) -> Result<Vec<u32>, TokenizerError> {
        if self.0.guard.is_marked(text) {
            self.0.guard.encode(&self.0.encoder, text, add_special_tokens)
        } else {
            self.encode(text, add_special_tokens)
        }
    }

    /// The text of `ids`; special tokens leave no trace where `skip_special_tokens` is set.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownToken`] for an id outside the vocabulary.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TokenizerError> {
        let mut detokenizer = Detokenizer::new(self.clone(), skip_special_tokens);
        let mut text = String::new();
        for &id in ids {
            text.push_str(&detokenizer.push(id)?);
        }
        text.push_str(&detokenizer.finish()?);
        Ok(text)
    }

    /// The token as the vocabulary spells it, e.g. `Ġthe` or `▁the`.
    #[must_use]
    pub fn token_text(&self, id: u32) -> Option<String> {
        self.0.encoder.id_to_token(id)
    }

    /// The bytes the token stands for inside a text, e.g. ` the`; they may be a part of a
    /// character. A special token stands for its own text.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        self.0.pieces.get(id).map(|piece| piece.bytes.to_vec())
    }

    /// One more than the largest token id, added tokens included.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.0.pieces.len()
    }

    /// True for tokens that `skip_special_tokens` leaves out.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.0.pieces.get(id).is_some_and(|piece| piece.special)
    }

    /// The id of a token in the vocabulary's spelling.
    #[must_use]
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.0.encoder.token_to_id(text)
    }

    pub(super) fn pieces(&self) -> &PieceTable {
        &self.0.pieces
    }
}

/// Found out with a text that has a token in any vocabulary of use; `None` where it has none.
fn added_by(encoder: &tokenizers::Tokenizer) -> Option<Added> {
    let encode = |add_special_tokens| encoder.encode_fast("a", add_special_tokens).ok();
    let (plain, whole) = (encode(false)?, encode(true)?);
    let (plain, whole) = (plain.get_ids(), whole.get_ids());
    let before = match plain.len() {
        0 => whole.len(),
        len => whole.windows(len).position(|window| window == plain).unwrap_or(0),
    };
    Some(Added { before, after: whole.len().saturating_sub(before + plain.len()) })
}

#[cfg(test)]
mod tests;
