//! Whether two checkpoints hold the same values in a tensor, whatever types they are stored in.
//!
//! Tensors are compared block by block as their files are read, so that nothing large is held.

use std::io::Read;
use std::ops::Range;

use candle_core::{DType, Device};
use half::{bf16, f16};

use super::error::ModelError;
use super::stored_file::StoredBytes;
use super::weights::Weights;

/// Values compared at once.
const BLOCK: usize = 1 << 14;

/// What counts as the same value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// The same number.
    Exact,
    /// The same number once the one in the wider type is rounded to the narrower.
    Rounded,
}

/// Whether tensor `left_name` of `left` and `right_name` of `right` have one shape and the same
/// values. The same bytes are the same value, a NaN too.
///
/// # Errors
/// Where one is stored in a type that is not read.
pub fn equal(
    (left, left_name): (&Weights, &str),
    (right, right_name): (&Weights, &str),
    precision: Precision,
) -> Result<bool, ModelError> {
    let (Some(shape), Some(other)) = (left.shape(left_name), right.shape(right_name)) else {
        return Ok(false);
    };
    if shape != other {
        return Ok(false);
    }
    let (mut left, mut right) = (Values::of(left, left_name)?, Values::of(right, right_name)?);
    if let (Values::Stored(left, one), Values::Stored(right, other)) = (&left, &right)
        && one == other
    {
        return left.equal(right.clone());
    }
    let (one, other) = (left.dtype(), right.dtype());
    let same = |(left, right): (&f64, &f64)| match precision {
        Precision::Exact => left == right,
        Precision::Rounded => {
            left == right || rounded(*left, other) == *right || *left == rounded(*right, one)
        }
    };
    let count: usize = shape.iter().product();
    let (mut ours, mut theirs) = (Vec::with_capacity(BLOCK), Vec::with_capacity(BLOCK));
    for from in (0..count).step_by(BLOCK) {
        let block = from..count.min(from + BLOCK);
        left.read(block.clone(), &mut ours)?;
        right.read(block, &mut theirs)?;
        if ours.len() != theirs.len() || !ours.iter().zip(&theirs).all(same) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A tensor's values, in row-major order.
enum Values<'a> {
    /// As they lie in the file, from where they were last read.
    Stored(StoredBytes<'a>, DType),
    /// Dequantised.
    Computed(Vec<f32>),
}

impl<'a> Values<'a> {
    fn of(weights: &'a Weights, name: &str) -> Result<Self, ModelError> {
        let missing = || ModelError::MissingTensor(name.to_owned());
        let dtype = weights.dtype(name)?.ok_or_else(missing)?;
        if let Some(bytes) = weights.bytes(name) {
            return Ok(Self::Stored(bytes, dtype));
        }
        let shape = weights.shape(name).ok_or_else(missing)?;
        let tensor = weights.tensor(name, &shape, DType::F32, &Device::Cpu)?;
        Ok(Self::Computed(tensor.flatten_all()?.to_vec1()?))
    }

    fn dtype(&self) -> DType {
        match self {
            Self::Stored(_, dtype) => *dtype,
            Self::Computed(_) => DType::F32,
        }
    }

    /// Puts those of a range, which is not beyond the end and follows the one read before, in place
    /// of what `values` holds.
    fn read(&mut self, range: Range<usize>, values: &mut Vec<f64>) -> Result<(), ModelError> {
        values.clear();
        let (stored, dtype) = match self {
            Self::Stored(stored, dtype) => (stored, dtype),
            Self::Computed(all) => {
                values.extend(all[range].iter().copied().map(f64::from));
                return Ok(());
            }
        };
        let mut bytes = vec![0; range.len() * dtype.size_in_bytes()];
        stored.read_exact(&mut bytes).map_err(ModelError::io(stored.path()))?;
        let halves = || bytes.as_chunks::<2>().0.iter().copied();
        match dtype {
            DType::F16 => values.extend(halves().map(|half| f16::from_le_bytes(half).to_f64())),
            DType::BF16 => values.extend(halves().map(|half| bf16::from_le_bytes(half).to_f64())),
            DType::F64 => {
                values.extend(bytes.as_chunks::<8>().0.iter().copied().map(f64::from_le_bytes));
            }
            _ => {
                let singles = bytes.as_chunks::<4>().0.iter().copied().map(f32::from_le_bytes);
                values.extend(singles.map(f64::from));
            }
        }
        Ok(())
    }
}

fn rounded(value: f64, dtype: DType) -> f64 {
    match dtype {
        // By way of float32, as PyTorch does: from_f64 drops the last bits of one, and a tie looks exact.
        DType::F16 => f16::from_f32(value as f32).to_f64(),
        DType::BF16 => bf16::from_f32(value as f32).to_f64(),
        DType::F32 => f64::from(value as f32),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::Tensor;

    use super::*;

    fn weights(tensor: &Tensor) -> Weights {
        let directory = tempfile::tempdir().unwrap();
        let tensors = HashMap::from([("w".to_owned(), tensor.clone())]);
        let path = directory.path().join("model.safetensors");
        candle_core::safetensors::save(&tensors, path).unwrap();
        // The file stays open after its directory is gone.
        Weights::open(directory.path()).unwrap()
    }

    fn same(left: &Tensor, right: &Tensor, precision: Precision) -> bool {
        equal((&weights(left), "w"), (&weights(right), "w"), precision).unwrap()
    }

    #[test]
    fn rounding_is_told_from_another_value_wherever_it_is() {
        let count = 2 * BLOCK + 3;
        let values: Vec<f32> = (0..count).map(|i| (i as f32 * 0.7).sin()).collect();
        let single = Tensor::new(values.clone(), &Device::Cpu).unwrap();
        for dtype in [DType::F16, DType::BF16] {
            let narrow = single.to_dtype(dtype).unwrap();
            assert!(same(&single, &narrow, Precision::Rounded));
            assert!(same(&narrow, &single, Precision::Rounded));
            assert!(!same(&narrow, &single, Precision::Exact));
            assert!(same(&narrow, &narrow.to_dtype(DType::F64).unwrap(), Precision::Exact));
            for at in [0, BLOCK - 1, BLOCK, count - 1] {
                let mut other = values.clone();
                other[at] += 0.01;
                let other = Tensor::new(other, &Device::Cpu).unwrap();
                assert!(!same(&other, &narrow, Precision::Rounded), "{at}");
                assert!(!same(&other, &single, Precision::Rounded), "{at}");
            }
        }
    }

    #[test]
    fn another_shape_or_no_tensor_is_not_the_same() {
        let row = Tensor::zeros((1, 4), DType::F32, &Device::Cpu).unwrap();
        assert!(!same(&row, &row.t().unwrap().contiguous().unwrap(), Precision::Rounded));
        let weights = weights(&row);
        assert!(!equal((&weights, "w"), (&weights, "x"), Precision::Exact).unwrap());
        let empty = Tensor::zeros((0, 4), DType::F32, &Device::Cpu).unwrap();
        assert!(same(&empty, &empty.to_dtype(DType::BF16).unwrap(), Precision::Exact));
    }
}
