//! The large references, which live beside the repository and not in it.

use std::path::{Path, PathBuf};

/// `../shared`, where it is there. A clone alone is complete without it; under `CI=true` its
/// absence is a failure.
pub fn shared_reference() -> Option<PathBuf> {
    beside("../shared")
}

/// The checkpoints that `tests/python/reference_grid.py` makes with the paper's library, where they
/// are there; under `CI=true` their absence is a failure.
pub fn reference_grid() -> Vec<PathBuf> {
    let Some(grid) = beside(".cache/grid") else { return Vec::new() };
    let mut cases: Vec<_> =
        std::fs::read_dir(grid).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() > 10, "the grid is incomplete: {cases:?}");
    cases
}

fn beside(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if path.is_dir() {
        return Some(path);
    }
    #[allow(clippy::disallowed_methods)] // The rule is about the environment.
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!ci, "CI=true, and {} is missing", path.display());
    eprintln!("{} is not here: a comparison with it was left out", path.display());
    None
}
