//! Dense linear algebra for matrices with few columns, in float64: thin QR and a small SVD.
//!
//! Nothing here is fast for square matrices of a model's size, and nothing needs to be: one side is
//! an adapter's rank. Results are the same on every machine: no threads, no fused operations, one
//! order of summation.

use candle_core::{DType, Device, Result, Tensor};

/// Rows of a product that are summed together: those of some hundred columns fit the cache.
const TILE_ROWS: usize = 256;

/// A matrix in float64 by columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    rows: usize,
    columns: usize,
    /// Column by column.
    values: Vec<f64>,
}

impl Matrix {
    /// A matrix of zeros.
    #[must_use]
    pub fn zeros(rows: usize, columns: usize) -> Self {
        Self { rows, columns, values: vec![0.0; rows * columns] }
    }

    /// The identity.
    #[must_use]
    pub fn identity(size: usize) -> Self {
        let mut matrix = Self::zeros(size, size);
        (0..size).for_each(|i| matrix.column_mut(i)[i] = 1.0);
        matrix
    }

    /// The matrix that a two-dimensional tensor of floats holds.
    ///
    /// # Errors
    /// Where it has other than two dimensions or cannot be read.
    pub fn from_tensor(tensor: &Tensor) -> Result<Self> {
        Self::from_tensor_transposed(&tensor.t()?)
    }

    /// The transpose of the matrix that a two-dimensional tensor of floats holds.
    ///
    /// # Errors
    /// As [`Self::from_tensor`].
    pub fn from_tensor_transposed(tensor: &Tensor) -> Result<Self> {
        let (columns, rows) = tensor.dims2()?;
        let values = tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
        Ok(Self { rows, columns, values })
    }

    /// This matrix as a contiguous tensor of `dtype` on the CPU, each value rounded once.
    ///
    /// # Errors
    /// Where `dtype` is none that the tensor library converts to.
    pub fn to_tensor(&self, dtype: DType) -> Result<Tensor> {
        self.to_tensor_transposed(dtype)?.t()?.contiguous()
    }

    /// The transpose of this matrix as a contiguous tensor, `columns x rows`.
    ///
    /// # Errors
    /// As [`Self::to_tensor`].
    pub fn to_tensor_transposed(&self, dtype: DType) -> Result<Tensor> {
        let shape = (self.columns, self.rows);
        Tensor::from_slice(&self.values, shape, &Device::Cpu)?.to_dtype(dtype)
    }

    /// How many rows there are.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many columns there are.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Column `index`.
    #[must_use]
    pub fn column(&self, index: usize) -> &[f64] {
        &self.values[index * self.rows..(index + 1) * self.rows]
    }

    /// Column `index`.
    pub fn column_mut(&mut self, index: usize) -> &mut [f64] {
        &mut self.values[index * self.rows..(index + 1) * self.rows]
    }

    /// The transpose.
    #[must_use]
    pub fn transposed(&self) -> Self {
        let mut result = Self::zeros(self.columns, self.rows);
        for j in 0..self.columns {
            for (i, value) in self.column(j).iter().enumerate() {
                result.column_mut(i)[j] = *value;
            }
        }
        result
    }

    /// The product with `right`, whose rows are as many as this matrix's columns.
    ///
    /// # Panics
    /// Where they are not.
    #[must_use]
    pub fn times(&self, right: &Self) -> Self {
        assert_eq!(self.columns, right.rows, "the inner dimensions of a product");
        let mut result = Self::zeros(self.rows, right.columns);
        for start in (0..self.rows).step_by(TILE_ROWS) {
            let tile = start..self.rows.min(start + TILE_ROWS);
            for j in 0..right.columns {
                let sum = &mut result.column_mut(j)[tile.clone()];
                for (k, factor) in right.column(j).iter().enumerate() {
                    add_scaled(sum, *factor, &self.column(k)[tile.clone()]);
                }
            }
        }
        result
    }

    /// The first `count` columns.
    #[must_use]
    pub fn first_columns(mut self, count: usize) -> Self {
        self.columns = count.min(self.columns);
        self.values.truncate(self.columns * self.rows);
        self
    }

