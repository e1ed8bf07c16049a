//! Who owns which block of the cache: free list, reference counts, block tables. Pure integers.
//!
//! It stores no keys or values and knows no sequence; [`super::storage`] holds the tensors.

use super::BlockId;

/// The pool has too few free blocks. Nothing was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{needed} cache blocks are needed and {free} are free")]
pub struct OutOfBlocks {
    /// Blocks the call would have taken.
    pub needed: usize,
    /// Blocks there were.
    pub free: usize,
}

/// The blocks of one sequence in token order. Give it back with [`BlockManager::release`].
#[derive(Debug, Default)]
pub struct BlockTable(Vec<BlockId>);

impl BlockTable {
    /// The blocks in token order.
    #[must_use]
    pub fn blocks(&self) -> &[BlockId] {
        &self.0
    }
}

/// A block whose contents must be copied before the next write, for a table that shared it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockCopy {
    /// Where the contents are.
    pub from: BlockId,
    /// Where they must be.
    pub to: BlockId,
}

/// Hands out the blocks of a pool of fixed size.
#[derive(Debug)]
pub struct BlockManager {
    free: Vec<BlockId>,
    ref_counts: Vec<u32>,
    block_size: usize,
}

impl BlockManager {
    /// A pool of `num_blocks` blocks, each of `block_size` tokens.
    ///
    /// # Panics
    /// Where `block_size` is 0 or there are more than `u32::MAX` blocks.
    #[must_use]
    pub fn new(num_blocks: usize, block_size: usize) -> Self {
        assert!(block_size > 0, "a block holds at least one token");
        let count = u32::try_from(num_blocks).expect("block ids are 32 bits");
        Self {
            free: (0..count).rev().map(BlockId).collect(),
            ref_counts: vec![0; num_blocks],
            block_size,
        }
    }

    /// Blocks of the pool.
    #[must_use]
    pub fn num_blocks(&self) -> usize {
        self.ref_counts.len()
    }

    /// Blocks nobody holds.
    #[must_use]
    pub fn num_free(&self) -> usize {
        self.free.len()
    }

