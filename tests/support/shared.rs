//! The large references, which live beside the repository and not in it.

use std::path::{Path, PathBuf};

/// `../shared`, where it is there. A clone alone is complete without it; under `CI=true` its
/// absence is a failure.
pub fn shared_reference() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    if path.is_dir() {
        return Some(path);
    }
    #[allow(clippy::disallowed_methods)] // The rule is about the environment.
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!ci, "CI=true, and {} is missing", path.display());
    eprintln!("{} is not here: a comparison with it was left out", path.display());
    None
}
