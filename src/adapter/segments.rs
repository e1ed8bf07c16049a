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
