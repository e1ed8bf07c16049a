//! Which answers go on in a step, and which sit it out.
//!
//! Two things can make a step longer than everybody should wait, and for each of them the answers that
//! do not fit take [`Turns`]. Grammars are asked on the engine's thread, between two passes of the model.
//! Most answer in microseconds, some in milliseconds, and a request may have many choices under one. And
//! attention reads an answer's whole context: a crowd of long ones takes many times as long as a few short
//! ones, which matters where they are of different tenants.
//!
//! It decides when a text goes on, never how.

use std::collections::BTreeSet;
use std::time::Duration;

use super::pace::Pace;
use super::row_cost::cost;
use super::sequence::{Sequence, SequenceId};
use super::turns::{Text, Turns};

/// The turns of what may take long.
#[derive(Debug, Default)]
pub struct AnswerTurns {
    decodes: Turns,
    grammars: Turns,
}

impl AnswerTurns {
    /// The sequences that are being answered, in order of admission: those that go on in this step, and
    /// those that sit it out. A step that is `shared` among tenants is to be short.
    pub fn split(
        &mut self,
        running: &[Sequence],
        pace: &Pace,
        shared: bool,
    ) -> (Vec<SequenceId>, Vec<SequenceId>) {
        let all: Vec<_> =
            running.iter().filter(|sequence| sequence.num_uncomputed() == 1).collect();
        let short = if shared { self.short(&all, pace) } else { None };
        let fits = |one: &Sequence| short.as_ref().is_none_or(|short| short.contains(&one.id));
        let decodes: Vec<_> = all.iter().copied().filter(|one| fits(one)).collect();
        let turn = self.grammars(&decodes, pace);
        let goes = |one: &Sequence| fits(one) && (!is_text(one) || turn.contains(&one.id));
        let (go, sit): (Vec<_>, Vec<_>) = all.into_iter().partition(|one| goes(one));
        let ids = |sequences: Vec<&Sequence>| sequences.iter().map(|one| one.id).collect();
        (ids(go), ids(sit))
    }

    /// The grammar of a text took so long in this step.
    pub fn grammar_took(&mut self, sequence: &Sequence, took: Duration) {
        self.grammars.took(Text::of(sequence), took);
    }

    /// Those whose turn it is where all together take longer than a short step.
    fn short(&mut self, decodes: &[&Sequence], pace: &Pace) -> Option<BTreeSet<SequenceId>> {
        let total = total_cost(decodes);
        let (limit, all) = (pace.short_step(), pace.decode_time(total)?);
        if all <= limit {
            return None;
        }
        let text = |sequence: &&Sequence| {
            let part = decode_cost(sequence) as f64 / total as f64;
            Text { takes: Some(all.mul_f64(part)), ..Text::of(sequence) }
        };
        let texts: Vec<_> = decodes.iter().map(text).collect();
        let chosen = self.decodes.choose(&texts, limit, true);
        for text in texts.iter().filter(|text| chosen.contains(&text.id)) {
            self.decodes.took(*text, text.takes.unwrap_or_default());
        }
        Some(chosen)
    }

    /// The texts under grammars whose turn it is: at least one where nothing else runs.
    fn grammars(&mut self, decodes: &[&Sequence], pace: &Pace) -> BTreeSet<SequenceId> {
        let texts: Vec<_> =
            decodes.iter().filter(|one| is_text(one)).map(|one| Text::of(one)).collect();
        let alone = texts.len() == decodes.len();
        self.grammars.choose(&texts, pace.grammar_limit(total_cost(decodes)), alone)
    }
}

fn is_text(sequence: &Sequence) -> bool {
    sequence.sampler.is_constrained()
}

fn decode_cost(sequence: &Sequence) -> usize {
    cost(sequence.num_computed(), 1)
}

fn total_cost(decodes: &[&Sequence]) -> usize {
    decodes.iter().map(|sequence| decode_cost(sequence)).sum()
}
