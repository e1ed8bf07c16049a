//! What the process learns from its environment besides its flags.

use std::path::PathBuf;

/// Where this program may keep what it can compute again: `sorsa` in the user's cache directory
/// (XDG Base Directory specification), where there is one.
#[must_use]
// This is the one module that may.
#[allow(clippy::disallowed_methods)]
pub fn user_cache() -> Option<PathBuf> {
    let absolute =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    Some(cache?.join("sorsa"))
}

/// This program's own file, to start it once more.
///
/// # Errors
/// Where the system does not say.
pub fn own_executable() -> std::io::Result<PathBuf> {
    std::env::current_exe()
}
