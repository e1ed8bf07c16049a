//! Follows the file and the directory of adapters while the server runs.
//!
//! The system says that something changed; where it does not (network mounts), looking now and then
//! finds it a little later. What cannot be used leaves everything as it was, and is tried again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use anyhow::Context;
use notify::RecommendedWatcher;

use super::adapter_scan::AdapterNames;
use super::changes::{self, Look, Looks, Why};
use super::followed_file::{FollowedFile, read_text};
use super::names;
use crate::adapter::registry::{Declared, Registry};
use crate::config::{AdaptersArgs, AdaptersFileError, MAX_ADAPTERS_FILE, parse_adapters};

/// How often is looked where nothing was said.
const POLL: Duration = Duration::from_secs(1);
/// Time to find broken adapters before the server is ready; the rest are looked through later.
const FIRST_CHECK: Duration = Duration::from_secs(5);
/// Adapters that are looked through at each look.
const CHECKED: usize = 500;
/// How often, while versions are being loaded that are to take over.
const COMING: Duration = Duration::from_millis(100);

/// What is followed.
#[derive(Debug)]
pub struct Followed {
    registry: Arc<Registry>,
    watched: Watched,
}

impl Followed {
    /// Takes in what is there now.
    ///
    /// # Errors
    /// Where the file or the directory cannot be used.
    pub fn open(args: &AdaptersArgs, registry: Arc<Registry>) -> anyhow::Result<Self> {
        let file = args.adapters_file.clone().map(|path| {
            let opened = open_file(&path, &registry);
            opened.with_context(|| format!("--adapters {}", path.display()))
        });
        let directory = names::adapter_dir(args)?;
        let mut watched = Watched {
            registry: Arc::downgrade(&registry),
            file: file.transpose()?,
            directory: directory.map(|path| Directory { path, ..Directory::default() }),
            coming: false,
        };
        if let Some(directory) = &mut watched.directory {
            let followed = directory.follow(&registry, Instant::now());
            let path = directory.path.display();
            followed.with_context(|| format!("--adapter-dir {path}"))?;
        }
        registry.check_files(usize::MAX, Instant::now() + FIRST_CHECK);
        Ok(Self { registry, watched })
    }

    /// Follows all of it from now on, on a thread of its own, for as long as the registry lives.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn watch(self, (look, looks): (Look, Looks)) -> anyhow::Result<()> {
        let Self { registry, mut watched } = self;
        let watchers = watched.watchers(&look);
        let run = move || {
            // They live as long as somebody listens.
            let _watchers = watchers;
            let _look = look;
            let mut why = Why::Change;
            while watched.look(Instant::now(), why) {
                why = looks.wait(watched.soon()).unwrap_or(Why::Change);
            }
        };
        std::thread::Builder::new().name("adapter-watch".into()).spawn(run)?;
        drop(registry);
        Ok(())
    }
}

/// Registers what the file at `path` declares.
fn open_file(path: &Path, registry: &Registry) -> anyhow::Result<FollowedFile> {
    let text = read_text(path, MAX_ADAPTERS_FILE)?;
    registry.open_file(&parse(path, &text)?)?;
    let what = "the file of adapters";
    Ok(FollowedFile::new(path.to_owned(), MAX_ADAPTERS_FILE, what, Some(text)))
}

fn parse(path: &Path, text: &str) -> Result<Vec<Declared>, AdaptersFileError> {
    parse_adapters(text, path.parent().unwrap_or(Path::new("")))
}

/// What is followed by the thread, which does not keep the registry alive.
#[derive(Debug)]
struct Watched {
    registry: Weak<Registry>,
    file: Option<FollowedFile>,
    directory: Option<Directory>,
    /// Whether versions are being loaded that are to take over.
    coming: bool,
}

/// The directory of adapters.
#[derive(Debug, Default)]
struct Directory {
    path: PathBuf,
    names: AdapterNames,
    /// Why it could not be read last time: a fault is told once.
    told: Option<String>,
}

impl Directory {
    fn follow(&mut self, registry: &Registry, now: Instant) -> anyhow::Result<()> {
        registry.follow_directory(&self.path, self.names.look(&self.path, now)?);
        Ok(())
    }

    fn look(&mut self, registry: &Registry, now: Instant) {
        let error = self.follow(registry, now).err().map(|error| format!("{error:#}"));
        if error != self.told {
            let path = self.path.display();
            match &error {
                Some(error) => tracing::error!(
                    "the directory of adapters {path} cannot be read, its adapters stay: {error}"
                ),
                None => tracing::info!("the directory of adapters {path} can be read again"),
            }
            self.told = error;
        }
    }
}

impl Watched {
    /// Takes in what changed; false once the registry is gone.
    fn look(&mut self, now: Instant, why: Why) -> bool {
        let Some(registry) = self.registry.upgrade() else { return false };
        if let Some(file) = &mut self.file {
            let path = file.path().to_owned();
            let follow = |text: &str| Ok(registry.follow_file(&parse(&path, text)?)?);
            if file.look(now, why, follow).is_some() {
                tracing::info!("the file of adapters changed and is followed");
                registry.check_files(usize::MAX, now + FIRST_CHECK);
            }
        }
        if let Some(directory) = &mut self.directory {
            directory.look(&registry, now);
        }
        self.coming = registry.take_over();
        registry.refresh();
        registry.retry_pinned();
        registry.check_files(CHECKED, now + FIRST_CHECK);
        true
    }

    /// Time until the next look where nothing is said.
    fn soon(&self) -> Duration {
        let file = self.file.as_ref().and_then(FollowedFile::soon);
        let coming = self.coming.then_some(COMING);
        [file, coming].into_iter().flatten().min().unwrap_or(POLL)
    }

    /// The system's word for changes; where it gives none, polling is what is left.
    fn watchers(&self, look: &Look) -> Vec<RecommendedWatcher> {
        let file = self.file.as_ref().and_then(|file| file.path().parent());
        let directory = self.directory.as_ref().map(|directory| directory.path.as_path());
        let told = |dir| {
            changes::listen(dir, look.clone())
                .inspect_err(|error| tracing::warn!("adapters are only polled: {error}"))
                .ok()
        };
        [file, directory].into_iter().flatten().filter_map(told).collect()
    }
}
