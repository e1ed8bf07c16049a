//! Who owns which block of the cache: free list, reference counts, block tables. Pure integers.
//!
//! A block that nobody holds any more keeps its content until it is reused, the least recently
//! freed first; until then a sequence that begins with the same tokens may take it again
//! ([`super::prefix_cache`]). It stores no keys or values and knows no sequence;
//! [`super::storage`] holds the tensors.

use std::ops::Range;

use super::BlockId;
use super::free_list::FreeList;
use super::prefix_cache::{HashChain, PrefixCache, PrefixContext};

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
    /// Blocks without known content first, then by the time of their release.
    free: FreeList,
    ref_counts: Vec<u32>,
    block_size: usize,
    prefixes: Option<PrefixCache>,
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
            free: FreeList::full(count),
            ref_counts: vec![0; num_blocks],
            block_size,
            prefixes: None,
        }
    }

    /// The same pool, remembering what its blocks hold, computed by the model of this digest.
    #[must_use]
    pub fn with_prefix_cache(self, model: [u8; 32]) -> Self {
        let prefixes = Some(PrefixCache::new(self.num_blocks(), model));
        Self { prefixes, ..self }
    }

    /// Blocks of the pool.
    #[must_use]
    pub fn num_blocks(&self) -> usize {
        self.ref_counts.len()
    }

    /// Blocks nobody holds, whether or not their content is remembered.
    #[must_use]
    pub fn num_free(&self) -> usize {
        self.free.count()
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
    /// shared blocks from `from` on by copies, which the caller carries out before the write. What
    /// the blocks from `from` on held is forgotten.
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
        if needed > self.free.count() {
            return Err(OutOfBlocks { needed, free: self.free.count() });
        }
        let copies = shared.into_iter().map(|index| self.unshare(table, index)).collect();
        self.forget(table, first.min(held)..held);
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

    /// Gives a table's blocks back; the table is empty afterwards. The end of a text is reused
    /// before its beginning, which more texts have in common.
    pub fn release(&mut self, table: &mut BlockTable) {
        for block in table.0.drain(..).rev() {
            let count = &mut self.ref_counts[block.0 as usize];
            *count -= 1;
            if *count > 0 {
                continue;
            }
            if self.prefixes.as_ref().is_some_and(|prefixes| prefixes.holds(block)) {
                self.free.push_last(block);
            } else {
                self.free.push_first(block);
            }
        }
    }

    /// How many tables hold `block`.
    #[must_use]
    pub fn ref_count(&self, block: BlockId) -> u32 {
        self.ref_counts[block.0 as usize]
    }

    /// The chain by which a sequence's blocks are found again; `None` where nothing is remembered.
    #[must_use]
    pub fn chain(&self, context: PrefixContext<'_>) -> Option<HashChain> {
        self.prefixes.as_ref().map(|prefixes| prefixes.chain(context, self.block_size))
    }

    /// The blocks that hold the beginning of `chain`, of at most `max_tokens` tokens.
    #[must_use]
    pub fn cached(&self, chain: &HashChain, max_tokens: usize) -> Vec<BlockId> {
        let Some(prefixes) = &self.prefixes else { return Vec::new() };
        let names = chain.blocks().iter().take(max_tokens / self.block_size);
        names.map_while(|name| prefixes.find(name)).collect()
    }

    /// A table over blocks that [`Self::cached`] found just now. They are shared, and only read.
    #[must_use]
    pub fn share(&mut self, blocks: Vec<BlockId>) -> BlockTable {
        for block in &blocks {
            let count = &mut self.ref_counts[block.0 as usize];
            if *count == 0 {
                self.free.remove(*block);
            }
            *count += 1;
        }
        BlockTable(blocks)
    }

    /// Remembers what the blocks `blocks` of `table` hold: `chain` names them, and every one of
    /// their tokens has been computed.
    pub fn remember(&mut self, table: &BlockTable, chain: &HashChain, blocks: Range<usize>) {
        let Some(prefixes) = &mut self.prefixes else { return };
        for index in blocks {
            prefixes.insert(chain.blocks()[index], table.0[index]);
        }
    }

    /// Forgets what the blocks `blocks` of `table` hold: no sequence finds them from now on.
    pub fn forget(&mut self, table: &BlockTable, blocks: Range<usize>) {
        let Some(prefixes) = &mut self.prefixes else { return };
        table.0[blocks].iter().for_each(|block| prefixes.remove(*block));
    }

    fn take(&mut self) -> BlockId {
        let block = self.free.pop_first().expect("bug: the caller checked that a block is free");
        self.ref_counts[block.0 as usize] = 1;
        if let Some(prefixes) = &mut self.prefixes {
            prefixes.remove(block);
        }
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
        Open { text: Text },
        Grow { table: usize, tokens: usize },
        Fork { table: usize },
        Forget { table: usize },
        Close { table: usize },
    }

    /// A text without end; it has its first tokens in common with others.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Text {
        namespace: &'static str,
        branches_at: usize,
    }

    impl Text {
        fn tokens(self, len: usize) -> Vec<u32> {
            let token =
                |p: usize| if p < self.branches_at { p } else { 1000 * self.branches_at + p };
            (0..len).map(|position| token(position) as u32).collect()
        }
    }

    fn step() -> impl Strategy<Value = Step> {
        let text = (prop_oneof![Just("a"), Just("b")], 0..30_usize);
        prop_oneof![
            text.prop_map(|(namespace, branches_at)| Text { namespace, branches_at })
                .prop_map(|text| Step::Open { text }),
            (any::<usize>(), 1..40_usize).prop_map(|(table, tokens)| Step::Grow { table, tokens }),
            any::<usize>().prop_map(|table| Step::Fork { table }),
            any::<usize>().prop_map(|table| Step::Forget { table }),
            any::<usize>().prop_map(|table| Step::Close { table }),
        ]
    }

    /// A table, the tokens written through it, and the text they are from.
    struct Open {
        table: BlockTable,
        written: usize,
        text: Text,
        chain: HashChain,
    }

    /// A manager with what a device would hold: for each slot, the whole text up to it.
    struct Pool {
        manager: BlockManager,
        slots: Vec<(&'static str, Vec<u32>)>,
        open: Vec<Open>,
    }

    impl Pool {
        fn new(num_blocks: usize, block_size: usize) -> Self {
            let manager = BlockManager::new(num_blocks, block_size).with_prefix_cache([7; 32]);
            Self {
                manager,
                slots: vec![("", Vec::new()); num_blocks * block_size],
                open: Vec::new(),
            }
        }

        fn check_books(&self) {
            let manager = &self.manager;
            let mut counts = vec![0_u32; manager.num_blocks()];
            for block in self.open.iter().flat_map(|open| open.table.blocks()) {
                counts[block.0 as usize] += 1;
            }
            let used = counts.iter().filter(|&&count| count > 0).count();
            assert_eq!(used + manager.num_free(), manager.num_blocks(), "free + used = total");
            for (index, &count) in counts.iter().enumerate() {
                assert_eq!(manager.ref_count(BlockId(index as u32)), count, "block {index}");
            }
        }

        /// Whatever happened to the pool, a table's slots hold its text.
        fn check_contents(&self) {
            let size = self.manager.block_size();
            for Open { table, written, text, .. } in &self.open {
                assert!(table.blocks().len() >= self.manager.blocks_for(*written));
                let tokens = text.tokens(*written);
                for position in 0..*written {
                    let slot = table.blocks()[position / size].0 as usize * size + position % size;
                    let expected = (text.namespace, tokens[..=position].to_vec());
                    assert_eq!(self.slots[slot], expected, "position {position}");
                }
            }
        }

        fn open(&mut self, text: Text) {
            let namespace = &[text.namespace];
            let context = PrefixContext { adapter: None, namespace };
            let mut chain = self.manager.chain(context).unwrap();
            chain.extend(&text.tokens(40));
            let blocks = self.manager.cached(&chain, 40);
            let written = blocks.len() * self.manager.block_size();
            let table = self.manager.share(blocks);
            self.open.push(Open { table, written, text, chain });
        }

        fn grow(&mut self, index: usize, tokens: usize) {
            let size = self.manager.block_size();
            let Open { table, written, text, chain } = &mut self.open[index];
            let before = (table.blocks().to_vec(), self.manager.num_free());
            let (from, to) = (*written, *written + tokens);
            let copies = match self.manager.reserve(table, from, to) {
                Ok(copies) => copies,
                Err(error) => {
                    assert!(error.needed > error.free);
                    assert_eq!(before, (table.blocks().to_vec(), self.manager.num_free()));
                    return;
                }
            };
            assert!(copies.len() <= 1, "only the last, partial block can be shared");
            for copy in copies {
                for offset in 0..size {
                    let content = self.slots[copy.from.0 as usize * size + offset].clone();
                    self.slots[copy.to.0 as usize * size + offset] = content;
                }
            }
            let all = text.tokens(to);
            for position in from..to {
                let block = table.blocks()[position / size];
                assert_eq!(self.manager.ref_count(block), 1, "a written block is shared");
                self.slots[block.0 as usize * size + position % size] =
                    (text.namespace, all[..=position].to_vec());
            }
            chain.extend(&all);
            *written = to;
            self.manager.remember(table, chain, from / size..to / size);
        }

        fn apply(&mut self, step: &Step) {
            let pick = |table: usize| table % self.open.len().max(1);
            match *step {
                Step::Open { text } => self.open(text),
                _ if self.open.is_empty() => {}
                Step::Grow { table, tokens } => self.grow(pick(table), tokens),
                Step::Fork { table } => {
                    let index = pick(table);
                    let table = self.manager.fork(&self.open[index].table);
                    let Open { written, text, ref chain, .. } = self.open[index];
                    let chain = chain.clone();
                    self.open.push(Open { table, written, text, chain });
                }
                Step::Forget { table } => {
                    let table = &self.open[pick(table)].table;
                    self.manager.forget(table, 0..table.blocks().len());
                }
                Step::Close { table } => {
                    let mut open = self.open.swap_remove(pick(table));
                    self.manager.release(&mut open.table);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn the_books_balance_and_every_table_keeps_its_text(
            num_blocks in 0..24_usize,
            block_size in 1..9_usize,
            steps in proptest::collection::vec(step(), 1..80),
        ) {
            let mut pool = Pool::new(num_blocks, block_size);
            for step in &steps {
                pool.apply(step);
                pool.check_books();
                pool.check_contents();
            }
            let Pool { mut manager, open, .. } = pool;
            for mut open in open {
                manager.release(&mut open.table);
            }
            prop_assert_eq!(manager.num_free(), num_blocks);
        }
    }

    #[test]
    fn what_was_freed_is_found_until_it_is_reused_and_the_oldest_goes_first() {
        let text = |branches_at| Text { namespace: "", branches_at };
        let mut pool = Pool::new(6, 4);
        for branch in [0, 1] {
            pool.open(text(branch));
            pool.grow(0, 12);
            pool.apply(&Step::Close { table: 0 });
        }
        pool.open(text(0));
        assert_eq!(pool.open[0].written, 12, "all of it is found again");
        pool.apply(&Step::Close { table: 0 });
        // Two blocks of the other text, its end first, make room for a third one.
        pool.open(text(2));
        pool.grow(0, 8);
        pool.apply(&Step::Close { table: 0 });
        pool.open(text(1));
        assert_eq!(pool.open[0].written, 4);
        pool.apply(&Step::Close { table: 0 });
        pool.open(Text { namespace: "other", branches_at: 0 });
        assert_eq!(pool.open[0].written, 0, "another namespace finds nothing");
    }

    /// A manager of 4 blocks of 4 tokens, and a table of two of them whose content has a name.
    fn named() -> (BlockManager, BlockTable, HashChain) {
        let mut manager = BlockManager::new(4, 4).with_prefix_cache([7; 32]);
        let context = PrefixContext { adapter: None, namespace: &[] };
        let mut chain = manager.chain(context).unwrap();
        chain.extend(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let mut table = BlockTable::default();
        manager.reserve(&mut table, 0, 8).unwrap();
        manager.remember(&table, &chain, 0..2);
        (manager, table, chain)
    }

    #[test]
    fn a_block_that_is_written_again_is_not_found() {
        let (mut manager, mut table, chain) = named();
        assert_eq!(manager.cached(&chain, 8), table.blocks());
        manager.reserve(&mut table, 5, 8).unwrap();
        assert_eq!(manager.cached(&chain, 8), table.blocks()[..1], "its second block changes");
    }

    #[test]
    fn blocks_without_a_name_are_reused_before_those_that_may_be_found() {
        let (mut manager, mut table, chain) = named();
        let mut nameless = BlockTable::default();
        manager.reserve(&mut nameless, 0, 8).unwrap();
        manager.release(&mut table);
        manager.release(&mut nameless);
        let mut other = BlockTable::default();
        manager.reserve(&mut other, 0, 8).unwrap();
        assert_eq!(manager.cached(&chain, 8).len(), 2, "both named blocks are still there");
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
