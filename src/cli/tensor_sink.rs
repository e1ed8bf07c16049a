//! A planned tensor's place in a file: written from front to back while others are written at
//! theirs.

use std::fs::File;
use std::io;

use anyhow::ensure;

/// What is still to be written of one tensor.
#[derive(Debug)]
pub struct TensorSink<'a> {
    file: &'a File,
    place: u64,
    end: u64,
}

impl<'a> TensorSink<'a> {
    /// The `length` bytes of `file` from `place` on.
    #[must_use]
    pub fn new(file: &'a File, place: u64, length: usize) -> Self {
        Self { file, place, end: place + length as u64 }
    }

    /// Writes the next bytes of the tensor.
    ///
    /// # Errors
    /// Where they are more than it has, or the file cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let (count, left) = (bytes.len() as u64, self.end - self.place);
        ensure!(count <= left, "bug: {count} bytes where {left} are left");
        write_at(self.file, bytes, self.place)?;
        self.place += count;
        Ok(())
    }

    /// Ends the tensor.
    ///
    /// # Errors
    /// Where a part of it was not written.
    pub fn finish(self) -> anyhow::Result<()> {
        let left = self.end - self.place;
        ensure!(left == 0, "bug: {left} bytes were not written");
        Ok(())
    }
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], place: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, place)
}

#[cfg(windows)]
fn write_at(file: &File, mut bytes: &[u8], mut place: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, bytes, place)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[written..];
        place += written as u64;
    }
    Ok(())
}
