//! Which blocks hold the keys and values of which beginning of a text. Integers and digests only.
//!
//! A full block is named by a BLAKE3 chain over everything its content depends on: the model, the
//! adapter's content digest, the namespace (who may share it), all tokens before it, and its own.
//! Names of adapters play no part, and nothing shorter than 256 bits stands for a text: whoever
//! could make two chains meet would read another's cache.
//!
//! Who holds a block, and when it is reused, is [`super::block_manager`]'s.

use std::collections::HashMap;

use super::BlockId;

/// The name of a block's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockHash([u8; 32]);

impl BlockHash {
    /// The block of `tokens` that follows this one.
    #[must_use]
    fn followed_by(&self, tokens: &[u32]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"sorsa block 1");
        hasher.update(&self.0);
        tokens.iter().for_each(|token| {
            hasher.update(&token.to_le_bytes());
        });
        Self(*hasher.finalize().as_bytes())
    }
}

/// What the keys and values of a sequence depend on besides its tokens.
#[derive(Debug, Clone, Copy)]
pub struct PrefixContext<'a> {
    /// The content digest of the adapter; `None` is the model alone.
    pub adapter: Option<&'a [u8; 32]>,
    /// Who may share what is cached, part by part: sequences of different namespaces never do.
    pub namespace: &'a [&'a str],
}

/// The names of a sequence's full blocks, in token order.
#[derive(Debug, Clone)]
pub struct HashChain {
    root: BlockHash,
    blocks: Vec<BlockHash>,
    block_size: usize,
}

impl HashChain {
    /// Names the full blocks of `tokens`, which begin with those named before.
    pub fn extend(&mut self, tokens: &[u32]) {
        for block in tokens.chunks_exact(self.block_size).skip(self.blocks.len()) {
            let parent = self.blocks.last().unwrap_or(&self.root);
            let hash = parent.followed_by(block);
            self.blocks.push(hash);
        }
    }

    /// The names, the first block's first.
    #[must_use]
    pub fn blocks(&self) -> &[BlockHash] {
        &self.blocks
    }
}

/// The blocks whose content has a name. Each name has one block, each block one name.
#[derive(Debug)]
pub struct PrefixCache {
    model: [u8; 32],
    blocks: HashMap<BlockHash, BlockId>,
    names: Vec<Option<BlockHash>>,
}

impl PrefixCache {
    /// An empty cache over a pool of `num_blocks` blocks, for the model of this digest.
    #[must_use]
    pub fn new(num_blocks: usize, model: [u8; 32]) -> Self {
        Self { model, blocks: HashMap::new(), names: vec![None; num_blocks] }
    }

    /// The chain of a sequence, no block named yet.
    #[must_use]
    pub fn chain(&self, context: PrefixContext<'_>, block_size: usize) -> HashChain {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"sorsa prefix 1");
        hasher.update(&self.model);
        hasher.update(&[u8::from(context.adapter.is_some())]);
        hasher.update(context.adapter.unwrap_or(&[0; 32]));
        // Lengths keep ("org_1", "23") and ("org_12", "3") apart.
        hasher.update(&(context.namespace.len() as u64).to_le_bytes());
        for part in context.namespace {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        let root = BlockHash(*hasher.finalize().as_bytes());
        HashChain { root, blocks: Vec::new(), block_size }
    }

    /// The block that holds this content.
    #[must_use]
    pub fn find(&self, name: &BlockHash) -> Option<BlockId> {
        self.blocks.get(name).copied()
    }

    /// True where `block`'s content has a name.
    #[must_use]
    pub fn holds(&self, block: BlockId) -> bool {
        self.names[block.0 as usize].is_some()
    }

    /// `block` now holds the content of this name. Where another block already does, that one stays.
    pub fn insert(&mut self, name: BlockHash, block: BlockId) {
        if self.holds(block) || self.blocks.contains_key(&name) {
            return;
        }
        self.names[block.0 as usize] = Some(name);
        self.blocks.insert(name, block);
    }

    /// `block`'s content is no longer what its name says, or no longer to be trusted.
    pub fn remove(&mut self, block: BlockId) {
        if let Some(name) = self.names[block.0 as usize].take() {
            self.blocks.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn names(model: u8, adapter: Option<u8>, namespace: &[&str], tokens: &[u32]) -> Vec<BlockHash> {
        let adapter = adapter.map(|byte| [byte; 32]);
        let context = PrefixContext { adapter: adapter.as_ref(), namespace };
        let mut chain = PrefixCache::new(0, [model; 32]).chain(context, 2);
        chain.extend(tokens);
        chain.blocks().to_vec()
    }

    #[test]
    fn everything_the_content_depends_on_is_in_the_name() {
        let tokens = [1, 2, 3, 4];
        let all = [
            names(0, None, &[], &tokens),
            names(1, None, &[], &tokens),
            names(0, Some(0), &[], &tokens),
            names(0, Some(1), &[], &tokens),
            names(0, None, &[""], &tokens),
            names(0, None, &["org_1", "23"], &tokens),
            names(0, None, &["org_12", "3"], &tokens),
            names(0, None, &["org_123"], &tokens),
            names(0, None, &[], &[1, 3, 3, 4]),
            names(0, None, &[], &[3, 4, 1, 2]),
            names(0, None, &[], &[1 << 8, 2, 3, 4]),
        ];
        let distinct: HashSet<_> = all.iter().flatten().collect();
        assert_eq!(distinct.len(), 2 * all.len(), "two contents share a name");
    }

    #[test]
    fn a_name_depends_on_what_comes_before_and_on_nothing_after() {
        let short = names(0, None, &["a"], &[1, 2, 3, 4, 5]);
        let long = names(0, None, &["a"], &[1, 2, 3, 4, 9, 9, 9]);
        assert_eq!((short.len(), long.len()), (2, 3), "only full blocks have names");
        assert_eq!(short[..], long[..2]);
        // In pieces or at once.
        let mut chain = PrefixCache::new(0, [0; 32])
            .chain(PrefixContext { adapter: None, namespace: &["a"] }, 2);
        for end in 0..=7 {
            chain.extend(&[1, 2, 3, 4, 9, 9, 9][..end]);
        }
        assert_eq!(chain.blocks(), long);
    }

    #[test]
    fn a_name_has_one_block_and_a_block_one_name() {
        let mut cache = PrefixCache::new(4, [0; 32]);
        let [a, b] = names(0, None, &[], &[1, 2, 3, 4])[..] else { unreachable!() };
        cache.insert(a, BlockId(1));
        cache.insert(a, BlockId(2));
        cache.insert(b, BlockId(1));
        assert_eq!((cache.find(&a), cache.find(&b)), (Some(BlockId(1)), None));
        assert!(cache.holds(BlockId(1)) && !cache.holds(BlockId(2)));
        cache.remove(BlockId(1));
        cache.remove(BlockId(2));
        assert_eq!(cache.find(&a), None);
        assert!(cache.blocks.is_empty());
    }
}
