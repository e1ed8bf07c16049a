//! A weight of either kind, and rows of activations in the forms that weights take them in.

#[cfg(target_arch = "x86_64")]
use super::byte_tile_product::ByteTileProduct;
use super::level::Kernels;
use super::linear::Epilogue;
use super::output::Output;
use super::packed_rows::{MakeRoom, Pack, PackedRows};
use super::panel_product::PanelProduct;
use super::panels::Panels;
use super::quantized_panels::{QuantizedPanels, with_blocks};
use super::quantized_product::QuantizedProduct;
use super::quantized_rows::{Quantize, QuantizedRows};
use super::reading::{Places, Reading};
use super::scratch::{Place, Scratch, place};
use super::simd::LANES;
#[cfg(target_arch = "x86_64")]
use super::tile_product::TileProduct;
#[cfg(target_arch = "x86_64")]
use super::tile_rows::{PackTiles, TileRows};

/// Fewer rounded rows leave most of a tile empty.
const MIN_BYTE_TILE_ROWS: usize = 8;

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
    pub out: &'a mut Output<'o>,
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
            Weight::Quantized(panels) => {
                let (x, groups) = (&x.quantized, panels.groups());
                #[cfg(target_arch = "x86_64")]
                if let Some(has) = kernels.amx_bytes().filter(|_| x.by_rows()) {
                    with_blocks!(&panels.blocks, blocks => kernels.run(ByteTileProduct {
                        has, x, blocks, groups, epilogue, first_row, out
                    }));
                    return;
                }
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
    /// Groups of a row in 8 bits.
    groups: Option<usize>,
}

impl Forms {
    pub(super) fn of<'a>(weights: impl IntoIterator<Item = Weight<'a>>) -> Self {
        weights.into_iter().fold(Self::default(), |forms, weight| match weight {
            Weight::Bf16(_) => Self { packed: true, ..forms },
            Weight::Quantized(panels) => {
                Self { groups: forms.groups.max(Some(panels.groups())), ..forms }
            }
        })
    }

    /// Bytes of a row of `width` features.
    pub(super) fn row_bytes(self, width: usize) -> usize {
        if self.packed { 2 * width } else { width }
    }

    /// Whether rows are wanted in one form alone, which can be brought about in parts.
    pub(super) fn in_parts(self, kernels: Kernels) -> bool {
        self.packed && self.groups.is_none() && !tiled(kernels)
    }

    /// The parts of row-major `x`, `width` features a row, in that form: `chunks` as in
    /// [`PackedRows::parts`].
    pub(super) fn parts<'p>(
        kernels: Kernels,
        (x, width): (&'p [f32], usize),
        chunks: usize,
        rows: &'p mut Rows,
    ) -> impl Iterator<Item = Pack<'p>> {
        let count = x.len().checked_div(width).unwrap_or(0);
        kernels.run(MakeRoom { rows: count, width, out: &mut rows.packed });
        rows.packed.parts(x, width, chunks)
    }

    /// Brings row-major `x`, `width` features a row, into these forms.
    pub(super) fn take(self, kernels: Kernels, x: &[f32], width: usize, rows: &mut Rows) {
        if self.packed && !tiled(kernels) {
            let whole = width.max(1);
            Self::parts(kernels, (x, width), whole, rows)
                .for_each(|mut part| kernels.run(&mut part));
        }
        #[cfg(target_arch = "x86_64")]
        if self.packed && tiled(kernels) {
            kernels.run(PackTiles { x, width, out: &mut rows.tiled });
        }
        if let Some(groups) = self.groups {
            let by_rows = tiles_bytes(kernels) && x.len() >= MIN_BYTE_TILE_ROWS * width;
            kernels.run(Quantize { x, width, groups, by_rows, out: &mut rows.quantized });
        }
    }
}

/// Whether products in 8 bits may take tiles.
fn tiles_bytes(kernels: Kernels) -> bool {
    #[cfg(target_arch = "x86_64")]
    return kernels.amx_bytes().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Whether products in bfloat16 take tiles.
fn tiled(kernels: Kernels) -> bool {
    #[cfg(target_arch = "x86_64")]
    return kernels.amx().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}
