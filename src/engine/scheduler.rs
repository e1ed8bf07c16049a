//! Which tokens of which sequences run in the next step. Policy over integers: no tensor here.
//!
//! Running decodes come first, with guesses of what follows, then chunks of prompts up to a budget of
//! tokens: the tenant for which least was computed is next ([`super::fairness`]), and its oldest
//! sequence, or one a little younger whose adapter runs anyway ([`super::line`]). Beside decodes,
//! prompts get what leaves those their pace ([`super::pace`]). A sequence begins with the blocks that
//! the cache already holds of it. When blocks run out, the youngest running sequence is preempted: its
//! blocks are freed and it is computed again later, from the front of the queue. So are sequences of
//! a tenant that has more than its part, where one that has less finds no room.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::time::Duration;

use super::answer_turns::AnswerTurns;
use super::fairness::Fairness;
use super::line::{Line, Parts, Place, Room, is_shared, prompts_that_count};
use super::pace::{MIN_PROMPT_ROWS, Pace, StepCost};
use super::schedule::{Budget, PromptLimit, Schedule, Scheduled};
use super::sequence::{Sequence, SequenceId};
use crate::kv_cache::BlockId;
use crate::kv_cache::block_manager::BlockManager;
use crate::kv_cache::prefix_cache::PrefixContext;

/// Rows of decodes and their guesses together. Guesses pay where a step of few rows costs as much
/// as one of a single row; beside many, each costs what a row of its own would.
const MAX_DRAFTED_ROWS: usize = 32;

