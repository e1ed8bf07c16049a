//! Any bytes as an un-merged SORSA checkpoint: an error or a whole checkpoint, never a panic.
//!
//! The input is `config.json`, a zero byte, and the one safetensors file.

#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use sorsa::adapter::delta::ModuleSpec;
use sorsa::model::sorsa::{SorsaCheckpoint, SorsaError};

fuzz_target!(|input: &[u8]| {
    let at = input.iter().position(|byte| *byte == 0).unwrap_or(input.len());
    let (config, weights) = input.split_at(at);
    let directory = tempfile::tempdir().expect("a place for temporary files");
    let path = directory.path();
    fs::write(path.join("config.json"), config).expect("it is writable");
    let weights = weights.get(1..).unwrap_or_default();
    fs::write(path.join("model.safetensors"), weights).expect("it is writable");
    let _ = SorsaCheckpoint::is_at(path);
    let Ok(checkpoint) = SorsaCheckpoint::open(path) else { return };
    assert!(!checkpoint.modules().is_empty() && checkpoint.scale() != 0.0);
    // A type that is not read is an error too, and another one.
    let own = checkpoint.check_same_residual(&checkpoint);
    assert!(!matches!(own, Err(SorsaError::OtherResidual { .. })), "{own:?}");
    let specs: Vec<ModuleSpec> =
        checkpoint.modules().iter().map(|module| module.spec.clone()).collect();
    if let Ok(delta) = checkpoint.delta(&specs) {
        assert_eq!(delta.max_rank(), checkpoint.max_rank());
    }
});
