//! Compacted adapters kept on disk: the decompositions are done once for each content and tolerance,
//! not at each load.
//!
//! A file is named by the digest of what it holds before compaction and the tolerance, begins with
//! a digest of that name and its own bytes, and is written aside and renamed. One that is damaged, or made for
//! another model, is no error: the adapter is compacted again.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::delta::{AdapterId, LowRankDelta, LowRankFactors, ModuleSpec};

/// Says what a file is, and its version.
const MAGIC: &[u8; 16] = b"sorsa compact 02";
const DIGEST_BYTES: usize = 32;

/// A directory of compacted adapters; the oldest leave it.
#[derive(Debug)]
pub struct CompactedCache {
    dir: PathBuf,
    max_bytes: u64,
}

impl CompactedCache {
    /// A cache in `dir`, which is made when something is kept, of at most `max_bytes`.
    #[must_use]
    pub fn new(dir: PathBuf, max_bytes: u64) -> Self {
        Self { dir, max_bytes }
    }

    /// The compacted delta of this id, for a model of these modules.
    #[must_use]
    pub fn get(&self, id: AdapterId, specs: &[ModuleSpec]) -> Option<LowRankDelta> {
        let bytes = fs::read(self.path(id)).ok()?;
        let (digest, data) = bytes.strip_prefix(MAGIC)?.split_at_checked(DIGEST_BYTES)?;
        if checksum(id, data) != digest {
            return None;
        }
        let tensors = SafeTensors::deserialize(data).ok()?;
        let found = specs.iter().map(|spec| module(&tensors, spec)).collect::<Option<Vec<_>>>()?;
        let known = 2 * found.iter().flatten().count();
        (tensors.len() == known).then(|| LowRankDelta::new(id, found))
    }

    /// Keeps a compacted delta. Where that fails nothing is lost but time.
    pub fn put(&self, delta: &LowRankDelta, specs: &[ModuleSpec]) {
        if let Err(error) = self.write(delta, specs) {
            tracing::warn!(id = %delta.id(), "a compacted adapter is not kept: {error}");
        }
    }

    fn write(&self, delta: &LowRankDelta, specs: &[ModuleSpec]) -> io::Result<()> {
        let data = serialized(delta, specs)?;
        let size = (MAGIC.len() + DIGEST_BYTES + data.len()) as u64;
        if size > self.max_bytes {
            return Ok(());
        }
        fs::create_dir_all(&self.dir)?;
        self.prune(self.max_bytes - size)?;
        let target = self.path(delta.id());
        let aside = target.with_extension(format!("{}.new", std::process::id()));
        let written = fs::File::create(&aside).and_then(|mut file| {
            file.write_all(MAGIC)?;
            file.write_all(&checksum(delta.id(), &data))?;
            file.write_all(&data)
        });
        let done = written.and_then(|()| fs::rename(&aside, &target));
        if done.is_err() {
            // It may not even be there.
            let _ = fs::remove_file(&aside);
        }
        done
    }

    /// Removes the oldest files until at most `keep` bytes are left.
    fn prune(&self, keep: u64) -> io::Result<()> {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = fs::read_dir(&self.dir)?
            .flatten()
            .filter_map(|entry| {
                let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
                Some((metadata.modified().ok()?, metadata.len(), entry.path()))
            })
            .collect();
        files.sort_unstable();
        let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in files {
            if total <= keep {
                break;
            }
            match fs::remove_file(path) {
                // Another process was faster.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => total -= size,
            }
        }
        Ok(())
    }

    fn path(&self, id: AdapterId) -> PathBuf {
        self.dir.join(Path::new(&id.to_string()).with_extension("delta"))
    }
}

/// What a file begins with: it belongs to its bytes and to its name.
fn checksum(id: AdapterId, data: &[u8]) -> [u8; DIGEST_BYTES] {
    *blake3::Hasher::new().update(&id.0).update(data).finalize().as_bytes()
}

/// The factors of one module: none where the file has none, `None` where they do not fit.
fn module(tensors: &SafeTensors<'_>, spec: &ModuleSpec) -> Option<Option<LowRankFactors>> {
    let side = |name: &str| {
        let Ok(view) = tensors.tensor(&format!("{}.{name}", spec.path)) else { return Some(None) };
        let &[rows, columns] = view.shape() else { return None };
        if view.dtype() != Dtype::F32 {
            return None;
        }
        let values: Vec<f32> =
            view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).ok().map(Some)
    };
    match (side("down")?, side("up")?) {
        (None, None) => Some(None),
        (Some(down), Some(up)) => {
            let rank = down.dims()[0];
            let fits = down.dims()[1] == spec.in_features && up.dims() == [spec.out_features, rank];
            fits.then_some(Some(LowRankFactors { down, up }))
        }
        _ => None,
    }
}

