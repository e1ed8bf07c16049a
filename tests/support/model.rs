//! The small real model and the adapters that go with it. Their absence is a failure.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A path within the repository.
pub fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// SmolLM2-135M-Instruct as a GGUF file.
pub fn gguf() -> PathBuf {
    let path = in_repository(".cache/models/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(path.is_file(), "{} is missing: run scripts/fetch-model", path.display());
    path
}

/// The same model as `sorsa convert --dtype bf16` writes it: the model of record of the
/// references. Converted once per build of the binary.
pub fn hugging_face() -> PathBuf {
    let binary = Path::new(env!("CARGO_BIN_EXE_sorsa"));
    let built = fs::metadata(binary).unwrap().modified().unwrap();
    let built = built.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(folder).unwrap();
    let lock = File::create(folder.join("convert.lock")).unwrap();
    lock.lock().unwrap();
    let target = folder.join("smollm2-bf16");
    let stamp = folder.join("smollm2-bf16.built");
    if fs::read_to_string(&stamp).ok() != Some(built.to_string()) {
        let _ = fs::remove_dir_all(&target);
        let status = Command::new(binary)
            .args(["convert"])
            .args([&gguf(), &target])
            .args(["--dtype", "bf16"])
            .status()
            .unwrap();
        assert!(status.success(), "sorsa convert failed");
        fs::write(&stamp, built.to_string()).unwrap();
    }
    target
}

/// The example adapter of this repository.
pub fn pirate() -> PathBuf {
    in_repository("models/adapters/pirate")
}

/// A recorded reference of the real model.
pub fn golden(name: &str) -> Value {
    let path = in_repository("tests/fixtures/smollm2").join(name);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}
