//! A compiled grammar, and one text on its way through it.

use std::fmt;
use std::sync::Arc;

use llguidance::Matcher as Parser;
use llguidance::api::StopReason;
use llguidance::toktrie::SimpleVob;

use super::error::MatchError;
use super::vocabulary::Writable;

/// A compiled grammar, and what its automata have learned. Its texts share them: a request has a
/// copy of its own, so that what its texts cost, no other request pays.
pub struct Grammar {
    parser: Parser,
    writable: Arc<Writable>,
    /// What every text begins with.
    first: Allowed,
    bytes: usize,
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Grammar {
    /// A grammar whose beginning `parser` stands at; it takes about `bytes` of memory.
    ///
    /// # Errors
    /// Where no text can begin.
    pub(super) fn new(
        mut parser: Parser,
        writable: Arc<Writable>,
        bytes: usize,
    ) -> Result<Self, MatchError> {
        let first = allowed(&mut parser, &writable)?;
        Ok(Self { parser, writable, first, bytes })
    }

    /// Memory that it takes, about.
    #[must_use]
    pub fn num_bytes(&self) -> usize {
        self.bytes
    }

    /// A grammar that shares nothing with this one. Its automata are copied, which takes some
    /// milliseconds where they are large: not for the engine's thread.
    pub(super) fn copy(&self) -> Self {
        let parser = self.parser.deep_clone();
        let (writable, first) = (Arc::clone(&self.writable), self.first.clone());
        Self { parser, writable, first, bytes: self.bytes }
    }

    /// A text that has not begun.
    #[must_use]
    pub fn matcher(&self) -> Matcher {
        let first = Some(self.first.clone());
        Matcher { parser: self.parser.clone(), writable: Arc::clone(&self.writable), first }
    }
}

/// The state of one text. What it allows depends on the tokens it was given, and on nothing else.
pub struct Matcher {
    parser: Parser,
    writable: Arc<Writable>,
    /// What may come next, where that is known: at the beginning.
    first: Option<Allowed>,
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matcher").field("finished", &self.is_finished()).finish_non_exhaustive()
    }
}

impl Matcher {
    /// The tokens that may come next: at least one. Not to be asked of a finished text.
    ///
    /// # Errors
    /// Where that is too much to find out. Nothing can be asked of the text afterwards.
    pub fn allowed(&mut self) -> Result<Allowed, MatchError> {
        if let Some(first) = &self.first {
            return Ok(first.clone());
        }
        allowed(&mut self.parser, &self.writable)
    }

    /// The text goes on with `token`, one of those that were allowed.
    ///
    /// # Errors
    /// Where it was not allowed. Nothing can be asked of the text afterwards.
    pub fn advance(&mut self, token: u32) -> Result<(), MatchError> {
        self.first = None;
        self.parser.consume_token(token).map_err(|_| failure(&self.parser))
    }

    /// How many of `tokens` may follow one after the other.
    ///
    /// # Errors
    /// As [`Self::allowed`].
    pub fn count_allowed(&mut self, tokens: &[u32]) -> Result<usize, MatchError> {
        self.parser.validate_tokens(tokens).map_err(|_| failure(&self.parser))
    }

    /// True where the text is complete and nothing can follow.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.parser.is_stopped()
    }
}

/// What may come next in the text of `parser`.
fn allowed(parser: &mut Parser, writable: &Writable) -> Result<Allowed, MatchError> {
    let may_end = parser.is_accepting().map_err(|_| failure(parser))?;
    let mut tokens = parser.compute_mask().map_err(|_| failure(parser))?;
    tokens.and(if may_end { &writable.at_end } else { &writable.within });
    if tokens.is_zero() { Err(MatchError::Stuck) } else { Ok(Allowed { tokens, may_end }) }
}

fn failure(parser: &Parser) -> MatchError {
    let reason = parser.get_error().unwrap_or_default();
    tracing::debug!(reason, "a grammar could not be followed");
    match parser.stop_reason() {
        StopReason::LexerTooComplex | StopReason::ParserTooComplex => MatchError::TooComplex,
        _ if is_too_complex(&reason) => MatchError::TooComplex,
        _ if reason.starts_with("panic") => MatchError::Failed,
        _ => MatchError::Stuck,
    }
}

/// Whether a failure, in the parser's words, is that of a limit.
fn is_too_complex(reason: &str) -> bool {
    let limits = ["TooComplex", "too complex", "Too many items", "Current row has", "lexer error"];
    limits.iter().any(|limit| reason.contains(limit))
}

/// A set of tokens that may come next.
#[derive(Debug, Clone)]
pub struct Allowed {
    tokens: SimpleVob,
    may_end: bool,
}

impl Allowed {
    /// True where the text is complete as it is, so that an end of sequence may come.
    #[must_use]
    pub fn may_end(&self) -> bool {
        self.may_end
    }

    /// True where all that may come is one of `ends`.
    #[must_use]
    pub fn is_within(&self, ends: &[u32]) -> bool {
        let of_ends = ends.iter().filter(|id| self.contains(**id)).count();
        self.tokens.num_set() == of_ends
    }

    /// True for a token that may come.
    #[must_use]
    pub fn contains(&self, token: u32) -> bool {
        (token as usize) < self.tokens.len() && self.tokens.is_allowed(token)
    }

    /// The tokens, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.tokens.iter()
    }

    /// Adds tokens.
    pub fn extend(&mut self, tokens: &[u32]) {
        let known = self.tokens.len();
        for token in tokens.iter().filter(|token| (**token as usize) < known) {
            self.tokens.allow_token(*token);
        }
    }

    /// Rules every other token out of a row of logits.
    pub fn apply(&self, logits: &mut [f32]) {
        const WORD: usize = u32::BITS as usize;
        let known = self.tokens.len().min(logits.len());
        let (logits, beyond) = logits.split_at_mut(known);
        beyond.fill(f32::NEG_INFINITY);
        for (word, logits) in self.tokens.as_slice().iter().zip(logits.chunks_mut(WORD)) {
            match *word {
                0 => logits.fill(f32::NEG_INFINITY),
                u32::MAX => {}
                word => {
                    for (bit, logit) in logits.iter_mut().enumerate() {
                        if word >> bit & 1 == 0 {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
    }
}
