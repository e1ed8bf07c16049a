//! A weight of either kind, and rows of activations in the forms that weights take them in.

use super::columns::Columns;
use super::level::Kernels;
use super::linear::Epilogue;
use super::packed_rows::{self, Pack, PackedRows};
use super::panel_product::PanelProduct;
use super::panels::Panels;
use super::quantized_panels::{QuantizedPanels, with_blocks};
use super::quantized_product::QuantizedProduct;
use super::quantized_rows::{self, Quantize, QuantizedRows};
use super::reading::{Places, Reading};
use super::scratch::{Place, Scratch, place};
use super::simd::{LANES, Simd, Task};
#[cfg(target_arch = "x86_64")]
use super::tile_product::TileProduct;
#[cfg(target_arch = "x86_64")]
use super::tile_rows::{PackTiles, TileRows};
#[cfg(target_arch = "x86_64")]
use super::widened_panels::Widened;

/// A weight, `out_features x in_features`.
#[derive(Debug, Clone, Copy)]
pub enum Weight<'a> {
    /// In bfloat16.
    Bf16(&'a Panels),
    /// In 8 or 4 bits.
    Quantized(&'a QuantizedPanels),
}

impl Weight<'_> {
    pub(super) fn in_features(self) -> usize {
        match self {
            Self::Bf16(panels) => panels.in_features(),
            Self::Quantized(panels) => panels.in_features(),
        }
    }

    pub(super) fn out_features(self) -> usize {
        match self {
            Self::Bf16(panels) => panels.out_features(),
            Self::Quantized(panels) => panels.out_features(),
        }
    }

    fn places(self) -> Places {
        match self {
            Self::Bf16(panels) => panels.places(),
            Self::Quantized(panels) => panels.places(),
        }
    }
}

/// The product of rows with some columns of a weight.
pub(super) struct WeightProduct<'a, 'o> {
    pub weight: Weight<'a>,
    pub epilogue: Epilogue<'a>,
    /// The weight that is likely read next.
    pub next: Option<Weight<'a>>,
    pub out: &'a mut Columns<'o>,
}

impl WeightProduct<'_, '_> {
    /// Computes it for rows of which the first goes to row `first_row` of the output.
    pub(super) fn run(&mut self, kernels: Kernels, x: &Rows, first_row: usize) {
        let epilogue = self.epilogue;
        let end = self.out.range().end.div_ceil(LANES);
        let reading = Reading::new(self.weight.places(), end, self.next.map(Weight::places));
        let out = &mut *self.out;
        match self.weight {
            #[cfg(target_arch = "x86_64")]
            Weight::Bf16(panels) if let Some(amx) = kernels.amx() => {
                let x = &x.tiled;
                kernels.run(TileProduct { amx, x, panels, epilogue, first_row, out });
            }
            Weight::Bf16(panels) => {
                let x = &x.packed;
                kernels.run(PanelProduct { x, panels, epilogue, first_row, reading, out });
            }
            #[cfg(target_arch = "x86_64")]
            Weight::Quantized(panels) if let Some(amx) = kernels.amx() => {
                let (x, groups) = (&x.tiled, panels.groups());
                let length = panels.in_features().div_ceil(2);
                with_blocks!(&panels.blocks, blocks => {
                    let panels = Widened { blocks, groups, length };
                    kernels.run(TileProduct { amx, x, panels, epilogue, first_row, out });
                });
            }
            Weight::Quantized(panels) => {
                let (x, groups) = (&x.quantized, panels.groups());
                with_blocks!(&panels.blocks, blocks => kernels.run(QuantizedProduct {
                    x, blocks, groups, epilogue, first_row, reading, out
                }));
            }
        }
    }
}

/// Some rows, in the forms that were asked for last; what is in others means nothing.
#[derive(Debug, Default)]
pub(super) struct Rows {
    packed: PackedRows,
    #[cfg(target_arch = "x86_64")]
    tiled: TileRows,
    quantized: QuantizedRows,
}

impl Scratch for Rows {
    fn place() -> &'static Place<Self> {
        place!(Rows)
    }
}

/// The forms that some weights of one input take rows in.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Forms {
    packed: bool,
    tiled: bool,
    /// Groups of a row in 8 bits.
    groups: Option<usize>,
}

impl Forms {
    pub(super) fn of<'a>(kernels: Kernels, weights: impl IntoIterator<Item = Weight<'a>>) -> Self {
        weights.into_iter().fold(Self::default(), |forms, weight| match weight {
            _ if takes_tiles(kernels) => Self { tiled: true, ..forms },
            Weight::Bf16(_) => Self { packed: true, ..forms },
            Weight::Quantized(panels) => {
                Self { groups: forms.groups.max(Some(panels.groups())), ..forms }
            }
        })
    }

    /// Bytes of a row of `width` features.
    pub(super) fn row_bytes(self, width: usize) -> usize {
        if self.packed || self.tiled { 2 * width } else { width }
    }

    /// What is to be done to bring row-major `x`, `width` features a row, into these forms, in parts.
    pub(super) fn parts<'p>(
        self,
        kernels: Kernels,
        (x, width): (&'p [f32], usize),
        to: &'p mut Rows,
    ) -> impl Iterator<Item = Rounding<'p>> {
        let rows = x.len().checked_div(width).unwrap_or(0);
        let packed = self.packed.then(|| {
            let out = &mut to.packed;
            kernels.run(packed_rows::MakeRoom { rows, width, out });
            to.packed.parts(x, width).map(Rounding::Pack)
        });
        let quantized = self.groups.map(|groups| {
            let out = &mut to.quantized;
            kernels.run(quantized_rows::MakeRoom { rows, width, groups, out });
            to.quantized.parts(x, width).map(Rounding::Quantize)
        });
        let parts = packed.into_iter().flatten().chain(quantized.into_iter().flatten());
        #[cfg(target_arch = "x86_64")]
        let parts = {
            let tiled = self.tiled.then(|| to.tiled.parts(x, width).map(Rounding::PackTiles));
            parts.chain(tiled.into_iter().flatten())
        };
        parts
    }

    /// Does all of it.
    pub(super) fn take(self, kernels: Kernels, x: &[f32], width: usize, to: &mut Rows) {
        self.parts(kernels, (x, width), to).for_each(|mut part| kernels.run(&mut part));
    }
}

/// Some rows on their way into one form.
pub(super) enum Rounding<'p> {
    Pack(Pack<'p>),
    Quantize(Quantize<'p>),
    #[cfg(target_arch = "x86_64")]
    PackTiles(PackTiles<'p>),
}

impl Task for &mut Rounding<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self {
            Rounding::Pack(part) => part.run(simd),
            Rounding::Quantize(part) => part.run(simd),
            #[cfg(target_arch = "x86_64")]
            Rounding::PackTiles(part) => part.run(simd),
        }
    }
}

/// Whether products take tiles.
fn takes_tiles(kernels: Kernels) -> bool {
    #[cfg(target_arch = "x86_64")]
    return kernels.amx().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}
