//! The paged pool of keys and values: how it is laid out, and writing to it.
//!
//! A float32 pool has a row of all key heads for each token. A bfloat16 pool is made for products
//! of pairs ([`super::simd::Simd::dot_pairs`]): within a block and a head, keys lie as
//! `head_dim / 2` rows of the block's tokens, each token with two neighbouring dimensions, and
//! values as `block_size / 2` rows of `head_dim` dimensions, each with two neighbouring tokens. Odd
//! numbers are rounded up; what that adds is never written and never read as a number.

use half::bf16;

use super::attention::AttentionShape;
use super::level::Kernels;
use super::rotary::Rotation;
use super::rows::Rows;
use super::scratch::Scratch;
use super::simd::{Element, LANES, Simd, Task, round};

/// One layer's pool. Token `t` of a sequence lies in block `block_table[t / block_size]`.
#[derive(Debug, Clone, Copy)]
pub enum PagedKv<'a> {
    /// Keys and values as they are.
    F32(Pool<'a, f32>),
    /// Rounded to bfloat16.
    Bf16(Pool<'a, bf16>),
}

/// Keys and values of one layer.
#[derive(Debug, Clone, Copy)]
pub struct Pool<'a, E> {
    /// Keys, rotated already.
    pub keys: &'a [E],
    /// Values.
    pub values: &'a [E],
    /// Tokens per block.
    pub block_size: usize,
}

/// A pool to write to.
#[derive(Debug)]
pub enum PagedKvMut<'a> {
    /// See [`PagedKv::F32`].
    F32(PoolMut<'a, f32>),
    /// See [`PagedKv::Bf16`].
    Bf16(PoolMut<'a, bf16>),
}

/// As [`Pool`], to write to.
#[derive(Debug)]
pub struct PoolMut<'a, E> {
    /// Keys.
    pub keys: &'a mut [E],
    /// Values.
    pub values: &'a mut [E],
    /// Tokens per block.
    pub block_size: usize,
}

/// New tokens' keys and values, each row `num_kv_heads * head_dim` wide.
#[derive(Debug, Clone, Copy)]
pub struct NewKv<'a> {
    /// Keys.
    pub keys: Rows<'a>,
    /// Values.
    pub values: Rows<'a>,
    /// Turns the keys before they are written, where given.
    pub rotation: Option<Rotation<'a>>,
}

/// Where a batch's rows go, by block; the same for every layer.
#[derive(Debug)]
pub struct SlotMapping {
    /// Rows in the order of their slots.
    places: Vec<Place>,
    block_size: usize,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    block: usize,
    offset: usize,
    row: usize,
}

impl SlotMapping {
    /// Row `i` goes to slot `slots[i]`: to offset `slots[i] % block_size` of block
    /// `slots[i] / block_size`.
    #[must_use]
    pub fn new(slots: &[u32], block_size: usize) -> Self {
        let place = |(row, slot): (usize, &u32)| {
            let slot = *slot as usize;
            Place { block: slot / block_size, offset: slot % block_size, row }
        };
        let mut places: Vec<Place> = slots.iter().enumerate().map(place).collect();
        places.sort_by_key(|place| (place.block, place.offset));
        Self { places, block_size }
    }
}

/// A storage type of keys and values.
pub(super) trait KvElement: Element {
    /// Elements of a block of keys, and of one of values.
    fn block_lens(shape: AttentionShape, block_size: usize) -> (usize, usize);

    /// Writes one token's key, rotated already, and value at `offset` of a block.
    fn write<S: Simd>(simd: S, key: &[f32], value: &[f32], offset: usize, to: &mut Block<'_, Self>);
}

/// One block of the pool, to be written to.
pub(super) struct Block<'a, E> {
    keys: &'a mut [E],
    values: &'a mut [E],
    block_size: usize,
    shape: AttentionShape,
}

impl KvElement for f32 {
    fn block_lens(shape: AttentionShape, block_size: usize) -> (usize, usize) {
        let len = shape.kv_width() * block_size;
        (len, len)
    }

    #[inline(always)]
    fn write<S: Simd>(_: S, key: &[f32], value: &[f32], offset: usize, to: &mut Block<'_, f32>) {
        let width = key.len();
        to.keys[offset * width..][..width].copy_from_slice(key);
        to.values[offset * width..][..width].copy_from_slice(value);
    }
}

/// Elements that one head takes of a bfloat16 block: of keys, and of values.
pub(super) fn pair_lens(head_dim: usize, block_size: usize) -> (usize, usize) {
    (head_dim.next_multiple_of(2) * block_size, block_size.next_multiple_of(2) * head_dim)
}

impl KvElement for bf16 {
    fn block_lens(shape: AttentionShape, block_size: usize) -> (usize, usize) {
        let (keys, values) = pair_lens(shape.head_dim, block_size);
        (shape.num_kv_heads * keys, shape.num_kv_heads * values)
    }

    #[inline(always)]
    fn write<S: Simd>(
        simd: S,
        key: &[f32],
        value: &[f32],
        offset: usize,
        to: &mut Block<'_, bf16>,
    ) {
        let head_dim = to.shape.head_dim;
        let (key_len, value_len) = pair_lens(head_dim, to.block_size);
        let heads = to.keys.chunks_exact_mut(key_len).zip(key.chunks_exact(head_dim));
        for (block, key) in heads {
            let rows = block.chunks_exact_mut(2 * to.block_size);
            write_pairs(simd, key, rows, offset);
        }
        let heads = to.values.chunks_exact_mut(value_len).zip(value.chunks_exact(head_dim));
        for (block, value) in heads {
            let row = &mut block[offset / 2 * 2 * head_dim..][..2 * head_dim];
            write_column(simd, value, row, offset % 2);
        }
    }
}

