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
        return with_file(path, args, state_dir);
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
    let file = open_keys(path).with_context(|| format!("--keys {}", path.display()))?;
    let state = state_dir.map(|dir| dir.join(TENANTS_FILE));
    let opened = Book::open(file, state).map_err(anyhow::Error::from);
    // The file holds by itself: what does not is what administrators declared.
    let opened = opened.and_then(|book| Ok(Tenancy::with_book(book, metrics_access(args))?));
    opened.with_context(|| {
        let dir = state_dir.unwrap_or(Path::new("")).display();
        format!("--state-dir {dir}: {TENANTS_FILE}, which holds what administrators declared")
    })
}

/// A keys file that holds by itself.
fn open_keys(path: &Path) -> anyhow::Result<KeysFile> {
    let file = keys_file(&read_text(path, MAX_KEYS_FILE)?)?;
    Directory::new(&file)?;
    Ok(file)
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::ByteSize;

    const KEYS: &str =
        "[tenants.acme]\nbase = true\n[keys.one]\ntenant = \"acme\"\nsha256 = \"HASH\"\n";

    fn keys(secret: &str) -> String {
        KEYS.replace("HASH", &KeyHash::of(secret).to_string())
    }

    #[test]
    fn what_is_wrong_is_told_of_the_flag_and_file_that_it_is_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let (file, state) = (path("keys.toml"), path("state"));
        fs::create_dir(&state).unwrap();
        let args = AccessArgs {
            keys: Some(file.clone()),
            api_key: Vec::new(),
            allow_open: false,
            allowed_host: Vec::new(),
            metrics_key: None,
            public_metrics: false,
            usage_log: None,
            usage_log_max_size: ByteSize(1),
        };
        let start = || {
            let opened = tenancy(&args, IpAddr::from([127, 0, 0, 1]), Some(&state));
            opened.map(drop).map_err(|error| format!("{error:#}"))
        };
        let of_keys = format!("--keys {}: ", file.display());
        let of_state = format!("--state-dir {}: tenants.toml, which", state.display());
        let good = keys("one");
        let unknown = good.replace("tenant = \"acme\"", "tenant = \"nobody\"");
        let no_digest = good.replace("sha256 = \"", "sha256 = \"no");
        for (text, what) in [
            ("", "there is no key in it"),
            ("[tenants", "line 1: "),
            (&unknown, "nobody"),
            (&no_digest, "one"),
        ] {
            fs::write(&file, text).unwrap();
            let error = start().unwrap_err();
            let rest = error.strip_prefix(&of_keys).unwrap_or_else(|| panic!("{error}"));
            assert!(rest.contains(what) && !rest.contains("--state-dir"), "{error}");
        }
        fs::write(&file, &good).unwrap();
        start().unwrap();
        for (text, what) in [
            ("[tenants", "line 1: "),
            ("[tenants.x]\nweight = 0", "weight"),
            (&no_digest.replace("keys.one", "keys.two"), "two"),
            // The same key under another name.
            (&good.replace("keys.one", "keys.two"), "two"),
        ] {
            fs::write(state.join("tenants.toml"), text).unwrap();
            let error = start().unwrap_err();
            assert!(error.starts_with(&of_state) && error.contains(what), "{error}");
            assert!(!error.contains("--keys"), "{error}");
        }
        fs::remove_file(state.join("tenants.toml")).unwrap();
        fs::create_dir(state.join("tenants.toml")).unwrap();
        assert!(start().unwrap_err().starts_with(&of_state));
        fs::remove_file(&file).unwrap();
        assert!(start().unwrap_err().starts_with(&of_keys));
    }
}
