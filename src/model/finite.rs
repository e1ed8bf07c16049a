//! Whether a tensor's values are numbers: a NaN or an infinity in one weight is one in every logit.

use candle_core::{CpuStorage, Result, Storage, Tensor, bail};
use half::{bf16, f16};
use rayon::prelude::*;

/// Values that several threads look at: fewer are sooner looked at than handed out.
const MANY: usize = 1 << 20;
/// Values looked at before the next look at the result, so that the loop has no exit inside.
const BLOCK: usize = 1 << 16;

/// The position, in row-major order, of the first value that is not finite in a contiguous tensor of
/// floats on the CPU.
pub(super) fn first_not_finite(tensor: &Tensor) -> Result<Option<usize>> {
    let (storage, layout) = tensor.storage_and_layout();
    let (Storage::Cpu(storage), Some((from, to))) = (&*storage, layout.contiguous_offsets()) else {
        bail!("not a contiguous tensor on the CPU");
    };
    Ok(match storage {
        CpuStorage::F32(values) => first(&values[from..to], f32::is_finite),
        CpuStorage::F64(values) => first(&values[from..to], f64::is_finite),
        CpuStorage::F16(values) => first(&values[from..to], f16::is_finite),
        CpuStorage::BF16(values) => first(&values[from..to], bf16::is_finite),
        _ => None,
    })
}

fn first<T: Copy + Sync>(values: &[T], is_finite: impl Fn(T) -> bool + Sync) -> Option<usize> {
    let bad = |block: &[T]| block.iter().fold(false, |bad, &value| bad | !is_finite(value));
    let block = if values.len() < MANY {
        values.chunks(BLOCK).position(bad)?
    } else {
        values.par_chunks(BLOCK).position_first(bad)?
    };
    let within = values[block * BLOCK..].iter().position(|&value| !is_finite(value))?;
    Some(block * BLOCK + within)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn the_first_of_several_is_found_in_every_type() {
        for count in [3 * BLOCK + 5, MANY + 5] {
            firsts_of(count);
        }
    }

    fn firsts_of(count: usize) {
        for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            for at in [0, 7, BLOCK - 1, BLOCK, 2 * BLOCK + 3, count - 1] {
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut values = vec![-1.5_f32; count];
                    let found = |values: &[f32]| {
                        let tensor = Tensor::new(values, &Device::Cpu).unwrap();
                        first_not_finite(&tensor.to_dtype(dtype).unwrap()).unwrap()
                    };
                    assert_eq!(found(&values), None);
                    values[at] = bad;
                    values[count - 1] = bad;
                    assert_eq!(found(&values), Some(at), "{dtype:?}");
                }
            }
        }
    }

    #[test]
    fn what_holds_nothing_holds_nothing_bad() {
        let empty = Tensor::zeros((0, 3), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(first_not_finite(&empty).unwrap(), None);
    }
}
