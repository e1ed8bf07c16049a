//! Which tokens of which sequences run in the next step. Policy over integers: no tensor here.
//!
//! Running decodes come first, then chunks of prompts, oldest first, up to a budget of tokens.
//! When blocks run out, the youngest running sequence is preempted: its blocks are freed and it is
//! computed again later, from the front of the queue.

use std::collections::VecDeque;

use super::sequence::{Sequence, SequenceId};
use crate::kv_cache::block_manager::{BlockCopy, BlockManager};

/// Rows of a prompt per step while its log-probabilities are wanted: each such row costs a whole
/// vocabulary of logits.
const MAX_SCORED_ROWS: usize = 256;

/// Limits of one step.
#[derive(Debug, Clone, Copy)]
pub struct SchedulerConfig {
    /// Sequences that may run at once.
    pub max_num_seqs: usize,
    /// Tokens per step.
    pub max_num_batched_tokens: usize,
    /// Tokens a sequence may reach.
    pub max_model_len: usize,
}

/// One sequence's share of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheduled {
    /// Which sequence.
    pub id: SequenceId,
    /// How many of its uncomputed tokens run.
    pub num_tokens: usize,
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

/// Owns every live sequence and the block manager.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    blocks: BlockManager,
    waiting: VecDeque<Sequence>,
    /// In order of admission.
    running: Vec<Sequence>,
    next_id: u64,
}

impl Scheduler {
    /// A scheduler over an empty pool.
    ///
    /// # Panics
    /// Where a limit is 0 or one sequence of `max_model_len` tokens does not fit into the pool:
    /// such an engine could wait for ever. The configuration is checked before it gets here.
    #[must_use]
    pub fn new(config: SchedulerConfig, blocks: BlockManager) -> Self {
        assert!(config.max_num_seqs > 0 && config.max_num_batched_tokens > 0);
        assert!(blocks.blocks_for(config.max_model_len) <= blocks.num_blocks());
        Self { config, blocks, waiting: VecDeque::new(), running: Vec::new(), next_id: 0 }
    }

    /// The id of the next sequence.
    pub fn next_id(&mut self) -> SequenceId {
        self.next_id += 1;
        SequenceId(self.next_id)
    }

    /// Queues a new sequence.
    pub fn add(&mut self, sequence: Sequence) {
        self.waiting.push_back(sequence);
    }

    /// True where nothing waits and nothing runs.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Sequences in the queue.
    #[must_use]
    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Sequences that hold blocks.
    #[must_use]
    pub fn num_running(&self) -> usize {
        self.running.len()
    }

    /// The block manager, to read.
    #[must_use]
    pub fn blocks(&self) -> &BlockManager {
        &self.blocks
    }

    /// Tokens a sequence may reach.
    #[must_use]
    pub fn max_model_len(&self) -> usize {
        self.config.max_model_len
    }

    /// Sequences that may run at once.
    #[must_use]
    pub fn max_num_seqs(&self) -> usize {
        self.config.max_num_seqs
    }

    /// The waiting sequences, next one first.
    pub fn waiting(&self) -> impl Iterator<Item = &Sequence> {
        self.waiting.iter()
    }

    /// The running sequences in order of admission.
    #[must_use]
    pub fn running(&self) -> &[Sequence] {
        &self.running
    }

    /// A running sequence.
    #[must_use]
    pub fn get(&self, id: SequenceId) -> Option<&Sequence> {
        self.running.iter().find(|sequence| sequence.id == id)
    }

    /// A running sequence, to change.
    pub fn get_mut(&mut self, id: SequenceId) -> Option<&mut Sequence> {
        self.running.iter_mut().find(|sequence| sequence.id == id)
    }

    /// Plans one step and reserves its blocks. Empty only where nothing is left to run.
    pub fn schedule(&mut self) -> Schedule {
        let mut schedule = Schedule::default();
        let mut budget = self.config.max_num_batched_tokens;
        for decodes in [true, false] {
            for id in self.running_ids(decodes) {
                self.schedule_running(id, &mut budget, &mut schedule);
            }
        }
        // Admitting in a step that preempted would only pass the same blocks back and forth.
        if schedule.num_preempted == 0 {
            self.admit(&mut budget, &mut schedule);
        }
        schedule
    }

    /// Splits every pending choice off a sequence whose prompt is computed; returns the new ids.
    pub fn fork(&mut self, id: SequenceId) -> Vec<SequenceId> {
        let Some(index) = self.running.iter().position(|sequence| sequence.id == id) else {
            return Vec::new();
        };
        let mut ids = Vec::new();
        while self.running[index].num_choices() > 1 {
            let id = self.next_id();
            let leader = &mut self.running[index];
            let table = self.blocks.fork(&leader.block_table);
            let Some(child) = leader.fork(id, table) else { break };
            self.running.push(child);
            ids.push(id);
        }
        ids
    }

