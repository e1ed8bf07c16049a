//! Reads the keys file again: when it changes, at SIGHUP, and every few seconds, for file systems that
//! tell nobody of changes. A file that cannot be used changes nothing, and the log says why.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::access::read;
use super::changes;
use crate::server::tenancy::Tenancy;
use crate::tenant::keys_file::KeysFile;

/// Between two looks where nothing was heard of.
const INTERVAL: Duration = Duration::from_secs(2);

/// Follows the file from now on.
///
/// # Errors
/// Where the system gives no thread or no signal.
pub fn watch(path: PathBuf, tenancy: Arc<Tenancy>) -> anyhow::Result<()> {
    // One place: a look that is due stands for every reason there is.
    let (look, looks) = sync_channel(1);
    // Its end ends the watching, so it moves along.
    // Editors and orchestrators replace files, so it is the directory that tells.
    let watcher = changes::listen(path.parent().unwrap_or(Path::new("")), look.clone())
        .inspect_err(
            |error| tracing::debug!(%error, "changes of the keys file are looked for only"),
        )
        .ok();
    let mut hangups = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            let _ = look.try_send(());
        }
    });
    let work = move || {
        follow(&path, &tenancy, &looks);
        drop(watcher);
    };
    std::thread::Builder::new().name("keys".into()).spawn(work)?;
    Ok(())
}

fn follow(path: &Path, tenancy: &Tenancy, looks: &Receiver<()>) {
    // What was found last, usable or not: a fault is told once. The first look is one too: the file
    // may have changed since it was opened.
    let mut seen = None;
    while !matches!(looks.recv_timeout(INTERVAL), Err(RecvTimeoutError::Disconnected)) {
        let text = match read(path) {
            Ok(text) => text,
            Err(error) => {
                if seen.take().is_some() {
                    tracing::warn!("the keys stay as they are: {error:#}");
                }
                continue;
            }
        };
        if seen.as_ref() == Some(&text) {
            continue;
        }
        match reload(tenancy, &text) {
            Ok((tenants, keys)) => {
                tracing::info!(tenants, keys, "the keys file was read");
            }
            Err(error) => tracing::warn!("the keys stay as they are: {error:#}"),
        }
        seen = Some(text);
    }
}

fn reload(tenancy: &Tenancy, text: &str) -> anyhow::Result<(usize, usize)> {
    Ok(tenancy.reload(KeysFile::parse(text)?)?)
}
