//! Folding a delta into a dense weight, once, so that it costs nothing per token.

use candle_core::{DType, Result, Tensor};

use crate::adapter::delta::LowRankFactors;

/// `weight + up · down` in the weight's own dtype and on its device: product and sum in float32,
/// then one rounding.
///
/// `weight` is `out_features x in_features`, of any float type.
///
/// # Errors
/// Where a shape disagrees, the weight is no matrix of floats, or the device fails.
pub fn merge_into(weight: &Tensor, factors: &LowRankFactors) -> Result<Tensor> {
    let (dtype, device) = (weight.dtype(), weight.device());
    if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
        candle_core::bail!("cannot merge an adapter into a weight of {dtype:?}")
    }
    let exact = |factor: &Tensor| factor.to_device(device)?.to_dtype(DType::F32);
    let delta = exact(&factors.up)?.matmul(&exact(&factors.down)?)?;
    (weight.to_dtype(DType::F32)? + delta)?.to_dtype(dtype)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;

    fn matrix(values: &[f32], rows: usize) -> Tensor {
        Tensor::from_slice(values, (rows, values.len() / rows), &Device::Cpu).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// `out`, `rank`, `in` and values for weight, up and down.
    fn case() -> impl Strategy<Value = (usize, usize, [Vec<f32>; 3])> {
        (1_usize..9, 1_usize..6, 1_usize..9).prop_flat_map(|(out, rank, columns)| {
            let values = |count| prop::collection::vec(-2.0_f32..2.0, count);
            let three = [values(out * columns), values(out * rank), values(rank * columns)];
            (Just(out), Just(rank), three)
        })
    }

    proptest! {
        #[test]
        fn merging_is_one_rounding_from_the_exact_sum(
            (out, rank, [weight, up, down]) in case(),
            (dtype, unit) in prop::sample::select(vec![
                (DType::F32, 1.0 / f64::from(1 << 24)),
                (DType::F16, 1.0 / f64::from(1 << 11)),
                (DType::BF16, 1.0 / f64::from(1 << 8)),
            ]),
        ) {
            let weight = matrix(&weight, out).to_dtype(dtype).unwrap();
            let factors = LowRankFactors { down: matrix(&down, rank), up: matrix(&up, out) };
            let merged = merge_into(&weight, &factors).unwrap();
            prop_assert_eq!(merged.dtype(), dtype);
            let columns = down.len() / rank;
            let before = values(&weight);
            for (at, merged) in values(&merged).into_iter().enumerate() {
                let (row, column) = (at / columns, at % columns);
                let terms = (0..rank).map(|k| {
                    f64::from(up[row * rank + k]) * f64::from(down[k * columns + column])
                });
                let exact = f64::from(before[at]) + terms.sum::<f64>();
                // Every intermediate is below 32: float32 noise, then one rounding of the result.
                let allowed = 1e-5 + unit * exact.abs();
                prop_assert!((f64::from(merged) - exact).abs() <= allowed, "{merged} {exact}");
            }
        }
    }

    #[test]
    fn shapes_that_disagree_and_integers_are_refused() {
        let weight = matrix(&[0.0; 6], 2);
        let factors = |out: usize, columns: usize| LowRankFactors {
            down: matrix(&vec![1.0; columns], 1),
            up: matrix(&vec![1.0; out], out),
        };
        assert!(merge_into(&weight, &factors(2, 3)).is_ok());
        assert!(merge_into(&weight, &factors(3, 2)).is_err());
        assert!(merge_into(&weight, &factors(1, 3)).is_err());
        assert!(merge_into(&weight.to_dtype(DType::U8).unwrap(), &factors(2, 3)).is_err());
    }
}
