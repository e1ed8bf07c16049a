//! What one step runs, and the rows it may still take. Integers only; [`super::scheduler`] decides.

use super::pace::StepCost;
use super::row_cost::{cost, rows_within};
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
    /// Its tokens that were computed before.
    pub from: usize,
    /// Whether they are of a prompt. The last token of one, alone, is as a decode.
    pub is_prompt: bool,
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

    /// What they cost ([`cost`]).
    #[must_use]
    pub fn cost(&self) -> usize {
        cost(self.from, self.num_rows())
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
    /// What its rows cost, by kind.
    #[must_use]
    pub fn cost(&self) -> StepCost {
        let mut cost = StepCost::default();
        for scheduled in &self.scheduled {
            let kind = if scheduled.is_prompt { &mut cost.prompt } else { &mut cost.decode };
            *kind += scheduled.cost();
        }
        cost
    }
}

/// Rows that a step may still take.
#[derive(Debug)]
pub struct Budget {
    /// All of them.
    rows: usize,
    prompts: PromptLimit,
}

/// What prompts may take of a step.
#[derive(Debug, Clone, Copy)]
pub struct PromptLimit {
    /// Rows.
    pub rows: usize,
    /// What they may cost.
    pub cost: usize,
    /// Rows that run whatever they cost, so that prompts get on.
    pub least: usize,
}

impl PromptLimit {
    /// Whatever there is room for.
    pub const NONE: Self = Self { rows: usize::MAX, cost: usize::MAX, least: 0 };
    /// No prompt.
    const ALL: Self = Self { rows: 0, cost: 0, least: 0 };
}

impl Budget {
    /// A step of so many rows, without prompts yet.
    #[must_use]
    pub fn new(rows: usize) -> Self {
        Self { rows, prompts: PromptLimit::ALL }
    }

    /// Lets prompts in.
    pub fn allow_prompts(&mut self, limit: PromptLimit) {
        self.prompts = limit;
    }

    /// Rows that are left.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether there is room for a row of a prompt.
    #[must_use]
    pub fn takes_prompts(&self) -> bool {
        let PromptLimit { rows, cost, least } = self.prompts;
        self.rows.min(rows) > 0 && (cost > 0 || least > 0)
    }

    /// Takes a share's rows.
    pub fn spend(&mut self, scheduled: &Scheduled) {
        self.rows -= scheduled.num_rows();
        if scheduled.is_prompt {
            let PromptLimit { rows, cost, least } = &mut self.prompts;
            *rows = rows.saturating_sub(scheduled.num_tokens);
            *cost = cost.saturating_sub(scheduled.cost());
            *least = least.saturating_sub(scheduled.num_tokens);
        }
    }

    /// Takes the rows of guesses behind a decode.
    pub fn spend_drafts(&mut self, drafts: usize) {
        self.rows -= drafts;
    }

    /// Undoes [`Self::spend`]; the least that runs in any case has run once.
    pub fn give_back(&mut self, scheduled: &Scheduled) {
        self.rows += scheduled.num_rows();
        if scheduled.is_prompt {
            let PromptLimit { rows, cost, .. } = &mut self.prompts;
            *rows = rows.saturating_add(scheduled.num_tokens);
            *cost = cost.saturating_add(scheduled.cost());
        }
    }

    /// How many tokens of a sequence may run.
    #[must_use]
    pub fn chunk(&self, sequence: &Sequence) -> usize {
        if sequence.num_uncomputed() == 1 {
            return self.rows.min(1);
        }
        let limit = if sequence.wants_prompt_logprobs() { MAX_SCORED_ROWS } else { usize::MAX };
        let PromptLimit { rows, cost, least } = self.prompts;
        let most = sequence.num_uncomputed().min(self.rows).min(rows).min(limit);
        // What is left may be less than a row far behind costs.
        let affordable =
            rows_within(sequence.num_computed(), cost, most).max(usize::from(cost > 0));
        affordable.max(least).min(most)
    }
}
