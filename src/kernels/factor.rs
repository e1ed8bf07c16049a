//! A factor of an adapter as it is held: in bfloat16, or in 8 bits where that is smaller.

use half::bf16;

use super::huge_pages;
use super::level::Kernels;
use super::panels::Panels;
use super::quantize::QuantizeError;
use super::quantized_panels::QuantizedPanels;
use super::weight::Weight;

/// A matrix, `out_features x in_features`.
#[derive(Debug)]
pub enum Factor {
    /// In bfloat16.
    Bf16(Panels),
    /// In 8 bits.
    Quantized(QuantizedPanels),
}

impl Factor {
    /// Lays out a row-major factor.
    ///
    /// # Panics
    /// Where it has another length.
    #[must_use]
    pub fn bf16(kernels: Kernels, factor: &[bf16], shape: (usize, usize)) -> Self {
        Self::Bf16(Panels::pack(kernels, factor, shape))
    }

    /// Whether 8 bits take less memory than 16 for this shape: they come in groups of 32, so they do
    /// not for an inner dimension of a few.
    #[must_use]
    pub fn gains_by_8_bits(shape: (usize, usize)) -> bool {
        QuantizedPanels::factor_bytes(shape) < Panels::bytes_of(shape)
    }

    /// Rounds a row-major factor to 8 bits.
    ///
    /// # Errors
    /// Where a value is not finite.
    ///
    /// # Panics
    /// Where it has another length.
    pub fn q8(
        kernels: Kernels,
        factor: &[f32],
        shape: (usize, usize),
    ) -> Result<Self, QuantizeError> {
        QuantizedPanels::quantize_factor(kernels, factor, shape).map(Self::Quantized)
    }

    /// What products take.
    #[must_use]
    pub fn weight(&self) -> Weight<'_> {
        match self {
            Self::Bf16(panels) => Weight::Bf16(panels),
            Self::Quantized(panels) => Weight::Quantized(panels),
        }
    }

    /// Columns.
    #[must_use]
    pub fn in_features(&self) -> usize {
        self.weight().in_features()
    }

    /// Rows.
    #[must_use]
    pub fn out_features(&self) -> usize {
        self.weight().out_features()
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Bf16(panels) => panels.bytes(),
            Self::Quantized(panels) => panels.bytes(),
        }
    }

    /// Moves factors that are read one after the other into one piece of memory, in this order.
    pub fn gather<'f>(factors: impl IntoIterator<Item = &'f mut Self>) {
        let buffers = factors.into_iter().map(|factor| match factor {
            Self::Bf16(panels) => panels.buffer(),
            Self::Quantized(panels) => panels.buffer(),
        });
        huge_pages::gather(buffers.collect());
    }
}
