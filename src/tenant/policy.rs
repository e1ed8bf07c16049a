//! What one tenant may use, and how much of it.

use super::pattern::Pattern;

/// The name of the tenant that calls where no keys are configured, or one key for all.
pub const DEFAULT_TENANT: &str = "default";

/// A tenant's rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Its name: in usage records and metrics, and at the root of its cached prompts.
    pub name: String,
    /// Adapters it may use, by name.
    pub adapters: Vec<Pattern>,
    /// Whether it may use the base model.
    pub base: bool,
    /// The model it means where it names none, or `default`.
    pub default: Option<String>,
    /// Its part of the server beside other tenants that wait, relative to theirs; at least 1.
    pub weight: u32,
    /// How much it may use.
    pub limits: Limits,
    /// Tenants of one group share cached prompts; without one, a tenant shares with nobody.
    pub cache_group: Option<String>,
}

/// How much a tenant may use; `None` is as much as the server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Requests per minute.
    pub requests_per_minute: Option<u64>,
    /// Tokens per minute, of prompts and answers together.
    pub tokens_per_minute: Option<u64>,
    /// Requests that are answered at once.
    pub max_concurrent: Option<usize>,
    /// Prompts that wait in the queue at once.
    pub max_waiting: Option<usize>,
    /// Tokens to generate per choice.
    pub max_tokens: Option<usize>,
}

impl Policy {
    /// A tenant that may use everything, as much as there is.
    #[must_use]
    pub fn unlimited(name: &str) -> Self {
        Self { adapters: vec![Pattern::new("*")], base: true, ..Self::nothing(name) }
    }

    /// A tenant that may use nothing yet.
    #[must_use]
    pub fn nothing(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            adapters: Vec::new(),
            base: false,
            default: None,
            weight: 1,
            limits: Limits::default(),
            cache_group: None,
        }
    }

    /// Whether it may use the adapter `name`, be there one or not.
    #[must_use]
    pub fn allows_adapter(&self, name: &str) -> bool {
        self.adapters.iter().any(|pattern| pattern.matches(name))
    }
}

/// True for names of tenants and keys: they stand in logs, metrics and file names as they are.
#[must_use]
pub fn is_valid_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=64).contains(&name.len()) && name.chars().all(allowed)
}