/// Limits of one step.
#[derive(Debug, Clone, Copy)]
pub struct SchedulerConfig {
    /// Sequences that may run at once.
    pub max_num_seqs: usize,
    /// Tokens per step.
    pub max_num_batched_tokens: usize,
    /// Tokens a sequence may reach.
    pub max_model_len: usize,
    /// Prompt tokens per step while other sequences are being answered; `None` learns how many
    /// leave them their pace.
    pub long_prefill_token_threshold: Option<usize>,
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
    pace: Pace,
    fairness: Fairness,
    answer_turns: AnswerTurns,
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
        let (waiting, running) = (VecDeque::new(), Vec::new());
        let (pace, fairness) = (Pace::default(), Fairness::default());
        let answer_turns = AnswerTurns::default();
        Self { config, blocks, waiting, running, next_id: 0, pace, fairness, answer_turns }
    }

    /// The id of the next sequence.
    pub fn next_id(&mut self) -> SequenceId {
        self.next_id += 1;
        SequenceId(self.next_id)
    }

    /// Queues a new sequence.
    pub fn add(&mut self, mut sequence: Sequence) {
        let request = sequence.request();
        let adapter = request.adapter.as_ref().map(|version| version.id().0);
        let namespace = &[request.cache_owner.as_str(), &*request.cache_salt];
        let context = PrefixContext { adapter: adapter.as_ref(), namespace };
        let mut chain = self.blocks.chain(context);
        if let Some(chain) = &mut chain {
            chain.extend(sequence.tokens());
        }
        sequence.chain = chain;
        let tenant = sequence.request().tenant.id;
        let of = |sequence: &Sequence| sequence.request().tenant.id;
        if !self.waiting.iter().any(|waiting| of(waiting) == tenant) {
            let prompts = self.running.iter().filter(|running| running.num_uncomputed() > 1);
            let backlogged = self.waiting.iter().chain(prompts).map(of);
            let here = |other| self.running.iter().chain(&self.waiting).any(|one| of(one) == other);
            self.fairness.arrive(tenant, backlogged, here);
        }
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
        let mut budget = Budget::new(self.config.max_num_batched_tokens);
        let shared = is_shared(&self.running, &self.waiting);
        let (turn, others) = self.answer_turns.split(&self.running, &self.pace, shared);
        for id in turn {
            self.schedule_running(id, &mut budget, &mut schedule);
        }
        // Older ones that were to sit it out may hold the blocks that all of those need.
        for id in others {
            if !schedule.scheduled.is_empty() {
                break;
            }
            self.schedule_running(id, &mut budget, &mut schedule);
        }
        self.draft(&mut budget, &mut schedule);
        budget.allow_prompts(self.prompt_limit(schedule.cost().decode, shared));
        self.schedule_prompts(&mut budget, &mut schedule);
        schedule
    }

    /// Hands in how long a step of this cost took.
    pub fn learn(&mut self, cost: StepCost, took: Duration) {
        self.pace.learn(cost, took);
    }

    /// Hands in how long the grammar of a running sequence's text took in this step.
    pub fn grammar_took(&mut self, id: SequenceId, took: Duration) {
        let sequence = self.running.iter().find(|sequence| sequence.id == id);
        if let Some(sequence) = sequence.filter(|sequence| sequence.sampler.is_constrained()) {
            self.answer_turns.grammar_took(sequence, took);
        }
    }

    /// A step has computed `num_tokens` more tokens of a running sequence: from now on other
    /// sequences may find the blocks they fill.
    pub fn advance(&mut self, id: SequenceId, num_tokens: usize) {
        let Some(sequence) = self.running.iter_mut().find(|sequence| sequence.id == id) else {
            return;
        };
        let from = sequence.num_computed();
        sequence.advance(num_tokens);
        let to = sequence.num_computed();
        let Some(mut chain) = sequence.chain.take() else { return };
        // Guessed tokens are not among them: they never get a name before they are the text.
        chain.extend(&sequence.tokens()[..to]);
        let size = self.blocks.block_size();
        self.blocks.remember(&sequence.block_table, &chain, from / size..to / size);
        sequence.chain = Some(chain);
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

    /// Takes a running sequence out whose blocks may hold anything: nobody finds them again.
    pub fn discard(&mut self, id: SequenceId) -> Option<Sequence> {
        if let Some(sequence) = self.running.iter().find(|sequence| sequence.id == id) {
            let table = &sequence.block_table;
            self.blocks.forget(table, 0..table.blocks().len());
        }
        self.finish(id)
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

    /// What prompts may take beside running answers that cost `decode`.
    fn prompt_limit(&self, decode: usize, shared: bool) -> PromptLimit {
        match self.config.long_prefill_token_threshold {
            Some(rows) if decode > 0 => PromptLimit { rows: rows.max(1), ..PromptLimit::NONE },
            Some(_) => PromptLimit::NONE,
            None => {
                let places = self.config.max_num_seqs.saturating_sub(self.running.len());
                let prompts = prompts_that_count(&self.running, &self.waiting, places);
                let cost = self.pace.prompt_cost(decode, prompts, shared);
                PromptLimit { rows: usize::MAX, cost, least: MIN_PROMPT_ROWS }
            }
        }
    }

    /// Gives a running sequence its share, preempting younger ones (or itself) for blocks.
    fn schedule_running(&mut self, id: SequenceId, budget: &mut Budget, schedule: &mut Schedule) {
        loop {
            // It may itself have been preempted for an older one.
            let Some(index) = self.running.iter().position(|sequence| sequence.id == id) else {
                return;
            };
            let num_tokens = budget.chunk(&self.running[index]);
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
        budget: &mut Budget,
        schedule: &mut Schedule,
    ) -> bool {
        let sequence = &mut self.running[index];
        let (from, is_prompt) = (sequence.num_computed(), sequence.num_uncomputed() > 1);
        let reserved = self.blocks.reserve(&mut sequence.block_table, from, from + num_tokens);
        let Ok(copies) = reserved else { return false };
        schedule.copies.extend(copies);
        let (cost, generated) = sequence.charge(from + num_tokens);
        self.fairness.charge(sequence.request().tenant, cost, generated);
        let scheduled =
            Scheduled { id: sequence.id, from, is_prompt, num_tokens, drafts: Vec::new() };
        budget.spend(&scheduled);
        schedule.scheduled.push(scheduled);
        true
    }

    /// Adds guesses to the decodes of a schedule, which has nothing else yet. They take no block
    /// that a prompt will need, and preempt nobody.
    fn draft(&mut self, budget: &mut Budget, schedule: &mut Schedule) {
        let mut room = MAX_DRAFTED_ROWS.saturating_sub(schedule.scheduled.len()).min(budget.rows());
        let mut blocks = self.blocks.num_free().saturating_sub(self.promised_blocks());
        for scheduled in &mut schedule.scheduled {
            let sequence = self.running.iter_mut().find(|sequence| sequence.id == scheduled.id);
            let Some(sequence) = sequence else { continue };
            let drafts = sequence.draft(self.config.max_model_len, room);
            let to = sequence.tokens().len() + drafts.len();
            let held = sequence.block_table.blocks().len();
            let needed = self.blocks.blocks_for(to).saturating_sub(held);
            let from = sequence.num_computed();
            if drafts.is_empty() || needed > blocks {
                continue;
            }
            let Ok(copies) = self.blocks.reserve(&mut sequence.block_table, from, to) else {
                continue;
            };
            schedule.copies.extend(copies);
            blocks -= needed;
            room -= drafts.len();
            budget.spend_drafts(drafts.len());
            scheduled.drafts = drafts;
        }
    }

    fn preempt_youngest(&mut self, budget: &mut Budget, schedule: &mut Schedule) {
        if let Some(youngest) = self.running.len().checked_sub(1) {
            self.preempt(youngest, budget, schedule);
        }
    }

    /// Takes a running sequence's blocks; it is computed again, from the front of the queue.
    fn preempt(&mut self, index: usize, budget: &mut Budget, schedule: &mut Schedule) {
        let mut sequence = self.running.remove(index);
        let mine = |scheduled: &Scheduled| scheduled.id == sequence.id;
        if let Some(position) = schedule.scheduled.iter().position(mine) {
            budget.give_back(&schedule.scheduled.remove(position));
            // Its blocks may go to another sequence in this very step: its copies must not run.
            let blocks = sequence.block_table.blocks();
            schedule.copies.retain(|copy| !blocks.contains(&copy.to));
        }
        self.blocks.release(&mut sequence.block_table);
        sequence.reset();
        schedule.num_preempted += 1;
        self.waiting.push_front(sequence);
    }

    /// Chunks of prompts, those of the tenant for which least was computed first: of one that runs,
    /// else of one that waits. Where the next one finds no room, nobody passes it.
    fn schedule_prompts(&mut self, budget: &mut Budget, schedule: &mut Schedule) {
        let mut tried = Vec::new();
        // Admitting in a step that preempted for blocks would only pass them back and forth.
        let mut admits = schedule.num_preempted == 0;
        while budget.takes_prompts() {
            let line = Line::new(&self.running, &self.waiting, &self.fairness);
            let running = line.next_running(&tried);
            let waiting = line.next_waiting().filter(|_| admits);
            match (running, waiting) {
                (Some(running), waiting)
                    if waiting.as_ref().is_none_or(|w| running.turn < w.turn) =>
                {
                    tried.push(running.id);
                    let before = schedule.num_preempted;
                    self.schedule_running(running.id, budget, schedule);
                    admits &= schedule.num_preempted == before;
                }
                (_, Some(waiting)) => {
                    tried.push(waiting.place.id);
                    admits = self.admit(waiting.place, budget, schedule);
                }
                _ => return,
            }
        }
    }

    /// Begins the sequence at a place of the queue, or says that there is no room.
    fn admit(&mut self, place: Place, budget: &mut Budget, schedule: &mut Schedule) -> bool {
        if !self.make_room(place.id, budget, schedule) {
            return false;
        }
        // Those that were preempted for it stand before it now.
        let Some(index) = self.waiting.iter().position(|sequence| sequence.id == place.id) else {
            return false;
        };
        if let Some(passed) = place.passed
            && let Some(passed) = self.waiting.iter_mut().find(|sequence| sequence.id == passed)
        {
            passed.pass();
        }
        let Some(mut sequence) = self.waiting.remove(index) else { return false };
        sequence.start();
        self.fairness.begin(sequence.request().tenant.id);
        let cached = self.cached(&sequence);
        let num_tokens = cached.len() * self.blocks.block_size();
        sequence.attach(self.blocks.share(cached), num_tokens);
        let num_tokens = budget.chunk(&sequence);
        self.running.push(sequence);
        let admitted = self.reserve(self.running.len() - 1, num_tokens, budget, schedule);
        if !admitted {
            self.preempt(self.running.len() - 1, budget, schedule);
        }
        admitted
    }

    /// True where the waiting sequence `id` fits, after preempting sequences of tenants that have
    /// more than their part, if need be.
    fn make_room(&mut self, id: SequenceId, budget: &mut Budget, schedule: &mut Schedule) -> bool {
        let next = |waiting: &VecDeque<Sequence>| waiting.iter().position(|s| s.id == id);
        let Some(index) = next(&self.waiting) else { return false };
        if self.fits(&self.waiting[index], Room::default()) {
            return true;
        }
        for id in self.in_excess(&self.waiting[index]) {
            if let Some(index) = self.running.iter().position(|sequence| sequence.id == id) {
                self.preempt(index, budget, schedule);
            }
        }
        next(&self.waiting).is_some_and(|index| self.fits(&self.waiting[index], Room::default()))
    }

    /// Running sequences that make room for `next`, as many as it takes, or none where that is not
    /// enough: of the tenant that has most beside its part, as long as it keeps at least what the
    /// tenant of `next` gets; of its sequences the one that was least often preempted, and of those
    /// the one that loses least.
    fn in_excess(&self, next: &Sequence) -> Vec<SequenceId> {
        let mut parts = Parts::new(&self.running);
        let (mut ids, mut room) = (Vec::new(), Room::default());
        while !self.fits(next, room) {
            let others = self.running.iter().filter(|sequence| !ids.contains(&sequence.id));
            let victims = others.filter(|sequence| parts.spares(sequence, next));
            let excess = |sequence: &&Sequence| {
                let least = (sequence.num_preempted(), sequence.num_computed());
                (Reverse(parts.part(sequence)), least)
            };
            let Some(victim) = victims.min_by_key(excess) else { return Vec::new() };
            parts.remove(victim);
            room.choices += victim.num_choices();
            let own = |block: &&BlockId| self.blocks.ref_count(**block) == 1;
            room.blocks += victim.block_table.blocks().iter().filter(own).count();
            ids.push(victim.id);
        }
        ids
    }

    /// The blocks of a waiting sequence that the cache holds. Its last token is always computed,
    /// for its logits, and so is every token of whose row more than keys and values is wanted.
    fn cached(&self, sequence: &Sequence) -> Vec<BlockId> {
        let Some(chain) = &sequence.chain else { return Vec::new() };
        if sequence.needs_every_row() {
            return Vec::new();
        }
        self.blocks.cached(chain, sequence.tokens().len() - 1)
    }

    /// A waiting sequence fits where all its present tokens do: half a prompt helps nobody. `more`
    /// is room that there would be besides.
    fn fits(&self, next: &Sequence, more: Room) -> bool {
        let choices: usize = self.running.iter().map(Sequence::num_choices).sum();
        let choices = choices.saturating_sub(more.choices);
        let has_place = choices == 0 || choices + next.num_choices() <= self.config.max_num_seqs;
        // Cached blocks that nobody holds are free ones, and will be taken.
        let held = |block: &BlockId| self.blocks.ref_count(*block) > 0;
        let shared = self.cached(next).into_iter().filter(held).count();
        let free = (self.blocks.num_free() + more.blocks).saturating_sub(self.promised_blocks());
        has_place && self.missing_blocks(next) - shared <= free
    }

    /// Blocks that running sequences still lack.
    fn promised_blocks(&self) -> usize {
        self.running.iter().map(|running| self.missing_blocks(running)).sum()
    }

    /// Blocks a sequence still lacks for the tokens it has now.
    fn missing_blocks(&self, sequence: &Sequence) -> usize {
        let needed = self.blocks.blocks_for(sequence.tokens().len());
        needed.saturating_sub(sequence.block_table.blocks().len())
    }
}