    /// Multiplies column `j` by `factors[j]`.
    pub fn scale_columns(&mut self, factors: &[f64]) {
        for (j, factor) in factors.iter().enumerate().take(self.columns) {
            self.column_mut(j).iter_mut().for_each(|value| *value *= factor);
        }
    }

    /// The root of the sum of squares, ‖·‖_F.
    #[must_use]
    pub fn norm(&self) -> f64 {
        norm(&self.values)
    }

    /// Two different columns at once, `low < high`.
    fn pair(&mut self, low: usize, high: usize) -> (&mut [f64], &mut [f64]) {
        let (head, tail) = self.values.split_at_mut(high * self.rows);
        (&mut head[low * self.rows..(low + 1) * self.rows], &mut tail[..self.rows])
    }
}

/// A matrix as an orthonormal basis of its columns' span, and the coordinates in it.
#[derive(Debug, Clone)]
pub struct Qr {
    /// `rows x rank`, columns orthonormal.
    pub q: Matrix,
    /// `rank x columns`; upper triangular where no column depends on those before it.
    pub r: Matrix,
}

/// What remains of a column outside the others' span, relative to the column, that is rounding.
const DEPENDENT: f64 = 1e-14;

/// `matrix = q · r`, by Gram and Schmidt's method with every column orthogonalised twice, which
/// keeps `q` orthonormal to rounding whatever the condition of `matrix` (Giraud et al., 2005).
///
/// A column that depends on those before it adds none to `q`: of a matrix without full rank, `q`
/// has as many columns as the rank.
#[must_use]
pub fn thin_qr(matrix: &Matrix) -> Qr {
    let mut q = Matrix::zeros(matrix.rows, 0);
    let mut coordinates = Vec::with_capacity(matrix.columns);
    for j in 0..matrix.columns {
        let mut column = matrix.column(j).to_vec();
        let length = norm(&column);
        let mut along = vec![0.0; q.columns];
        for _ in 0..2 {
            for (i, along) in along.iter_mut().enumerate() {
                let part = dot(q.column(i), &column);
                add_scaled(&mut column, -part, q.column(i));
                *along += part;
            }
        }
        let rest = norm(&column);
        if rest > DEPENDENT * length {
            q.values.extend(column.iter().map(|value| value / rest));
            q.columns += 1;
            along.push(rest);
        }
        coordinates.push(along);
    }
    let mut r = Matrix::zeros(q.columns, matrix.columns);
    for (j, along) in coordinates.iter().enumerate() {
        r.column_mut(j)[..along.len()].copy_from_slice(along);
    }
    Qr { q, r }
}

/// `u · diag(s) · vᵀ` of a matrix; `k` is the smaller of its sides.
#[derive(Debug, Clone)]
pub struct Svd {
    /// `rows x k`, columns orthonormal, or zero where the singular value is.
    pub u: Matrix,
    /// `k` singular values, the largest first.
    pub s: Vec<f64>,
    /// `columns x k`, columns orthonormal, or zero where the singular value is.
    pub v: Matrix,
}

/// Rounds over all pairs of columns; some ten are enough for any matrix.
const MAX_SWEEPS: usize = 60;

