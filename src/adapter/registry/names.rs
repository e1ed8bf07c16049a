//! What every name means at one moment: a snapshot that requests read without a lock.

use std::collections::HashMap;
use std::sync::Arc;

use super::slot::Slot;

/// All names of adapters, at one moment.
#[derive(Debug, Default)]
pub(super) struct Names(pub HashMap<String, Meaning>);

/// What one name stands for.
#[derive(Debug)]
pub(super) enum Meaning {
    /// An adapter, by the versions that answer for it.
    Adapter(Shares),
    /// Another name, of an adapter.
    Alias(String),
}

/// Versions that answer for one name, each for its share of the requests.
#[derive(Debug, Clone)]
pub(super) struct Shares {
    /// Each version with the sum of its own weight and those before it.
    bounds: Vec<(Arc<Slot>, u64)>,
}

impl Names {
    /// The versions behind `name`.
    pub fn find(&self, name: &str) -> Option<&Shares> {
        match self.0.get(name)? {
            Meaning::Adapter(shares) => Some(shares),
            Meaning::Alias(target) => match self.0.get(target)? {
                Meaning::Adapter(shares) => Some(shares),
                Meaning::Alias(_) => None,
            },
        }
    }
}

impl Shares {
    /// Versions and their weights; those of weight 0 get no request.
    pub fn new(weighted: impl IntoIterator<Item = (Arc<Slot>, u32)>) -> Self {
        let mut sum = 0;
        let bound = |(slot, weight): (Arc<Slot>, u32)| {
            sum += u64::from(weight);
            (slot, sum)
        };
        let weighted = weighted.into_iter().filter(|(_, weight)| *weight > 0);
        Self { bounds: weighted.map(bound).collect() }
    }

    /// The version for the request that `hash` stands for; the hash is asked for only where there
    /// is a choice.
    pub fn pick(&self, hash: impl FnOnce() -> u64) -> Option<&Arc<Slot>> {
        let (last, total) = self.bounds.last()?;
        if self.bounds.len() == 1 {
            return Some(last);
        }
        let place = hash() % total;
        self.bounds.iter().find(|(_, bound)| place < *bound).map(|(slot, _)| slot)
    }

    /// The versions.
    pub fn slots(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.bounds.iter().map(|(slot, _)| slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::registry::source::Source;

    fn slot(name: &str) -> Arc<Slot> {
        Slot::new(name, Source::Directory { path: name.into() }, false, None)
    }

    #[test]
    fn requests_are_shared_by_weight_and_each_hash_stays_where_it_is() {
        let shares = Shares::new([(slot("a"), 90), (slot("never"), 0), (slot("b"), 10)]);
        let picked = |hash: u64| shares.pick(|| hash).unwrap().name.clone();
        let count = (0..1000).filter(|hash| picked(*hash) == "a").count();
        assert_eq!(count, 900);
        assert!((0..1000).all(|hash| picked(hash) == picked(hash) && picked(hash) != "never"));
        let one = Shares::new([(slot("a"), 1)]);
        assert_eq!(one.pick(|| panic!("there is no choice")).unwrap().name, "a");
        assert!(Shares::new([(slot("a"), 0)]).pick(|| 0).is_none());
    }

    #[test]
    fn an_alias_leads_to_an_adapter_and_no_further() {
        let mut names = Names::default();
        let alias = |target: &str| Meaning::Alias(target.to_owned());
        names.0.insert("a".into(), Meaning::Adapter(Shares::new([(slot("a"), 1)])));
        names.0.insert("one".into(), alias("a"));
        names.0.insert("two".into(), alias("one"));
        names.0.insert("self".into(), alias("self"));
        assert!(names.find("one").is_some());
        for name in ["two", "self", "three", "A"] {
            assert!(names.find(name).is_none(), "{name}");
        }
    }
}
