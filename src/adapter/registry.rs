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
    own: Option<Arc<AdapterVersion>>,
    adapters: BTreeMap<String, Arc<AdapterVersion>>,
}

impl Registry {
    /// A registry of the base model under `base_names` (at least one; the first is its id).
    #[must_use]
    pub fn new(base_names: Vec<String>) -> Self {
        Self { base_names, own: None, adapters: BTreeMap::new() }
    }

    /// A registry of a model whose weights are served only together with `delta`, under
    /// `base_names` (at least one; the first is its id): the weights alone have no name.
    #[must_use]
    pub fn of_residual(base_names: Vec<String>, delta: Arc<LowRankDelta>) -> Self {
        let own = Arc::new(AdapterVersion { name: base_names[0].clone(), delta });
        Self { base_names, own: Some(own), adapters: BTreeMap::new() }
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
            return Some(self.own.clone().map_or(Target::Base, Target::Adapter));
        }
        self.adapters.get(name).map(|version| Target::Adapter(Arc::clone(version)))
    }

    /// The base model's id.
    #[must_use]
    pub fn base_name(&self) -> &str {
        &self.base_names[0]
    }

    /// True where the weights alone answer to a name; false where they are a residual.
    #[must_use]
    pub fn serves_base(&self) -> bool {
        self.own.is_none()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> Registry {
        Registry::new(vec!["base".into(), "alias".into()])
    }

    fn version(name: &str, digest: u8) -> AdapterVersion {
        let delta = Arc::new(LowRankDelta::new(AdapterId([digest; 32]), Vec::new()));
        AdapterVersion { name: name.into(), delta }
    }

    #[test]
    fn an_unknown_name_is_never_the_base() {
        let mut registry = registry();
        registry.insert(version("maths", 1)).unwrap();
        for name in ["", "Base", "base ", "math", "maths2", "other"] {
            assert!(registry.resolve(name).is_none(), "{name}");
        }
    }

    #[test]
    fn each_name_stands_for_its_own() {
        let mut registry = registry();
        registry.insert(version("maths", 1)).unwrap();
        registry.insert(version("code", 2)).unwrap();
        for name in ["base", "alias"] {
            assert!(matches!(registry.resolve(name), Some(Target::Base)), "{name}");
        }
        let Some(Target::Adapter(maths)) = registry.resolve("maths") else { panic!("no maths") };
        assert_eq!((maths.name.as_str(), maths.id()), ("maths", AdapterId([1; 32])));
        assert_eq!(registry.base_name(), "base");
        let names: Vec<&str> = registry.adapters().map(|adapter| adapter.name.as_str()).collect();
        assert_eq!(names, ["code", "maths"]);
    }

    #[test]
    fn a_residual_has_no_name_of_its_own() {
        let delta = version("", 7).delta;
        let mut registry = Registry::of_residual(vec!["mine".into(), "alias".into()], delta);
        registry.insert(version("other", 1)).unwrap();
        assert!(registry.insert(version("alias", 1)).is_err());
        for (name, digest) in [("mine", 7), ("alias", 7), ("other", 1)] {
            let Some(Target::Adapter(found)) = registry.resolve(name) else { panic!("{name}") };
            assert_eq!(found.id(), AdapterId([digest; 32]), "{name}");
        }
        assert!(!registry.serves_base() && self::registry().serves_base());
        assert_eq!(registry.adapters().count(), 1);
    }

    #[test]
    fn a_name_is_given_once() {
        let mut registry = registry();
        registry.insert(version("maths", 1)).unwrap();
        for name in ["base", "alias", "maths"] {
            let error = registry.insert(version(name, 2)).unwrap_err();
            assert_eq!(error.name, name);
        }
        let Some(Target::Adapter(kept)) = registry.resolve("maths") else { panic!("no maths") };
        assert_eq!(kept.id(), AdapterId([1; 32]));
    }
}
