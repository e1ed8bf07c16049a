//! From arguments to tenants: who may call a server, checked before anything else is opened.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};

use super::followed_file::read_text;
use crate::config::AccessArgs;
use crate::server::tenancy::book::Book;
use crate::server::tenancy::{MetricsAccess, Tenancy};
use crate::tenant::directory::Directory;
use crate::tenant::key::KeyHash;
use crate::tenant::keys_file::KeysFile;
use crate::tenant::policy::DEFAULT_TENANT;

/// Largest keys file that is read.
pub const MAX_KEYS_FILE: u64 = 16 << 20;
/// What administrators declare, in the state directory.
const TENANTS_FILE: &str = "tenants.toml";

/// The tenants of a server that listens on `host`; what administrators declare lasts in `state_dir`.
///
/// # Errors
/// Where the keys file cannot be used, and where strangers could call without a key though nobody
/// said that they may.
pub fn tenancy(
    args: &AccessArgs,
    host: IpAddr,
    state_dir: Option<&Path>,
) -> anyhow::Result<Arc<Tenancy>> {
    if let Some(path) = &args.keys {
        return with_file(path, args, state_dir).with_context(|| context(path));
    }
    if !args.api_key.is_empty() {
        let secrets: Vec<String> = args.api_key.iter().map(|secret| secret.0.clone()).collect();
        let directory = Directory::of_keys(DEFAULT_TENANT, &secrets).context("--api-key")?;
        return Ok(Tenancy::with_keys(directory, metrics_access(args)));
    }
    ensure!(
        host.is_loopback() || args.allow_open,
        "--host {host} lets others call, and no key is asked for: give --keys FILE or --api-key \
         KEY, or say --allow-open"
    );
    ensure!(args.metrics_key.is_none(), "--metrics-key needs --keys or --api-key beside it");
    if host.is_loopback() {
        tracing::warn!("no key is asked for: every program on this machine may call");
    } else {
        tracing::warn!("no key is asked for: whoever reaches {host} may call");
    }
    Ok(Tenancy::open())
}

fn with_file(
    path: &Path,
    args: &AccessArgs,
    state_dir: Option<&Path>,
) -> anyhow::Result<Arc<Tenancy>> {
    let file = keys_file(&read_text(path, MAX_KEYS_FILE)?)?;
    Directory::new(&file)?;
    let state = state_dir.map(|dir| dir.join(TENANTS_FILE));
    let book = Book::open(file, state).with_context(|| {
        let dir = state_dir.unwrap_or(Path::new("")).display();
        format!("--state-dir {dir}: {TENANTS_FILE}, which holds what administrators declared")
    })?;
    Ok(Tenancy::with_book(book, metrics_access(args))?)
}

fn metrics_access(args: &AccessArgs) -> MetricsAccess {
    match &args.metrics_key {
        Some(secret) => MetricsAccess::Key(KeyHash::of(&secret.0)),
        None if args.public_metrics => MetricsAccess::Public,
        None => MetricsAccess::Admins,
    }
}

/// What a server's keys file says: at least one key, as nobody could call without.
///
/// # Errors
/// Where it says nothing of the kind.
pub fn keys_file(text: &str) -> anyhow::Result<KeysFile> {
    let file = KeysFile::parse(text)?;
    ensure!(!file.keys.is_empty(), "there is no key in it");
    Ok(file)
}

/// What a keys file's text declares.
///
/// # Errors
/// The first thing that is wrong in it.
pub fn directory(text: &str) -> anyhow::Result<Directory> {
    Ok(Directory::new(&KeysFile::parse(text)?)?)
}

fn context(path: &Path) -> String {
    format!("--keys {}", path.display())
}
