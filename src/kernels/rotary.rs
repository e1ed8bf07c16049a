//! Rotary position embedding (Su et al. 2021) in the convention of Hugging Face's Llama: lane `i`
//! of a head's first half is rotated with lane `i` of its second.
//!
//! Rotation is not a pass of its own: queries are rotated as attention loads them
//! ([`super::attention`]), keys as they are written ([`super::paged_kv`]).

/// Cosines and sines, each `max_positions x (head_dim / 2)`.
#[derive(Debug, Clone, Copy)]
pub struct RotaryTables<'a> {
    /// Cosine of each position's angles.
    pub cos: &'a [f32],
    /// Sine of each position's angles.
    pub sin: &'a [f32],
    /// Width of a head, even.
    pub head_dim: usize,
}

/// The angles of a batch's rows.
#[derive(Debug, Clone, Copy)]
pub struct Rotation<'a> {
    /// By position.
    pub tables: RotaryTables<'a>,
    /// Each row's position.
    pub positions: &'a [u32],
}

/// One row's cosines and sines.
#[derive(Debug, Clone, Copy)]
pub(super) struct Angles<'a> {
    cos: &'a [f32],
    sin: &'a [f32],
}

impl<'a> Rotation<'a> {
    /// # Panics
    /// Where it does not rotate `rows` rows of heads of `head_dim`.
    pub(super) fn check(&self, rows: usize, head_dim: usize) {
        let RotaryTables { cos, sin, head_dim: width } = self.tables;
        assert!(width == head_dim, "bug: rotary tables for heads of {width}, not {head_dim}");
        assert!(width.is_multiple_of(2) && width > 0, "bug: head_dim {width} is not even");
        assert_eq!(cos.len(), sin.len(), "bug: cosines and sines differ in length");
        assert_eq!(self.positions.len(), rows, "bug: number of positions");
    }

    /// # Panics
    /// Where the row's position lies outside of the tables.
    pub(super) fn angles(&self, row: usize) -> Angles<'a> {
        let half = self.tables.head_dim / 2;
        let start = self.positions[row] as usize * half;
        Angles { cos: &self.tables.cos[start..][..half], sin: &self.tables.sin[start..][..half] }
    }
}

impl Angles<'_> {
    /// Rotates one head into `out`.
    // A plain loop over independent lanes: the compiler vectorises it without changing a bit.
    #[inline(always)]
    pub(super) fn rotate(&self, head: &[f32], out: &mut [f32]) {
        let half = self.cos.len();
        let (a, b) = (&head[..half], &head[half..][..half]);
        let (first, second) = out.split_at_mut(half);
        let (first, second) = (&mut first[..half], &mut second[..half]);
        let (cos, sin) = (&self.cos[..half], &self.sin[..half]);
        for i in 0..half {
            first[i] = a[i] * cos[i] - b[i] * sin[i];
            second[i] = b[i] * cos[i] + a[i] * sin[i];
        }
    }
}
