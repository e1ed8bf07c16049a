//! The file that declares tenants and keys: TOML, written by people or by this program.
//!
//! ```toml
//! [tenants.acme]
//! adapters = ["acme-*"]
//! default = "acme-chat"
//! requests_per_minute = 60
//!
//! [keys.3f9a61c07d2e]
//! tenant = "acme"
//! sha256 = "…"
//! ```
//!
//! A name is a table's, so that none is given twice. What the declarations mean together is
//! [`super::directory`]'s to say.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use toml::value::Datetime;

/// What stands in the file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeysFile {
    /// Tenants by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tenants: BTreeMap<String, TenantEntry>,
    /// Keys by their public name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, KeyEntry>,
}

/// A tenant as declared: see [`super::policy::Policy`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantEntry {
    /// Names or patterns of adapters.
    #[serde(default)]
    pub adapters: Vec<String>,
    /// Whether the base model may be used.
    #[serde(default)]
    pub base: bool,
    /// The model that is meant where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// Part of the server relative to others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Requests per minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    /// Tokens per minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    /// Requests answered at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<usize>,
    /// Prompts that wait at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_waiting: Option<usize>,
    /// Tokens to generate per choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// Tenants with which cached prompts are shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_group: Option<String>,
}

/// A key as declared: its digest, never itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    /// For whom it speaks.
    pub tenant: String,
    /// The SHA-256 of the key, in hexadecimal digits.
    pub sha256: String,
    /// What it is for.
    #[serde(default = "user", skip_serializing_if = "is_user")]
    pub roles: Vec<Role>,
    /// When it ends; a date and time with an offset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Datetime>,
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// To use models.
    User,
    /// To manage the server.
    Admin,
}

fn user() -> Vec<Role> {
    vec![Role::User]
}

fn is_user(roles: &[Role]) -> bool {
    *roles == [Role::User]
}

/// A text that is no keys file. It names the line and quotes nothing: somebody may have written
/// a key where its digest belongs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct NotAKeysFile {
    line: usize,
    reason: String,
}

impl KeysFile {
    /// Reads a file's text.
    ///
    /// # Errors
    /// Where it is no TOML, or holds what no keys file holds.
    pub fn parse(text: &str) -> Result<Self, NotAKeysFile> {
        toml::from_str(text).map_err(|error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            NotAKeysFile { line, reason: reason(error.message()) }
        })
    }

    /// The text of a file that declares this.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("tables of strings and numbers are TOML")
    }
}

/// The reader's words: what is wrong without the value that is, and what was expected.
fn reason(message: &str) -> String {
    let (wrong, expected) = message.split_once(", expected").unwrap_or((message, ""));
    let mut reason = match wrong.split_once(['`', '"']) {
        Some((kind, _)) => format!("{kind}…"),
        None => wrong.to_owned(),
    };
    if !expected.is_empty() {
        reason.push_str(", expected");
        reason.push_str(expected);
    }
    reason.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
        # Comments stay with their authors.\n\
        [tenants.acme]\n\
        adapters = [\"acme-*\"]\n\
        default = \"acme-chat\"\n\
        tokens_per_minute = 1000\n\n\
        [keys.one]\n\
        tenant = \"acme\"\n\
        sha256 = \"00ff\"\n\n\
        [keys.two]\n\
        tenant = \"acme\"\n\
        sha256 = \"00fe\"\n\
        roles = [\"user\", \"admin\"]\n\
        expires = 2027-01-31T00:00:00Z\n";

    #[test]
    fn what_is_written_is_read_again() {
        let file = KeysFile::parse(TEXT).unwrap();
        assert_eq!(file.tenants["acme"].adapters, ["acme-*"]);
        assert_eq!(file.keys["one"].roles, [Role::User]);
        assert_eq!(file.keys["two"].roles, [Role::User, Role::Admin]);
        assert_eq!(KeysFile::parse(&file.to_toml()), Ok(file));
        assert_eq!(KeysFile::parse(""), Ok(KeysFile::default()));
    }

    #[test]
    fn what_is_wrong_is_said_by_line_and_quotes_no_value() {
        let secret = "sk-very-secret";
        for (text, line) in [
            (format!("[keys.a]\ntenant = \"x\"\nkey = \"{secret}\"\n"), 3),
            (format!("[keys.a]\ntenant = \"x\"\nsha256 = \"{secret}\"\nroles = [\"{secret}\"]"), 4),
            (format!("[tenants.a]\nbase = \"{secret}\""), 2),
            (format!("[tenants.a]\n{secret}"), 2),
            (format!("\"{secret}\"\n\n[keys.a"), 1),
            ("[tenants.a]\n[tenants.a]".to_owned(), 2),
        ] {
            let error = KeysFile::parse(&text).unwrap_err();
            assert_eq!(error.line, line, "{error}");
            assert!(!error.to_string().contains(secret), "{error}");
        }
    }
}