fn serialized(delta: &LowRankDelta, specs: &[ModuleSpec]) -> io::Result<Vec<u8>> {
    let mut sides = BTreeMap::new();
    for (index, spec) in specs.iter().enumerate() {
        let Some(factors) = delta.factors(index) else { continue };
        for (name, side) in [("down", &factors.down), ("up", &factors.up)] {
            let values = side.to_dtype(DType::F32).and_then(|side| side.flatten_all());
            let values = values.and_then(|values| values.to_vec1::<f32>());
            let values = values.map_err(io::Error::other)?;
            let bits: Vec<u32> = values.iter().map(|value| value.to_bits().to_le()).collect();
            sides.insert(format!("{}.{name}", spec.path), (side.dims().to_vec(), bits));
        }
    }
    let views = sides.iter().map(|(name, (shape, bits))| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(bits))?;
        Ok((name.as_str(), view))
    });
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
    views.and_then(|views| safetensors::serialize(views, None)).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs() -> Vec<ModuleSpec> {
        let spec = |path: &str| ModuleSpec { path: path.into(), in_features: 3, out_features: 2 };
        ["q", "k", "v"].map(spec).to_vec()
    }

    fn delta(byte: u8) -> LowRankDelta {
        let matrix = |rows: usize, columns: usize| {
            let values = (0..rows * columns).map(|i| f32::from(byte) / 3.0 + i as f32);
            Tensor::from_vec(values.collect::<Vec<_>>(), (rows, columns), &Device::Cpu).unwrap()
        };
        let factors = |rank| Some(LowRankFactors { down: matrix(rank, 3), up: matrix(2, rank) });
        LowRankDelta::new(AdapterId([byte; 32]), vec![factors(2), None, factors(1)])
    }

    fn values(delta: &LowRankDelta) -> Vec<Vec<Vec<f32>>> {
        let factors = (0..3).filter_map(|index| delta.factors(index));
        factors.flat_map(|f| [&f.down, &f.up]).map(|side| side.to_vec2().unwrap()).collect()
    }

    #[test]
    fn what_is_kept_comes_back_bit_for_bit_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CompactedCache::new(dir.path().join("cache"), 1 << 20);
        let id = AdapterId([7; 32]);
        assert!(cache.get(id, &specs()).is_none());
        cache.put(&delta(7), &specs());
        let found = cache.get(id, &specs()).unwrap();
        assert_eq!((found.id(), values(&found)), (id, values(&delta(7))));
        assert!(cache.get(AdapterId([8; 32]), &specs()).is_none());
        // Another model has other modules, or larger ones.
        assert!(cache.get(id, &specs()[..2]).is_none());
        let mut larger = specs();
        larger[0].in_features = 4;
        assert!(cache.get(id, &larger).is_none());
        let path = cache.path(id);
        let whole = fs::read(&path).unwrap();
        for place in [0, 20, 60, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[place] ^= 1;
            fs::write(&path, damaged).unwrap();
            assert!(cache.get(id, &specs()).is_none(), "{place}");
        }
        fs::write(&path, &whole[..whole.len() - 4]).unwrap();
        assert!(cache.get(id, &specs()).is_none());
        // What is whole is nobody else's.
        let other = AdapterId([8; 32]);
        fs::write(cache.path(other), whole).unwrap();
        assert!(cache.get(other, &specs()).is_none());
    }

    #[test]
    fn it_stays_within_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let size = {
            let cache = CompactedCache::new(dir.path().into(), 1 << 20);
            cache.put(&delta(1), &specs());
            fs::metadata(cache.path(AdapterId([1; 32]))).unwrap().len()
        };
        let cache = CompactedCache::new(dir.path().into(), 2 * size);
        for byte in 2..6 {
            cache.put(&delta(byte), &specs());
            assert!(cache.get(AdapterId([byte; 32]), &specs()).is_some());
            assert!(fs::read_dir(dir.path()).unwrap().count() <= 2);
        }
        let small = CompactedCache::new(dir.path().join("small"), size - 1);
        small.put(&delta(1), &specs());
        assert!(small.get(AdapterId([1; 32]), &specs()).is_none());
    }
}
