//! Files of a model's directory as they lie on disk: regular ones, of bounded size, and where a
//! checkpoint comes from a tenant, inside their directory.
//!
//! A link in the base model's directory may lead anywhere: that directory is its operator's. It must
//! end at a regular file, for a pipe or a device can be read for ever.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::ModelError;

/// The largest configuration or index file accepted.
pub(super) const JSON_LIMIT_BYTES: u64 = 64 << 20;

/// Whether something of this name is there, of whatever kind; also a link that leads nowhere, which
/// is to fail when it is read, and not to pass for a file that was never there.
///
/// # Errors
/// Where that cannot be told.
pub(super) fn is_there(path: &Path) -> Result<bool, ModelError> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Ok(false),
            _ => Err(ModelError::io(path)(error)),
        },
    }
}

/// Opens a regular file.
pub(super) fn open(path: &Path) -> Result<File, ModelError> {
    // A pipe must not even be opened: that waits for a writer.
    if !fs::metadata(path).map_err(ModelError::io(path))?.is_file() {
        return Err(ModelError::not_a_model(path, "is not a regular file"));
    }
    File::open(path).map_err(ModelError::io(path))
}

/// Reads a regular file of at most `limit` bytes.
pub(super) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, ModelError> {
    let file = open(path)?;
    let size = file.metadata().map_err(ModelError::io(path))?.len();
    let too_large = |size| ModelError::TooLarge { path: path.to_owned(), size, limit };
    if size > limit {
        return Err(too_large(size));
    }
    // The file may grow while it is read, and some files state no length.
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(ModelError::io(path))?;
    if bytes.len() as u64 > limit { Err(too_large(bytes.len() as u64)) } else { Ok(bytes) }
}

/// Reads and parses a JSON file of at most `limit` bytes.
pub(super) fn read_json(path: &Path, limit: u64) -> Result<Value, ModelError> {
    let bytes = read(path, limit)?;
    serde_json::from_slice(&bytes)
        .map_err(|source| ModelError::Json { path: path.to_owned(), source })
}

/// The same of a file that need not be there.
pub(super) fn read_optional_json(path: &Path) -> Result<Option<Value>, ModelError> {
    is_there(path)?.then(|| read_json(path, JSON_LIMIT_BYTES)).transpose()
}

/// Refuses a directory with a link, among the files that a checkpoint is read from, that leads out
/// of it. The one way out is that of the Hugging Face cache, whose snapshots link to the `blobs` of
/// their own repository.
pub(super) fn ensure_links_stay_inside(directory: &Path) -> Result<(), ModelError> {
    let root = directory.canonicalize().map_err(ModelError::io(directory))?;
    let blobs = blobs_of(&root);
    for entry in fs::read_dir(&root).map_err(ModelError::io(directory))? {
        let entry = entry.map_err(ModelError::io(directory))?;
        let path = entry.path();
        let is_read = path.extension().is_some_and(|kind| kind == "json" || kind == "safetensors");
        let is_link = entry.file_type().map_err(ModelError::io(&path))?.is_symlink();
        if !is_read || !is_link {
            continue;
        }
        let target = path.canonicalize().map_err(ModelError::io(&path))?;
        let inside = |folder: &Path| target.starts_with(folder);
        if !inside(&root) && !blobs.as_deref().is_some_and(inside) {
            return Err(ModelError::LeavesDirectory { path });
        }
    }
    Ok(())
}

/// `REPOSITORY/blobs` for a snapshot in the Hugging Face cache, `REPOSITORY/snapshots/REVISION`.
fn blobs_of(root: &Path) -> Option<PathBuf> {
    let snapshots = root.parent().filter(|parent| parent.ends_with("snapshots"))?;
    let blobs = snapshots.parent()?.join("blobs");
    // A link in place of the folder would lead anywhere.
    blobs.symlink_metadata().is_ok_and(|it| it.is_dir()).then_some(blobs)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_without_an_end_are_refused_unread() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("config.json");
        for device in ["/dev/zero", "/dev/null", "/"] {
            symlink(device, &link).unwrap();
            let error = read(&link, 10).unwrap_err().to_string();
            assert!(error.contains("not a regular file"), "{device}: {error}");
            fs::remove_file(&link).unwrap();
        }
        // It states no length.
        let error = read(Path::new("/proc/self/maps"), 10).unwrap_err();
        assert!(matches!(error, ModelError::TooLarge { size: 11, limit: 10, .. }), "{error}");
    }

    #[test]
    fn a_file_beyond_its_limit_is_too_large() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        let error = read(&path, 4).unwrap_err();
        assert!(matches!(error, ModelError::TooLarge { size: 5, limit: 4, .. }), "{error}");
    }

    #[test]
    fn a_link_that_leads_nowhere_is_there_and_cannot_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("generation_config.json");
        assert!(read_optional_json(&path).unwrap().is_none());
        symlink("gone", &path).unwrap();
        let error = read_optional_json(&path).unwrap_err();
        assert!(matches!(error, ModelError::Io { .. }), "{error}");
    }

    #[test]
    fn what_cannot_be_told_is_no_absence() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("folder");
        assert!(!is_there(&folder.join("config.json")).unwrap());
        // A link to itself is nobody's to look behind, the superuser's neither.
        symlink("folder", &folder).unwrap();
        let error = is_there(&folder.join("config.json")).unwrap_err();
        assert!(matches!(error, ModelError::Io { .. }), "{error}");
    }

    #[test]
    fn links_stay_in_their_directory_or_in_their_repository_s_blobs() {
        let cache = tempfile::tempdir().unwrap();
        let (blobs, root) = (cache.path().join("blobs"), cache.path().join("snapshots/main"));
        fs::create_dir_all(&root).unwrap();
        fs::create_dir(&blobs).unwrap();
        for file in [blobs.join("weights"), cache.path().join("secret"), root.join("inner")] {
            fs::write(file, "").unwrap();
        }
        let link = root.join("model.safetensors");
        for (target, allowed) in [
            ("inner", true),
            ("../../blobs/weights", true),
            ("../../secret", false),
            ("/proc/self/environ", false),
        ] {
            symlink(target, &link).unwrap();
            match ensure_links_stay_inside(&root) {
                Ok(()) => assert!(allowed, "{target}"),
                Err(error) => {
                    assert!(!allowed, "{target}: {error}");
                    assert!(matches!(error, ModelError::LeavesDirectory { .. }), "{error}");
                }
            }
            fs::remove_file(&link).unwrap();
        }
        symlink("gone", &link).unwrap();
        let error = ensure_links_stay_inside(&root).unwrap_err();
        assert!(matches!(error, ModelError::Io { .. }), "{error}");
        fs::remove_file(&link).unwrap();
        symlink("/etc", root.join("README.md")).unwrap();
        ensure_links_stay_inside(&root).unwrap();
    }
}
