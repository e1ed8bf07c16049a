//! The paged key-value cache: fixed blocks of token slots, handed out by an integer-only manager.

pub mod block_manager;
pub mod free_list;
pub mod prefix_cache;
pub mod storage;

/// A block of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u32);
