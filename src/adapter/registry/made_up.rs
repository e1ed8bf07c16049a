//! For tests: adapters that lie nowhere. A source's last name, a number from 0 to 255, is its
//! content; what else a load does is in the hands of the test.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use candle_core::{DType, Device, Tensor};

use super::{
    Budget, Delivery, Fetched, LoadError, LoadErrorKind, Loader, Options, Order, ReadAdapter,
    Registry, Source, Stamp,
};
use crate::adapter::delta::{AdapterId, LowRankDelta, LowRankFactors};
use crate::metrics::Metrics;

/// Bytes of every adapter.
pub(crate) const BYTES: usize = 64;

/// A loader of made-up adapters.
#[derive(Debug, Default)]
pub(crate) struct MadeUp {
    /// Reads so far.
    pub reads: AtomicUsize,
    /// What was read, in its order.
    pub read: Mutex<Vec<PathBuf>>,
    /// What lies in a place instead of what its name says; `None` is nothing usable.
    pub places: Mutex<BTreeMap<PathBuf, Option<u8>>>,
    /// What was ordered from other machines and did not come yet.
    pub ordered: Mutex<Vec<(Order, Delivery)>>,
    /// Whether what is ordered comes at once, and not when a test lets it.
    pub prompt: AtomicBool,
    /// Changes of places so far.
    changes: Mutex<BTreeMap<PathBuf, u64>>,
    /// Whether one more change of a place may not show.
    pub unsettled: AtomicBool,
    /// What becomes of a place while it is read next.
    pub while_read: Mutex<Option<(Source, Option<u8>)>>,
    /// Loads wait while this holds.
    held: Mutex<bool>,
    released: Condvar,
}

impl MadeUp {
    /// Lets loads wait, or go on.
    pub fn hold(&self, hold: bool) {
        *self.held.lock().unwrap() = hold;
        self.released.notify_all();
    }

    /// Lets the order of a place come, or fail.
    pub fn deliver(&self, path: &str, comes: bool) {
        let mut ordered = self.ordered.lock().unwrap();
        let index = ordered.iter().position(|(order, _)| order.location.path() == path).unwrap();
        let (order, delivery) = ordered.remove(index);
        drop(ordered);
        let error = || LoadError::new(LoadErrorKind::Unreachable, "nobody answers");
        let source = Source::Remote { location: order.location.clone(), digest: None };
        let content = self.content(&source).map(|content| AdapterId([content; 32]));
        let here = || {
            Arc::new(MadeUpFiles { dir: order.location.path().into(), content }) as Arc<dyn Fetched>
        };
        delivery.finish(comes.then(here).ok_or_else(error));
    }

    /// Puts something else where an adapter lies, or the same anew.
    pub fn place(&self, source: &Source, content: Option<u8>) {
        *self.changes.lock().unwrap().entry(path(source)).or_default() += 1;
        self.place_unseen(source, content);
    }

    /// Does the same so that nothing of it is seen from outside.
    pub fn place_unseen(&self, source: &Source, content: Option<u8>) {
        self.places.lock().unwrap().insert(path(source), content);
    }

    fn content(&self, source: &Source) -> Option<u8> {
        let path = path(source);
        let placed = self.places.lock().unwrap().get(&path).copied();
        placed.unwrap_or_else(|| path.file_name()?.to_str()?.parse().ok())
    }
}

/// Files that were fetched, and are nowhere.
#[derive(Debug)]
struct MadeUpFiles {
    dir: PathBuf,
    content: Option<AdapterId>,
}

impl Fetched for MadeUpFiles {
    fn dir(&self) -> &Path {
        &self.dir
    }

    fn content(&self) -> Option<AdapterId> {
        self.content
    }

    fn holds(&self, _: AdapterId) {}
}

impl Loader for MadeUp {
    fn fetch(&self, order: Order, delivery: Delivery) {
        let path = order.location.path().to_owned();
        self.ordered.lock().unwrap().push((order, delivery));
        if self.prompt.load(Ordering::SeqCst) {
            self.deliver(&path, true);
        }
    }

    fn read(
        &self,
        source: &Source,
        fetched: Option<&dyn Fetched>,
    ) -> Result<ReadAdapter, LoadError> {
        assert_eq!(fetched.is_some(), matches!(source, Source::Remote { .. }), "{source:?}");
        let mut held = self.held.lock().unwrap();
        while *held {
            held = self.released.wait(held).unwrap();
        }
        drop(held);
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.read.lock().unwrap().push(path(source));
        if let Some((source, content)) = self.while_read.lock().unwrap().take() {
            self.place(&source, content);
        }
        let message = format!("{} holds no adapter", source.shown());
        let content = self.content(source).ok_or_else(|| {
            let is_placed = self.places.lock().unwrap().contains_key(&path(source));
            if is_placed { LoadError::unusable(message) } else { LoadError::missing(message) }
        })?;
        let id = AdapterId([content; 32]);
        let side = |shape: (usize, usize)| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        let factors = LowRankFactors { down: side((1, 8)), up: side((8, 1)) };
        let delta = Arc::new(LowRankDelta::new(id, vec![Some(factors)]));
        Ok(ReadAdapter { delta, content: id, kind: "lora", rank: 1 })
    }

    fn prepare(&self, delta: &LowRankDelta) -> Result<LowRankDelta, LoadError> {
        Ok(delta.to(&Device::Cpu, DType::F32).unwrap())
    }

    fn check(&self, source: &Source) -> Result<(), LoadError> {
        let message = || LoadError::unusable(format!("{} looks wrong", source.shown()));
        self.content(source).map(drop).ok_or_else(message)
    }

    fn stamp(&self, source: &Source) -> Option<Stamp> {
        if matches!(source, Source::Remote { .. }) {
            return None;
        }
        let files = self.changes.lock().unwrap().get(&path(source)).copied().unwrap_or(0);
        Some(Stamp { files, settled: !self.unsettled.load(Ordering::SeqCst) })
    }
}

fn path(source: &Source) -> PathBuf {
    match source {
        Source::Directory { path } => path.clone(),
        Source::Beneath { root, path } => root.join(path),
        Source::Remote { location, .. } => location.path().into(),
    }
}

/// What a registry of made-up adapters may take.
pub(crate) fn options() -> Options {
    Options {
        budget: Budget { max_bytes: 1000 * BYTES, max_resident: None, level: "cpu" },
        threads: 2,
        patience: Duration::from_secs(20),
        state_dir: None,
    }
}

/// A registry of made-up adapters.
pub(crate) fn registry(loader: Arc<MadeUp>, options: Option<Options>) -> Registry {
    let names = vec!["base".to_owned(), "org/base".to_owned()];
    let options = options.unwrap_or_else(self::options);
    Registry::open(names, None, options, loader, Metrics::new()).unwrap()
}
