//! The parts of a model loaded by several threads: each takes the next one that nobody has taken.
//!
//! Reading, checking and packing a part is one thread's work; which thread's leaves no trace in the
//! result. Parts are begun in order, and where several fail, the first one's error is reported.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::error::ModelError;

/// Messages that may wait for the thread that gathers them.
const MAX_WAITING: usize = 64;

enum Message<T> {
    /// A tensor of so many elements was loaded.
    Elements(u64),
    /// The part of this number.
    Part(usize, Result<T, ModelError>),
}

/// Parts `0..count`, in order. `load` is given a part's number and whom to tell the elements of each
/// tensor; `progress` is told them on the calling thread.
///
/// # Errors
/// The first part's that failed; or where a thread cannot be started.
pub(super) fn load<T: Send>(
    threads: NonZeroUsize,
    count: usize,
    load: impl Fn(usize, &dyn Fn(u64)) -> Result<T, ModelError> + Sync,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<T>, ModelError> {
    let queue = Queue { next: AtomicUsize::new(0), count, stopped: AtomicBool::new(false) };
    let (sender, receiver) = sync_channel(MAX_WAITING);
    thread::scope(|scope| {
        for index in 0..threads.get().min(count) {
            let (sender, queue, load) = (sender.clone(), &queue, &load);
            let worker = thread::Builder::new().name(format!("load-{index}"));
            let started = worker.spawn_scoped(scope, move || queue.work(&sender, load));
            started.inspect_err(|_| queue.stop()).map_err(ModelError::Thread)?;
        }
        drop(sender);
        gather(count, &receiver, progress)
    })
}

/// Which parts are still to be begun.
struct Queue {
    next: AtomicUsize,
    count: usize,
    stopped: AtomicBool,
}

impl Queue {
    /// The next part; none after a failure.
    fn take(&self) -> Option<usize> {
        if self.stopped.load(Ordering::Relaxed) {
            return None;
        }
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        (index < self.count).then_some(index)
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// A thread's life. A message that nobody wants any more is lost with the rest of the loading.
    fn work<T>(
        &self,
        sender: &SyncSender<Message<T>>,
        load: impl Fn(usize, &dyn Fn(u64)) -> Result<T, ModelError>,
    ) {
        while let Some(index) = self.take() {
            let part = load(index, &|elements| drop(sender.send(Message::Elements(elements))));
            if part.is_err() {
                self.stop();
            }
            let _ = sender.send(Message::Part(index, part));
        }
    }
}

/// Takes messages until every thread has ended. Parts before one that failed were all begun.
fn gather<T>(
    count: usize,
    receiver: &Receiver<Message<T>>,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<T>, ModelError> {
    let mut parts = BTreeMap::new();
    for message in receiver {
        match message {
            Message::Elements(elements) => progress(elements),
            Message::Part(index, part) => drop(parts.insert(index, part)),
        }
    }
    // One is absent only behind a failure, or where its thread panicked, which the scope passes on.
    let absent = || Err(ModelError::Thread(io::ErrorKind::Interrupted.into()));
    (0..count).map(|index| parts.remove(&index).unwrap_or_else(absent)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threads(count: usize) -> NonZeroUsize {
        NonZeroUsize::new(count).unwrap()
    }

    #[test]
    fn parts_come_in_order_and_every_element_is_told() {
        for (count, workers) in [(0, 3), (1, 3), (2, 1), (100, 1), (100, 7)] {
            let mut told = 0;
            let square = |index: usize, progress: &dyn Fn(u64)| {
                progress(index as u64);
                Ok(index * index)
            };
            let parts = load(threads(workers), count, square, &mut |n| told += n).unwrap();
            assert_eq!(parts, (0..count).map(|index| index * index).collect::<Vec<_>>());
            assert_eq!(told, (0..count as u64).sum::<u64>());
        }
    }

    #[test]
    fn the_first_failure_is_reported_and_ends_the_loading() {
        for workers in [1, 2, 5] {
            let begun = AtomicUsize::new(0);
            let failing = |index: usize, _: &dyn Fn(u64)| {
                begun.fetch_add(1, Ordering::Relaxed);
                match index {
                    0..10 => Ok(()),
                    _ => Err(ModelError::MissingTensor(index.to_string())),
                }
            };
            let error = load(threads(workers), 10_000, failing, &mut |_| {}).unwrap_err();
            assert_eq!(error.to_string(), "the weights have no tensor \"10\"");
            assert!(begun.into_inner() <= 10 + workers);
        }
    }
}
