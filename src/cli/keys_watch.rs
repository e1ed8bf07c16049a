//! Reads the keys file again: when it changes, at SIGHUP, and every few seconds, for file systems that
//! tell nobody of changes. A file that cannot be used changes nothing, and the log says why.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::access::{MAX_KEYS_FILE, keys_file};
use super::changes::{self, Look, Looks};
use super::followed_file::FollowedFile;
use crate::server::tenancy::Tenancy;

/// Between two looks where nothing was heard of.
const INTERVAL: Duration = Duration::from_secs(2);

/// Follows the file from now on.
///
/// # Errors
/// Where the system gives no thread.
pub fn watch(
    path: PathBuf,
    tenancy: Arc<Tenancy>,
    (look, looks): (Look, Looks),
) -> anyhow::Result<()> {
    // Its end ends the watching, so it moves along.
    // Editors and orchestrators replace files, so it is the directory that tells.
    let watcher = changes::listen(path.parent().unwrap_or(Path::new("")), look)
        .inspect_err(
            |error| tracing::debug!(%error, "changes of the keys file are looked for only"),
        )
        .ok();
    let work = move || {
        follow(path, &tenancy, &looks);
        drop(watcher);
    };
    std::thread::Builder::new().name("keys".into()).spawn(work)?;
    Ok(())
}

fn follow(path: PathBuf, tenancy: &Tenancy, looks: &Looks) {
    // The first look is one too: the file may have changed since it was opened.
    let mut file = FollowedFile::new(path, MAX_KEYS_FILE, "the keys file", None);
    while let Some(why) = looks.wait(file.soon().unwrap_or(INTERVAL)) {
        let looked = file.look(Instant::now(), why, |text| reload(tenancy, text));
        if let Some((tenants, keys)) = looked {
            tracing::info!(tenants, keys, "the keys file was read");
        }
        tenancy.write_again();
    }
}

fn reload(tenancy: &Tenancy, text: &str) -> anyhow::Result<(usize, usize)> {
    Ok(tenancy.reload(keys_file(text)?)?)
}
