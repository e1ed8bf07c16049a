//! Going back: to what answered before, and to nothing else, whatever was registered meanwhile.

use proptest::prelude::*;

use super::*;

fn back(registry: &Registry) -> Result<u8, ChangeError> {
    registry.roll_back("a", Expect::Anything)?;
    Ok(content(registry, "a"))
}

#[test]
fn going_back_leads_to_what_answered_before() {
    let (_, registry) = empty();
    for path in ["1", "2"] {
        registry.put(put("a", path)).unwrap();
    }
    assert_eq!(back(&registry).unwrap(), 1);
    registry.put(put("a", "3")).unwrap();
    // Version 2 was gone back from, and is not what answered before version 3.
    assert_eq!(back(&registry).unwrap(), 1);
    let error = back(&registry).unwrap_err();
    assert!(matches!(error, ChangeError::NoEarlier { .. }), "{error}");
}

#[test]
fn a_version_that_never_answered_is_not_gone_back_to() {
    let (_, registry) = empty();
    registry.put(put("a", "1")).unwrap();
    for path in ["2", "3"] {
        registry.put(Put { activate: false, ..put("a", path) }).unwrap();
    }
    registry.put(put("a", "4")).unwrap();
    assert_eq!(back(&registry).unwrap(), 1);
    assert!(back(&registry).is_err());
    registry.roll_out("a", &BTreeMap::from([(1, 7), (2, 0)]), Expect::Anything).unwrap();
    // The same version alone, under another weight, is the same.
    assert!(back(&registry).is_err());
}

#[test]
fn several_versions_come_back_with_their_shares() {
    let (_, registry) = empty();
    registry.put(put("a", "1")).unwrap();
    registry.put(Put { activate: false, ..put("a", "2") }).unwrap();
    let weights = BTreeMap::from([(1, 90), (2, 10)]);
    registry.roll_out("a", &weights, Expect::Anything).unwrap();
    registry.put(put("a", "3")).unwrap();
    registry.roll_back("a", Expect::Anything).unwrap();
    let split: Vec<_> =
        registry.adapter("a").unwrap().versions.iter().map(|v| (v.number, v.weight)).collect();
    assert_eq!(split, [(1, 90), (2, 10), (3, 0)]);
    assert_eq!(back(&registry).unwrap(), 1);
}

#[test]
fn versions_that_wait_do_not_push_out_what_is_gone_back_to() {
    let (_, registry) = empty();
    registry.put(put("a", "1")).unwrap();
    registry.put(put("a", "2")).unwrap();
    for path in 3..40 {
        registry.put(Put { activate: false, ..put("a", &path.to_string()) }).unwrap();
    }
    assert_eq!(registry.adapter("a").unwrap().versions.len(), 18);
    assert_eq!(back(&registry).unwrap(), 1);
}

