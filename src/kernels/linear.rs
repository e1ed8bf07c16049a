//! Linear layers: `y = x Wᵀ + b`, `W` stored row-major as `nn.Linear` does.
//!
//! An output element is one sum over the input features in sixteen lanes: lane `l` adds the
//! products of features `l`, `l + 16`, … in order, and [`super::simd::Simd::sum`] folds the lanes.
//! Neither the number of rows nor blocking changes that order. Few rows go through
//! [`super::direct`], many through [`super::packed`].

use half::{bf16, f16};

use super::columns::Columns;
use super::level::Kernels;
use super::simd::{Element, LANES, Simd, load_padded};
use super::{direct, packed};

/// A weight matrix, `out_features x in_features`, row-major and contiguous.
#[derive(Debug, Clone, Copy)]
pub enum Weights<'a> {
    /// Float32.
    F32(&'a [f32]),
    /// Bfloat16, widened as it is read.
    Bf16(&'a [bf16]),
    /// Float16, widened as it is read.
    F16(&'a [f16]),
}

impl Weights<'_> {
    /// The number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::F32(weights) => weights.len(),
            Self::Bf16(weights) => weights.len(),
            Self::F16(weights) => weights.len(),
        }
    }

    /// True where there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The dimensions of one product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinearShape {
    /// Rows of the batch.
    pub rows: usize,
    /// Columns of `x` and of the weight.
    pub in_features: usize,
    /// Rows of the weight, columns of the output.
    pub out_features: usize,
}

/// What becomes of a finished sum.
#[derive(Debug, Clone, Copy)]
pub(super) enum Epilogue<'a> {
    /// It is stored, plus the bias of its column.
    Store(Option<&'a [f32]>),
    /// It is added to what is there.
    Accumulate,
}

impl Epilogue<'_> {
    #[inline(always)]
    pub(super) fn apply(self, column: usize, sum: f32, out: &mut f32) {
        *out = match self {
            Self::Store(None) => sum,
            Self::Store(Some(bias)) => sum + bias[column],
            Self::Accumulate => *out + sum,
        };
    }

    /// [`Epilogue::apply`] for the sums of `column` and those behind it, as many as `out` has.
    #[inline(always)]
    pub(super) fn write<S: Simd>(self, simd: S, column: usize, sums: S::Vector, out: &mut [f32]) {
        if let Ok(out) = <&mut [f32; LANES]>::try_from(&mut *out) {
            let sums = match self {
                Self::Store(None) => sums,
                Self::Store(Some(bias)) => {
                    simd.add(sums, load_padded(simd, &bias[column..column + LANES]))
                }
                Self::Accumulate => simd.add(simd.load(out), sums),
            };
            return simd.store(sums, out);
        }
        let mut lanes = [0.0; LANES];
        simd.store(sums, &mut lanes);
        for (index, (out, sum)) in out.iter_mut().zip(lanes).enumerate() {
            self.apply(column + index, sum, out);
        }
    }
}

impl Kernels {
    /// `out = x Wᵀ + bias`, with `x` of `rows x in_features`, `out` of `rows x out_features` and
    /// `bias` of `out_features`.
    ///
    /// # Panics
    /// Where a slice does not have the length that `shape` says.
    pub fn linear(
        self,
        x: &[f32],
        weights: Weights<'_>,
        bias: Option<&[f32]>,
        out: &mut [f32],
        shape: LinearShape,
    ) {
        if let Some(bias) = bias {
            assert_eq!(bias.len(), shape.out_features, "bug: bias length");
        }
        self.product(x, weights, Epilogue::Store(bias), out, shape);
    }

    pub(super) fn product(
        self,
        x: &[f32],
        weights: Weights<'_>,
        epilogue: Epilogue<'_>,
        out: &mut [f32],
        shape: LinearShape,
    ) {
        let LinearShape { rows, in_features, out_features } = shape;
        assert_eq!(x.len(), rows * in_features, "bug: length of x");
        assert_eq!(out.len(), rows * out_features, "bug: length of the output");
        assert_eq!(weights.len(), out_features * in_features, "bug: length of the weight");
        if out.is_empty() {
            return;
        }
        match weights {
            Weights::F32(weights) => self.typed(x, weights, epilogue, out, shape),
            Weights::Bf16(weights) => self.typed(x, weights, epilogue, out, shape),
            Weights::F16(weights) => self.typed(x, weights, epilogue, out, shape),
        }
    }

    fn typed<E: Element>(
        self,
        x: &[f32],
        weights: &[E],
        epilogue: Epilogue<'_>,
        out: &mut [f32],
        shape: LinearShape,
    ) {
        let work = shape.rows * shape.in_features * shape.out_features;
        let product = Product { weights, epilogue, in_features: shape.in_features };
        let items = Columns::split(out, shape.out_features, self.parts(work)).collect();
        if shape.in_features > 0 && self.run(packed::Pays { rows: shape.rows }) {
            let packed_x = self.run(packed::PackRows { x, width: shape.in_features });
            self.for_each(work, items, |columns| {
                self.run(packed::Packed { product, x: &packed_x, columns });
            });
        } else {
            self.for_each(work, items, |columns| {
                self.run(direct::Direct { product, x, columns });
            });
        }
    }
}

/// What all parts of one product share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product<'a, E> {
    pub weights: &'a [E],
    pub epilogue: Epilogue<'a>,
    pub in_features: usize,
}

impl<'a, E> Product<'a, E> {
    /// The weights of one output column.
    #[inline(always)]
    pub(super) fn column(&self, index: usize) -> &'a [E] {
        &self.weights[index * self.in_features..][..self.in_features]
    }

    /// Where that column would lie, for prefetching: perhaps behind the end.
    #[inline(always)]
    pub(super) fn column_address(&self, index: usize) -> *const E {
        self.weights.as_ptr().wrapping_add(index * self.in_features)
    }
}
