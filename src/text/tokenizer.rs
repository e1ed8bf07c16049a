//! A model's tokenizer: text to token ids and back, from the contents of a `tokenizer.json`.
//!
//! Encoding is the `tokenizers` crate's, a piece of a text at a time. Decoding is [`super::detokenizer`]'s, so that a streamed
//! text and a whole one are the same by construction; it agrees with the crate's own decoders,
//! except that a broken character in a run of `<0xNN>` tokens leaves its neighbours alone, as in
//! SentencePiece itself. `clean_up_tokenization_spaces` is not applied: text is never changed
//! after decoding.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::byte_bound::ByteBound;
use super::detokenizer::Detokenizer;
use super::guard::Guard;
use super::pieces::{Decoding, PieceTable};
use super::piecewise::Pieces;

pub use super::pieces::DecoderError;
pub use super::piecewise::{Ids, Keep, Reading};

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
    /// The text has more tokens than are wanted.
    #[error("it has more than {limit} tokens")]
    TooLong {
        /// Those that are.
        limit: usize,
    },
    /// It would have to be tokenised in one piece, and is too long for that.
    #[error("more than {limit} bytes of it have no place where a token is certain to end")]
    Run {
        /// Bytes of a piece at most.
        limit: usize,
    },
    /// Whoever asked wants the ids no more.
    #[error("the text is not tokenized to its end")]
    Stopped,
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
    reader: Pieces,
    bound: Option<ByteBound>,
    pieces: PieceTable,
    guard: Guard,
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
        let reader = Pieces::new(&encoder).map_err(TokenizerError::Load)?;
        let bound = ByteBound::new(&encoder, &pieces, reader.added());
        Ok(Self(Arc::new(Inner { encoder, reader, bound, pieces, guard: Guard::new() })))
    }

    /// The token ids of `text`. Added tokens written in the text (`<|im_end|>`) become their id;
    /// `add_special_tokens` adds what the model expects around a text, such as its first token.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`] with the tokenizer's reason.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizerError> {
        Ok(self.read(text, Reading::whole(add_special_tokens))?.ids)
    }

    /// The token ids of `text` that `reading` wants.
    ///
    /// # Errors
    /// [`TokenizerError::TooLong`] at once where the bytes alone say so, else as soon as it is
    /// certain; [`TokenizerError::Run`], [`TokenizerError::Stopped`], and [`TokenizerError::Encode`]
    /// with the tokenizer's reason.
    pub fn read(&self, text: &str, reading: Reading<'_>) -> Result<Ids, TokenizerError> {
        self.check_bytes(text, reading.keep)?;
        self.0.reader.encode(&self.0.encoder, text, reading)
    }

    fn check_bytes(&self, text: &str, keep: Keep) -> Result<(), TokenizerError> {
        match keep {
            Keep::AtMost(limit) if self.exceeds(text, limit) => {
                Err(TokenizerError::TooLong { limit })
            }
            _ => Ok(()),
        }
    }

    /// Whether `text` has more than `tokens` tokens, as far as its bytes say so.
    #[must_use]
    pub fn exceeds(&self, text: &str, tokens: usize) -> bool {
        self.0.bound.is_some_and(|bound| bound.exceeds(text, tokens))
    }

    /// Bytes that `tokens` tokens can stand for at most, but for white space around added tokens that
    /// take it with them; `None` where there is no such bound.
    #[must_use]
    pub fn most_bytes(&self, tokens: usize) -> Option<usize> {
        self.0.bound.map(|bound| bound.bytes(tokens))
    }

    /// What `add_special_tokens` adds.
    #[must_use]
    pub fn added(&self) -> Added {
        let [before, after] = self.0.reader.around();
        Added { before: before.len(), after: after.len() }
    }

    /// `ids` with what `add_special_tokens` adds around a text.
    #[must_use]
    pub fn surrounded(&self, ids: &[u32]) -> Vec<u32> {
        let [before, after] = self.0.reader.around();
        [before.as_slice(), ids, after.as_slice()].concat()
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
    /// is rendered from it must go through [`Self::read_rendered`] or [`Self::reveal`].
    #[must_use]
    pub fn protect<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.0.guard.protect(self.0.reader.added(), text)
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
    /// As [`Self::read`].
    pub fn read_rendered(&self, text: &str, reading: Reading<'_>) -> Result<Ids, TokenizerError> {
        if !self.0.guard.is_marked(text) {
            return self.read(text, reading);
        }
        self.0.guard.encode(&self.0.encoder, self.0.reader.added(), text, reading)
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

#[cfg(test)]
mod tests;
