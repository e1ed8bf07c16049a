//! Which loads are measured: streams, and how many adapters they are spread over.

use serde::Serialize;

/// One load.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    /// Streams at once.
    pub concurrency: usize,
    /// Distinct adapters asked for; 0 is the base model.
    pub adapters: usize,
    /// How many adapters the server has room for, in a sweep.
    pub slots: Option<usize>,
    /// Their ratio.
    pub adapters_per_slot: Option<f64>,
}

impl Point {
    /// A load of `concurrency` streams over `adapters`.
    #[must_use]
    pub fn new(concurrency: usize, adapters: usize, slots: Option<usize>) -> Self {
        let ratio = slots.filter(|_| adapters > 0).map(|slots| adapters as f64 / slots as f64);
        Self { concurrency, adapters, slots, adapters_per_slot: ratio }
    }

    /// The ratio to read: two places at most.
    #[must_use]
    pub fn ratio(&self) -> Option<String> {
        self.adapters_per_slot.map(|ratio| ((ratio * 100.0).round() / 100.0).to_string())
    }
}

/// A sweep over distinct adapters in relation to the room for them.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// Distinct adapters for each slot.
    pub ratios: Vec<f64>,
    /// Adapters the server keeps at hand; where it keeps all, the running batch is what adapters
    /// compete for, and there is a slot for each stream.
    pub slots: Option<usize>,
}

impl Sweep {
    /// The loads: for each concurrency the base, one adapter, and each ratio. None needs more than
    /// `available` adapters; also returns those left out.
    #[must_use]
    pub fn points(&self, concurrency: &[usize], available: usize) -> (Vec<Point>, Vec<Point>) {
        let of = |streams: usize| {
            let slots = self.slots.unwrap_or(streams);
            let mut counts: Vec<usize> =
                self.ratios.iter().map(|ratio| distinct(*ratio, slots)).collect();
            counts.extend([0, 1]);
            counts.sort_unstable();
            counts.dedup();
            counts.into_iter().map(move |count| Point::new(streams, count, Some(slots)))
        };
        concurrency.iter().copied().flat_map(of).partition(|point| point.adapters <= available)
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn distinct(ratio: f64, slots: usize) -> usize {
    ((ratio * slots as f64).round() as usize).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapters(points: &[Point]) -> Vec<(usize, usize)> {
        points.iter().map(|point| (point.concurrency, point.adapters)).collect()
    }

    #[test]
    fn without_slots_the_streams_are_the_slots() {
        let sweep = Sweep { ratios: vec![0.5, 1.0, 2.0], slots: None };
        let (points, left_out) = sweep.points(&[1, 8], 8);
        assert_eq!(adapters(&points), [(1, 0), (1, 1), (1, 2), (8, 0), (8, 1), (8, 4), (8, 8)]);
        assert_eq!(adapters(&left_out), [(8, 16)]);
        assert_eq!(points[5].adapters_per_slot, Some(0.5));
        assert_eq!(points[3].adapters_per_slot, None);
        let ratios: Vec<_> = points[4..].iter().filter_map(Point::ratio).collect();
        assert_eq!(ratios, ["0.13", "0.5", "1"]);
    }

    #[test]
    fn slots_are_the_servers_where_it_has_some() {
        let sweep = Sweep { ratios: vec![0.5, 4.0], slots: Some(4) };
        let (points, _) = sweep.points(&[32], usize::MAX);
        assert_eq!(adapters(&points), [(32, 0), (32, 1), (32, 2), (32, 16)]);
        assert!(points.iter().all(|point| point.slots == Some(4)));
    }
}
