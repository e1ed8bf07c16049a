//! Digests remembered from one start to the next, so that a model is hashed once.
//!
//! They lie in a hidden file beside the weights or, where that directory cannot be written to, in
//! the user's cache. The hidden file's name ends like no weights' and no configuration's, for other
//! programs take whatever does. They count only while every file of the weights has the size, times and inode
//! that it had when it was hashed; a cache that cannot be read or written costs time and nothing
//! else.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::digests::WeightDigests;
use super::error::ModelError;
use super::weights::Weights;

/// The format's version; another one is not read.
const VERSION: u32 = 1;
/// The largest cache that is read.
const MAX_BYTES: u64 = 64 << 20;
/// A file changed this recently may change again without a clock showing it.
const SETTLING: Duration = Duration::from_secs(2);

/// What tells a file from itself at another time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    file: String,
    size: u64,
    /// Nanoseconds since 1970 of the last change to the content.
    modified: u64,
    /// Likewise of any change; unlike the other it cannot be set. 0 where there is none.
    changed: u64,
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        let since = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (changed, inode) = change_and_inode(&metadata);
        Ok(Self {
            file: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            size: metadata.len(),
            modified: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
            changed,
            inode,
        })
    }

    fn has_settled(&self, now: SystemTime) -> bool {
        let last = Duration::from_nanos(self.modified.max(self.changed));
        now.duration_since(UNIX_EPOCH + last).is_ok_and(|age| age > SETTLING)
    }
}

#[cfg(unix)]
fn change_and_inode(metadata: &fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;

    let changed = i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
    (u64::try_from(changed).unwrap_or(0), metadata.ino())
}

#[cfg(not(unix))]
fn change_and_inode(_: &fs::Metadata) -> (u64, u64) {
    (0, 0)
}

#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    version: u32,
    files: Vec<Stamp>,
    /// Digests in hex by tensor.
    tensors: BTreeMap<String, String>,
}

/// The digests of `weights`: remembered, or computed and remembered. `user_cache` is where they go
/// when the model's own directory cannot be written to.
///
/// # Errors
/// Where the weights cannot be read.
pub fn digests(weights: &Weights, user_cache: Option<&Path>) -> Result<WeightDigests, ModelError> {
    digests_at(weights, user_cache, SystemTime::now())
}

fn digests_at(
    weights: &Weights,
    user_cache: Option<&Path>,
    now: SystemTime,
) -> Result<WeightDigests, ModelError> {
    let files = weights.files();
    let stamps = || files.iter().map(|path| Stamp::of(path)).collect::<io::Result<Vec<Stamp>>>();
    let before = stamps().ok();
    let places = places(&files, user_cache);
    if let Some(before) = &before
        && let Some(known) = places.iter().find_map(|place| recall(place, before))
    {
        return Ok(known);
    }
    let digests = WeightDigests::compute(weights)?;
    // The mapped files are those that were opened; a path may name another one by now.
    let unchanged = before.filter(|before| stamps().is_ok_and(|after| after == *before));
    if let Some(files) = unchanged
        && files.iter().all(|stamp| stamp.has_settled(now))
    {
        let hex = |digest: &[u8; 32]| blake3::Hash::from_bytes(*digest).to_hex().to_string();
        let tensors = digests.tensors().map(|(name, digest)| (name.to_owned(), hex(digest)));
        let remembered = Remembered { version: VERSION, files, tensors: tensors.collect() };
        let kept = places.iter().any(|place| remember(place, &remembered).is_ok());
        tracing::debug!(kept, "the model's digests were computed");
    }
    Ok(digests)
}

/// Where digests may lie, the best place first. Both are named after the first file.
fn places(files: &[PathBuf], user_cache: Option<&Path>) -> Vec<PathBuf> {
    let Some(first) = files.first().and_then(|path| path.canonicalize().ok()) else {
        return Vec::new();
    };
    let name = first.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let beside = first.with_file_name(format!(".{}.sorsa-digests", name.replace('.', "-")));
    let key = blake3::hash(first.as_os_str().as_encoded_bytes()).to_hex();
    let own = user_cache.map(|dir| dir.join("digests").join(format!("{key}.json")));
    [Some(beside), own].into_iter().flatten().collect()
}

fn recall(place: &Path, files: &[Stamp]) -> Option<WeightDigests> {
    if fs::metadata(place).ok()?.len() > MAX_BYTES {
        return None;
    }
    let remembered: Remembered = serde_json::from_slice(&fs::read(place).ok()?).ok()?;
    if remembered.version != VERSION || remembered.files != files {
        return None;
    }
    let digest =
        |(name, hex): (String, String)| Some((name, *blake3::Hash::from_hex(hex).ok()?.as_bytes()));
    let tensors = remembered.tensors.into_iter().map(digest).collect::<Option<BTreeMap<_, _>>>()?;
    Some(WeightDigests::from_known(tensors))
}

