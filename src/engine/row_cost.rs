//! What a row of a step costs beside others, by how much lies before it. Integers only; seconds are learned
//! in [`super::pace`].

/// Tokens of context whose keys and values cost a row as much as all else that is computed for it. Where
/// it is some other number, what a row of a prompt takes is learned ([`super::pace`]), and is off by less
/// than the factor of the numbers.
const CONTEXT_OF_A_ROW: usize = 512;

/// What so many rows of one sequence cost behind `from` tokens: the rows without any context that take as
/// long. Attention reads what lies before each.
#[must_use]
pub fn cost(from: usize, rows: usize) -> usize {
    let context = 2 * from + rows;
    rows + rows.saturating_mul(context) / (2 * CONTEXT_OF_A_ROW)
}

/// Most rows behind `from` tokens that cost no more than `most`, of `rows`.
#[must_use]
pub fn rows_within(from: usize, most: usize, rows: usize) -> usize {
    // Costs grow with rows.
    let (mut fit, mut beyond) = (0, rows.min(most) + 1);
    while beyond - fit > 1 {
        let middle = fit + (beyond - fit) / 2;
        let end = if cost(from, middle) <= most { &mut fit } else { &mut beyond };
        *end = middle;
    }
    fit
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Rows in two pieces cost what they cost in one, but for rounding, and no more fit than may.
        #[test]
        fn rows_cost_what_they_read(from in 0..100_000_usize, rows in 0..4096_usize, split in 0..4096_usize) {
            let split = split.min(rows);
            let pieces = cost(from, split) + cost(from + split, rows - split);
            prop_assert!(cost(from, rows).abs_diff(pieces) <= 1);
            prop_assert!(cost(from, rows) >= rows);
            let fit = rows_within(from, cost(from, rows), 1 << 20);
            prop_assert!(fit >= rows && cost(from, fit) <= cost(from, rows));
            prop_assert!(rows_within(from, cost(from, rows), split) == split);
        }
    }

    #[test]
    fn a_row_far_behind_costs_many_at_the_beginning() {
        assert_eq!((cost(0, 1), cost(512, 1), cost(5120, 10)), (1, 2, 110));
        assert_eq!(rows_within(5120, usize::MAX, 7), 7);
        assert_eq!(rows_within(5120, 10, 7), 0);
    }
}
