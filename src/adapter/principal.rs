//! A SORSA layer's principal part, `s · B diag(S) A`, as low-rank factors.
//!
//! Added to the residual that it was taken out of, it is the trained layer: rank r, and no initial
//! factors. Relative to the untouched base weight it means nothing; that difference is
//! [`super::sorsa`]'s.

use candle_core::{DType, Tensor};

use super::delta::LowRankFactors;
use super::error::AdapterError;
use super::sorsa::SorsaFactors;

/// `up = s · B diag(S)` and `down = A` of module `path`, float32; each value of `up` is rounded
/// once.
///
/// `factors` are `rank x in`, `rank` and `out x rank`.
///
/// # Errors
/// Where a value overflows float32 or is none, and where the shapes disagree.
pub fn principal_part(
    path: &str,
    factors: &SorsaFactors,
    scale: f64,
) -> Result<LowRankFactors, AdapterError> {
    let values = (factors.s.to_dtype(DType::F64)? * scale)?;
    let up = factors.b.to_dtype(DType::F64)?.broadcast_mul(&values)?;
    let up = up.to_dtype(DType::F32)?.contiguous()?;
    let down = factors.a.to_dtype(DType::F32)?.contiguous()?;
    if !is_finite(&up)? || !is_finite(&down)? {
        return Err(AdapterError::Overflow { module: path.to_owned(), scale });
    }
    Ok(LowRankFactors { down, up })
}

fn is_finite(tensor: &Tensor) -> Result<bool, AdapterError> {
    // A sum, and not a maximum: those of candle pass over a NaN.
    Ok((tensor * 0.0)?.sum_all()?.to_scalar::<f32>()? == 0.0)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn factors(largest: f32) -> SorsaFactors {
        let tensor = |values: &[f32], shape: &[usize]| {
            Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
        };
        SorsaFactors {
            a: tensor(&[1.0, 2.0, 3.0, 4.0], &[2, 2]),
            s: tensor(&[10.0, largest], &[2]),
            b: tensor(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[3, 2]),
        }
    }

    #[test]
    fn the_scale_and_the_singular_values_are_in_up() {
        let folded = principal_part("q", &factors(100.0), 0.5).unwrap();
        let up = folded.up.to_vec2::<f32>().unwrap();
        assert_eq!(up, [[5.0, 100.0], [15.0, 200.0], [25.0, 300.0]]);
        assert_eq!(folded.down.to_vec2::<f32>().unwrap(), [[1.0, 2.0], [3.0, 4.0]]);
    }

    #[test]
    fn what_does_not_fit_float32_is_refused() {
        for (largest, scale) in [(1e38, 10.0), (f32::NAN, 1.0), (f32::INFINITY, 1.0)] {
            let error = principal_part("q", &factors(largest), scale).unwrap_err();
            assert!(matches!(error, AdapterError::Overflow { module, .. } if module == "q"));
        }
    }
}
