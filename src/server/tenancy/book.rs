//! The declarations that are in force, and the file in which those of administrators last.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::tenant::declarations::{ChangeError, Declarations};
use crate::tenant::directory::{Directory, DirectoryError};
use crate::tenant::keys_file::{KeysFile, NotAKeysFile};

/// The declarations of a server with a keys file.
#[derive(Debug)]
pub struct Book {
    declarations: Declarations,
    /// Where those of administrators are written; without it they end with the process.
    path: Option<PathBuf>,
}

/// Why there is no book.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// It is none.
    #[error(transparent)]
    Text(#[from] NotAKeysFile),
}

impl Book {
    /// What `file` says, with what administrators declared before, if there is a file of it at
    /// `path`.
    ///
    /// # Errors
    /// Where that file cannot be used.
    pub fn open(file: KeysFile, path: Option<PathBuf>) -> Result<Self, BookError> {
        let own = match path.as_deref().map(fs::read_to_string) {
            None => KeysFile::default(),
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => KeysFile::default(),
            Some(text) => KeysFile::parse(&text?)?,
        };
        Ok(Self { declarations: Declarations { file, own }, path })
    }

    /// What is declared.
    #[must_use]
    pub fn declarations(&self) -> &Declarations {
        &self.declarations
    }

    /// The file has changed.
    ///
    /// # Errors
    /// Where it would not hold together with the rest; nothing is changed then.
    pub fn reload(&mut self, file: KeysFile) -> Result<Directory, DirectoryError> {
        let next = Declarations { file, own: self.declarations.own.clone() };
        let directory = next.directory()?;
        self.declarations = next;
        Ok(directory)
    }

    /// An administrator's change: checked, written down, and then in force. It waits for the disk.
    ///
    /// # Errors
    /// Where it is refused; nothing is changed then.
    pub fn change<T>(
        &mut self,
        change: impl FnOnce(&mut Declarations) -> Result<T, ChangeError>,
    ) -> Result<(T, Directory), ChangeError> {
        let mut next = self.declarations.clone();
        let result = change(&mut next)?;
        let directory = next.directory()?;
        if let Some(path) = &self.path {
            write(path, &next.own.to_toml()).map_err(|error| {
                tracing::error!(%error, "a change of tenants could not be written down");
                ChangeError::NotWritten
            })?;
        }
        self.declarations = next;
        Ok((result, directory))
    }

    /// Writes down what administrators declared, as it is in force: a change that could not be
    /// written may be on the disk nevertheless.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub fn write(&self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        write(path, &self.declarations.own.to_toml())
    }
}

/// Replaces a file as a whole: after a crash there is the old one or the new.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let next = path.with_extension("next");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&next)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&next, path)?;
    File::open(folder)?.sync_all()
}
