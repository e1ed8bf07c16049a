//! The best approximation of a large matrix by one of low rank, with matrix products only.
//!
//! A randomised range finder (Halko, Martinsson and Tropp, arXiv 0909.4061): a sketch of the
//! columns, refined, and a small decomposition in float64. Where the matrix is of that rank up to
//! rounding, as a difference of two models that share most of their weights is, it is exact up to
//! that rounding; of a weight itself, whose spectrum decays slowly, it would not be.

use candle_core::{D, DType, Device, Result, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::linalg::{Matrix, svd, thin_qr};
use super::sorsa::SorsaFactors;

/// Directions sketched beyond those asked for, which make an unlucky sketch improbable.
const OVERSAMPLING: usize = 8;
/// Refinements: each squares the separation from what lies outside.
const POWER_ITERATIONS: usize = 1;

/// A matrix's largest directions.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// `B diag(S) A` with orthonormal columns of B and rows of A, float32; S descends.
    pub factors: SorsaFactors,
    /// S in float64.
    pub singular_values: Vec<f64>,
    /// ‖matrix − B diag(S) A‖_F.
    pub error: f64,
}

/// The `rank` largest directions of a float32 matrix on the CPU, or as many as it has.
///
/// Directions that the matrix lacks are zero. Results are the same at every call.
///
/// # Errors
/// Where `matrix` is no matrix of floats.
pub fn largest_directions(matrix: &Tensor, rank: usize) -> Result<LowRank> {
    let (rows, columns) = matrix.dims2()?;
    let sketched = rank.saturating_add(OVERSAMPLING).min(rows).min(columns);
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let values = (0..columns * sketched).map(|_| random.random_range(-1.0_f32..1.0)).collect();
    let sketch = Tensor::from_vec(values, (columns, sketched), &Device::Cpu)?;
    let mut range = orthonormal(&matrix.matmul(&sketch)?)?;
    let transposed = matrix.t()?;
    for _ in 0..POWER_ITERATIONS {
        let row_space = orthonormal(&transposed.matmul(&range)?)?;
        range = orthonormal(&matrix.matmul(&row_space)?)?;
    }
    // From here on the matrix is its projection on the row space, `(matrix · basis) · basisᵀ`.
    let basis = orthonormal(&transposed.matmul(&range)?)?;
    let projected = thin_qr(&Matrix::from_tensor(&matrix.matmul(&basis)?)?);
    let core = svd(&projected.r);
    let kept = core.s.len().min(rank);
    let mut singular_values = core.s;
    singular_values.truncate(kept);
    let left = projected.q.times(&core.u.first_columns(kept));
    let right = Matrix::from_tensor(&basis)?.times(&core.v.first_columns(kept));
    let values = singular_values.iter().map(|value| *value as f32).collect();
    let (a, b) = (right.to_tensor_transposed(DType::F32)?, left.to_tensor(DType::F32)?);
    let s = Tensor::from_vec(values, kept, &Device::Cpu)?;
    let rest = (matrix - b.broadcast_mul(&s)?.matmul(&a)?)?;
    let error = frobenius_norm(&rest)?;
    drop(rest);
    let missing = rank - kept;
    singular_values.resize(rank, 0.0);
    let factors = SorsaFactors {
        a: a.pad_with_zeros(0, 0, missing)?.contiguous()?,
        s: s.pad_with_zeros(0, 0, missing)?,
        b: b.pad_with_zeros(1, 0, missing)?.contiguous()?,
    };
    Ok(LowRank { factors, singular_values, error })
}

/// The root of the sum of squares of a matrix's values.
///
/// # Errors
/// Where it is no matrix of floats.
pub fn frobenius_norm(matrix: &Tensor) -> Result<f64> {
    // Each row in float32, their sum in float64.
    let rows = matrix.sqr()?.sum(D::Minus1)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    Ok(rows.into_iter().sum::<f64>().sqrt())
}

/// An orthonormal basis of the columns' span, float32; one column of zeros where there is no span.
///
/// # Errors
/// Where it is no matrix of floats.
pub fn orthonormal(matrix: &Tensor) -> Result<Tensor> {
    let (rows, _) = matrix.dims2()?;
    let basis = thin_qr(&Matrix::from_tensor(matrix)?).q;
    if basis.columns() == 0 {
        return Tensor::zeros((rows, 1), DType::F32, &Device::Cpu);
    }
    basis.to_tensor(DType::F32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(rows: usize, columns: usize, seed: u64) -> Tensor {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let values = (0..rows * columns).map(|_| random.random_range(-1.0_f32..1.0)).collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    }

    fn product(rows: usize, rank: usize, columns: usize) -> Tensor {
        random(rows, rank, 1).matmul(&random(rank, columns, 2)).unwrap()
    }

    #[test]
    fn a_matrix_of_that_rank_comes_back_whole() {
        for (rows, rank, columns) in [(40, 3, 60), (60, 5, 40), (30, 1, 30), (8, 8, 8), (9, 2, 3)] {
            let matrix = product(rows, rank, columns);
            let norm = frobenius_norm(&matrix).unwrap();
            let found = largest_directions(&matrix, rank).unwrap();
            assert!(found.error < 2e-6 * norm, "{rows} {rank} {columns}: {}", found.error / norm);
            let SorsaFactors { a, s, b } = found.factors;
            assert_eq!(
                (a.dims(), s.dims(), b.dims()),
                (&[rank, columns][..], &[rank][..], &[rows, rank][..])
            );
            let gram = a.matmul(&a.t().unwrap()).unwrap();
            let identity = Tensor::eye(rank, DType::F32, &Device::Cpu).unwrap();
            assert!(frobenius_norm(&(gram - identity).unwrap()).unwrap() < 1e-5);
        }
    }

    #[test]
    fn noise_beyond_the_rank_is_left_out_and_measured() {
        let exact = product(80, 4, 50);
        let noise = (random(80, 50, 3) * 1e-3).unwrap();
        let size = frobenius_norm(&noise).unwrap();
        let found = largest_directions(&(&exact + &noise).unwrap(), 4).unwrap();
        assert!(found.error <= size && found.error > 0.8 * size, "{} {size}", found.error);
        let SorsaFactors { a, s, b } = found.factors;
        let back = b.broadcast_mul(&s).unwrap().matmul(&a).unwrap();
        assert!(frobenius_norm(&(back - exact).unwrap()).unwrap() < size);
    }

    #[test]
    fn directions_that_are_not_there_are_zero() {
        let found = largest_directions(&product(20, 2, 30), 6).unwrap();
        assert_eq!(found.factors.a.dims(), [6, 30]);
        assert!(found.singular_values[2..].iter().all(|value| *value < 1e-5));
        let zero = Tensor::zeros((5, 7), DType::F32, &Device::Cpu).unwrap();
        let found = largest_directions(&zero, 3).unwrap();
        assert_eq!((found.error, found.singular_values), (0.0, vec![0.0; 3]));
        assert_eq!(found.factors.b.dims(), [5, 3]);
    }
}
