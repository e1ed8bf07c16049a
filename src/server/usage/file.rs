//! A file that only grows by whole lines, and that makes room for a new one when it is large.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between two tries to write.
const PAUSE: Duration = Duration::from_secs(1);

/// The file that is written, and where the older ones are: `PATH.1`, `PATH.2` and so on.
#[derive(Debug)]
pub struct UsageFile {
    path: PathBuf,
    max_bytes: u64,
    file: File,
    /// Bytes of whole lines in it.
    len: u64,
    /// Whether there may be more in it, of a write that failed.
    torn: bool,
}

impl UsageFile {
    /// Opens or makes the file.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn open(path: &Path, max_bytes: u64) -> io::Result<Self> {
        let (file, len) = open(path)?;
        Ok(Self { path: path.to_owned(), max_bytes, file, len, torn: false })
    }

    /// Appends whole lines and waits until they are on the disk. Where that fails it tries again, for
    /// as long as it takes: what was used is not forgotten.
    pub fn append(&mut self, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        let mut told = false;
        while let Err(error) = self.try_append(lines) {
            if !told {
                tracing::error!(%error, "usage records cannot be written; they wait");
                told = true;
            }
            std::thread::park_timeout(PAUSE);
        }
        if told {
            tracing::info!("usage records are written again");
        }
    }

    fn try_append(&mut self, lines: &[u8]) -> io::Result<()> {
        let more = lines.len() as u64;
        self.mend()?;
        if self.len > 0 && self.len + more > self.max_bytes {
            self.rotate()?;
        }
        let written = self.file.write_all(lines).and_then(|()| self.file.sync_data());
        if written.is_err() {
            self.torn = true;
            // Where that fails too, it is done before anything else is written.
            return self.mend().and(written);
        }
        self.len += more;
        Ok(())
    }

    /// Takes away what a write that failed left: no half line stays, and nothing is there twice.
    fn mend(&mut self) -> io::Result<()> {
        if self.torn {
            self.file.set_len(self.len)?;
            self.torn = false;
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        match fs::rename(&self.path, self.free_name()?) {
            // It has been moved, and its successor could not be opened then.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            moved => moved?,
        }
        (self.file, self.len) = open(&self.path)?;
        Ok(())
    }

    /// The name after all that were given.
    fn free_name(&self) -> io::Result<PathBuf> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned() + ".";
        let mut last = 0;
        for entry in fs::read_dir(parent(&self.path))? {
            let other = entry?.file_name();
            let number = other.to_str().and_then(|other| other.strip_prefix(&name)?.parse().ok());
            last = last.max(number.unwrap_or(0_u64));
        }
        Ok(self.path.with_file_name(format!("{name}{}", last + 1)))
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The file and the bytes in it. A line that a crash cut off is ended, so that it spoils no other.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    let mut len = file.metadata()?.len();
    if len > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            tracing::warn!("the last usage record was cut off");
            file.write_all(b"\n")?;
            len += 1;
        }
    }
    // Its name is on the disk too.
    File::open(parent(path))?.sync_all()?;
    Ok((file, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_over_files_and_starts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usage.jsonl");
        let mut expected = String::new();
        for start in 0..3 {
            let mut file = UsageFile::open(&path, 50).unwrap();
            for number in 0..7 {
                let line = format!("{{\"start\":{start},\"number\":{number}}}\n");
                file.append(line.as_bytes());
                expected.push_str(&line);
            }
        }
        let mut text = String::new();
        let mut files = 0;
        while let Ok(older) = fs::read_to_string(format!("{}.{}", path.display(), files + 1)) {
            assert!(older.len() <= 50);
            text.push_str(&older);
            files += 1;
        }
        text.push_str(&fs::read_to_string(&path).unwrap());
        assert_eq!(text, expected);
        assert!(files > 5);
    }

    /// A disk that takes half a line, and then not even that it be taken away again.
    #[test]
    fn half_a_line_that_could_not_be_taken_away_is_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usage.jsonl");
        let mut file = UsageFile::open(&path, 1000).unwrap();
        file.append(b"{\"a\":1}\n");
        let writable = std::mem::replace(&mut file.file, File::open(&path).unwrap());
        file.try_append(b"{\"b\":1}\n").unwrap_err();
        file.file = writable;
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"b").unwrap();
        file.append(b"{\"b\":1}\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"b\":1}\n");
    }

    #[test]
    fn a_line_that_was_cut_off_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usage.jsonl");
        fs::write(&path, "{\"whole\":1}\n{\"cut").unwrap();
        UsageFile::open(&path, 1000).unwrap().append(b"{}\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"whole\":1}\n{\"cut\n{}\n");
    }
}
