//! `sorsa key`: makes keys. A key is shown once; its file holds the digest.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Subcommand;

use super::access::{MAX_KEYS_FILE, directory};
use super::followed_file::read_text;
use crate::tenant::key::NewKey;
use crate::tenant::keys_file::{KeyEntry, KeysFile, Role, TenantEntry};
use crate::tenant::policy::is_valid_name;

/// `sorsa key`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key for a tenant, print it, and add its digest to the keys file
    New(NewArgs),
}

#[derive(Debug, clap::Args)]
struct NewArgs {
    /// Tenant of the key
    #[arg(long, value_name = "NAME")]
    tenant: String,
    /// Keys file, created if it does not exist; without it, the entry for the file is printed
    #[arg(long, env = "SORSA_KEYS", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Make an administrator's key, which manages the server and can do nothing else
    #[arg(long)]
    admin: bool,
    /// Time at which the key expires, as 2027-01-31T00:00:00Z
    #[arg(long, value_name = "TIME")]
    expires: Option<toml::value::Datetime>,
    /// For a new tenant: adapters it may use; `*` matches any characters (repeatable)
    #[arg(long, value_name = "PATTERN")]
    adapters: Vec<String>,
    /// For a new tenant: allow it to use the base model
    #[arg(long)]
    base: bool,
}

/// Runs it.
///
/// # Errors
/// Where the file cannot be read, written, or would not hold together.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let Command::New(args) = &args.command;
    ensure!(is_valid_name(&args.tenant), "--tenant {:?} is no name for a tenant", args.tenant);
    let key = NewKey::random()?;
    match &args.file {
        Some(path) => add(path, args, &key)?,
        None => eprint!("{}", addition(&KeysFile::default(), args, &key)),
    }
    writeln!(std::io::stdout(), "{}", key.secret)?;
    Ok(())
}

/// Adds the key to the file, which is replaced whole: who reads it finds the old one or the new.
fn add(path: &Path, args: &NewArgs, key: &NewKey) -> anyhow::Result<()> {
    let next = path.with_extension("toml.next");
    let mut file = create(&next)?;
    let written = write(path, &mut file, args, key)
        .and_then(|()| fs::rename(&next, path).map_err(Into::into));
    if written.is_err() {
        let _ = fs::remove_file(&next);
    }
    written
}

/// The file to be; only its owner reads it. While it is there, nobody else changes the keys.
fn create(next: &Path) -> anyhow::Result<File> {
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(next);
    created.with_context(|| format!("{} is being changed, or cannot be", next.display()))
}

fn write(path: &Path, file: &mut File, args: &NewArgs, key: &NewKey) -> anyhow::Result<()> {
    let mut text = match fs::metadata(path) {
        Ok(known) => {
            file.set_permissions(known.permissions())?;
            read_text(path, MAX_KEYS_FILE).with_context(|| path.display().to_string())?
        }
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let known = KeysFile::parse(&text).with_context(|| path.display().to_string())?;
    if !text.is_empty() {
        text.push_str(if text.ends_with('\n') { "\n" } else { "\n\n" });
    }
    text.push_str(&addition(&known, args, key));
    directory(&text).with_context(|| path.display().to_string())?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(())
}

/// The tables that a file lacks: the key's, and the tenant's where it is new.
fn addition(known: &KeysFile, args: &NewArgs, key: &NewKey) -> String {
    let mut addition = KeysFile::default();
    if !known.tenants.contains_key(&args.tenant) {
        let (adapters, base) = (args.adapters.clone(), args.base);
        let entry = TenantEntry { adapters, base, ..TenantEntry::default() };
        addition.tenants.insert(args.tenant.clone(), entry);
    }
    let entry = KeyEntry {
        tenant: args.tenant.clone(),
        sha256: key.hash().to_string(),
        roles: vec![if args.admin { Role::Admin } else { Role::User }],
        expires: args.expires,
    };
    addition.keys.insert(key.id.clone(), entry);
    addition.to_toml()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(tenant: &str, adapters: &[&str], admin: bool) -> NewArgs {
        NewArgs {
            tenant: tenant.to_owned(),
            file: None,
            admin,
            expires: None,
            adapters: adapters.iter().map(|&text| text.to_owned()).collect(),
            base: false,
        }
    }

    #[test]
    fn keys_are_added_and_what_people_wrote_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        let keys = [(); 3].map(|()| NewKey::random().unwrap());
        add(&path, &args("acme", &["acme-*"], false), &keys[0]).unwrap();
        let written = fs::read_to_string(&path).unwrap() + "# by hand";
        fs::write(&path, &written).unwrap();
        add(&path, &args("acme", &[], false), &keys[1]).unwrap();
        add(&path, &args("platform", &[], true), &keys[2]).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(&written), "{text}");
        let directory = directory(&text).unwrap();
        let tenants = keys.each_ref().map(|key| {
            assert!(!text.contains(&key.secret));
            let found = directory.find(&key.secret, 0).unwrap();
            (found.tenant.as_str(), found.user, found.admin)
        });
        let expected = [("acme", true, false), ("acme", true, false), ("platform", false, true)];
        assert_eq!(tenants, expected);
        assert!(directory.tenant("acme").unwrap().allows_adapter("acme-chat"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_file_that_is_wrong_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        fs::write(&path, "nonsense").unwrap();
        add(&path, &args("acme", &[], false), &NewKey::random().unwrap()).unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "nonsense");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
