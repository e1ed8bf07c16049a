//! What the benchmarks share: values to compute with, and how long a body takes.

use std::time::{Duration, Instant};

/// A measurement goes on for at least this long.
const MIN_TIME: Duration = Duration::from_millis(400);

/// Numbers between -1 and 1, the same at every call.
pub fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919) % 1009) as f32 / 504.5 - 1.0).collect()
}

/// The times of at least five runs, ascending.
pub fn measure(mut body: impl FnMut()) -> Vec<Duration> {
    let start = Instant::now();
    let mut times = Vec::new();
    while times.len() < 5 || start.elapsed() < MIN_TIME {
        let start = Instant::now();
        body();
        times.push(start.elapsed());
    }
    times.sort_unstable();
    times
}
