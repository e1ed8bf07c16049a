//! Whose fault a failed forward pass is: its batch is halved until the sequences that fail it are
//! alone. Only those end; the others get what they would have got.
//!
//! A pass that failed leaves the slots of its rows undefined and nothing else: each row is in a
//! block that its sequence shares with nobody. So the rest runs again as it is, and a row's result
//! does not depend on what else runs.

use super::Engine;
use super::batch::{Batch, BatchItem};
use crate::kv_cache::BlockId;

const FAILED: &str = "the forward pass failed";

impl Engine {
    /// Runs a step's batch and uses what comes of it. False where something of it failed.
    pub(super) fn run_batch(&mut self, batch: Batch) -> bool {
        // Copies are made once: blocks that they come from may be written to in this very step.
        let Err(error) = self.runner.copy(&batch.copies) else { return self.run_part(&batch) };
        tracing::error!(%error, "copying cache blocks failed");
        let incomplete = |block: &BlockId| batch.copies.iter().any(|copy| copy.to == *block);
        let (failed, rest): (Vec<_>, Vec<_>) =
            batch.items.iter().partition(|item| item.block_table.iter().any(incomplete));
        let rest = Batch::of_items(rest, &self.scheduler);
        failed.into_iter().for_each(|item| self.fail(item.id, FAILED));
        if !rest.items.is_empty() {
            self.run_part(&rest);
        }
        false
    }

    /// Runs a batch whose copies are made.
    fn run_part(&mut self, batch: &Batch) -> bool {
        let error = match self.runner.execute(batch) {
            Ok(outputs) => {
                self.update(batch, &outputs);
                self.runner.take_back(outputs);
                return true;
            }
            Err(error) => error,
        };
        tracing::error!(%error, sequences = batch.items.len(), "a forward pass failed");
        for part in self.parts(batch) {
            self.run_part(&part);
        }
        if let [BatchItem { id, drafts, .. }] = &batch.items[..]
            && drafts.is_empty()
        {
            self.fail(*id, FAILED);
        }
        false
    }

    /// What a batch that failed is tried again as: its halves, or its only sequence without the
    /// guesses, on which no answer depends. Nothing is left of a sequence without them.
    fn parts(&self, batch: &Batch) -> Vec<Batch> {
        let of_items = |items: &[BatchItem]| Batch::of_items(items, &self.scheduler);
        match &batch.items[..] {
            [item] if item.drafts.is_empty() => Vec::new(),
            [item] => vec![of_items(&[BatchItem { drafts: Vec::new(), ..item.clone() }])],
            items => {
                let (first, second) = items.split_at(items.len() / 2);
                vec![of_items(first), of_items(second)]
            }
        }
    }
}
