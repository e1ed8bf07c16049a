//! What one step runs, and the rows it may still take. Integers only; [`super::scheduler`] decides.

use super::pace::StepRows;
use super::sequence::{Sequence, SequenceId};
use crate::kv_cache::block_manager::BlockCopy;

/// Rows of a prompt per step while its log-probabilities are wanted: each such row costs a whole
/// vocabulary of logits.
const MAX_SCORED_ROWS: usize = 256;
/// One sequence's share of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheduled {
    /// Which sequence.
    pub id: SequenceId,
    /// How many of its uncomputed tokens run.
    pub num_tokens: usize,
    /// Tokens that are guessed to follow its last one, and run with it.
    pub drafts: Vec<u32>,
}

impl Scheduled {
    /// Rows of the batch.
    #[must_use]
    pub fn num_rows(&self) -> usize {
        self.num_tokens + self.drafts.len()
    }

    /// True for a chunk of a prompt. The last token of one, alone, is as a decode.
    #[must_use]
    pub fn is_prompt(&self) -> bool {
        self.num_tokens > 1
    }
}

/// What one step runs.
#[derive(Debug, Default)]
pub struct Schedule {
    /// Shares, decodes first.
    pub scheduled: Vec<Scheduled>,
    /// Blocks to copy before anything is written.
    pub copies: Vec<BlockCopy>,
    /// Sequences that lost their blocks.
    pub num_preempted: usize,
}

impl Schedule {
    /// How many rows run, by kind.
    #[must_use]
    pub fn rows(&self) -> StepRows {
        let mut rows = StepRows::default();
        for scheduled in &self.scheduled {
            let kind = if scheduled.is_prompt() { &mut rows.prompt } else { &mut rows.decode };
            *kind += scheduled.num_rows();
        }
        rows
    }
}

/// Rows that a step may still take.
#[derive(Debug)]
pub struct Budget {
    /// All of them.
    pub rows: usize,
    /// Of those, rows of prompts.
    pub prompt_rows: usize,
}

impl Budget {
    /// Takes a share's rows.
    pub fn spend(&mut self, scheduled: &Scheduled) {
        self.rows -= scheduled.num_rows();
        if scheduled.is_prompt() {
            self.prompt_rows -= scheduled.num_tokens;
        }
    }

    /// Undoes [`Self::spend`].
    pub fn give_back(&mut self, scheduled: &Scheduled) {
        self.rows += scheduled.num_rows();
        if scheduled.is_prompt() {
            self.prompt_rows = self.prompt_rows.saturating_add(scheduled.num_tokens);
        }
    }

    /// How many tokens of a sequence may run.
    #[must_use]
    pub fn chunk(&self, sequence: &Sequence) -> usize {
        if sequence.num_uncomputed() == 1 {
            return self.rows.min(1);
        }
        let limit = if sequence.wants_prompt_logprobs() { MAX_SCORED_ROWS } else { usize::MAX };
        sequence.num_uncomputed().min(self.rows).min(self.prompt_rows).min(limit)
    }
}