#[test]
fn names_that_mean_something_else_are_refused_wherever_they_are_given() {
    let (_, registry) = empty();
    registry.put(put("a", "1")).unwrap();
    for name in ["default", "base", "org/base", "", ".", "..", "../a", "a b", "-a", "ä"] {
        assert!(registry.put(put(name, "1")).is_err(), "{name}");
        assert!(registry.dry_run(name, source("1")).is_err(), "{name}");
        assert!(registry.alias(name, "a", Expect::Anything).is_err(), "{name}");
        assert!(registry.follow_file(&[declared(name, &["1"], &[])]).is_err(), "{name}");
        assert!(registry.follow_file(&[declared("b", &["1"], &[name])]).is_err(), "{name}");
    }
    for name in ["default", "base", "org/base"] {
        assert!(registry.declare(name, source("1")).is_err(), "{name}");
    }
    let names = ["default", "base", "no name", "good"].map(str::to_owned);
    registry.follow_directory(Path::new("/d"), &names.into());
    let refused: Vec<_> = registry.refused().into_iter().map(|refused| refused.name).collect();
    assert_eq!(refused, ["base", "default", "no name"]);
    assert!(registry.knows("good") && !registry.knows("default"));
    registry.follow_directory(Path::new("/d"), &BTreeSet::new());
    assert!(registry.refused().is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Put { content: u8, activate: bool },
    Broken,
    RollOut(Vec<(u64, u32)>),
    RollBack,
    Pin(bool),
    Unload,
    Remove,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let weights = prop::collection::btree_map(1..8_u64, 0..3_u32, 1..4);
    prop_oneof![
        4 => (1..6_u8, any::<bool>()).prop_map(|(content, activate)| Step::Put { content, activate }),
        1 => Just(Step::Broken),
        2 => weights.prop_map(|weights| Step::RollOut(weights.into_iter().collect())),
        4 => Just(Step::RollBack),
        1 => any::<bool>().prop_map(Step::Pin),
        1 => Just(Step::Unload),
        1 => Just(Step::Remove),
        1 => Just(Step::Restart),
    ]
}

/// What answers, as contents with their share of the requests in sixtieths; and what answered before.
#[derive(Debug, Default)]
struct Model {
    /// By number, from 1.
    versions: Vec<u8>,
    now: Vec<(u64, u32)>,
    before: Vec<Vec<(u64, u32)>>,
}

impl Model {
    fn answer(&mut self, split: Vec<(u64, u32)>) {
        let sum: u32 = split.iter().map(|(_, weight)| weight).sum();
        let split: Vec<_> = split.iter().map(|(n, weight)| (*n, weight * 60 / sum)).collect();
        let before = std::mem::replace(&mut self.now, split);
        if !before.is_empty() && before != self.now {
            self.before.push(before);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// In any order of registering, sharing out, going back, forgetting and starting again, what
    /// answers is what a list of all that answered says.
    #[test]
    fn what_answers_is_what_a_list_says(steps in prop::collection::vec(step(), 1..14)) {
        let dir = tempfile::tempdir().unwrap();
        let mut durable = options();
        durable.state_dir = Some(dir.path().join("state"));
        let loader = Arc::new(MadeUp::default());
        let mut registry = Some(super::registry(Arc::clone(&loader), Some(durable.clone())));
        let mut model = Model::default();
        for step in steps {
            let present = registry.as_ref().unwrap();
            match step {
                Step::Put { content, activate } => {
                    let new = Put { activate, ..put("a", &content.to_string()) };
                    let done = present.put(new).unwrap();
                    let alone = |(number, _): &(u64, u32)| model.versions[*number as usize - 1];
                    let same = model.now.len() == 1 && model.now.first().map(alone) == Some(content);
                    prop_assert_eq!(done.changed, !same);
                    if !same {
                        model.versions.push(content);
                        let number = model.versions.len() as u64;
                        if activate || number == 1 {
                            model.answer(vec![(number, 1)]);
                        }
                    }
                }
                Step::Broken => prop_assert!(present.put(put("a", "broken")).is_err()),
                Step::RollOut(weights) => {
                    let split: Vec<_> = weights.iter().copied().filter(|(_, w)| *w > 0).collect();
                    let known = |(n, _): &(u64, u32)| *n as usize <= model.versions.len();
                    let fits = !split.is_empty() && split.iter().all(known);
                    let weights = weights.into_iter().collect();
                    let done = present.roll_out("a", &weights, Expect::Anything);
                    prop_assert_eq!(done.is_ok(), fits);
                    if fits {
                        model.answer(split);
                    }
                }
                Step::RollBack => {
                    let done = present.roll_back("a", Expect::Anything);
                    prop_assert_eq!(done.is_ok(), !model.before.is_empty());
                    if let Some(before) = model.before.pop() {
                        model.now = before;
                    }
                }
                Step::Pin(pinned) => drop(present.pin("a", pinned, Expect::Anything)),
                Step::Unload => drop(present.unload("a")),
                Step::Remove => {
                    let done = present.remove("a", Expect::Anything);
                    prop_assert_eq!(done.is_ok(), !model.versions.is_empty());
                    model = Model::default();
                }
                Step::Restart => {
                    // Closed before it is opened again.
                    drop(registry.take());
                    registry = Some(super::registry(Arc::clone(&loader), Some(durable.clone())));
                }
            }
            let present = registry.as_ref().unwrap();
            let info = present.adapter("a");
            prop_assert_eq!(info.is_some(), !model.versions.is_empty());
            let versions = info.map(|info| info.versions).unwrap_or_default();
            let sum: u32 = versions.iter().map(|version| version.weight).sum();
            let split: Vec<_> = versions
                .iter()
                .filter(|version| version.weight > 0)
                .map(|version| (version.number, version.weight * 60 / sum))
                .collect();
            prop_assert_eq!(&split, &model.now);
            if let [(number, _)] = model.now.as_slice() {
                prop_assert_eq!(content(present, "a"), model.versions[*number as usize - 1]);
            }
        }
    }
}
