//! The rows that some layers share, rounded: once for all threads in a job of its own, or, where that
//! would take longer than doing it several times, by every thread for itself.

use std::thread::{self, ThreadId};

use super::level::Kernels;
use super::scratch::{Place, Scratch, place};
use super::weight::{Forms, Rows};

/// Bytes of rounded rows that pass over a panel together: they stay in the second-level cache.
const BLOCK_BYTES: usize = 3 << 17;
/// Such a block is a multiple of the largest tile.
const TILE: usize = 12;
/// Rounding and moving an element costs about so many multiplications.
const ROUNDING: usize = 16;
/// Elements for each thread, of so many at most, that take as long to round as handing out a job.
const OWN_ELEMENTS: (usize, usize) = (6 << 10, 16);
/// Blocks whose memory is kept: all of a decode step.
const SPARE_BLOCKS: usize = 16;

/// Row-major rows, on their way into `forms`.
pub(super) struct RoundedInput<'x> {
    x: &'x [f32],
    width: usize,
    forms: Forms,
    blocks: Blocks,
}

enum Blocks {
    /// Each with its first row.
    Shared(Vec<(usize, Rows)>),
    /// All rows are one, which every thread makes.
    Own(InputId),
}

/// Which thread's input it is, and its how manieth: no other has it.
type InputId = (ThreadId, u64);

/// How many inputs a thread has had.
#[derive(Default)]
struct Inputs(u64);

impl Scratch for Inputs {
    fn place() -> &'static Place<Self> {
        place!(Inputs)
    }
}

fn next_id() -> InputId {
    let count = Inputs::lend().0 + 1;
    Inputs(count).give_back();
    (thread::current().id(), count)
}

/// What a thread has rounded for itself.
#[derive(Default)]
struct OwnRows {
    /// Which input it was.
    input: Option<InputId>,
    rows: Rows,
}

impl Scratch for OwnRows {
    fn place() -> &'static Place<Self> {
        place!(OwnRows)
    }
}

impl<'x> RoundedInput<'x> {
    /// Rows of `width` features; `spare` has memory for them.
    pub(super) fn new(
        kernels: Kernels,
        (x, width): (&'x [f32], usize),
        forms: Forms,
        spare: &mut Vec<Rows>,
    ) -> Self {
        let (elements, threads) = OWN_ELEMENTS;
        let blocks = if x.len() <= elements * kernels.threads().min(threads) {
            Blocks::Own(next_id())
        } else {
            Blocks::Shared(share(kernels, (x, width), forms, spare))
        };
        Self { x, width, forms, blocks }
    }

    /// Calls `body` with each block's first row and the block.
    pub(super) fn for_each_block(&self, kernels: Kernels, mut body: impl FnMut(usize, &Rows)) {
        match &self.blocks {
            Blocks::Shared(blocks) => blocks.iter().for_each(|(first, rows)| body(*first, rows)),
            Blocks::Own(input) => {
                let mut own = OwnRows::lend();
                if own.input != Some(*input) {
                    self.forms.take(kernels, self.x, self.width, &mut own.rows);
                    own.input = Some(*input);
                }
                body(0, &own.rows);
                own.give_back();
            }
        }
    }

    /// Gives the blocks' memory back.
    pub(super) fn end(self, spare: &mut Vec<Rows>) {
        if let Blocks::Shared(blocks) = self.blocks {
            spare.extend(blocks.into_iter().map(|(_, rows)| rows));
            spare.truncate(SPARE_BLOCKS);
        }
    }
}

/// All rows in blocks, each with its first row.
fn share(
    kernels: Kernels,
    (x, width): (&[f32], usize),
    forms: Forms,
    spare: &mut Vec<Rows>,
) -> Vec<(usize, Rows)> {
    let block_rows = (BLOCK_BYTES / forms.row_bytes(width).max(1)).max(TILE) / TILE * TILE;
    let blocks = x.chunks((block_rows * width).max(1)).enumerate();
    let place = |(index, _)| (index * block_rows, spare.pop().unwrap_or_default());
    let mut rounded: Vec<(usize, Rows)> = blocks.clone().map(place).collect();
    let blocks = blocks.zip(&mut rounded);
    let parts = blocks.flat_map(|((_, x), (_, rows))| forms.parts(kernels, (x, width), rows));
    kernels.for_each(x.len() * ROUNDING, parts.collect(), |part| kernels.run(part));
    rounded
}
