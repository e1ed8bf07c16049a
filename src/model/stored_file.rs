//! A file of weights, read at given places: never a mapping, whose pages would count as this
//! process's memory for as long as nobody else wants them.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytemuck::Pod;

use super::disk;
use super::error::ModelError;

/// How much is compared at a time.
const COMPARED_BYTES: usize = 1 << 18;

/// An open file.
#[derive(Debug)]
pub(super) struct StoredFile {
    path: PathBuf,
    file: File,
    len: u64,
}

impl StoredFile {
    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// Where it is absent, or something else.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let file = disk::open(path)?;
        let len = file.metadata().map_err(ModelError::io(path))?.len();
        Ok(Self { path: path.to_owned(), file, len })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes it had when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The handle, for a mapping of the whole.
    pub fn handle(&self) -> &File {
        &self.file
    }

    /// `count` values from byte `start` on, as they are stored: little-endian.
    ///
    /// # Errors
    /// Where the file ends before.
    pub fn values<T: Pod>(&self, start: u64, count: usize) -> Result<Vec<T>, ModelError> {
        let mut values = vec![T::zeroed(); count];
        read_exact_at(&self.file, bytemuck::cast_slice_mut(&mut values), start)
            .map_err(ModelError::io(&self.path))?;
        Ok(values)
    }

    /// A reader of some of its bytes.
    pub fn reader(&self, bytes: Range<u64>) -> StoredBytes<'_> {
        StoredBytes { file: self, start: bytes.start, place: bytes.start, end: bytes.end }
    }
}

/// Some bytes of a file, from front to back; seeking counts from their beginning.
#[derive(Debug, Clone)]
pub struct StoredBytes<'a> {
    file: &'a StoredFile,
    start: u64,
    place: u64,
    end: u64,
}

impl StoredBytes<'_> {
    /// Where they lie.
    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// All of them.
    ///
    /// # Errors
    /// Where the file ends before.
    pub fn to_vec(&self) -> Result<Vec<u8>, ModelError> {
        let count = usize::try_from(self.end - self.start);
        let count =
            count.map_err(|_| ModelError::io(self.path())(io::ErrorKind::OutOfMemory.into()))?;
        self.file.values(self.start, count)
    }

    /// Whether all of `other` are the same.
    ///
    /// # Errors
    /// Where either file ends before.
    pub fn equal(&self, other: Self) -> Result<bool, ModelError> {
        if self.end - self.start != other.end - other.start {
            return Ok(false);
        }
        let (mut ours, mut theirs) = (vec![0; COMPARED_BYTES], vec![0; COMPARED_BYTES]);
        let (mut left, mut right) = (self.clone(), other);
        loop {
            let count = left.read(&mut ours).map_err(ModelError::io(self.path()))?;
            if count == 0 {
                return Ok(true);
            }
            right.read_exact(&mut theirs[..count]).map_err(ModelError::io(right.path()))?;
            if ours[..count] != theirs[..count] {
                return Ok(false);
            }
        }
    }
}

impl Read for StoredBytes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_sub(self.place);
        let count = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        read_exact_at(&self.file.file, &mut buffer[..count], self.place)?;
        self.place += count as u64;
        Ok(count)
    }
}

impl Seek for StoredBytes<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (from, by) = match to {
            SeekFrom::Start(place) => (self.start, i64::try_from(place).ok()),
            SeekFrom::Current(by) => (self.place, Some(by)),
            SeekFrom::End(by) => (self.end, Some(by)),
        };
        let place = by.and_then(|by| from.checked_add_signed(by));
        let place = place.filter(|place| *place >= self.start);
        self.place = place.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.place - self.start)
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], place: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, place)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut place: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, bytes, place)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes = &mut bytes[read..];
        place += read as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn parts_read_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, (0..40_u8).collect::<Vec<u8>>()).unwrap();
        let file = StoredFile::open(&path).unwrap();
        assert_eq!(file.len(), 40);
        let numbers = [0x0807_0605_u32, 0x0C0B_0A09].map(u32::to_le);
        assert_eq!(file.values::<u32>(5, 2).unwrap(), numbers);
        assert!(file.values::<u32>(36, 2).is_err());
        let mut part = file.reader(10..20);
        let mut bytes = Vec::new();
        part.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, (10..20).collect::<Vec<u8>>());
        for (to, place) in [(SeekFrom::Start(3), 3), (SeekFrom::End(-4), 6)] {
            assert_eq!(part.seek(to).unwrap(), place);
            bytes.clear();
            part.clone().read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, (10 + place as u8..20).collect::<Vec<u8>>());
        }
        assert!(part.seek(SeekFrom::Current(-11)).is_err());
        assert!(StoredFile::open(dir.path()).is_err());
    }

    #[test]
    fn a_file_cut_short_later_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, [1; 40]).unwrap();
        let file = StoredFile::open(&path).unwrap();
        fs::write(&path, [1; 8]).unwrap();
        assert!(file.values::<u32>(4, 4).is_err());
        assert!(file.reader(4..20).read_to_end(&mut Vec::new()).is_err());
    }
}
