//! A choice's text on its way through its grammar: what the sampler may choose, and whether that is
//! the end.

use std::time::{Duration, Instant};

use crate::grammar::{Allowed, Grammar, MatchError, Matcher};

/// One text under a grammar.
#[derive(Debug)]
pub struct Constraint {
    matcher: Matcher,
    /// Whether the text could end here; known once it was asked for what may come next.
    may_end: bool,
    complete: bool,
    /// What asking the grammar has taken since that was last looked at.
    spent: Duration,
}

impl Constraint {
    /// A text that has not begun.
    #[must_use]
    pub fn new(grammar: &Grammar) -> Self {
        let spent = Duration::ZERO;
        Self { matcher: grammar.matcher(), may_end: false, complete: false, spent }
    }

    /// The tokens that may come next: what the grammar allows, and `stops`, the tokens that end the
    /// text, where it may end.
    ///
    /// # Errors
    /// Where the grammar cannot say.
    pub fn allowed(&mut self, stops: &[u32]) -> Result<Allowed, MatchError> {
        let mut allowed = self.ask(Matcher::allowed)?;
        self.may_end = allowed.may_end();
        if self.may_end {
            allowed.extend(stops);
        }
        Ok(allowed)
    }

    /// The text goes on with `token`, one of those that were allowed.
    ///
    /// # Errors
    /// Where the grammar does not take it.
    pub fn advance(&mut self, token: u32, stops: &[u32]) -> Result<(), MatchError> {
        if self.may_end && stops.contains(&token) {
            self.complete = true;
            return Ok(());
        }
        self.ask(|matcher| matcher.advance(token))?;
        self.complete = self.matcher.is_finished();
        Ok(())
    }

    /// How many of `tokens` could follow, one after the other.
    pub fn count_allowed(&mut self, tokens: &[u32]) -> usize {
        // An error comes up again where a token is chosen, and ends the choice there.
        self.ask(|matcher| matcher.count_allowed(tokens)).unwrap_or(0)
    }

    /// True where the text, as it was when it was last asked what may come next, may end.
    #[must_use]
    pub fn may_end(&self) -> bool {
        self.may_end
    }

    /// True where nothing may follow.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// What asking the grammar has taken since this was last called.
    pub fn take_spent(&mut self) -> Duration {
        std::mem::take(&mut self.spent)
    }

    fn ask<T>(&mut self, question: impl FnOnce(&mut Matcher) -> T) -> T {
        let begun = Instant::now();
        let answer = question(&mut self.matcher);
        self.spent += begun.elapsed();
        answer
    }
}
