//! Tenants and keys as they hold together: which tenant a key speaks for, and what it may do.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::key::KeyHash;
use super::keys_file::{KeyEntry, KeysFile, Role, TenantEntry};
use super::pattern::Pattern;
use super::policy::{Limits, Policy, is_valid_name};
use super::time::unix_seconds;

/// Largest part of the server that one tenant can have relative to another.
const MAX_WEIGHT: u32 = 1000;

/// A key, as far as the server knows it.
#[derive(Debug, Clone)]
pub struct Key {
    /// Its public name.
    pub id: String,
    /// The tenant it speaks for.
    pub tenant: String,
    /// Whether it may use models.
    pub user: bool,
    /// Whether it may manage the server.
    pub admin: bool,
    /// When it ends, in seconds since 1970.
    pub expires: Option<u64>,
    hash: KeyHash,
}

/// Declarations that do not hold together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// A name that cannot stand in a log or a metric.
    #[error("{0:?} is no name: use 1 to 64 letters, digits, '.', '_' or '-'")]
    Name(String),
    /// A key of nobody.
    #[error("key {key}: there is no tenant {tenant:?}")]
    NoTenant {
        /// The key's public name.
        key: String,
        /// Whom it names.
        tenant: String,
    },
    /// A digest that is none.
    #[error("key {0}: sha256 must be 64 hexadecimal digits")]
    Hash(String),
    /// One key under two names.
    #[error("keys {0} and {1} have one sha256")]
    SameHash(String, String),
    /// A key for nothing.
    #[error("key {0}: roles must name user or admin, or both")]
    NoRole(String),
    /// A time that is none.
    #[error("key {0}: expires must be a date and time with an offset, as 2027-01-31T00:00:00Z")]
    Expires(String),
    /// A limit that lets nothing pass.
    #[error("tenant {tenant}: {limit} must be at least 1")]
    Zero {
        /// Whose.
        tenant: String,
        /// Which.
        limit: &'static str,
    },
    /// A part out of bounds.
    #[error("tenant {0}: weight must be from 1 to {MAX_WEIGHT}")]
    Weight(String),
    /// A default that the tenant itself may not use.
    #[error("tenant {tenant}: default {default:?} is not among its adapters")]
    Default {
        /// Whose.
        tenant: String,
        /// Which.
        default: String,
    },
}

/// Every tenant and every key. It never changes: a new one takes its place.
#[derive(Debug, Default)]
pub struct Directory {
    tenants: BTreeMap<String, Arc<Policy>>,
    keys: BTreeMap<String, Arc<Key>>,
    /// Keys by the first bytes of their digests.
    found: HashMap<[u8; 8], Vec<Arc<Key>>>,
}

impl Directory {
    /// What a file declares.
    ///
    /// # Errors
    /// The first declaration that does not hold.
    pub fn new(file: &KeysFile) -> Result<Self, DirectoryError> {
        let mut directory = Self::default();
        for (name, entry) in &file.tenants {
            directory.tenants.insert(name.clone(), Arc::new(policy(name, entry)?));
        }
        for (id, entry) in &file.keys {
            directory.insert(key(id, entry)?)?;
        }
        Ok(directory)
    }

    /// One tenant that may do everything but manage, and the keys that speak for it.
    ///
    /// # Errors
    /// Where a key is given twice.
    pub fn of_keys(tenant: &str, secrets: &[String]) -> Result<Self, DirectoryError> {
        let mut directory = Self::default();
        directory.tenants.insert(tenant.to_owned(), Arc::new(Policy::unlimited(tenant)));
        for (number, secret) in secrets.iter().enumerate() {
            directory.insert(Key {
                id: format!("api-key-{}", number + 1),
                tenant: tenant.to_owned(),
                user: true,
                admin: false,
                expires: None,
                hash: KeyHash::of(secret),
            })?;
        }
        Ok(directory)
    }

    fn insert(&mut self, key: Key) -> Result<(), DirectoryError> {
        if !self.tenants.contains_key(&key.tenant) {
            return Err(DirectoryError::NoTenant { key: key.id, tenant: key.tenant });
        }
        let same = self.found.entry(key.hash.prefix()).or_default();
        if let Some(other) = same.iter().find(|other| other.hash.matches(&key.hash)) {
            return Err(DirectoryError::SameHash(other.id.clone(), key.id));
        }
        let key = Arc::new(key);
        same.push(Arc::clone(&key));
        self.keys.insert(key.id.clone(), key);
        Ok(())
    }

    /// The key whose text is `secret`, unless it has ended at `now`, in seconds since 1970. The
    /// time it takes says at most what a digest begins with.
    #[must_use]
    pub fn find(&self, secret: &str, now: u64) -> Option<&Arc<Key>> {
        let hash = KeyHash::of(secret);
        let candidates = self.found.get(&hash.prefix())?;
        let key = candidates.iter().find(|key| key.hash.matches(&hash))?;
        key.expires.is_none_or(|end| now < end).then_some(key)
    }

    /// A tenant's rights.
    #[must_use]
    pub fn tenant(&self, name: &str) -> Option<&Arc<Policy>> {
        self.tenants.get(name)
    }

    /// All tenants by name.
    pub fn tenants(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.tenants.values()
    }

    /// All keys by their public names.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<Key>> {
        self.keys.values()
    }

    /// Whether some key manages the server.
    #[must_use]
    pub fn has_admin(&self) -> bool {
        self.keys.values().any(|key| key.admin)
    }
}