    /// Takes a running sequence out and frees its blocks.
    pub fn finish(&mut self, id: SequenceId) -> Option<Sequence> {
        let index = self.running.iter().position(|sequence| sequence.id == id)?;
        let mut sequence = self.running.remove(index);
        self.blocks.release(&mut sequence.block_table);
        Some(sequence)
    }

    /// Takes out every sequence whose clients have gone, waiting or running.
    pub fn remove_abandoned(&mut self) -> Vec<Sequence> {
        let gone = |sequence: &Sequence| sequence.is_abandoned();
        let ids: Vec<_> = self.running.iter().filter(|s| gone(s)).map(|s| s.id).collect();
        let mut removed: Vec<_> = ids.into_iter().filter_map(|id| self.finish(id)).collect();
        if self.waiting.iter().any(gone) {
            let (gone, kept): (VecDeque<_>, _) = self.waiting.drain(..).partition(gone);
            self.waiting = kept;
            removed.extend(gone);
        }
        removed
    }

    /// Takes out everything, blocks freed: the engine is ending.
    pub fn remove_all(&mut self) -> Vec<Sequence> {
        let mut removed: Vec<_> = self.waiting.drain(..).collect();
        while let Some(id) = self.running.last().map(|sequence| sequence.id) {
            removed.extend(self.finish(id));
        }
        removed
    }

    fn running_ids(&self, decodes: bool) -> Vec<SequenceId> {
        let wanted = |sequence: &&Sequence| (sequence.num_uncomputed() == 1) == decodes;
        self.running.iter().filter(wanted).map(|sequence| sequence.id).collect()
    }

    /// Gives a running sequence its share, preempting younger ones (or itself) for blocks.
    fn schedule_running(&mut self, id: SequenceId, budget: &mut usize, schedule: &mut Schedule) {
        loop {
            // It may itself have been preempted for an older one.
            let Some(index) = self.running.iter().position(|sequence| sequence.id == id) else {
                return;
            };
            let num_tokens = chunk_len(&self.running[index], *budget);
            if num_tokens == 0 || self.reserve(index, num_tokens, budget, schedule) {
                return;
            }
            self.preempt_youngest(budget, schedule);
        }
    }

    fn reserve(
        &mut self,
        index: usize,
        num_tokens: usize,
        budget: &mut usize,
        schedule: &mut Schedule,
    ) -> bool {
        let sequence = &mut self.running[index];
        let from = sequence.num_computed();
        let reserved = self.blocks.reserve(&mut sequence.block_table, from, from + num_tokens);
        let Ok(copies) = reserved else { return false };
        schedule.copies.extend(copies);
        schedule.scheduled.push(Scheduled { id: sequence.id, num_tokens });
        *budget -= num_tokens;
        true
    }

    fn preempt_youngest(&mut self, budget: &mut usize, schedule: &mut Schedule) {
        let Some(mut sequence) = self.running.pop() else { return };
        let mine = |scheduled: &Scheduled| scheduled.id == sequence.id;
        if let Some(position) = schedule.scheduled.iter().position(mine) {
            *budget += schedule.scheduled.remove(position).num_tokens;
            // Its blocks may go to another sequence in this very step: its copies must not run.
            let blocks = sequence.block_table.blocks();
            schedule.copies.retain(|copy| !blocks.contains(&copy.to));
        }
        self.blocks.release(&mut sequence.block_table);
        sequence.reset();
        schedule.num_preempted += 1;
        self.waiting.push_front(sequence);
    }

    fn admit(&mut self, budget: &mut usize, schedule: &mut Schedule) {
        while *budget > 0 && self.may_admit_next() {
            let Some(mut sequence) = self.waiting.pop_front() else { return };
            sequence.start();
            let num_tokens = chunk_len(&sequence, *budget);
            self.running.push(sequence);
            if !self.reserve(self.running.len() - 1, num_tokens, budget, schedule) {
                self.preempt_youngest(budget, schedule);
                return;
            }
        }
    }

    /// The next one waits until all its present tokens fit: half a prompt helps nobody.
    fn may_admit_next(&self) -> bool {
        let Some(next) = self.waiting.front() else { return false };
        let choices: usize = self.running.iter().map(Sequence::num_choices).sum();
        let has_place = choices == 0 || choices + next.num_choices() <= self.config.max_num_seqs;
        let promised: usize = self.running.iter().map(|running| self.missing_blocks(running)).sum();
        let free = self.blocks.num_free().saturating_sub(promised);
        has_place && self.missing_blocks(next) <= free
    }

    /// Blocks a sequence still lacks for the tokens it has now.
    fn missing_blocks(&self, sequence: &Sequence) -> usize {
        let needed = self.blocks.blocks_for(sequence.tokens().len());
        needed.saturating_sub(sequence.block_table.blocks().len())
    }
}

fn chunk_len(sequence: &Sequence, budget: usize) -> usize {
    let limit = if sequence.wants_prompt_logprobs() { MAX_SCORED_ROWS } else { usize::MAX };
    sequence.num_uncomputed().min(budget).min(limit)
}
