//! An adapter's directory: files are read whole, within a budget, and never from outside it.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, File};

use super::error::AdapterError;
use super::tensors::LENGTH_BYTES;

/// Extensions of pickles.
const PICKLES: [&str; 3] = ["bin", "pt", "pth"];

/// An open directory and what may still be read from it. Files are opened beneath it: no link leads
/// out, whatever changes in the meantime.
#[derive(Debug)]
pub struct AdapterDir {
    dir: Dir,
    root: PathBuf,
    remaining: u64,
}

impl AdapterDir {
    /// Opens `path`, to read at most `max_bytes` in all. The directory itself may be a link.
    ///
    /// # Errors
    /// Where it is no directory.
    pub fn open(path: &Path, max_bytes: u64) -> Result<Self, AdapterError> {
        if is_pickle(path) && path.is_file() {
            return Err(AdapterError::Pickle { path: path.into() });
        }
        let root = path.canonicalize().map_err(|source| not_opened(path, source))?;
        if !root.is_dir() {
            return Err(AdapterError::NotADirectory { path: path.into() });
        }
        let dir = Dir::open_ambient_dir(&root, ambient_authority());
        let dir = dir.map_err(|source| not_opened(path, source))?;
        Ok(Self { dir, root, remaining: max_bytes })
    }