/// The singular value decomposition by one-sided Jacobi rotations, which find small singular values
/// as exactly as large ones (Demmel and Veselić, 1992). Its cost grows with the cube of the size:
/// meant for some hundred columns.
#[must_use]
pub fn svd(matrix: &Matrix) -> Svd {
    if matrix.rows < matrix.columns {
        let Svd { u, s, v } = svd(&matrix.transposed());
        return Svd { u: v, s, v: u };
    }
    let mut a = matrix.clone();
    let mut v = Matrix::identity(matrix.columns);
    for _ in 0..MAX_SWEEPS {
        let mut rotated = false;
        for high in 1..a.columns {
            for low in 0..high {
                rotated |= orthogonalise(&mut a, &mut v, low, high);
            }
        }
        if !rotated {
            break;
        }
    }
    let lengths: Vec<f64> = (0..a.columns).map(|j| norm(a.column(j))).collect();
    let mut order: Vec<usize> = (0..a.columns).collect();
    order.sort_by(|&i, &j| lengths[j].total_cmp(&lengths[i]));
    let mut sorted = Svd {
        u: Matrix::zeros(matrix.rows, matrix.columns),
        s: order.iter().map(|&j| lengths[j]).collect(),
        v: Matrix::zeros(matrix.columns, matrix.columns),
    };
    for (to, &from) in order.iter().enumerate().filter(|&(_, &from)| lengths[from] > 0.0) {
        let scaled = a.column(from).iter().map(|value| value / lengths[from]);
        sorted.u.column_mut(to).iter_mut().zip(scaled).for_each(|(to, value)| *to = value);
        sorted.v.column_mut(to).copy_from_slice(v.column(from));
    }
    sorted
}

/// Rotates two columns of `a` until they are orthogonal, and those of `v` with them. False where
/// they are already.
fn orthogonalise(a: &mut Matrix, v: &mut Matrix, low: usize, high: usize) -> bool {
    let (x, y) = a.pair(low, high);
    let (xx, yy, xy) = (dot(x, x), dot(y, y), dot(x, y));
    if xy.abs() <= f64::EPSILON * xx.sqrt() * yy.sqrt() {
        return false;
    }
    let zeta = (yy - xx) / (2.0 * xy);
    let tangent = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
    let cosine = 1.0 / (1.0 + tangent * tangent).sqrt();
    let sine = cosine * tangent;
    rotate(x, y, cosine, sine);
    let (x, y) = v.pair(low, high);
    rotate(x, y, cosine, sine);
    sine != 0.0
}

