//! A directory that appears whole or not at all: written beside its place and renamed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::Value;

/// Refuses a directory that holds something.
///
/// # Errors
/// Where it does, or cannot be looked into.
pub fn ensure_vacant(directory: &Path) -> anyhow::Result<()> {
    match fs::read_dir(directory) {
        Ok(mut entries) => {
            ensure!(entries.next().is_none(), "{} is not empty", directory.display());
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot use {}", directory.display())),
    }
}

/// A directory being written; removed unless it is published.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
}

impl Staging {
    /// Beside `target`, so that one rename publishes it.
    ///
    /// # Errors
    /// Where it cannot be created.
    pub fn new(target: &Path) -> anyhow::Result<Self> {
        let name =
            target.file_name().with_context(|| format!("no name in {}", target.display()))?;
        let name = format!(".{}.{}.partial", name.display(), std::process::id());
        let path = target.with_file_name(name);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot create {}", parent.display()))?;
        }
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where it is for now.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a JSON file, indented.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write_json(&self, name: &str, value: &Value) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(value)?;
        text.push('\n');
        self.write(name, text.as_bytes())
    }

    /// Writes a file.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.path.join(name);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Renames it to its own name.
    ///
    /// # Errors
    /// Where something else stands there by now.
    pub fn publish(self, target: &Path) -> anyhow::Result<()> {
        fs::rename(&self.path, target)
            .with_context(|| format!("cannot put {} in its place", target.display()))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Once published it is no longer there, and a failure here has no one to hear of it.
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_directory_is_refused_and_an_empty_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        ensure_vacant(directory.path()).unwrap();
        ensure_vacant(&directory.path().join("absent")).unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(ensure_vacant(directory.path()).unwrap_err().to_string().contains("not empty"));
        assert!(ensure_vacant(&file).is_err());
    }

    #[test]
    fn what_is_not_published_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("a").join("model");
        let parent = || fs::read_dir(directory.path().join("a")).unwrap().count();
        let staging = Staging::new(&target).unwrap();
        staging.write_json("config.json", &Value::Null).unwrap();
        assert_eq!(parent(), 1);
        drop(staging);
        assert_eq!(parent(), 0);
        let staging = Staging::new(&target).unwrap();
        staging.write_json("config.json", &Value::Null).unwrap();
        fs::create_dir(&target).unwrap();
        staging.publish(&target).unwrap();
        assert_eq!((parent(), target.join("config.json").exists()), (1, true));
    }
}
