//! Which rows of a batch belong to which adapter.
//!
//! Rows are sorted so that each adapter's rows are contiguous. Rows of the base model belong to no
//! segment and cost nothing.

use std::ops::Range;
use std::sync::Arc;

use super::delta::LowRankDelta;

/// A run of rows that share one adapter.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Half-open range of rows of the batch.
    pub rows: Range<usize>,
    /// The adapter those rows are served with.
    pub delta: Arc<LowRankDelta>,
}

/// Disjoint, ascending segments over the rows of one batch.
#[derive(Debug, Clone, Default)]
pub struct Segments(Vec<Segment>);

impl Segments {
    /// No adapter anywhere.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Builds segments from each row's adapter in row order, merging neighbours that share one.
    #[must_use]
    pub fn from_runs<'a>(
        runs: impl IntoIterator<Item = (usize, Option<&'a Arc<LowRankDelta>>)>,
    ) -> Self {
        let mut segments: Vec<Segment> = Vec::new();
        let mut start = 0;
        for (len, delta) in runs {
            let rows = start..start + len;
            start = rows.end;
            let Some(delta) = delta else { continue };
            match segments.last_mut() {
                Some(last) if last.rows.end == rows.start && Arc::ptr_eq(&last.delta, delta) => {
                    last.rows.end = rows.end;
                }
                _ if rows.is_empty() => {}
                _ => segments.push(Segment { rows, delta: Arc::clone(delta) }),
            }
        }
        Self(segments)
    }

    /// The segments in row order.
    pub fn iter(&self) -> impl Iterator<Item = &Segment> {
        self.0.iter()
    }

    /// True where every row is the base model's.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::adapter::delta::AdapterId;

    fn deltas() -> Vec<Arc<LowRankDelta>> {
        (0..3).map(|i| Arc::new(LowRankDelta::new(AdapterId([i; 32]), Vec::new()))).collect()
    }

    #[test]
    fn base_rows_belong_to_no_segment() {
        assert!(Segments::none().is_empty());
        assert!(Segments::from_runs([(3, None), (0, None)]).is_empty());
    }

    #[test]
    fn neighbours_merge_only_where_nothing_lies_between() {
        let deltas = deltas();
        let [a, b] = [Some(&deltas[0]), Some(&deltas[1])];
        let runs = [(2, a), (1, a), (0, b), (1, a), (1, None), (2, a), (1, b)];
        let segments = Segments::from_runs(runs);
        let found: Vec<_> = segments.iter().map(|s| (s.rows.clone(), s.delta.id())).collect();
        let id = |delta: usize| deltas[delta].id();
        assert_eq!(found, [(0..4, id(0)), (5..7, id(0)), (7..8, id(1))]);
    }

    proptest! {
        #[test]
        fn every_row_keeps_its_adapter(
            runs in prop::collection::vec((0_usize..5, prop::option::of(0_usize..3)), 0..20),
        ) {
            let deltas = deltas();
            let rows: Vec<Option<AdapterId>> = runs
                .iter()
                .flat_map(|(len, delta)| vec![delta.map(|delta| deltas[delta].id()); *len])
                .collect();
            let runs = runs.iter().map(|(len, delta)| (*len, delta.map(|delta| &deltas[delta])));
            let segments = Segments::from_runs(runs);
            let mut found = vec![None; rows.len()];
            let mut end = 0;
            for segment in segments.iter() {
                prop_assert!(!segment.rows.is_empty() && segment.rows.start >= end);
                end = segment.rows.end;
                found[segment.rows.clone()].fill(Some(segment.delta.id()));
            }
            prop_assert_eq!(found, rows);
            let changes = segments.iter().zip(segments.iter().skip(1));
            for (left, right) in changes {
                let touching = left.rows.end == right.rows.start;
                prop_assert!(!(touching && Arc::ptr_eq(&left.delta, &right.delta)));
            }
        }
    }
}