fn policy(name: &str, entry: &TenantEntry) -> Result<Policy, DirectoryError> {
    check_name(name)?;
    entry.cache_group.as_deref().map_or(Ok(()), check_name)?;
    let tenant = || name.to_owned();
    let weight = entry.weight.unwrap_or(1);
    if !(1..=MAX_WEIGHT).contains(&weight) {
        return Err(DirectoryError::Weight(tenant()));
    }
    let zeros = [
        ("requests_per_minute", entry.requests_per_minute == Some(0)),
        ("tokens_per_minute", entry.tokens_per_minute == Some(0)),
        ("max_concurrent", entry.max_concurrent == Some(0)),
        ("max_waiting", entry.max_waiting == Some(0)),
        ("max_tokens", entry.max_tokens == Some(0)),
    ];
    if let Some((limit, _)) = zeros.into_iter().find(|(_, zero)| *zero) {
        return Err(DirectoryError::Zero { tenant: tenant(), limit });
    }
    let policy = Policy {
        name: tenant(),
        adapters: entry.adapters.iter().map(|text| Pattern::new(text)).collect(),
        base: entry.base,
        default: entry.default.clone(),
        weight,
        limits: Limits {
            requests_per_minute: entry.requests_per_minute,
            tokens_per_minute: entry.tokens_per_minute,
            max_concurrent: entry.max_concurrent,
            max_waiting: entry.max_waiting,
            max_tokens: entry.max_tokens,
        },
        cache_group: entry.cache_group.clone(),
    };
    match &policy.default {
        // The base model's names are not known here.
        Some(default) if !policy.base && !policy.allows_adapter(default) => {
            Err(DirectoryError::Default { tenant: tenant(), default: default.clone() })
        }
        _ => Ok(policy),
    }
}

fn key(id: &str, entry: &KeyEntry) -> Result<Key, DirectoryError> {
    check_name(id)?;
    if entry.roles.is_empty() {
        return Err(DirectoryError::NoRole(id.to_owned()));
    }
    let expires = match &entry.expires {
        None => None,
        Some(time) => {
            Some(unix_seconds(time).ok_or_else(|| DirectoryError::Expires(id.to_owned()))?)
        }
    };
    Ok(Key {
        id: id.to_owned(),
        tenant: entry.tenant.clone(),
        user: entry.roles.contains(&Role::User),
        admin: entry.roles.contains(&Role::Admin),
        expires,
        hash: KeyHash::parse(&entry.sha256).ok_or_else(|| DirectoryError::Hash(id.to_owned()))?,
    })
}

fn check_name(name: &str) -> Result<(), DirectoryError> {
    if is_valid_name(name) { Ok(()) } else { Err(DirectoryError::Name(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(text: &str) -> Result<Directory, DirectoryError> {
        Directory::new(&KeysFile::parse(text).unwrap())
    }

    fn entry(id: &str, tenant: &str, secret: &str, more: &str) -> String {
        let hash = KeyHash::of(secret);
        format!("[keys.{id}]\ntenant = \"{tenant}\"\nsha256 = \"{hash}\"\n{more}\n")
    }

    #[test]
    fn a_key_is_found_by_its_text_until_it_ends() {
        let text = "[tenants.acme]\n[tenants.globex]\nbase = true\n".to_owned()
            + &entry("one", "acme", "sk-1", "")
            + &entry("two", "globex", "sk-2", "roles = [\"admin\"]")
            + &entry("three", "acme", "sk-3", "expires = 1970-01-01T00:01:40Z");
        let directory = directory(&text).unwrap();
        let find = |secret: &str, now| directory.find(secret, now).map(|key| key.id.as_str());
        assert_eq!(find("sk-1", 0), Some("one"));
        assert_eq!((find("sk-3", 99), find("sk-3", 100)), (Some("three"), None));
        assert_eq!((find("sk-4", 0), find("", 0), find("sk-1 ", 0)), (None, None, None));
        let two = directory.find("sk-2", 0).unwrap();
        assert!(two.admin && !two.user && two.tenant == "globex" && directory.has_admin());
        assert!(directory.tenant("globex").unwrap().base);
        assert!(!directory.tenant("acme").unwrap().allows_adapter("acme"));
    }

    #[test]
    fn what_does_not_hold_together_is_named() {
        let tenant = "[tenants.a]\n";
        let cases = [
            ("[tenants.\"a b\"]".to_owned(), "\"a b\" is no name"),
            (entry("k", "a", "x", ""), "key k: there is no tenant \"a\""),
            (format!("{tenant}[keys.k]\ntenant = \"a\"\nsha256 = \"0\""), "key k: sha256 must be"),
            (
                tenant.to_owned() + &entry("k", "a", "x", "") + &entry("l", "a", "x", ""),
                "keys k and l have one sha256",
            ),
            (tenant.to_owned() + &entry("k", "a", "x", "roles = []"), "key k: roles must name"),
            (tenant.to_owned() + &entry("k", "a", "x", "expires = 2027-01-31"), "key k: expires"),
            (format!("{tenant}max_tokens = 0"), "tenant a: max_tokens must be at least 1"),
            (format!("{tenant}weight = 1001"), "tenant a: weight must be from 1 to 1000"),
            (format!("{tenant}default = \"b\""), "tenant a: default \"b\" is not among"),
            (format!("{tenant}cache_group = \"\""), "\"\" is no name"),
        ];
        for (text, expected) in cases {
            let error = directory(&text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error} for {text}");
        }
    }

    #[test]
    fn keys_given_as_they_are_speak_for_one_tenant() {
        let directory = Directory::of_keys("default", &["a".into(), "b".into()]).unwrap();
        let key = directory.find("b", 0).unwrap();
        assert_eq!((key.tenant.as_str(), key.user, key.admin), ("default", true, false));
        assert!(directory.tenant("default").unwrap().allows_adapter("any/thing"));
        assert!(Directory::of_keys("default", &["a".into(), "a".into()]).is_err());
    }
}
