//! Reads adapters for the registry of a running server: on its threads, for the model it serves.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use candle_core::{DType, Device};
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::model_source::{AdapterReader, ServedAdapter};
use super::sources;
use crate::adapter::compact::{Tolerance, compact, compacted_id};
use crate::adapter::compacted_cache::CompactedCache;
use crate::adapter::delta::{FactorDType, LowRankDelta, ModuleSpec};
use crate::adapter::parts::all_files;
use crate::adapter::registry::{
    Delivery, Fetched, LoadError, LoadErrorKind, Loader, Order, ReadAdapter, Source, Stamp,
};
use crate::background;
use crate::config::user_cache;
use crate::layers::backend::Backend;
use crate::model::builder::LoadOptions;
use crate::remote::{Remote, RemoteError};

/// What compacted adapters may take on disk.
const CACHE_BYTES: u64 = 4 << 30;
/// File systems round the times of changes by no more than this many seconds.
const ROUNDING: i64 = 2;

/// Loads for one model.
#[derive(Debug)]
pub struct ModelAdapters {
    reader: AdapterReader,
    modules: Vec<ModuleSpec>,
    tolerance: Option<Tolerance>,
    /// Directories beneath which [`Source::Beneath`] may be; those of an earlier start may not.
    roots: Vec<PathBuf>,
    /// Fetches what lies on other machines, where that is allowed.
    remote: Option<Remote>,
    dtype: DType,
    factors: FactorDType,
    backend: Backend,
    device: Device,
    cache: Option<CompactedCache>,
    /// One thread: the others belong to the engine.
    pool: ThreadPool,
}

impl ModelAdapters {
    /// A loader for a model of these `modules`, held as `options` say. Without a `tolerance`, only
    /// adapters that are a difference of two parts are compacted. Adapters are read beneath `roots`,
    /// or fetched by `remote`.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn new(
        reader: AdapterReader,
        modules: Vec<ModuleSpec>,
        tolerance: Option<Tolerance>,
        roots: Vec<PathBuf>,
        remote: Option<Remote>,
        options: &LoadOptions,
    ) -> anyhow::Result<Self> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(1)
            .start_handler(|_| background::enter())
            .build()?;
        let LoadOptions { dtype, factors, backend, ref device, .. } = *options;
        let cache = user_cache().map(|dir| CompactedCache::new(dir.join("adapters"), CACHE_BYTES));
        let device = device.clone();
        Ok(Self {
            reader,
            modules,
            tolerance,
            roots,
            remote,
            dtype,
            factors,
            backend,
            device,
            cache,
            pool,
        })
    }

    fn check_root(&self, source: &Source) -> Result<(), LoadError> {
        match source {
            Source::Beneath { root, .. } if !self.roots.contains(root) => {
                let message =
                    "adapters are no longer loaded from the directory it was registered in";
                Err(LoadError::unusable(message))
            }
            _ => Ok(()),
        }
    }

    fn read_delta(&self, source: &Source) -> anyhow::Result<ReadAdapter> {
        let ServedAdapter { delta, kind, rank, is_difference } =
            self.reader.read(source, &self.modules)?;
        let content = delta.id();
        let tolerance = self.tolerance.or(is_difference.then(Tolerance::default));
        let delta = match tolerance {
            Some(tolerance) => self.compacted(&delta, tolerance)?,
            None => delta,
        };
        Ok(ReadAdapter { delta: Arc::new(delta), content, kind, rank })
    }

    /// The delta in its numerical rank, from disk where that was found out before.
    fn compacted(
        &self,
        delta: &LowRankDelta,
        tolerance: Tolerance,
    ) -> anyhow::Result<LowRankDelta> {
        let id = compacted_id(delta.id(), tolerance);
        if let Some(kept) = self.cache.as_ref().and_then(|cache| cache.get(id, &self.modules)) {
            return Ok(kept);
        }
        let (compacted, _) = self.pool.install(|| compact(delta, &self.modules, tolerance))?;
        if let Some(cache) = &self.cache {
            cache.put(&compacted, &self.modules);
        }
        Ok(compacted)
    }
}

impl Loader for ModelAdapters {
    fn fetch(&self, order: Order, delivery: Delivery) {
        sources::fetch(self.remote.as_ref(), order, delivery);
    }

    fn read(
        &self,
        source: &Source,
        fetched: Option<&dyn Fetched>,
    ) -> Result<ReadAdapter, LoadError> {
        self.check_root(source)?;
        let shown = source.shown();
        let source = match (source, fetched) {
            (_, Some(fetched)) => Source::Directory { path: fetched.dir().to_owned() },
            (Source::Remote { .. }, None) => {
                let message = format!("{shown}: it left the memory, and is to be fetched again");
                return Err(LoadError::new(LoadErrorKind::NoRoom, message));
            }
            _ => source.clone(),
        };
        let read = self.read_delta(&source);
        let read = read.map_err(|error| told(&format!("{error:#}"), place(&source), &shown))?;
        if let Some(fetched) = fetched {
            fetched.holds(read.content);
        }
        Ok(read)
    }

    fn check(&self, source: &Source) -> Result<(), LoadError> {
        let shown = source.shown();
        if let Source::Remote { location, .. } = source {
            let allowed = self.remote.as_ref().is_some_and(|remote| remote.allows(location));
            let message = || LoadError::unusable(format!("{shown}: {}", RemoteError::NotAllowed));
            return allowed.then_some(()).ok_or_else(message);
        }
        self.check_root(source)?;
        let checked = self.reader.check(source, &self.modules);
        checked.map_err(|error| told(&format!("{error:#}"), place(source), &shown))
    }