    /// Opens the directory `path` beneath `root`; nothing on the way there leads out.
    ///
    /// # Errors
    /// Where it is no directory, or leads out.
    pub fn beneath(root: &Path, path: &Path, max_bytes: u64) -> Result<Self, AdapterError> {
        let shown = root.join(path);
        let outer = Dir::open_ambient_dir(root, ambient_authority());
        let outer = outer.map_err(|source| not_opened(root, source))?;
        let dir = outer.open_dir(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotADirectory => AdapterError::NotADirectory { path: shown.clone() },
            _ if leads_out(&source) => AdapterError::LeavesDirectory { path: shown.clone() },
            _ => not_opened(&shown, source),
        })?;
        Ok(Self { dir, root: shown, remaining: max_bytes })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.root
    }

    /// Whether something of this name is in the directory, of whatever kind.
    ///
    /// # Errors
    /// Where that cannot be told: what is there must not pass for what never was.
    pub(super) fn has(&self, name: &'static str) -> Result<bool, AdapterError> {
        match self.dir.symlink_metadata(name) {
            Ok(_) => Ok(true),
            Err(error) if is_absence(&error) => Ok(false),
            Err(error) => Err(self.not_read(name, error)),
        }
    }

    /// Those of `names` that are in the directory.
    ///
    /// # Errors
    /// Where that cannot be told of one.
    pub(super) fn present(
        &self,
        names: &[&'static str],
    ) -> Result<Vec<&'static str>, AdapterError> {
        let mut present = Vec::new();
        for &name in names {
            if self.has(name)? {
                present.push(name);
            }
        }
        Ok(present)
    }

    /// The bytes of a file, at most `limit` of them.
    pub(super) fn read(&mut self, name: &'static str, limit: u64) -> Result<Vec<u8>, AdapterError> {
        let path = self.root.join(name);
        let limit = limit.min(self.remaining);
        let (file, length) = self.open_file(name)?;
        if length > limit {
            return Err(AdapterError::TooLarge { path, bytes: length, limit });
        }
        // The file may grow while it is read, and some files state no length.
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        let read = file.take(limit.saturating_add(1)).read_to_end(&mut bytes);
        read.map_err(|source| self.not_read(name, source))?;
        if bytes.len() as u64 > limit {
            return Err(AdapterError::TooLarge { path, bytes: bytes.len() as u64, limit });
        }
        self.remaining -= bytes.len() as u64;
        Ok(bytes)
    }

    /// The first `count` bytes of a file, or all of one that has fewer, however long it is.
    pub(super) fn beginning(
        &mut self,
        name: &'static str,
        count: u64,
    ) -> Result<Vec<u8>, AdapterError> {
        let mut bytes = Vec::new();
        let read = self.open_file(name)?.0.take(count.min(self.remaining)).read_to_end(&mut bytes);
        read.map_err(|source| self.not_read(name, source))?;
        self.remaining -= bytes.len() as u64;
        Ok(bytes)
    }

    /// The length field and the header of the safetensors file `name`, at most `limit` bytes of it, and
    /// the length of the whole file; where it is missing, a pickle in its place is named.
    pub(super) fn read_header(
        &mut self,
        name: &'static str,
        limit: u64,
    ) -> Result<(Vec<u8>, u64), AdapterError> {
        if !self.has(name)?
            && let Some(path) = self.pickle()
        {
            return Err(AdapterError::Pickle { path });
        }
        let (mut file, bytes) = self.open_file(name)?;
        if bytes > self.remaining {
            let (path, limit) = (self.root.join(name), self.remaining);
            return Err(AdapterError::TooLarge { path, bytes, limit });
        }
        let mut beginning = Vec::new();
        let read = file.by_ref().take(LENGTH_BYTES as u64).read_to_end(&mut beginning);
        read.map_err(|source| self.not_read(name, source))?;
        if let Some(length) = beginning.first_chunk::<LENGTH_BYTES>() {
            let header = file.take(u64::from_le_bytes(*length).min(limit));
            let read = { header }.read_to_end(&mut beginning);
            read.map_err(|source| self.not_read(name, source))?;
        }
        Ok((beginning, bytes))
    }

    /// A file and the length that it states.
    fn open_file(&self, name: &'static str) -> Result<(File, u64), AdapterError> {
        let io = |source| self.not_read(name, source);
        let not_a_file = || AdapterError::NotAFile { path: self.root.join(name) };
        // A pipe must not even be opened: that waits for a writer.
        if !self.dir.metadata(name).map_err(io)?.is_file() {
            return Err(not_a_file());
        }
        let file = self.dir.open(name).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if metadata.is_file() { Ok((file, metadata.len())) } else { Err(not_a_file()) }
    }

    fn not_read(&self, name: &'static str, source: io::Error) -> AdapterError {
        let path = self.root.join(name);
        match source.kind() {
            io::ErrorKind::NotFound => {
                AdapterError::MissingFile { dir: self.root.clone(), file: name }
            }
            _ if leads_out(&source) => AdapterError::LeavesDirectory { path },
            _ => AdapterError::Io { path, source },
        }
    }

    /// The bytes of the safetensors file `name`; where it is missing, a pickle in its place is
    /// named.
    pub(super) fn read_weights(&mut self, name: &'static str) -> Result<Vec<u8>, AdapterError> {
        if !self.has(name)?
            && let Some(path) = self.pickle()
        {
            return Err(AdapterError::Pickle { path });
        }
        self.read(name, self.remaining)
    }

    /// A pickle in the directory that may hold weights.
    fn pickle(&self) -> Option<PathBuf> {
        let names = self.dir.entries().ok()?.flatten().map(|entry| entry.file_name());
        let paths = names.map(|name| self.root.join(name));
        let weights = |path: &PathBuf| is_pickle(path) && !path.ends_with("training_args.bin");
        paths.filter(weights).min()
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn not_opened(path: &Path, source: io::Error) -> AdapterError {
    match source.kind() {
        io::ErrorKind::NotFound => AdapterError::NotADirectory { path: path.into() },
        _ => AdapterError::Io { path: path.into(), source },
    }
}

/// True for the error with which opening beneath a directory answers what would lead out of it: it
/// is not the system's own.
fn leads_out(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied && error.raw_os_error().is_none()
}

fn is_pickle(path: &Path) -> bool {
    path.extension().is_some_and(|extension| PICKLES.iter().any(|pickle| extension == *pickle))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const NAME: &str = "adapter_model.safetensors";

    fn open(path: &Path) -> AdapterDir {
        AdapterDir::open(path, 100).unwrap()
    }

    #[test]
    fn a_file_is_read_within_its_limit_and_the_budget() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(NAME), [7; 60]).unwrap();
        assert!(matches!(
            open(dir.path()).read(NAME, 59),
            Err(AdapterError::TooLarge { bytes: 60, limit: 59, .. })
        ));
        let mut opened = open(dir.path());
        assert_eq!(opened.read(NAME, 60).unwrap(), [7; 60]);
        assert!(matches!(
            opened.read(NAME, 60),
            Err(AdapterError::TooLarge { bytes: 60, limit: 40, .. })
        ));
    }

    #[test]
    fn missing_directories_and_files_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("plain.safetensors");
        fs::write(&file, "").unwrap();
        for path in [dir.path().join("absent"), file] {
            let error = AdapterDir::open(&path, 1).unwrap_err();
            assert!(matches!(error, AdapterError::NotADirectory { .. }), "{error}");
        }
        let error = open(dir.path()).read(NAME, 1).unwrap_err();
        assert!(matches!(error, AdapterError::MissingFile { file: NAME, .. }), "{error}");
    }

    #[test]
    fn pickles_are_refused_by_name() {
        for name in ["adapter_model.bin", "weights.pt", "old.pth"] {
            let dir = tempfile::tempdir().unwrap();
            let pickle = dir.path().join(name);
            fs::write(&pickle, "").unwrap();
            fs::write(dir.path().join("training_args.bin"), "").unwrap();
            let error = open(dir.path()).read_weights(NAME).unwrap_err();
            assert!(matches!(error, AdapterError::Pickle { .. }));
            assert!(error.to_string().contains(name), "{error}");
            let error = AdapterDir::open(&pickle, 1).unwrap_err();
            assert!(matches!(error, AdapterError::Pickle { .. }), "{error}");
            fs::write(dir.path().join(NAME), "x").unwrap();
            assert_eq!(open(dir.path()).read_weights(NAME).unwrap(), b"x");
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("training_args.bin"), "").unwrap();
        let error = open(dir.path()).read_weights(NAME).unwrap_err();
        assert!(matches!(error, AdapterError::MissingFile { .. }), "{error}");
    }

    #[test]
    fn what_is_no_regular_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(NAME)).unwrap();
        let error = open(dir.path()).read(NAME, 1).unwrap_err();
        assert!(matches!(error, AdapterError::NotAFile { .. }), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_inside_the_directory_only() {
        use std::os::unix::fs::symlink;

        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("adapter");
        fs::create_dir(&dir).unwrap();
        fs::write(outer.path().join("secret"), "s").unwrap();
        fs::write(dir.join("inner"), "i").unwrap();
        let link = dir.join(NAME);
        for target in ["../secret", "/proc/self/environ"] {
            symlink(target, &link).unwrap();
            let error = open(&dir).read(NAME, 1).unwrap_err();
            assert!(matches!(error, AdapterError::LeavesDirectory { .. }), "{error}");
            fs::remove_file(&link).unwrap();
        }
        symlink("inner", &link).unwrap();
        assert_eq!(open(&dir).read(NAME, 1).unwrap(), b"i");
        symlink(&dir, outer.path().join("alias")).unwrap();
        assert_eq!(open(&outer.path().join("alias")).read(NAME, 1).unwrap(), b"i");
        fs::remove_file(&link).unwrap();
        symlink(NAME, &link).unwrap();
        let error = open(&dir).read(NAME, 1).unwrap_err();
        assert!(matches!(error, AdapterError::Io { .. }), "a loop of links: {error}");
    }

    #[cfg(unix)]
    #[test]
    fn nothing_on_the_way_beneath_a_root_leads_out() {
        use std::os::unix::fs::symlink;

        let outer = tempfile::tempdir().unwrap();
        let (root, secret) = (outer.path().join("root"), outer.path().join("secret"));
        for dir in [root.join("inside/deep"), secret.join("deep")] {
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(NAME), "s").unwrap();
        }
        symlink("../secret", root.join("relative")).unwrap();
        symlink(&secret, root.join("absolute")).unwrap();
        symlink("..", root.join("inside/up")).unwrap();
        symlink("relative", root.join("chain")).unwrap();
        symlink("inside", root.join("fine")).unwrap();
        let open = |path: &str| AdapterDir::beneath(&root, Path::new(path), 100);
        for path in [
            "relative",
            "relative/deep",
            "absolute/deep",
            "inside/up/relative/deep",
            "chain/deep",
            "../secret/deep",
            "inside/../../secret/deep",
            secret.join("deep").to_str().unwrap(),
        ] {
            let error = open(path).unwrap_err();
            assert!(matches!(error, AdapterError::LeavesDirectory { .. }), "{path}: {error}");
        }
        for path in ["inside/deep", "fine/deep", "inside/up/inside/deep"] {
            assert_eq!(open(path).unwrap().read(NAME, 1).unwrap(), b"s", "{path}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_vanishes_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        // Seen, and gone when it is opened, as a link is whose target was removed.
        std::os::unix::fs::symlink("gone", dir.path().join(NAME)).unwrap();
        let mut opened = open(dir.path());
        assert!(opened.has(NAME).unwrap());
        let error = opened.read(NAME, 1).unwrap_err();
        assert!(matches!(error, AdapterError::MissingFile { file: NAME, .. }), "{error}");
        fs::remove_dir_all(dir.path()).unwrap();
        let error = opened.read(NAME, 1).unwrap_err();
        assert!(matches!(error, AdapterError::MissingFile { file: NAME, .. }), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn an_unreadable_file_is_an_io_error() {
        let dir = tempfile::tempdir().unwrap();
        // A link to itself is nobody's to read, the superuser's neither.
        std::os::unix::fs::symlink(NAME, dir.path().join(NAME)).unwrap();
        let error = open(dir.path()).read(NAME, 1).unwrap_err();
        assert!(matches!(error, AdapterError::Io { .. }), "{error}");
    }
}