    /// Tokens per block.
    #[must_use]
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Blocks that `tokens` tokens fill.
    #[must_use]
    pub fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_size)
    }

    /// Share of the pool in use, 0 to 1.
    #[must_use]
    pub fn usage(&self) -> f64 {
        if self.num_blocks() == 0 {
            return 0.0;
        }
        1.0 - self.num_free() as f64 / self.num_blocks() as f64
    }

    /// Makes room in `table` to write tokens `from .. to`: appends blocks up to `to`, and replaces
    /// shared blocks from `from` on by copies, which the caller carries out before the write.
    ///
    /// # Errors
    /// [`OutOfBlocks`], with `table` and the pool untouched.
    pub fn reserve(
        &mut self,
        table: &mut BlockTable,
        from: usize,
        to: usize,
    ) -> Result<Vec<BlockCopy>, OutOfBlocks> {
        let first = from / self.block_size;
        let held = table.0.len();
        let shared: Vec<usize> =
            (first..held).filter(|&index| self.ref_count(table.0[index]) > 1).collect();
        let appended = self.blocks_for(to).saturating_sub(held);
        let needed = shared.len() + appended;
        if needed > self.free.len() {
            return Err(OutOfBlocks { needed, free: self.free.len() });
        }
        let copies = shared.into_iter().map(|index| self.unshare(table, index)).collect();
        for _ in 0..appended {
            let block = self.take();
            table.0.push(block);
        }
        Ok(copies)
    }

    /// A second table over the same blocks.
    #[must_use]
    pub fn fork(&mut self, table: &BlockTable) -> BlockTable {
        for block in &table.0 {
            self.ref_counts[block.0 as usize] += 1;
        }
        BlockTable(table.0.clone())
    }

    /// Gives a table's blocks back; the table is empty afterwards.
    pub fn release(&mut self, table: &mut BlockTable) {
        for block in table.0.drain(..).rev() {
            let count = &mut self.ref_counts[block.0 as usize];
            *count -= 1;
            if *count == 0 {
                self.free.push(block);
            }
        }
    }

    /// How many tables hold `block`.
    #[must_use]
    pub fn ref_count(&self, block: BlockId) -> u32 {
        self.ref_counts[block.0 as usize]
    }

    fn take(&mut self) -> BlockId {
        let block = self.free.pop().expect("bug: the caller checked that a block is free");
        self.ref_counts[block.0 as usize] = 1;
        block
    }

    fn unshare(&mut self, table: &mut BlockTable, index: usize) -> BlockCopy {
        let from = table.0[index];
        let to = self.take();
        self.ref_counts[from.0 as usize] -= 1;
        table.0[index] = to;
        BlockCopy { from, to }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Open,
        Grow { table: usize, tokens: usize },
        Fork { table: usize },
        Close { table: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Open),
            (any::<usize>(), 1..40_usize).prop_map(|(table, tokens)| Step::Grow { table, tokens }),
            any::<usize>().prop_map(|table| Step::Fork { table }),
            any::<usize>().prop_map(|table| Step::Close { table }),
        ]
    }

    /// A table and the tokens written through it.
    type Open = (BlockTable, usize);

    fn check_books(manager: &BlockManager, tables: &[Open]) {
        let mut counts = vec![0_u32; manager.num_blocks()];
        for block in tables.iter().flat_map(|(table, _)| table.blocks()) {
            counts[block.0 as usize] += 1;
        }
        let used = counts.iter().filter(|&&count| count > 0).count();
        assert_eq!(used + manager.num_free(), manager.num_blocks(), "free + used = total");
        for (index, &count) in counts.iter().enumerate() {
            assert_eq!(manager.ref_count(BlockId(index as u32)), count, "block {index}");
        }
        for (table, tokens) in tables {
            assert!(table.blocks().len() >= manager.blocks_for(*tokens));
        }
    }

    fn apply(manager: &mut BlockManager, tables: &mut Vec<Open>, step: &Step) {
        match *step {
            Step::Open => tables.push((BlockTable::default(), 0)),
            Step::Grow { table, tokens } if !tables.is_empty() => {
                let index = table % tables.len();
                let (table, written) = &mut tables[index];
                let before = (table.blocks().to_vec(), manager.num_free());
                let from = *written;
                match manager.reserve(table, from, from + tokens) {
                    Ok(copies) => {
                        *written += tokens;
                        let first = from / manager.block_size();
                        for block in &table.blocks()[first..] {
                            assert_eq!(manager.ref_count(*block), 1, "a written block is shared");
                        }
                        assert!(copies.len() <= 1, "only the last, partial block can be shared");
                    }
                    Err(error) => {
                        assert!(error.needed > error.free);
                        assert_eq!(before, (table.blocks().to_vec(), manager.num_free()));
                    }
                }
            }
            Step::Fork { table } if !tables.is_empty() => {
                let index = table % tables.len();
                let written = tables[index].1;
                let fork = manager.fork(&tables[index].0);
                tables.push((fork, written));
            }
            Step::Close { table } if !tables.is_empty() => {
                let index = table % tables.len();
                let (mut table, _) = tables.swap_remove(index);
                manager.release(&mut table);
            }
            _ => {}
        }
    }

    proptest! {
        #[test]
        fn the_books_balance_after_every_step(
            num_blocks in 0..24_usize,
            block_size in 1..9_usize,
            steps in proptest::collection::vec(step(), 1..80),
        ) {
            let mut manager = BlockManager::new(num_blocks, block_size);
            let mut tables = Vec::new();
            for step in &steps {
                apply(&mut manager, &mut tables, step);
                check_books(&manager, &tables);
            }
            for (mut table, _) in tables {
                manager.release(&mut table);
            }
            prop_assert_eq!(manager.num_free(), num_blocks);
        }
    }

    #[test]
    fn a_shared_partial_block_is_copied_once_and_a_full_one_never() {
        let mut manager = BlockManager::new(8, 4);
        let mut leader = BlockTable::default();
        assert!(manager.reserve(&mut leader, 0, 6).unwrap().is_empty());
        let mut child = manager.fork(&leader);
        let copies = manager.reserve(&mut child, 6, 7).unwrap();
        assert_eq!(copies.len(), 1);
        assert_eq!(copies[0].from, leader.blocks()[1]);
        assert_eq!(child.blocks()[0], leader.blocks()[0], "the full block stays shared");
        assert!(manager.reserve(&mut leader, 6, 7).unwrap().is_empty(), "it is its own again");
    }
}
