//! The free blocks in the order in which they will be reused: a linked list over block numbers, so
//! that any block can be taken out of its middle at once.

use super::BlockId;

/// No block: the end of the list.
const END: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Links {
    previous: u32,
    next: u32,
    listed: bool,
}

/// A queue of distinct blocks.
#[derive(Debug)]
pub struct FreeList {
    links: Vec<Links>,
    first: u32,
    last: u32,
    count: usize,
}

impl FreeList {
    /// All of `count` blocks, block 0 first.
    #[must_use]
    pub fn full(count: u32) -> Self {
        let empty = Links { previous: END, next: END, listed: false };
        let mut list = Self { links: vec![empty; count as usize], first: END, last: END, count: 0 };
        (0..count).for_each(|block| list.push_last(BlockId(block)));
        list
    }

    /// Blocks in the list.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Adds `block`, which is not in the list, to be reused after all others.
    pub fn push_last(&mut self, block: BlockId) {
        let previous = self.last;
        self.insert(block, previous, END);
    }

    /// Adds `block`, which is not in the list, to be reused next.
    pub fn push_first(&mut self, block: BlockId) {
        let next = self.first;
        self.insert(block, END, next);
    }

    /// Takes the block to reuse next.
    pub fn pop_first(&mut self) -> Option<BlockId> {
        let block = BlockId(self.first);
        (self.first != END).then(|| {
            self.remove(block);
            block
        })
    }

    /// Takes `block` out, wherever it is.
    pub fn remove(&mut self, block: BlockId) {
        let Links { previous, next, listed } = self.links[block.0 as usize];
        debug_assert!(listed, "bug: block {} is not free", block.0);
        self.set_next(previous, next);
        self.set_previous(next, previous);
        self.links[block.0 as usize].listed = false;
        self.count -= 1;
    }

    fn insert(&mut self, block: BlockId, previous: u32, next: u32) {
        debug_assert!(
            !self.links[block.0 as usize].listed,
            "bug: block {} is freed twice",
            block.0
        );
        self.links[block.0 as usize] = Links { previous, next, listed: true };
        self.set_next(previous, block.0);
        self.set_previous(next, block.0);
        self.count += 1;
    }

    fn set_next(&mut self, block: u32, next: u32) {
        match block {
            END => self.first = next,
            block => self.links[block as usize].next = next,
        }
    }

    fn set_previous(&mut self, block: u32, previous: u32) {
        match block {
            END => self.last = previous,
            block => self.links[block as usize].previous = previous,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is done to it, it is what a plain queue is.
        #[test]
        fn it_is_a_queue(count in 0..20_u32, steps in proptest::collection::vec((0..4_u8, any::<u32>()), 0..80)) {
            let mut list = FreeList::full(count);
            let mut queue: VecDeque<u32> = (0..count).collect();
            for (step, choice) in steps {
                let absent: Vec<u32> = (0..count).filter(|block| !queue.contains(block)).collect();
                match step {
                    0 => prop_assert_eq!(list.pop_first().map(|block| block.0), queue.pop_front()),
                    1 if !queue.is_empty() => {
                        let block = queue.remove(choice as usize % queue.len()).unwrap();
                        list.remove(BlockId(block));
                    }
                    2 if !absent.is_empty() => {
                        let block = absent[choice as usize % absent.len()];
                        queue.push_back(block);
                        list.push_last(BlockId(block));
                    }
                    3 if !absent.is_empty() => {
                        let block = absent[choice as usize % absent.len()];
                        queue.push_front(block);
                        list.push_first(BlockId(block));
                    }
                    _ => {}
                }
                prop_assert_eq!(list.count(), queue.len());
            }
            let rest: Vec<u32> = std::iter::from_fn(|| list.pop_first()).map(|block| block.0).collect();
            prop_assert_eq!(rest, Vec::from(queue));
        }
    }
}
