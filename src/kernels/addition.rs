//! What adapters add to the rows that they serve: `(x downᵀ) upᵀ`.
//!
//! Each factor is read once a step, so both halves go at the memory's speed: each product asks for
//! the factor that comes after its own. Not here: which thread computes what, which is
//! [`super::project`]'s.

use std::iter::once;
use std::ops::Range;

use super::columns::Columns;
use super::level::Kernels;
use super::linear::Epilogue;
use super::project::{Projection, RowsDelta};
use super::scratch::Scratch;
use super::weight::{Forms, Rows, Weight, WeightProduct};

/// Rows of one adapter that are computed together.
const CHUNK_ROWS: usize = 48;

/// An adapter's part in some rows of one projection.
#[derive(Debug)]
pub(super) struct Addition<'a> {
    pub rows: Range<usize>,
    /// Which one.
    pub projection: usize,
    down: Weight<'a>,
    up: Weight<'a>,
    next_down: Option<Weight<'a>>,
    pub next_up: Option<Weight<'a>>,
    /// `x downᵀ`, once it is known, as `up` takes it.
    pub inner: Rows,
}

impl<'a> Addition<'a> {
    /// All of some projections with one input: ascending, those of the same rows side by side. What
    /// lies between their factors goes into the memory of `spare`, as far as there is some.
    pub(super) fn all(projections: &[Projection<'a, '_>], spare: &mut Vec<Rows>) -> Vec<Self> {
        if projections.iter().all(|projection| projection.deltas.is_empty()) {
            return Vec::new();
        }
        let mut rest: Vec<&[RowsDelta<'a>]> =
            projections.iter().map(|projection| projection.deltas.as_slice()).collect();
        let mut all = Vec::with_capacity(rest.iter().map(|deltas| deltas.len()).sum());
        while let Some(rows) = first_rows(&rest) {
            for start in rows.clone().step_by(CHUNK_ROWS) {
                let chunk = start..rows.end.min(start + CHUNK_ROWS);
                for (projection, deltas) in rest.iter().enumerate() {
                    let delta = deltas.first().filter(|delta| delta.rows == rows);
                    let delta = delta.filter(|delta| delta.down.in_features() > 0);
                    if let Some(delta) = delta.filter(|delta| delta.down.out_features() > 0) {
                        let inner = spare.pop().unwrap_or_default();
                        all.push(Self::new(chunk.clone(), projection, delta, inner));
                    }
                }
            }
            for deltas in &mut rest {
                if let Some((_, others)) = deltas.split_first().filter(|(it, _)| it.rows == rows) {
                    *deltas = others;
                }
            }
        }
        let first_up = all.first().map(|first| first.up);
        let mut next = (first_up, None);
        for addition in all.iter_mut().rev() {
            (addition.next_down, addition.next_up) = next;
            next = (Some(addition.down), Some(addition.up));
        }
        all
    }

    fn new(rows: Range<usize>, projection: usize, delta: &RowsDelta<'a>, inner: Rows) -> Self {
        let RowsDelta { down, up, .. } = *delta;
        Self { rows, projection, down, up, next_down: None, next_up: None, inner }
    }

    /// Multiplications of both halves.
    pub(super) fn work(&self) -> [usize; 2] {
        let rank = self.rows.len() * self.down.out_features();
        [rank * self.down.in_features(), rank * self.up.out_features()]
    }

    /// The first half of all additions to the same rows, whose inputs are `x`.
    pub(super) fn shrink(kernels: Kernels, x: &[f32], own: &mut [Self]) {
        let Some(first) = own.first() else { return };
        let width = first.down.in_features();
        let (mut packed, mut inner) = (Rows::lend(), Vec::<f32>::lend());
        let forms = Forms::of(kernels, own.iter().map(|addition| addition.down));
        forms.take(kernels, x, width, &mut packed);
        for addition in own {
            let Self { rows, down, up, next_down: next, .. } = addition;
            let rank = down.out_features();
            inner.resize(rows.len() * rank, 0.0);
            let out = &mut Columns::whole(&mut inner, rank);
            let (weight, next, epilogue) = (*down, *next, Epilogue::Store(None));
            WeightProduct { weight, epilogue, next, out }.run(kernels, &packed, 0);
            Forms::of(kernels, once(*up)).take(kernels, &inner, rank, &mut addition.inner);
        }
        packed.give_back();
        inner.give_back();
    }

    /// Adds the second half's columns `out` to what is there; `next` is read after it.
    pub(super) fn expand(&self, kernels: Kernels, next: Option<Weight<'_>>, out: &mut Columns<'_>) {
        let (weight, epilogue) = (self.up, Epilogue::Accumulate);
        WeightProduct { weight, epilogue, next, out }.run(kernels, &self.inner, 0);
    }
}

/// The rows of the next adapter of any projection.
fn first_rows(rest: &[&[RowsDelta<'_>]]) -> Option<Range<usize>> {
    let firsts = rest.iter().filter_map(|deltas| deltas.first());
    firsts.map(|delta| delta.rows.clone()).min_by_key(|rows| (rows.start, rows.end))
}