/// Writes to a file beside and renames it, so that nobody reads half of one.
fn remember(place: &Path, remembered: &Remembered) -> io::Result<()> {
    if let Some(dir) = place.parent() {
        fs::create_dir_all(dir)?;
    }
    let draft = place.with_extension(format!("{}.draft", std::process::id()));
    fs::write(&draft, serde_json::to_vec(remembered)?)
        .and_then(|()| fs::rename(&draft, place))
        .inspect_err(|_| drop(fs::remove_file(&draft)))
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;

    fn tensor(seed: f32, dtype: DType) -> Tensor {
        let values: Vec<f32> = (0..6).map(|i| seed + i as f32).collect();
        Tensor::from_vec(values, (2, 3), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    }

    fn write(dir: &Path, file: &str, tensors: &[(&str, Tensor)]) {
        let tensors: BTreeMap<&str, &Tensor> = tensors.iter().map(|(n, t)| (*n, t)).collect();
        fs::write(dir.join(file), safetensors::serialize(tensors, None).unwrap()).unwrap();
    }

    fn single(tensors: &[(&str, Tensor)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "model.safetensors", tensors);
        dir
    }

    fn compute(dir: &tempfile::TempDir) -> WeightDigests {
        WeightDigests::compute(&Weights::open(dir.path()).unwrap()).unwrap()
    }

    /// Long after the files were written.
    fn later() -> SystemTime {
        SystemTime::now() + Duration::from_secs(60)
    }

    fn recalled(dir: &tempfile::TempDir, user_cache: Option<&Path>) -> WeightDigests {
        digests_at(&Weights::open(dir.path()).unwrap(), user_cache, later()).unwrap()
    }

    #[test]
    fn a_digest_is_of_names_types_shapes_and_bytes() {
        let (a, b) = (tensor(1.0, DType::F32), tensor(2.0, DType::F32));
        let base = |tensors: &[(&str, Tensor)]| compute(&single(tensors)).base();
        let original = base(&[("a", a.clone()), ("b", b.clone())]);
        assert_eq!(original, base(&[("b", b.clone()), ("a", a.clone())]));
        for other in [
            base(&[("a", b.clone()), ("b", a.clone())]),
            base(&[("a", a.clone())]),
            base(&[("a", a.clone()), ("c", b.clone())]),
            base(&[("a", a.clone()), ("b", tensor(2.0, DType::BF16))]),
            base(&[("a", a.clone()), ("b", b.reshape((3, 2)).unwrap())]),
        ] {
            assert_ne!(original, other);
        }
    }

    #[test]
    fn how_a_checkpoint_is_cut_plays_no_part() {
        let (a, b) = (tensor(1.0, DType::F32), tensor(2.0, DType::BF16));
        let sharded = tempfile::tempdir().unwrap();
        write(sharded.path(), "1.safetensors", &[("a", a.clone())]);
        write(sharded.path(), "2.safetensors", &[("b", b.clone())]);
        let index = r#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#;
        fs::write(sharded.path().join("model.safetensors.index.json"), index).unwrap();
        assert_eq!(compute(&sharded), compute(&single(&[("a", a), ("b", b)])));
    }

    #[test]
    fn digests_are_remembered_until_the_file_changes() {
        let dir = single(&[("a", tensor(1.0, DType::F32))]);
        let first = recalled(&dir, None);
        let place = dir.path().join(".model-safetensors.sorsa-digests");
        // What is found there is believed: it was read and not computed.
        let forged = fs::read_to_string(&place).unwrap();
        let hex = blake3::Hash::from_bytes(*first.tensors().next().unwrap().1).to_hex();
        fs::write(&place, forged.replace(hex.as_str(), &"0".repeat(64))).unwrap();
        assert_ne!(recalled(&dir, None), first);
        write(dir.path(), "model.safetensors", &[("a", tensor(2.0, DType::F32))]);
        assert_eq!(recalled(&dir, None), compute(&dir));
    }

    #[test]
    fn what_may_still_change_is_not_remembered() {
        let dir = single(&[("a", tensor(1.0, DType::F32))]);
        digests(&Weights::open(dir.path()).unwrap(), None).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_cache_is_computed_anew() {
        let dir = single(&[("a", tensor(1.0, DType::F32))]);
        let first = recalled(&dir, None);
        let place = dir.path().join(".model-safetensors.sorsa-digests");
        let good = fs::read_to_string(&place).unwrap();
        let other = good.replace("\"version\":1", "\"version\":2");
        for damaged in ["", "{}", "null", &good[..good.len() / 2], &other] {
            fs::write(&place, damaged).unwrap();
            assert_eq!(recalled(&dir, None), first);
            assert_eq!(fs::read_to_string(&place).unwrap(), good);
        }
    }

    #[test]
    fn a_place_that_cannot_be_written_gives_way_to_the_users_cache() {
        let dir = single(&[("a", tensor(1.0, DType::F32))]);
        let cache = tempfile::tempdir().unwrap();
        // A directory in the file's place refuses even the superuser.
        fs::create_dir(dir.path().join(".model-safetensors.sorsa-digests")).unwrap();
        let first = recalled(&dir, Some(cache.path()));
        assert_eq!(fs::read_dir(cache.path().join("digests")).unwrap().count(), 1);
        assert_eq!(recalled(&dir, Some(cache.path())), first);
        assert_eq!(recalled(&dir, None), first);
    }
}
