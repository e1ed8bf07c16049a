//! From the hidden states of a prompt to one vector. Rows come in the order of their positions,
//! whatever the steps they are computed in, and are summed in that order: a prompt's vector does not
//! depend on how it was chunked, nor on what ran beside it.

use super::request::Pooling;

/// The model produced no usable vector for one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PoolingError {
    /// A value is NaN or infinite.
    #[error("the model produced a hidden state that is not a number, at component {component}")]
    NotFinite {
        /// The first such component.
        component: usize,
    },
    /// No row came.
    #[error("bug: a prompt without rows")]
    Empty,
}

/// What one prompt's rows have come to so far.
#[derive(Debug)]
pub struct Pool {
    pooling: Pooling,
    sums: Vec<f64>,
    rows: usize,
}

impl Pool {
    /// Nothing yet.
    #[must_use]
    pub fn new(pooling: Pooling) -> Self {
        Self { pooling, sums: Vec::new(), rows: 0 }
    }

    /// Takes the next row.
    pub fn push(&mut self, row: &[f32]) {
        if self.rows == 0 || self.pooling == Pooling::Last {
            self.sums.clear();
            self.sums.extend(row.iter().copied().map(f64::from));
            self.rows = 1;
            return;
        }
        self.sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
        self.rows += 1;
    }

    /// Forgets all rows: they will come again.
    pub fn clear(&mut self) {
        self.rows = 0;
    }

    /// The vector: the last row, or the mean of all.
    ///
    /// # Errors
    /// Where a component is no number.
    pub fn finish(&self) -> Result<Vec<f32>, PoolingError> {
        if self.rows == 0 {
            return Err(PoolingError::Empty);
        }
        let vector: Vec<f32> =
            self.sums.iter().map(|sum| (sum / self.rows as f64) as f32).collect();
        match vector.iter().position(|value| !value.is_finite()) {
            Some(component) => Err(PoolingError::NotFinite { component }),
            None => Ok(vector),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(pooling: Pooling, rows: &[[f32; 2]]) -> Result<Vec<f32>, PoolingError> {
        let mut pool = Pool::new(pooling);
        rows.iter().for_each(|row| pool.push(row));
        pool.finish()
    }

    #[test]
    fn a_vector_is_the_mean_or_the_last_of_the_rows() {
        let rows = [[1.0, 2.0], [3.0, 2.0], [5.0, 8.0]];
        assert_eq!(pool(Pooling::Mean, &rows), Ok(vec![3.0, 4.0]));
        assert_eq!(pool(Pooling::Last, &rows), Ok(vec![5.0, 8.0]));
    }

    #[test]
    fn what_is_forgotten_does_not_count() {
        let mut pool = Pool::new(Pooling::Mean);
        pool.push(&[100.0, f32::NAN]);
        pool.clear();
        pool.push(&[1.0, 2.0]);
        assert_eq!(pool.finish(), Ok(vec![1.0, 2.0]));
    }

    #[test]
    fn no_vector_is_better_than_one_that_is_none() {
        let rows = [[1.0, f32::INFINITY], [1.0, 0.0]];
        assert_eq!(pool(Pooling::Mean, &rows), Err(PoolingError::NotFinite { component: 1 }));
        assert_eq!(pool(Pooling::Mean, &[]), Err(PoolingError::Empty));
    }
}
