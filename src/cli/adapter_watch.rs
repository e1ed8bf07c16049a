//! Follows the file and the directory of adapters while the server runs.
//!
//! The system says that something changed; where it does not (network mounts), looking now and then
//! finds it a little later. A file or a directory that cannot be used leaves everything as it was.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Context;
use cap_std::ambient_authority;
use cap_std::fs::Dir;
use notify::RecommendedWatcher;

use super::changes;
use crate::adapter::registry::{Registry, is_adapter_name};
use crate::config::{AdaptersArgs, read_adapters};

/// How often is looked where nothing was said.
const POLL: Duration = Duration::from_secs(1);
/// After something was said: files come in several writes.
const SETTLE: Duration = Duration::from_millis(50);
/// And then no longer than so many times that.
const MOST_MOMENTS: usize = 20;

/// What is followed.
#[derive(Debug)]
pub struct Followed {
    registry: Arc<Registry>,
    file: Option<PathBuf>,
    dir: Option<PathBuf>,
    /// The file as it was read last, usable or not.
    seen: Option<Vec<u8>>,
}

impl Followed {
    /// Takes in what is there now.
    ///
    /// # Errors
    /// Where the file or the directory cannot be used.
    pub fn open(args: &AdaptersArgs, registry: Arc<Registry>) -> anyhow::Result<Self> {
        let dir = args.adapter_dir.as_ref().map(|dir| dir.canonicalize()).transpose();
        let dir = dir.context("--adapter-dir")?;
        let mut followed = Self { registry, file: args.adapters_file.clone(), dir, seen: None };
        if let Some(file) = followed.file.clone() {
            followed.seen = std::fs::read(&file).ok();
            followed
                .follow_file(&file)
                .with_context(|| format!("--adapters {}", file.display()))?;
        }
        if let Some(dir) = &followed.dir {
            let found =
                adapters_in(dir).with_context(|| format!("--adapter-dir {}", dir.display()))?;
            followed.registry.follow_directory(dir, &found);
        }
        Ok(followed)
    }

    /// Follows both from now on, on a thread of its own, for as long as the registry lives.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn watch(self) -> anyhow::Result<()> {
        if self.file.is_none() && self.dir.is_none() {
            return Ok(());
        }
        let (said, changes) = sync_channel(1);
        let watchers = self.watchers(&said);
        let Self { registry, file, dir, seen } = self;
        let mut watched = Watched { registry: Arc::downgrade(&registry), file, dir, seen };
        let run = move || {
            // They live as long as somebody listens.
            let _watchers = watchers;
            let _said = said;
            while watched.look() {
                wait(&changes);
            }
        };
        std::thread::Builder::new().name("adapter-watch".into()).spawn(run)?;
        Ok(())
    }

    /// The system's word for changes; where it gives none, polling is what is left.
    fn watchers(&self, said: &SyncSender<()>) -> Vec<RecommendedWatcher> {
        let dirs = [self.file.as_deref().and_then(Path::parent), self.dir.as_deref()];
        let told = |dir| {
            changes::listen(dir, said.clone())
                .inspect_err(|error| tracing::warn!("adapters are only polled: {error}"))
                .ok()
        };
        dirs.into_iter().flatten().filter_map(told).collect()
    }

    fn follow_file(&self, file: &Path) -> anyhow::Result<()> {
        Ok(self.registry.follow_file(&read_adapters(file)?)?)
    }
}

/// What is followed by the thread, which does not keep the registry alive.
struct Watched {
    registry: Weak<Registry>,
    file: Option<PathBuf>,
    dir: Option<PathBuf>,
    seen: Option<Vec<u8>>,
}

impl Watched {
    /// Takes in what changed; false once the registry is gone.
    fn look(&mut self) -> bool {
        let Some(registry) = self.registry.upgrade() else { return false };
        if let Some(file) = &self.file {
            let now = std::fs::read(file).ok();
            if now != self.seen {
                self.seen = now;
                let followed = read_adapters(file)
                    .map_err(anyhow::Error::from)
                    .and_then(|declared| Ok(registry.follow_file(&declared)?));
                match followed {
                    Ok(()) => tracing::info!("the file of adapters changed and is followed"),
                    Err(error) => {
                        tracing::error!("the file of adapters is not followed: {error:#}");
                    }
                }
            }
        }
        if let Some(dir) = &self.dir {
            match adapters_in(dir) {
                Ok(found) => registry.follow_directory(dir, &found),
                Err(error) => tracing::error!("the directory of adapters cannot be read: {error}"),
            }
        }
        registry.refresh();
        true
    }
}

/// Waits for a word, and for what belongs to it: until nothing is said for a moment, or somebody
/// never stops.
fn wait(changes: &Receiver<()>) {
    if changes.recv_timeout(POLL) == Ok(()) {
        let calm = |_: &usize| changes.recv_timeout(SETTLE) != Ok(());
        let _ = (0..MOST_MOMENTS).find(calm);
    }
}

/// The names of the adapter directories in `dir`. What has no adapter's name, leads out of `dir` or
/// has no configuration is none.
fn adapters_in(dir: &Path) -> std::io::Result<BTreeSet<String>> {
    let dir = Dir::open_ambient_dir(dir, ambient_authority())?;
    let names = dir.entries()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let is_adapter = |name: &String| {
        is_adapter_name(name)
            && ["adapter_config.json", "init.safetensors"]
                .iter()
                .any(|file| dir.exists(Path::new(name).join(file)))
    };
    Ok(names.filter(is_adapter).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_directory_holds_adapters_and_other_things() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("adapters");
        for name in ["acme", "globex.v2", ".hidden", "no name", "empty"] {
            fs::create_dir_all(dir.join(name)).unwrap();
            if name != "empty" {
                fs::write(dir.join(name).join("adapter_config.json"), "{}").unwrap();
            }
        }
        fs::write(dir.join("file"), "").unwrap();
        let outside = outer.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("adapter_config.json"), "{}").unwrap();
        #[cfg(unix)]
        for (target, name) in [("../outside", "out"), ("acme", "inside"), ("nowhere", "broken")] {
            std::os::unix::fs::symlink(target, dir.join(name)).unwrap();
        }
        let found: Vec<String> = adapters_in(&dir).unwrap().into_iter().collect();
        assert_eq!(found, ["acme", "globex.v2", "inside"]);
    }
}
