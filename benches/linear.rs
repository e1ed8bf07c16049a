//! Speed of the linear kernels beside candle's float32 matrix product: `cargo bench --bench linear`.
//!
//! Prints one line a case: the median of several runs and in brackets the best, in GB/s of weights
//! at one row and in GFLOP/s at more. Arguments choose numbers of rows.

mod support;

use std::io::{self, Write};
use std::time::Duration;

use candle_core::{Device, Tensor};
use half::{bf16, f16};
use sorsa::kernels::{
    Bits, Kernels, Level, LinearShape, Panels, Projection, QuantizedPanels, Weight, Weights,
};
use support::{measure, values};

const ROWS: [usize; 8] = [1, 4, 8, 16, 32, 64, 128, 512];
/// The 49,152 columns of an output head are for logit rows only, never for 512 of them.
const MAX_OUT: usize = 10_000_000;

fn main() -> anyhow::Result<()> {
    // cargo adds `--bench`, which is no number.
    let chosen: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let shapes = [(576, 1536), (2048, 5632), (576, 49152)];
    writeln!(io::stdout(), "{} threads", Kernels::best().threads())?;
    for (in_features, out_features) in shapes {
        for rows in ROWS {
            if rows * out_features < MAX_OUT && (chosen.is_empty() || chosen.contains(&rows)) {
                compare(LinearShape { rows, in_features, out_features })?;
            }
        }
    }
    Ok(())
}

/// Prints one shape's line.
fn compare(shape: LinearShape) -> anyhow::Result<()> {
    let LinearShape { rows, in_features, out_features } = shape;
    let x = values(rows * in_features);
    let weights = values(out_features * in_features);
    let narrow: Vec<bf16> = weights.iter().map(|w| bf16::from_f32(*w)).collect();
    let half: Vec<f16> = weights.iter().map(|w| f16::from_f32(*w)).collect();
    let mut out = vec![0.0; rows * out_features];

    let mut line = format!("{rows:4} x {in_features} x {out_features}:");
    for level in Level::available().filter(|level| *level > Level::Portable) {
        let kernels = Kernels::new(level)?;
        let mut run = |name, weights, bytes| {
            let times = measure(|| kernels.linear(&x, weights, None, &mut out, shape));
            line += &format!("  {level} {name} {}", speed(shape, bytes, &times));
        };
        run("f32", Weights::F32(&weights), 4);
        run("bf16", Weights::Bf16(&narrow), 2);
        run("f16", Weights::F16(&half), 2);
        line += &packed(kernels, shape, (&x, &weights, &narrow))?;
    }
    let x = Tensor::from_vec(x, (rows, in_features), &Device::Cpu)?;
    let transposed = Tensor::from_vec(weights, (out_features, in_features), &Device::Cpu)?.t()?;
    let mut failed = None;
    let times = measure(|| failed = x.matmul(&transposed).err());
    if let Some(error) = failed {
        return Err(error.into());
    }
    line += &format!("  candle f32 {}", speed(shape, 4, &times));
    writeln!(io::stdout(), "{line}")?;
    Ok(())
}

/// The same product with the weight in panels, of bfloat16 and of fewer bits.
fn packed(
    kernels: Kernels,
    shape: LinearShape,
    (x, weights, narrow): (&[f32], &[f32], &[bf16]),
) -> anyhow::Result<String> {
    let LinearShape { rows, in_features, out_features } = shape;
    let dims = (out_features, in_features);
    let panels = Panels::pack(kernels, narrow, dims);
    let [eight, four] = [Bits::Eight, Bits::Four]
        .map(|bits| QuantizedPanels::quantize(kernels, weights, dims, bits));
    let (eight, four) = (eight?, four?);
    let mut out = vec![0.0; rows * out_features];
    let mut line = String::new();
    for (name, weight, bytes) in [
        ("panels", Weight::Bf16(&panels), panels.bytes()),
        ("q8", Weight::Quantized(&eight), eight.bytes()),
        ("q4", Weight::Quantized(&four), four.bytes()),
    ] {
        let times = measure(|| {
            let (deltas, out) = (Vec::new(), out.as_mut_slice());
            let own = Projection { weight, bias: None, deltas, out, accumulate: false };
            kernels.project(x, in_features, vec![own]);
        });
        line += &format!("  {} {name} {}", kernels.level(), rate(shape, bytes, &times));
    }
    Ok(line)
}

/// [`rate`] of a weight of so many bytes an element.
fn speed(shape: LinearShape, element_bytes: usize, times: &[Duration]) -> String {
    rate(shape, shape.in_features * shape.out_features * element_bytes, times)
}

/// `times` ascending.
fn rate(shape: LinearShape, weight_bytes: usize, times: &[Duration]) -> String {
    let products = shape.in_features * shape.out_features;
    let (amount, unit) = if shape.rows == 1 {
        (weight_bytes, "GB/s")
    } else {
        (2 * shape.rows * products, "GFLOP/s")
    };
    let rate = |time: Duration| amount as f64 / time.as_secs_f64() / 1e9;
    format!("{:.1} ({:.1}) {unit}", rate(times[times.len() / 2]), rate(times[0]))
}