/// Two neighbours of `key` to each of `rows`, as its pair number `offset`.
#[inline(always)]
fn write_pairs<'a, S: Simd>(
    simd: S,
    key: &[f32],
    mut rows: impl Iterator<Item = &'a mut [bf16]>,
    offset: usize,
) {
    for chunk in key.chunks(LANES) {
        let rounded = round(simd, chunk);
        let pairs = rounded.as_chunks::<2>().0[..chunk.len().div_ceil(2)].iter();
        for (pair, row) in pairs.zip(rows.by_ref()) {
            row[2 * offset..][..2].copy_from_slice(pair);
        }
    }
}

/// `value` to element `side` of each pair of `row`.
#[inline(always)]
fn write_column<S: Simd>(simd: S, value: &[f32], row: &mut [bf16], side: usize) {
    for (chunk, row) in value.chunks(LANES).zip(row.chunks_mut(2 * LANES)) {
        let rounded = round(simd, chunk);
        for (pair, value) in row.as_chunks_mut::<2>().0.iter_mut().zip(rounded) {
            pair[side] = value;
        }
    }
}

impl Kernels {
    /// Writes each row of `new` to its slot, keys rotated.
    ///
    /// # Panics
    /// Where shapes disagree or a slot lies outside of the pool.
    pub fn write_kv(
        self,
        new: NewKv<'_>,
        slots: &SlotMapping,
        pool: PagedKvMut<'_>,
        shape: AttentionShape,
    ) {
        let (rows, width) = (slots.places.len(), shape.kv_width());
        assert!(
            new.keys.hold(rows, width) && new.values.hold(rows, width),
            "bug: fewer keys or values than {rows} rows of {width}"
        );
        if let Some(rotation) = new.rotation {
            rotation.check(rows, shape.head_dim);
        }
        match pool {
            PagedKvMut::F32(pool) => self.write_blocks(new, slots, pool, shape),
            PagedKvMut::Bf16(pool) => self.write_blocks(new, slots, pool, shape),
        }
    }

    fn write_blocks<E: KvElement>(
        self,
        new: NewKv<'_>,
        slots: &SlotMapping,
        pool: PoolMut<'_, E>,
        shape: AttentionShape,
    ) {
        let block_size = pool.block_size;
        assert_eq!(slots.block_size, block_size, "bug: slots of other blocks");
        let (key_len, value_len) = E::block_lens(shape, block_size);
        let mut keys = pool.keys.chunks_exact_mut(key_len.max(1));
        let mut values = pool.values.chunks_exact_mut(value_len.max(1));
        let mut next_block = 0;
        let groups = slots.places.chunk_by(|a, b| a.block == b.block);
        let items = groups.map(|places| {
            let skip = places[0].block - next_block;
            next_block = places[0].block + 1;
            let (Some(keys), Some(values)) = (keys.nth(skip), values.nth(skip)) else {
                panic!("bug: block {} lies outside of the pool", places[0].block)
            };
            WriteBlock { new, places, block: Block { keys, values, block_size, shape } }
        });
        let items = items.collect();
        // A scattered element costs some eight multiplications.
        self.for_each(slots.places.len() * shape.kv_width() * 16, items, |item| self.run(item));
    }
}

/// The rows of one block.
struct WriteBlock<'a, 'o, E> {
    new: NewKv<'a>,
    places: &'a [Place],
    block: Block<'o, E>,
}

impl<E: KvElement> Task for &mut WriteBlock<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let shape = self.block.shape;
        let mut rotated = Vec::<f32>::lend();
        rotated.resize(shape.kv_width(), 0.0);
        for place in self.places {
            let mut key = self.new.keys.row(place.row, shape.kv_width());
            let value = self.new.values.row(place.row, shape.kv_width());
            if let Some(rotation) = self.new.rotation {
                let angles = rotation.angles(place.row);
                let heads = key.chunks_exact(shape.head_dim);
                for (head, out) in heads.zip(rotated.chunks_exact_mut(shape.head_dim)) {
                    angles.rotate(head, out);
                }
                key = &rotated;
            }
            E::write(simd, key, value, place.offset, &mut self.block);
        }
        rotated.give_back();
    }
}

impl<'a> From<Pool<'a, f32>> for PagedKv<'a> {
    fn from(pool: Pool<'a, f32>) -> Self {
        Self::F32(pool)
    }
}

impl<'a> From<Pool<'a, bf16>> for PagedKv<'a> {
    fn from(pool: Pool<'a, bf16>) -> Self {
        Self::Bf16(pool)
    }
}

impl<'a> From<PoolMut<'a, f32>> for PagedKvMut<'a> {
    fn from(pool: PoolMut<'a, f32>) -> Self {
        Self::F32(pool)
    }
}

impl<'a> From<PoolMut<'a, bf16>> for PagedKvMut<'a> {
    fn from(pool: PoolMut<'a, bf16>) -> Self {
        Self::Bf16(pool)
    }
}
