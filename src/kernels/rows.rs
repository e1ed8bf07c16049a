//! Rows of a matrix that may be a part of wider rows.

/// Row-major float32 rows at a fixed distance from each other.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    data: &'a [f32],
    stride: usize,
}

impl<'a> Rows<'a> {
    /// Row `i` starts at `data[i * stride]`: for some columns of wider rows, `data` starts at the
    /// first row's first such column.
    #[must_use]
    pub fn new(data: &'a [f32], stride: usize) -> Self {
        Self { data, stride }
    }

    /// The first `width` elements of row `index`.
    ///
    /// # Panics
    /// Where the data ends before.
    #[inline(always)]
    pub(super) fn row(&self, index: usize, width: usize) -> &'a [f32] {
        &self.data[index * self.stride..][..width]
    }

    /// True for at least `rows` rows of `width`.
    pub(super) fn hold(&self, rows: usize, width: usize) -> bool {
        rows == 0 || width <= self.stride && (rows - 1) * self.stride + width <= self.data.len()
    }
}
