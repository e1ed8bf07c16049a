//! Names: which adapter version, or the base model, a request's `model` means.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::delta::{AdapterId, LowRankDelta};

/// One loaded version of an adapter. A request holds it by `Arc` from submission to its end.
#[derive(Debug)]
pub struct AdapterVersion {
    /// The name clients use.
    pub name: String,
    /// Its weights, relative to the base model.
    pub delta: Arc<LowRankDelta>,
}

impl AdapterVersion {
    /// The content digest.
    #[must_use]
    pub fn id(&self) -> AdapterId {
        self.delta.id()
    }
}

/// What a name stands for.
#[derive(Debug, Clone)]
pub enum Target {
    /// The base model (or the model merged at start).
    Base,
    /// An adapter on the base model.
    Adapter(Arc<AdapterVersion>),
}

/// Two things were given one name.
#[derive(Debug, thiserror::Error)]
#[error("the name {name:?} is given twice")]
pub struct DuplicateName {
    /// That name.
    pub name: String,
}

/// All names this server answers to.
#[derive(Debug)]
pub struct Registry {
    base_names: Vec<String>,
    adapters: BTreeMap<String, Arc<AdapterVersion>>,
}

impl Registry {
    /// A registry of the base model under `base_names` (at least one; the first is its id).
    #[must_use]
    pub fn new(base_names: Vec<String>) -> Self {
        Self { base_names, adapters: BTreeMap::new() }
    }

    /// Adds an adapter under its name.
    ///
    /// # Errors
    /// Where the name is taken.
    pub fn insert(&mut self, version: AdapterVersion) -> Result<(), DuplicateName> {
        if self.resolve(&version.name).is_some() {
            return Err(DuplicateName { name: version.name });
        }
        self.adapters.insert(version.name.clone(), Arc::new(version));
        Ok(())
    }

    /// What `name` stands for; `None` is an unknown model, never the base.
    #[must_use]
    pub fn resolve(&self, name: &str) -> Option<Target> {
        if self.base_names.iter().any(|base| base == name) {
            return Some(Target::Base);
        }
        self.adapters.get(name).map(|version| Target::Adapter(Arc::clone(version)))
    }

    /// The base model's id.
    #[must_use]
    pub fn base_name(&self) -> &str {
        &self.base_names[0]
    }

    /// Every name of the base model.
    #[must_use]
    pub fn base_names(&self) -> &[String] {
        &self.base_names
    }

    /// The adapters by name.
    pub fn adapters(&self) -> impl Iterator<Item = &Arc<AdapterVersion>> {
        self.adapters.values()
    }
}
