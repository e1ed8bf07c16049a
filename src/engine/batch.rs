//! The rows of one step, laid out for the model: integers only, adapters side by side.

use std::ops::Range;
use std::sync::Arc;

use super::request::Pooling;
use super::schedule::{Schedule, Scheduled};
use super::scheduler::Scheduler;
use super::sequence::{Sequence, SequenceId};
use crate::adapter::delta::LowRankDelta;
use crate::adapter::segments::Segments;
use crate::kv_cache::BlockId;
use crate::kv_cache::block_manager::BlockCopy;

/// One sequence's rows.
#[derive(Debug, Clone)]
pub struct BatchItem {
    /// Which sequence.
    pub id: SequenceId,
    /// Its rows in the batch.
    pub rows: Range<usize>,
    /// Tokens in the cache after the step.
    pub context_len: usize,
    /// Its blocks.
    pub block_table: Vec<BlockId>,
    /// Its tokens that run. Guesses follow them.
    pub num_tokens: usize,
    /// Tokens that are guessed to come next, one per row at the end.
    pub drafts: Vec<u32>,
    /// Its rows among the logits: all of its rows where the prompt is scored, else the last token's
    /// and those of the guesses where a token is to be chosen, else none.
    pub logit_rows: Range<usize>,
    /// Its rows among the hidden states: none, all, or the last, as its prompt is pooled.
    pub hidden_rows: Range<usize>,
    /// True where the step computes its last token, so that the next one can be chosen.
    pub samples: bool,
}

/// One step's rows.
#[derive(Debug, Default)]
pub struct Batch {
    /// The sequences, covering all rows in order.
    pub items: Vec<BatchItem>,
    /// Token of each row.
    pub input_ids: Vec<u32>,
    /// Position of each row.
    pub positions: Vec<u32>,
    /// Cache slot of each row.
    pub slot_mapping: Vec<u32>,
    /// Rows whose logits are wanted.
    pub logit_rows: Vec<u32>,
    /// Rows whose hidden states are wanted.
    pub hidden_rows: Vec<u32>,
    /// Adapters of the rows.
    pub segments: Segments,
    /// Adapters of the logit rows.
    pub logit_segments: Segments,
    /// Blocks to copy first.
    pub copies: Vec<BlockCopy>,
}

impl Batch {
    /// Lays out a schedule. Sequences of one adapter become neighbours.
    ///
    /// # Panics
    /// Where the schedule names a sequence that is not running: a bug.
    #[must_use]
    pub fn new(schedule: Schedule, scheduler: &Scheduler) -> Self {
        let find = |share: Scheduled| {
            let sequence = scheduler.get(share.id).expect("bug: a scheduled sequence is running");
            (sequence, share)
        };
        let mut shares: Vec<_> = schedule.scheduled.into_iter().map(find).collect();
        shares.sort_by_key(|(sequence, _)| delta(sequence).map(|delta| delta.id()));
        let mut batch = Self { copies: schedule.copies, ..Self::default() };
        for (sequence, share) in &shares {
            batch.push(sequence, share, scheduler.blocks().block_size());
        }
        let runs = |rows: fn(&BatchItem) -> usize| {
            let lens: Vec<usize> = batch.items.iter().map(rows).collect();
            Segments::from_runs(lens.into_iter().zip(shares.iter().map(|(s, _)| delta(s))))
        };
        let (segments, logit_segments) =
            (runs(|item| item.rows.len()), runs(|item| item.logit_rows.len()));
        Self { segments, logit_segments, ..batch }
    }

    /// The rows of some items of a batch that has not been computed, without its copies.
    #[must_use]
    pub fn of_items<'a>(
        items: impl IntoIterator<Item = &'a BatchItem>,
        scheduler: &Scheduler,
    ) -> Self {
        let share = |item: &BatchItem| Scheduled {
            id: item.id,
            from: item.context_len - item.rows.len(),
            is_prompt: item.num_tokens > 1,
            num_tokens: item.num_tokens,
            drafts: item.drafts.clone(),
        };
        let scheduled = items.into_iter().map(share).collect();
        Self::new(Schedule { scheduled, ..Schedule::default() }, scheduler)
    }

    fn push(&mut self, sequence: &Sequence, share: &Scheduled, block_size: usize) {
        let Scheduled { num_tokens, drafts, .. } = share;
        let (from, to) = (sequence.num_computed(), sequence.num_computed() + num_tokens);
        let context_len = to + drafts.len();
        let rows = self.input_ids.len()..self.input_ids.len() + num_tokens + drafts.len();
        let blocks = sequence.block_table.blocks();
        self.input_ids.extend(&sequence.tokens()[from..to]);
        self.input_ids.extend(drafts);
        self.positions.extend((from..context_len).map(index));
        self.slot_mapping.extend((from..context_len).map(|position| {
            blocks[position / block_size].0 * index(block_size) + index(position % block_size)
        }));
        let samples = to == sequence.tokens().len();
        let last = rows.end - drafts.len() - usize::from(samples)..rows.end;
        let none = rows.end..rows.end;
        let (logits, hidden) = match sequence.request().pooling {
            Some(Pooling::Mean) => (none, rows.clone()),
            Some(Pooling::Last) => (none, last),
            None if sequence.wants_prompt_logprobs() => (rows.clone(), none),
            None => (last, none),
        };
        let (logit_start, hidden_start) = (self.logit_rows.len(), self.hidden_rows.len());
        self.logit_rows.extend(logits.map(index));
        self.hidden_rows.extend(hidden.map(index));
        self.items.push(BatchItem {
            id: sequence.id,
            rows,
            context_len,
            num_tokens: *num_tokens,
            drafts: drafts.clone(),
            block_table: blocks.to_vec(),
            logit_rows: logit_start..self.logit_rows.len(),
            hidden_rows: hidden_start..self.hidden_rows.len(),
            samples,
        });
    }
}

fn delta(sequence: &Sequence) -> Option<&Arc<LowRankDelta>> {
    sequence.request().adapter.as_ref().map(|version| &version.delta)
}

/// Rows, positions and slots are 32 bits on the device; the configuration keeps them below.
fn index(value: usize) -> u32 {
    u32::try_from(value).expect("bug: an index beyond 32 bits")
}
