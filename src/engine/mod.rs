//! The engine: one OS thread that owns the model, the scheduler and the cache.
//!
//! Its loop is [`Engine::step`]: receive, schedule, execute, update. It holds no lock, knows no
//! text and no HTTP. A sequence that fails, fails alone.

pub mod answer_turns;
pub mod batch;
pub mod constraint;
pub mod fairness;
mod guard;
pub mod handle;
mod isolation;
pub mod line;
pub mod model_runner;
pub mod pace;
pub mod pooling;
pub mod prompt_lookup;
pub mod request;
pub mod row_cost;
pub mod sampler;
pub mod schedule;
pub mod scheduler;
pub mod sequence;
pub mod telemetry;
pub mod turns;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use self::batch::{Batch, BatchItem};
use self::guard::guarded;
use self::handle::{Received, Submission, Submissions};
use self::model_runner::{ModelRunner, Outputs, Rows};
use self::request::{Event, FinishReason};
use self::scheduler::Scheduler;
use self::sequence::{Sequence, SequenceId};
use self::telemetry::Telemetry;
use crate::metrics::Metrics;

/// The stack of the engine's thread. Grammars are recursive, and a stack that overflows takes the
/// process with it.
const STACK_BYTES: usize = 64 << 20;

/// Owns everything that decides and computes.
pub struct Engine {
    submissions: Submissions,
    scheduler: Scheduler,
    runner: ModelRunner,
    telemetry: Telemetry,
    /// Batches that were begun.
    steps: u64,
}

/// Whether the loop goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There may be more to do.
    Continue,
    /// Every handle is gone and nothing is left to run.
    Finished,
}

impl Engine {
    /// An idle engine.
    #[must_use]
    pub fn new(
        submissions: Submissions,
        scheduler: Scheduler,
        runner: ModelRunner,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { submissions, scheduler, runner, telemetry: Telemetry::new(metrics), steps: 0 }
    }

    /// Starts the engine's thread, which calls `begin` first. It ends once every handle is gone, or
    /// by a bug's panic, which the join reports.
    ///
    /// # Errors
    /// Where the operating system gives no thread.
    pub fn spawn(self, begin: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
        let builder = std::thread::Builder::new().name("engine".into()).stack_size(STACK_BYTES);
        builder.spawn(|| {
            begin();
            self.run();
        })
    }

    /// Steps until every handle is gone.
    pub fn run(mut self) {
        while self.step() == Step::Continue {}
    }

    /// Receives what came in, and runs one batch.
    pub fn step(&mut self) -> Step {
        if self.receive() == Step::Finished {
            return Step::Finished;
        }
        self.drop_abandoned();
        let started = Instant::now();
        let schedule = self.scheduler.schedule();
        self.telemetry.preempted(schedule.num_preempted);
        self.telemetry.load(&self.scheduler);
        if schedule.scheduled.is_empty() {
            return self.check_progress();
        }
        self.steps += 1;
        let cost = schedule.cost();
        let batch = Batch::new(schedule, &self.scheduler);
        if self.run_batch(batch) {
            self.scheduler.learn(cost, started.elapsed());
        }
        self.telemetry.load(&self.scheduler);
        Step::Continue
    }

    /// Takes in every waiting request; waits for one where there is nothing else to do.
    fn receive(&mut self) -> Step {
        loop {
            match self.submissions.receive(self.scheduler.is_idle()) {
                Received::Submission(submission) => self.add(*submission),
                Received::Empty => return Step::Continue,
                Received::Closed if self.scheduler.is_idle() => return Step::Finished,
                Received::Closed => return Step::Continue,
            }
        }
    }

    /// Queues a request. One that cannot even be queued is dropped, and its client is told by that.
    fn add(&mut self, submission: Submission) {
        let id = self.scheduler.next_id();
        let queued = guarded("queueing a request", || {
            let mut sequence = Sequence::new(id, submission);
            sequence.timeline.came = self.steps;
            self.scheduler.add(sequence);
        });
        if let Err(message) = queued {
            tracing::error!(message, "a request was dropped");
        }
    }

    fn drop_abandoned(&mut self) {
        for sequence in self.scheduler.remove_abandoned() {
            self.telemetry.end(&sequence);
        }
    }

    /// Nothing was scheduled. With work left that is a bug, and ends in errors, not in a spin.
    fn check_progress(&mut self) -> Step {
        if !self.scheduler.is_idle() {
            tracing::error!("bug: work is left and nothing of it could be scheduled");
            for sequence in self.scheduler.remove_all() {
                sequence.send_last(&Event::Failed("the scheduler made no progress".into()));
                self.telemetry.end(&sequence);
            }
        }
        Step::Continue
    }

    fn update(&mut self, batch: &Batch, outputs: &Outputs) {
        for item in &batch.items {
            // One poisoned sequence must not take the others with it.
            let updated = guarded("using what was computed", || self.update_item(item, outputs));
            if let Err(message) = updated.flatten() {
                self.fail(item.id, &message);
            }
        }
    }

