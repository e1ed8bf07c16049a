//! What the process learns from its environment besides its flags.

use std::path::PathBuf;

use crate::remote::{Hub, Token, Variables};

/// What the variables of object stores begin with.
const STORES: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];

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

/// The variables of object stores: those that their own tools read.
#[must_use]
pub fn store_variables() -> Variables {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    let all = std::env::vars_os().filter_map(text);
    let of_stores = |(name, _): &(String, String)| STORES.iter().any(|own| name.starts_with(own));
    Variables(all.filter(of_stores).collect())
}

/// The Hugging Face hub, by the variables of its own tools: `HF_ENDPOINT`, `HF_TOKEN`,
/// `HF_HUB_OFFLINE`.
#[must_use]
// This is the one module that may.
#[allow(clippy::disallowed_methods)]
pub fn hub() -> Hub {
    let value = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let yes = |value: String| ["1", "on", "yes", "true"].contains(&&*value.to_lowercase());
    Hub {
        endpoint: value("HF_ENDPOINT").unwrap_or_else(|| Hub::default().endpoint),
        token: value("HF_TOKEN").map(Token),
        offline: value("HF_HUB_OFFLINE").is_some_and(yes),
    }
}

/// This program's own file, to start it once more.
///
/// # Errors
/// Where the system does not say.
pub fn own_executable() -> std::io::Result<PathBuf> {
    std::env::current_exe()
}