fn rotate(x: &mut [f64], y: &mut [f64], cosine: f64, sine: f64) {
    for (x, y) in x.iter_mut().zip(y) {
        (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
    }
}

fn norm(values: &[f64]) -> f64 {
    dot(values, values).sqrt()
}

/// Eight sums side by side, so that the compiler may use wide registers in one fixed order.
fn dot(left: &[f64], right: &[f64]) -> f64 {
    let (left, left_rest) = left.as_chunks::<8>();
    let (right, right_rest) = right.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (left, right) in left.iter().zip(right) {
        for ((sum, left), right) in sums.iter_mut().zip(left).zip(right) {
            *sum += left * right;
        }
    }
    let rest: f64 = left_rest.iter().zip(right_rest).map(|(left, right)| left * right).sum();
    sums.iter().sum::<f64>() + rest
}

fn add_scaled(sum: &mut [f64], factor: f64, values: &[f64]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += factor * value;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matrix(rows: usize, values: Vec<f64>) -> Matrix {
        Matrix { rows, columns: values.len() / rows, values }
    }

    fn difference(left: &Matrix, right: &Matrix) -> f64 {
        assert_eq!((left.rows, left.columns), (right.rows, right.columns));
        let pairs = left.values.iter().zip(&right.values);
        pairs.fold(0.0, |largest, (left, right)| largest.max((left - right).abs()))
    }

    fn gram(matrix: &Matrix) -> Matrix {
        matrix.transposed().times(matrix)
    }

    /// Matrices of any shape, some of whose columns are combinations of others or zero.
    fn any_matrix() -> impl Strategy<Value = Matrix> {
        (1_usize..24, 1_usize..12).prop_flat_map(|(rows, columns)| {
            let values = prop::collection::vec(-2.0_f64..2.0, rows * columns);
            let copies = prop::collection::vec((0..columns, -2.0_f64..2.0), 0..3);
            (values, copies).prop_map(move |(values, copies)| {
                let mut matrix = matrix(rows, values);
                for (at, (from, factor)) in copies.into_iter().enumerate() {
                    let copy: Vec<f64> = matrix.column(from).iter().map(|v| v * factor).collect();
                    let at = at % columns;
                    matrix.column_mut(at).copy_from_slice(&copy);
                }
                matrix
            })
        })
    }

    proptest! {
        #[test]
        fn qr_is_exact_and_its_basis_orthonormal(matrix in any_matrix()) {
            let Qr { q, r } = thin_qr(&matrix);
            prop_assert!(q.columns <= matrix.rows.min(matrix.columns));
            prop_assert!(difference(&q.times(&r), &matrix) < 1e-13);
            prop_assert!(difference(&gram(&q), &Matrix::identity(q.columns)) < 1e-13);
        }

        #[test]
        fn svd_is_exact_ordered_and_orthonormal(matrix in any_matrix()) {
            let Svd { mut u, s, v } = svd(&matrix);
            prop_assert_eq!(s.len(), matrix.rows.min(matrix.columns));
            prop_assert!(s.is_sorted_by(|a, b| a >= b) && s.iter().all(|s| *s >= 0.0));
            let rank = s.iter().filter(|s| **s > 1e-12).count();
            for side in [&u, &v] {
                let gram = gram(&side.clone().first_columns(rank));
                prop_assert!(difference(&gram, &Matrix::identity(rank)) < 1e-12);
            }
            u.scale_columns(&s);
            prop_assert!(difference(&u.times(&v.transposed()), &matrix) < 1e-13);
        }
    }

    #[test]
    fn small_singular_values_are_exact_beside_large_ones() {
        let ranges = |size: usize, seed: f64| {
            let values = (0..size * size).map(|i| (seed + (i * i) as f64).sin()).collect();
            thin_qr(&matrix(size, values)).q
        };
        let expected = [1e6, 1.0, 1e-4, 1e-7];
        let (mut u, v) = (ranges(4, 0.3), ranges(4, 0.7));
        u.scale_columns(&expected);
        let found = svd(&u.times(&v.transposed())).s;
        for (found, expected) in found.iter().zip(expected) {
            // The matrix itself is rounded at 1e6 times the unit.
            assert!((found - expected).abs() < 1e-9 + 1e-12 * expected, "{found} {expected}");
        }
    }

    #[test]
    fn nearly_dependent_columns_stay_orthogonal() {
        let mut near = matrix(50, (0..200).map(|i| f64::from(i * i).cos()).collect());
        for j in 1..4 {
            let first = near.column(0).to_vec();
            let column = near.column_mut(j).iter_mut().zip(first);
            column.for_each(|(value, first)| *value = first + 1e-9 * *value);
        }
        let Qr { q, r } = thin_qr(&near);
        assert_eq!(q.columns, 4);
        assert!(difference(&gram(&q), &Matrix::identity(4)) < 1e-13);
        assert!(difference(&q.times(&r), &near) < 1e-14);
    }

    #[test]
    fn a_zero_matrix_has_no_basis_and_no_singular_values() {
        let zero = Matrix::zeros(5, 3);
        assert_eq!(thin_qr(&zero).q.columns, 0);
        let Svd { u, s, v } = svd(&zero);
        assert_eq!(s, [0.0; 3]);
        assert_eq!((u.norm(), v.norm()), (0.0, 0.0));
        assert_eq!(svd(&Matrix::zeros(0, 3)).s, [0.0; 0]);
    }

    #[test]
    fn tensors_go_in_and_out_by_rows() {
        let tensor = Tensor::from_slice(&[1_f32, 2.0, 3.0, 4.0, 5.0, 6.0], (2, 3), &Device::Cpu);
        let tensor = tensor.unwrap();
        let matrix = Matrix::from_tensor(&tensor).unwrap();
        assert_eq!((matrix.rows(), matrix.columns()), (2, 3));
        assert_eq!(matrix.column(1), [2.0, 5.0]);
        let back = matrix.to_tensor(DType::F32).unwrap();
        assert_eq!(back.to_vec2::<f32>().unwrap(), tensor.to_vec2::<f32>().unwrap());
        let transposed = Matrix::from_tensor_transposed(&tensor).unwrap();
        assert_eq!(transposed, matrix.transposed());
        let back = transposed.to_tensor_transposed(DType::F32).unwrap();
        assert_eq!(back.to_vec2::<f32>().unwrap(), tensor.to_vec2::<f32>().unwrap());
    }
}