    /// Books one sequence's rows, scores or pools its prompt, and chooses the next tokens of it and
    /// of the choices that fork off it here.
    fn update_item(&mut self, item: &BatchItem, outputs: &Outputs) -> Result<(), String> {
        let logits = &outputs.logits;
        self.scheduler.advance(item.id, item.num_tokens);
        let Some(sequence) = self.scheduler.get_mut(item.id) else { return Ok(()) };
        score_prompt(sequence, item, logits)?;
        for row in item.hidden_rows.clone() {
            sequence.push_hidden_state(outputs.hidden_states.row(row));
        }
        if !item.samples {
            return Ok(());
        }
        sequence.finish_prompt_logprobs();
        if sequence.num_generated() == 0 {
            sequence.finish_prompt(self.steps);
            self.telemetry.prompt(sequence);
        }
        sequence.finish_pool().map_err(|error| error.to_string())?;
        if sequence.request().sampling.max_tokens == 0 {
            self.finish(item.id, FinishReason::Length);
            return Ok(());
        }
        let first = item.logit_rows.end - 1 - item.drafts.len();
        let row = logits.row(first);
        for id in self.scheduler.fork(item.id) {
            if let Err(message) = self.sample(id, row) {
                self.fail(id, &message);
            }
        }
        let token = self.sample(item.id, row)?;
        self.check_drafts(item, token, |index| logits.row(first + 1 + index))
    }

    /// Goes on through the guessed tokens as long as each is the `token` that was chosen: its row
    /// was computed after what the text now is. The first wrong one ends it; what it left in the
    /// cache has no name there, and the next step writes over it.
    fn check_drafts<'a>(
        &mut self,
        item: &BatchItem,
        mut token: Option<u32>,
        row: impl Fn(usize) -> &'a [f32],
    ) -> Result<(), String> {
        if item.drafts.is_empty() {
            return Ok(());
        }
        let mut accepted = 0;
        while let Some(draft) = item.drafts.get(accepted)
            && token == Some(*draft)
        {
            self.scheduler.advance(item.id, 1);
            token = self.sample(item.id, row(accepted))?;
            accepted += 1;
        }
        self.telemetry.drafted(item.drafts.len(), accepted);
        if let Some(sequence) = self.scheduler.get_mut(item.id) {
            sequence.draft_length.learn(item.drafts.len(), accepted);
        }
        Ok(())
    }

    /// Chooses the next token of a sequence by a row of logits; `None` where it has ended.
    fn sample(&mut self, id: SequenceId, row: &[f32]) -> Result<Option<u32>, String> {
        guarded("choosing the next token", || self.choose(id, row)).flatten()
    }

    fn choose(&mut self, id: SequenceId, row: &[f32]) -> Result<Option<u32>, String> {
        let Some(sequence) = self.scheduler.get_mut(id) else { return Ok(None) };
        let sampled = sequence.sampler.sample(row);
        if let Some(took) = sequence.sampler.take_grammar_time() {
            self.scheduler.grammar_took(id, took);
        }
        let Some(sequence) = self.scheduler.get_mut(id) else { return Ok(None) };
        let sampled = match sampled {
            Ok(sampled) => sampled,
            Err(error) => {
                let end = sequence.sampler.end_after(error).ok_or_else(|| error.to_string())?;
                self.finish(id, end);
                return Ok(None);
            }
        };
        let previous = sequence.timeline.last_token;
        sequence.push(sampled.token, sampled.logprobs);
        self.telemetry.token(sequence, previous);
        let max_model_len = self.scheduler.max_model_len();
        let reason = self.scheduler.get(id).and_then(|s| s.finish_reason(max_model_len));
        if let Some(reason) = reason {
            self.finish(id, reason);
            return Ok(None);
        }
        Ok(Some(sampled.token))
    }

    fn finish(&mut self, id: SequenceId, reason: FinishReason) {
        let Some(sequence) = self.scheduler.finish(id) else { return };
        sequence.send_last(&Event::Finished(reason));
        self.telemetry.end(&sequence);
    }

    fn fail(&mut self, id: SequenceId, message: &str) {
        tracing::warn!(sequence = id.0, message, "a sequence failed");
        let Some(sequence) = self.scheduler.discard(id) else { return };
        sequence.send_last(&Event::Failed(message.to_owned()));
        self.telemetry.end(&sequence);
    }
}

/// Reports each prompt token under the row before it; the first has none.
fn score_prompt(sequence: &mut Sequence, item: &BatchItem, logits: &Rows) -> Result<(), String> {
    let Some(count) = sequence.request().prompt_logprobs else { return Ok(()) };
    if !sequence.wants_prompt_logprobs() {
        return Ok(());
    }
    let from = item.context_len - item.rows.len();
    for (position, row) in (from + 1..).zip(item.logit_rows.clone()) {
        let Some(&token) = sequence.request().prompt.get(position) else { break };
        let logprobs =
            sampler::score(logits.row(row), token, count).map_err(|error| error.to_string())?;
        sequence.push_prompt_logprobs(logprobs);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
