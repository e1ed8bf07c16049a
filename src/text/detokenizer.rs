//! Token ids to text, one at a time: what is certain comes out at once, a split character waits.
//!
//! It does not look for stop strings and never looks at tokens again: the work per token is
//! proportional to the token's own text, and at most three bytes are held back.

use std::sync::Arc;

use super::pieces::{PieceKind, Start};
use super::tokenizer::{Tokenizer, TokenizerError};

/// Decodes one text incrementally: all that [`Detokenizer::push`] and [`Detokenizer::finish`]
/// return, put together, is [`Tokenizer::decode`] of all ids.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    tokenizer: Tokenizer,
    skip_special_tokens: bool,
    /// Special tokens that are text all the same.
    kept: Arc<[u32]>,
    /// The bytes of a character that is not complete yet.
    pending: Vec<u8>,
    start: Start,
}

impl Detokenizer {
    /// Begins a text of its own: a space that the tokenizer puts before every text is removed.
    #[must_use]
    pub fn new(tokenizer: Tokenizer, skip_special_tokens: bool) -> Self {
        let start = tokenizer.pieces().start();
        let kept = Arc::default();
        Self { tokenizer, skip_special_tokens, kept, pending: Vec::new(), start }
    }

    /// Whether special tokens are left out of what follows.
    #[must_use]
    pub fn skipping(self, skip_special_tokens: bool) -> Self {
        Self { skip_special_tokens, ..self }
    }

    /// Leaves `tokens` in the text where other special tokens are skipped: marks of parts that
    /// someone behind looks for.
    #[must_use]
    pub fn keeping(self, tokens: &[u32]) -> Self {
        Self { kept: tokens.into(), ..self }
    }

    /// Continues the text of `prompt`: what follows is exactly what follows that text, with the
    /// space between two words, and with the rest of a character that the prompt left open.
    /// The prompt's own text is not returned.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownToken`] for an id outside the vocabulary.
    pub fn after_prompt(
        tokenizer: Tokenizer,
        skip_special_tokens: bool,
        prompt: &[u32],
    ) -> Result<Self, TokenizerError> {
        let mut detokenizer = Self::new(tokenizer, skip_special_tokens);
        for &id in prompt {
            detokenizer.push(id)?;
        }
        Ok(detokenizer)
    }

    /// Takes the next token and returns the text that is now certain, which may be empty.
    ///
    /// U+FFFD appears only where bytes can no longer become a character.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownToken`] for an id outside the vocabulary; nothing has changed then,
    /// so that a caller may as well go on without it.
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        let tokenizer = self.tokenizer.clone();
        let pieces = tokenizer.pieces();
        let Some(piece) = pieces.get(id) else {
            return Err(TokenizerError::UnknownToken { id, vocab_size: pieces.len() });
        };
        if piece.special && self.skip_special_tokens && !self.kept.contains(&id) {
            return Ok(String::new());
        }
        let mut text = String::new();
        match (piece.kind, self.start) {
            (PieceKind::Text, Start::DropFromFirst(dropped)) => {
                let token = tokenizer.token_text(id).unwrap_or_default();
                text = pieces.first_text(&token, dropped);
            }
            (PieceKind::Text, _) => {
                self.break_off(&mut text);
                text.push_str(&String::from_utf8_lossy(piece.bytes));
            }
            (PieceKind::Bytes, _) => {
                self.pending.extend_from_slice(piece.bytes);
                self.take_complete(&mut text);
            }
        }
        if matches!(self.start, Start::DropFromFirst(_)) {
            self.start = Start::Keep;
        }
        Ok(self.strip_start(text))
    }

    /// Ends the text: what was held back, where nothing can complete it any more.
    ///
    /// # Errors
    /// None at present.
    pub fn finish(&mut self) -> Result<String, TokenizerError> {
        let mut text = String::new();
        self.break_off(&mut text);
        Ok(self.strip_start(text))
    }

    /// Moves what is settled from `pending` into `text`; an open character stays.
    fn take_complete(&mut self, text: &mut String) {
        let mut open = 0;
        let mut chunks = self.pending.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            // Only at the end can more bytes still complete a character.
            if chunks.peek().is_none() && is_open(chunk.invalid()) {
                open = chunk.invalid().len();
            } else {
                self.push_replacement(text, chunk.invalid().len());
            }
        }
        self.pending.drain(..self.pending.len() - open);
    }

    /// Gives up on an open character.
    fn break_off(&mut self, text: &mut String) {
        self.push_replacement(text, self.pending.len());
        self.pending.clear();
    }

    fn push_replacement(&self, text: &mut String, len: usize) {
        let each_byte = self.tokenizer.pieces().replaces_each_byte();
        let count = if each_byte { len } else { len.min(1) };
        text.extend(std::iter::repeat_n(char::REPLACEMENT_CHARACTER, count));
    }

    fn strip_start(&mut self, text: String) -> String {
        let Start::Strip { content, mut count } = self.start else { return text };
        let mut rest = text.as_str();
        while count > 0
            && let Some(stripped) = rest.strip_prefix(content)
        {
            rest = stripped;
            count -= 1;
        }
        // Another character ends the start of the text, whatever the count.
        let at_start = rest.is_empty() && count > 0;
        self.start = if at_start { Start::Strip { content, count } } else { Start::Keep };
        rest.to_owned()
    }
}

/// True where the bytes are the beginning of a character and may still become one.
fn is_open(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests;