    fn prepare(&self, delta: &LowRankDelta) -> Result<LowRankDelta, LoadError> {
        let prepared = self.backend.prepare(delta, self.dtype, self.factors, &self.device);
        prepared.map_err(|error| LoadError::unusable(error.to_string()))
    }

    fn stamp(&self, source: &Source) -> Option<Stamp> {
        stamp(&place(source)?)
    }
}

/// What is seen of the files in an adapter's directory. A file that took another's place has another
/// number, whatever its size and times are; one that was written, copied over or given other times
/// has another time of change, which nobody can set.
fn stamp(dir: &Path) -> Option<Stamp> {
    let mut hasher = DefaultHasher::new();
    let mut changed = None;
    for name in all_files() {
        let Ok(seen) = dir.join(name).metadata() else { continue };
        (name, seen.dev(), seen.ino(), seen.len()).hash(&mut hasher);
        (seen.mtime(), seen.mtime_nsec(), seen.ctime(), seen.ctime_nsec()).hash(&mut hasher);
        changed = changed.max(Some(seen.ctime()));
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(i64::MAX, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    let settled = now.saturating_sub(changed?) > ROUNDING;
    Some(Stamp { files: hasher.finish(), settled })
}

/// Its directory on this machine.
fn place(source: &Source) -> Option<PathBuf> {
    match source {
        Source::Directory { path } => Some(path.clone()),
        Source::Beneath { root, path } => Some(root.join(path)),
        Source::Remote { .. } => None,
    }
}

/// The error for callers: the adapter's directory has the name `shown` there, and no other path is.
fn told(message: &str, place: Option<PathBuf>, shown: &str) -> LoadError {
    let canonical = place.as_deref().and_then(|place| Path::canonicalize(place).ok());
    // A place that the system does not let us look at may have something in it.
    let is_missing = place.as_deref().is_some_and(|place| matches!(place.try_exists(), Ok(false)));
    let mut message = message.to_owned();
    for path in [canonical, place].into_iter().flatten() {
        message = message.replace(&*path.to_string_lossy(), shown);
    }
    if is_missing { LoadError::missing(message) } else { LoadError::unusable(message) }
}

/// Loads nothing: for a server of a merged model.
#[derive(Debug)]
pub struct NoAdapters;

impl Loader for NoAdapters {
    fn fetch(&self, _: Order, _: Delivery) {}

    fn read(&self, _: &Source, _: Option<&dyn Fetched>) -> Result<ReadAdapter, LoadError> {
        Err(LoadError::unusable("this server serves a merged model and nothing beside it"))
    }

    fn check(&self, _: &Source) -> Result<(), LoadError> {
        Ok(())
    }

    fn prepare(&self, _: &LowRankDelta) -> Result<LowRankDelta, LoadError> {
        Err(LoadError::new(LoadErrorKind::Bug, "nothing was read"))
    }

    fn stamp(&self, _: &Source) -> Option<Stamp> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::Duration;

    use super::*;

    const WEIGHTS: &str = "adapter_model.safetensors";

    /// Each of these puts other files in an adapter's place, and some of them hide it well.
    #[test]
    fn a_stamp_differs_wherever_files_were_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("a");
        let initial = "adapter_init/adapter_model.safetensors";
        for name in ["adapter_config.json", WEIGHTS, initial] {
            fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
            fs::write(dir.join(name), "12345").unwrap();
        }
        let old = SystemTime::now() - Duration::from_secs(3600);
        let age = |path: &Path| File::options().write(true).open(path).unwrap().set_modified(old);
        age(&dir.join(WEIGHTS)).unwrap();
        let replace = |name: &str| {
            let new = folder.path().join("new");
            fs::write(&new, "54321").unwrap();
            age(&new).unwrap();
            fs::rename(&new, dir.join(name)).unwrap();
        };
        let moved = folder.path().join("moved");
        let changes: [(&str, &dyn Fn()); 6] = [
            ("another file of the same size and time", &|| replace(WEIGHTS)),
            ("the weights that training began with", &|| replace(initial)),
            ("a longer file", &|| fs::write(dir.join(WEIGHTS), "123456").unwrap()),
            ("a file more", &|| fs::write(dir.join("init.safetensors"), "").unwrap()),
            ("a file less", &|| fs::remove_file(dir.join("init.safetensors")).unwrap()),
            ("a link to another directory", &|| {
                fs::rename(&dir, &moved).unwrap();
                fs::create_dir(folder.path().join("b")).unwrap();
                fs::copy(moved.join(WEIGHTS), folder.path().join("b").join(WEIGHTS)).unwrap();
                std::os::unix::fs::symlink("b", &dir).unwrap();
            }),
        ];
        let mut before = stamp(&dir).unwrap();
        assert_eq!(stamp(&dir), Some(before));
        for (what, change) in changes {
            change();
            let after = stamp(&dir).unwrap();
            assert!(!before.still_holds(after), "{what}");
            before = after;
        }
        // All of it happened just now, so that one more change need not show.
        assert!(!before.settled);
        assert!(!before.still_holds(Stamp { settled: true, ..before }));
        assert_eq!(stamp(&folder.path().join("nowhere")), None);
    }

    #[test]
    fn what_is_not_there_is_told_from_what_is_no_adapter() {
        let directory = tempfile::tempdir().unwrap();
        let of = |place: PathBuf| {
            let error = told(&format!("{} is bad", place.display()), Some(place), "acme");
            assert_eq!(error.to_string(), "acme is bad");
            error.is_missing()
        };
        assert!(!of(directory.path().to_owned()));
        assert!(of(directory.path().join("absent")));
        assert!(of(directory.path().join("absent/1")));
        assert!(!told("it is bad", None, "acme").is_missing());
    }
}
