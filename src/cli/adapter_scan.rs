//! Which adapters lie in a directory, as far as it can be told at the moment.
//!
//! A directory that is only half readable says nothing about the other half: what was there is taken
//! to be there still. The same for what is missing for a moment, as while it is replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use cap_std::ambient_authority;
use cap_std::fs::Dir;

/// Files of which every adapter has one.
const MARKS: [&str; 2] = ["adapter_config.json", "init.safetensors"];
/// What is missing for less than this is being replaced.
const GRACE: Duration = Duration::from_secs(2);

/// What one look at a directory found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Scan {
    /// Names of the directories that hold adapters.
    found: BTreeSet<String>,
    /// Names of which that cannot be told.
    doubtful: BTreeSet<String>,
    /// Whether all names could be read.
    whole: bool,
}

/// The adapters of a directory, from one look to the next.
#[derive(Debug, Default)]
pub struct AdapterNames {
    known: BTreeSet<String>,
    /// Those that were not found at the last looks, and since when.
    missing: BTreeMap<String, Instant>,
}

impl AdapterNames {
    /// The names of the adapters that lie in `dir` at `now`.
    ///
    /// # Errors
    /// Where it cannot be read at all.
    pub fn look(&mut self, dir: &Path, now: Instant) -> io::Result<&BTreeSet<String>> {
        let Scan { mut found, doubtful, whole } = scan(dir)?;
        self.missing.retain(|name, _| !found.contains(name));
        for name in &self.known {
            let missing = whole && !doubtful.contains(name) && !found.contains(name);
            let gone = missing && {
                let since = *self.missing.entry(name.clone()).or_insert(now);
                now.saturating_duration_since(since) >= GRACE
            };
            if gone {
                self.missing.remove(name);
            } else {
                found.insert(name.clone());
            }
        }
        self.known = found;
        Ok(&self.known)
    }
}

/// Looks through `dir`. Hidden names, what leads out of it and what has no adapter's files are none.
fn scan(dir: &Path) -> io::Result<Scan> {
    let dir = Dir::open_ambient_dir(dir, ambient_authority())?;
    let mut scan = Scan { whole: true, ..Scan::default() };
    for entry in dir.entries()? {
        let Ok(entry) = entry else {
            scan.whole = false;
            continue;
        };
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // A name that is no text is refused by what is shown of it.
        let shown = name.to_string_lossy().into_owned();
        match holds_adapter(&dir, Path::new(&name)) {
            Ok(true) => drop(scan.found.insert(shown)),
            Ok(false) => {}
            Err(_) => drop(scan.doubtful.insert(shown)),
        }
    }
    Ok(scan)
}

/// Whether the directory `name` in `dir` has a file that only adapters have.
///
/// # Errors
/// Where that cannot be told.
fn holds_adapter(dir: &Dir, name: &Path) -> io::Result<bool> {
    for mark in MARKS {
        match dir.metadata(name.join(mark)) {
            Ok(_) => return Ok(true),
            Err(error) if is_absence(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Whether an error says that there is nothing, or nothing inside the directory.
fn is_absence(error: &io::Error) -> bool {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => true,
        // The answer to what would lead out is not the system's own.
        io::ErrorKind::PermissionDenied => error.raw_os_error().is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn make(dir: &Path, name: &str) {
        fs::create_dir_all(dir.join(name)).unwrap();
        fs::write(dir.join(name).join("adapter_config.json"), "{}").unwrap();
    }

    #[test]
    fn a_directory_holds_adapters_and_other_things() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("adapters");
        for name in ["acme", "globex.v2", ".hidden", "no name"] {
            make(&dir, name);
        }
        fs::create_dir(dir.join("empty")).unwrap();
        fs::write(dir.join("file"), "").unwrap();
        make(outer.path(), "outside");
        #[cfg(unix)]
        for (target, name) in [("../outside", "out"), ("acme", "inside"), ("nowhere", "broken")] {
            std::os::unix::fs::symlink(target, dir.join(name)).unwrap();
        }
        let mut names = AdapterNames::default();
        let found = names.look(&dir, Instant::now()).unwrap();
        // The registry says why the last is refused.
        assert_eq!(Vec::from_iter(found), ["acme", "globex.v2", "inside", "no name"]);
    }

    #[cfg(unix)]
    #[test]
    fn what_cannot_be_told_stays_as_it_was() {
        use std::os::unix::fs::symlink;

        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("adapters");
        for name in ["a", "b"] {
            make(&dir, name);
        }
        let mut names = AdapterNames::default();
        let mut now = Instant::now();
        names.look(&dir, now).unwrap();
        // A link to itself is nobody's to read, the superuser's neither.
        fs::remove_file(dir.join("a/adapter_config.json")).unwrap();
        symlink("adapter_config.json", dir.join("a/adapter_config.json")).unwrap();
        fs::create_dir(dir.join("new")).unwrap();
        symlink("adapter_config.json", dir.join("new/adapter_config.json")).unwrap();
        for _ in 0..10 {
            now += GRACE;
            assert_eq!(Vec::from_iter(names.look(&dir, now).unwrap()), ["a", "b"]);
        }
        // The whole directory is away.
        fs::rename(&dir, folder.path().join("away")).unwrap();
        names.look(&dir, now + GRACE).unwrap_err();
        fs::rename(folder.path().join("away"), &dir).unwrap();
        fs::remove_file(dir.join("a/adapter_config.json")).unwrap();
        // Missing, and back before anybody would miss it.
        names.look(&dir, now).unwrap();
        now += GRACE / 2;
        assert_eq!(Vec::from_iter(names.look(&dir, now).unwrap()), ["a", "b"]);
        make(&dir, "a");
        assert_eq!(Vec::from_iter(names.look(&dir, now + GRACE).unwrap()), ["a", "b"]);
        fs::remove_dir_all(dir.join("a")).unwrap();
        now += 2 * GRACE;
        assert_eq!(Vec::from_iter(names.look(&dir, now).unwrap()), ["a", "b"]);
        assert_eq!(Vec::from_iter(names.look(&dir, now + GRACE).unwrap()), ["b"]);
    }
}
