use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::made_up::{BYTES, MadeUp, options, registry};
use super::*;
use crate::adapter::delta::AdapterId;

mod replaced;
mod rollback;
mod stored;
mod turns;

fn source(path: &str) -> Source {
    Source::Directory { path: path.into() }
}

fn put(name: &str, path: &str) -> Put<'static> {
    Put {
        name: Box::leak(name.to_owned().into_boxed_str()),
        source: source(path),
        expect: Expect::Anything,
        pinned: None,
        activate: true,
    }
}

/// The version that answers, loaded if need be.
fn get(registry: &Registry, name: &str) -> Result<Arc<AdapterVersion>, LoadError> {
    match registry.find(name, || 0) {
        Found::Ready(Target::Adapter(version)) => Ok(version),
        Found::Loading(load) => load.wait(),
        Found::Failed(error) => Err(error),
        other => panic!("{name}: {other:?}"),
    }
}

/// The content that answers.
fn content(registry: &Registry, name: &str) -> u8 {
    get(registry, name).unwrap().id().0[0]
}

/// Waits until so many bytes are in memory: the thread that loaded a version lets go of it a moment
/// after those who waited have it.
fn assert_memory(registry: &Registry, bytes: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while registry.memory_used() != bytes {
        assert!(Instant::now() < deadline, "{} bytes, not {bytes}", registry.memory_used());
        std::thread::yield_now();
    }
}

fn residency(registry: &Registry, name: &str) -> Residency {
    registry.adapter(name).unwrap().versions.last().unwrap().residency
}

fn empty() -> (Arc<MadeUp>, Registry) {
    let loader = Arc::new(MadeUp::default());
    (Arc::clone(&loader), registry(loader, None))
}

#[test]
fn an_unknown_name_is_never_the_base() {
    let (_, registry) = empty();
    registry.declare("maths", source("1")).unwrap();
    for name in ["", "Base", "base ", "math", "maths2", "other"] {
        assert!(matches!(registry.find(name, || 0), Found::Unknown), "{name}");
        assert!(!registry.knows(name));
    }
    for name in ["base", "org/base"] {
        assert!(matches!(registry.find(name, || 0), Found::Ready(Target::Base)), "{name}");
    }
    assert_eq!(content(&registry, "maths"), 1);
}

#[test]
fn a_residual_has_no_name_of_its_own() {
    let delta = Arc::new(LowRankDelta::new(AdapterId([7; 32]), Vec::new()));
    let names = vec!["mine".to_owned(), "alias".to_owned()];
    let loader = Arc::new(MadeUp::default());
    let registry = Registry::open(names, Some(delta), options(), loader, Metrics::new()).unwrap();
    registry.declare("other", source("1")).unwrap();
    assert!(registry.declare("alias", source("1")).is_err() && !registry.serves_base());
    for (name, expected) in [("mine", 7), ("alias", 7), ("other", 1)] {
        assert_eq!(content(&registry, name), expected, "{name}");
    }
}

#[test]
fn a_name_is_given_once() {
    let (_, registry) = empty();
    registry.declare("maths", source("1")).unwrap();
    for name in ["base", "maths"] {
        let error = registry.declare(name, source("2")).unwrap_err();
        assert!(matches!(error, ChangeError::Taken { .. }), "{error}");
    }
    let error = registry.put(put("maths", "2")).unwrap_err();
    assert!(matches!(error, ChangeError::Elsewhere { .. }), "{error}");
    assert_eq!(content(&registry, "maths"), 1);
}

#[test]
fn requests_that_come_together_load_once() {
    let (loader, registry) = empty();
    registry.follow_directory(Path::new("/d"), &BTreeSet::from(["5".to_owned()]));
    assert_eq!(residency(&registry, "5"), Residency::Registered);
    loader.hold(true);
    let loads: Vec<Load> = (0..100)
        .map(|_| match registry.find("5", || 0) {
            Found::Loading(load) => load,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(residency(&registry, "5"), Residency::Loading);
    loader.hold(false);
    let versions: Vec<_> = loads.into_iter().map(|load| load.wait().unwrap()).collect();
    assert!(versions.iter().all(|version| Arc::ptr_eq(version, &versions[0])));
    assert_eq!(loader.reads.load(Ordering::SeqCst), 1);
    assert_eq!(residency(&registry, "5"), Residency::Resident);
}

#[test]
fn a_failure_answers_for_the_next_requests_too() {
    let (loader, registry) = empty();
    registry.follow_directory(Path::new("/d"), &BTreeSet::from(["broken".to_owned()]));
    let error = get(&registry, "broken").unwrap_err();
    assert_eq!(error.to_string(), "broken holds no adapter");
    for _ in 0..10 {
        assert_eq!(get(&registry, "broken").unwrap_err(), error);
    }
    assert_eq!(loader.reads.load(Ordering::SeqCst), 1);
    assert_eq!(residency(&registry, "broken"), Residency::Failed);
    assert_memory(&registry, 0);
}

#[test]
fn a_new_version_takes_over_and_requests_under_way_keep_theirs() {
    let (_, registry) = empty();
    let first = registry.put(put("a", "1")).unwrap();
    assert!(first.created && first.changed && first.version == 1);
    let running = get(&registry, "a").unwrap();
    let second = registry.put(put("a", "2")).unwrap();
    assert!(!second.created && second.version == 2 && second.revision > first.revision);
    assert_eq!((running.id().0[0], content(&registry, "a")), (1, 2));
    // The old one is in memory for as long as somebody is answered with it.
    assert_memory(&registry, 2 * BYTES);
    drop(running);
    assert_memory(&registry, BYTES);
    let back = registry.roll_back("a", Expect::Revision(second.revision)).unwrap();
    assert_eq!((back.version, content(&registry, "a")), (1, 1));
    let error = registry.roll_back("a", Expect::Anything).unwrap_err();
    assert!(matches!(error, ChangeError::NoEarlier { .. }), "{error}");
}

#[test]
fn what_cannot_be_loaded_changes_nothing() {
    let (loader, registry) = empty();
    let first = registry.put(put("a", "1")).unwrap();
    assert!(matches!(registry.put(put("a", "broken")), Err(ChangeError::Load(_))));
    assert!(matches!(registry.put(put("b", "broken")), Err(ChangeError::Load(_))));
    assert!(matches!(registry.dry_run("c", source("broken")), Err(ChangeError::Load(_))));
    assert_eq!(registry.adapter("a").unwrap().revision, first.revision);
    assert!(!registry.knows("b") && content(&registry, "a") == 1);
    // A version whose files were changed is not gone back to.
    registry.put(put("a", "2")).unwrap();
    loader.place(&source("1"), Some(9));
    let error = registry.roll_back("a", Expect::Anything).unwrap_err();
    assert!(error.to_string().contains("register them as a new version"), "{error}");
    assert_eq!(content(&registry, "a"), 2);
    assert_memory(&registry, BYTES);
    assert_eq!(registry.dry_run("c", source("3")).unwrap().id, AdapterId([3; 32]));
    assert!(!registry.knows("c"));
    assert_memory(&registry, BYTES);
}

#[test]
fn the_same_content_again_changes_nothing_and_revisions_are_compared() {
    let (loader, registry) = empty();
    let first = registry.put(put("a", "1")).unwrap();
    loader.place(&source("copy"), Some(1));
    let again = registry.put(put("a", "copy")).unwrap();
    assert_eq!(again, Changed { created: false, changed: false, ..first });
    assert_memory(&registry, BYTES);
    for expect in [Expect::Absent, Expect::Revision(first.revision + 1)] {
        let error = registry.put(Put { expect, ..put("a", "2") }).unwrap_err();
        assert!(matches!(error, ChangeError::Revision { .. }), "{error}");
        assert!(registry.remove("a", expect).is_err());
    }
    let error = registry.remove("b", Expect::Revision(1)).unwrap_err();
    assert!(matches!(error, ChangeError::Revision { .. }), "{error}");
    registry.remove("a", Expect::Revision(first.revision)).unwrap();
    assert!(!registry.knows("a"));
    assert_memory(&registry, 0);
    let new = registry.put(Put { expect: Expect::Absent, ..put("a", "1") }).unwrap();
    assert!(new.created && new.revision > first.revision);
}

#[test]
fn the_least_recently_used_leaves_and_comes_back() {
    let loader = Arc::new(MadeUp::default());
    let mut few = options();
    few.budget.max_resident = Some(2);
    // Room for the adapters themselves and, of what was read, for one.
    few.budget.max_bytes = 3 * BYTES;
    let registry = registry(Arc::clone(&loader), Some(few));
    registry.put(Put { pinned: Some(true), ..put("pinned", "9") }).unwrap();
    for (name, path) in [("a", "1"), ("b", "2"), ("c", "3")] {
        registry.put(put(name, path)).unwrap();
        assert!(registry.memory_used() <= 3 * BYTES);
    }
    let resident = |name: &str| residency(&registry, name) == Residency::Resident;
    assert!(resident("pinned") && resident("c") && !resident("a") && !resident("b"));
    for _ in 0..3 {
        for (name, expected) in [("a", 1), ("b", 2), ("c", 3), ("pinned", 9)] {
            assert_eq!(content(&registry, name), expected);
            assert!(resident(name) && resident("pinned"));
            assert!(registry.memory_used() <= 3 * BYTES);
        }
    }
}

#[test]
fn what_was_read_stays_while_there_is_room() {
    let loader = Arc::new(MadeUp::default());
    let mut one = options();
    one.budget.max_resident = Some(1);
    let registry = registry(Arc::clone(&loader), Some(one));
    for (name, path) in [("a", "1"), ("b", "2")] {
        registry.put(put(name, path)).unwrap();
    }
    assert_eq!(residency(&registry, "a"), Residency::InMemory);
    assert_eq!((content(&registry, "a"), content(&registry, "b")), (1, 2));
    assert_eq!(loader.reads.load(Ordering::SeqCst), 2);
    registry.unload("a").unwrap();
    registry.unload("b").unwrap();
    assert_eq!(residency(&registry, "a"), Residency::OnDisk);
    assert_memory(&registry, 0);
    assert_eq!((content(&registry, "a"), loader.reads.load(Ordering::SeqCst)), (1, 3));
}

#[test]
fn a_load_waits_for_the_memory_of_those_being_answered() {
    let loader = Arc::new(MadeUp::default());
    let mut one = options();
    one.budget.max_bytes = BYTES;
    let registry = Arc::new(registry(loader, Some(one)));
    registry.put(put("a", "1")).unwrap();
    let running = get(&registry, "a").unwrap();
    let other = Arc::clone(&registry);
    let waiting = std::thread::spawn(move || other.put(put("b", "2")).map(|_| other.memory_used()));
    // The load has begun to make room once the name is no longer in memory.
    while residency(&registry, "a") == Residency::Resident {
        std::thread::yield_now();
    }
    assert_eq!((registry.memory_used(), running.id().0[0]), (BYTES, 1));
    drop(running);
    assert_eq!(waiting.join().unwrap().unwrap(), BYTES);
    assert_eq!(content(&registry, "b"), 2);
}

#[test]
fn requests_are_shared_out_by_weight() {
    let (_, registry) = empty();
    registry.put(put("a", "1")).unwrap();
    let canary = registry.put(Put { activate: false, ..put("a", "2") }).unwrap();
    assert_eq!((canary.version, content(&registry, "a")), (2, 1));
    let weights = BTreeMap::from([(1, 90), (2, 10)]);
    registry.roll_out("a", &weights, Expect::Revision(canary.revision)).unwrap();
    let answers = (0..1000_u64).map(|hash| match registry.find("a", || hash) {
        Found::Ready(Target::Adapter(version)) => version.id().0[0],
        other => panic!("{other:?}"),
    });
    assert_eq!(answers.filter(|content| *content == 2).count(), 100);
    assert_eq!(registry.name("a").unwrap().id, None);
    for bad in [BTreeMap::new(), BTreeMap::from([(1, 0)]), BTreeMap::from([(1, u32::MAX)])] {
        let error = registry.roll_out("a", &bad, Expect::Anything).unwrap_err();
        assert!(matches!(error, ChangeError::Split), "{error}");
    }
    let error = registry.roll_out("a", &BTreeMap::from([(3, 1)]), Expect::Anything).unwrap_err();
    assert!(matches!(error, ChangeError::NoVersion { number: 3, .. }), "{error}");
    assert_eq!(registry.roll_back("a", Expect::Anything).unwrap().version, 1);
    assert_eq!(registry.name("a").unwrap().id, Some(AdapterId([1; 32])));
}

#[test]
fn an_alias_follows_its_adapter_and_goes_with_it() {
    let (_, registry) = empty();
    registry.put(put("a", "1")).unwrap();
    let alias = registry.alias("live", "a", Expect::Absent).unwrap();
    assert!(alias.created && content(&registry, "live") == 1);
    assert!(!registry.alias("live", "a", Expect::Anything).unwrap().changed);
    registry.put(put("a", "2")).unwrap();
    assert_eq!(content(&registry, "live"), 2);
    registry.put(put("b", "3")).unwrap();
    registry.alias("live", "b", Expect::Anything).unwrap();
    assert_eq!(content(&registry, "live"), 3);
    for (alias, target) in [("live2", "live"), ("live2", "none"), ("base", "a"), ("a", "b")] {
        assert!(registry.alias(alias, target, Expect::Anything).is_err(), "{alias} -> {target}");
    }
    assert!(registry.put(put("live", "1")).is_err());
    registry.remove("b", Expect::Anything).unwrap();
    assert!(!registry.knows("live") && registry.knows("a"));
}

fn declared(name: &str, paths: &[&str], aliases: &[&str]) -> Declared {
    let version = |path: &&str| DeclaredVersion { source: source(path), weight: 50 };
    Declared {
        name: name.to_owned(),
        aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        versions: paths.iter().map(version).collect(),
        pinned: false,
    }
}

/// Follows the file, and waits for the versions that take over.
fn follow(registry: &Registry, declared: &[Declared]) {
    registry.follow_file(declared).unwrap();
    while registry.take_over() {
        std::thread::yield_now();
    }
}

#[test]
fn a_file_that_does_not_hold_together_changes_nothing() {
    let (_, registry) = empty();
    registry.put(put("mine", "1")).unwrap();
    let first = [declared("a", &["2"], &["x"]), declared("b", &["3"], &[])];
    registry.follow_file(&first).unwrap();
    assert_eq!([content(&registry, "x"), content(&registry, "b")], [2, 3]);
    let revision = registry.adapter("a").unwrap().revision;
    registry.follow_file(&first).unwrap();
    assert_eq!(registry.adapter("a").unwrap().revision, revision);
    for bad in [
        vec![declared("a", &["4"], &[]), declared("mine", &["5"], &[])],
        vec![declared("a", &["4"], &[]), declared("a", &["5"], &[])],
        vec![declared("a", &["4"], &["b"]), declared("b", &["3"], &[])],
        vec![declared("../a", &["4"], &[])],
    ] {
        registry.follow_file(&bad).unwrap_err();
        assert_eq!([content(&registry, "x"), content(&registry, "b")], [2, 3]);
    }
    follow(&registry, &[declared("a", &["4"], &[])]);
    assert_eq!(
        (content(&registry, "a"), registry.knows("x"), registry.knows("b")),
        (4, false, false)
    );
    follow(&registry, &[]);
    assert_eq!((registry.num_adapters(), content(&registry, "mine")), (1, 1));
    assert_memory(&registry, BYTES);
}

#[test]
fn a_version_that_cannot_be_loaded_is_its_own_names_matter() {
    let (loader, registry) = empty();
    follow(&registry, &[declared("a", &["1"], &[]), declared("b", &["2"], &[])]);
    assert_eq!([content(&registry, "a"), content(&registry, "b")], [1, 2]);
    let next = [declared("a", &["broken"], &["x"]), declared("b", &["3"], &[])];
    follow(&registry, &next);
    assert_eq!(
        [content(&registry, "a"), content(&registry, "b"), content(&registry, "x")],
        [1, 3, 1]
    );
    let refused = registry.refused();
    assert_eq!((refused.len(), refused[0].name.as_str()), (1, "a"));
    assert!(refused[0].reason.contains("broken holds no adapter"), "{}", refused[0].reason);
    // Other files there are tried without anybody's asking, and what is said is that no longer.
    loader.place(&source("broken"), Some(9));
    let deadline = Instant::now() + Duration::from_secs(20);
    while content(&registry, "a") != 9 {
        assert!(Instant::now() < deadline);
        registry.take_over();
        std::thread::yield_now();
    }
    assert_eq!(registry.refused(), []);
    assert_memory(&registry, 2 * BYTES);
    // What is no longer declared is not waited for.
    follow(&registry, &[declared("a", &["worse"], &[]), declared("b", &["3"], &[])]);
    assert_eq!(registry.refused().len(), 1);
    follow(&registry, &[declared("a", &["broken"], &[]), declared("b", &["3"], &[])]);
    assert_eq!((registry.refused(), content(&registry, "a")), (Vec::new(), 9));
    assert_memory(&registry, 2 * BYTES);
}

#[test]
fn a_pinned_adapter_that_was_unloaded_comes_when_it_is_asked_for() {
    let (_, registry) = empty();
    follow(&registry, &[Declared { pinned: true, ..declared("a", &["1"], &[]) }]);
    assert_eq!(content(&registry, "a"), 1);
    registry.unload("a").unwrap();
    registry.take_over();
    registry.retry_pinned();
    assert_eq!(residency(&registry, "a"), Residency::OnDisk);
    assert_eq!(content(&registry, "a"), 1);
}

#[test]
fn versions_that_answer_together_take_over_together() {
    let (loader, registry) = empty();
    follow(&registry, &[declared("a", &["1"], &[])]);
    assert_eq!(content(&registry, "a"), 1);
    let answers = || {
        let content = |hash| match registry.find("a", || hash) {
            Found::Ready(Target::Adapter(version)) => version.id().0[0],
            other => panic!("{other:?}"),
        };
        BTreeSet::from_iter((0..200).map(content))
    };
    follow(&registry, &[declared("a", &["1", "2", "broken"], &[])]);
    assert_eq!(answers(), BTreeSet::from([1]));
    loader.place(&source("broken"), Some(3));
    let deadline = Instant::now() + Duration::from_secs(20);
    while answers() == BTreeSet::from([1]) {
        assert!(Instant::now() < deadline);
        registry.take_over();
    }
    assert_eq!(answers(), BTreeSet::from([1, 2, 3]));
}

#[test]
fn the_directory_is_followed_by_name_and_content() {
    let (loader, registry) = empty();
    registry.put(put("3", "30")).unwrap();
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let root = Path::new("/adapters");
    registry.follow_directory(root, &names(&["1", "2", "3", ".hidden", "base", "no name"]));
    assert_eq!(registry.num_adapters(), 3);
    assert_eq!([content(&registry, "1"), content(&registry, "3")], [1, 30]);
    let place = Source::Beneath { root: root.into(), path: PathBuf::from("1") };
    loader.place(&place, Some(11));
    let running = get(&registry, "1").unwrap();
    registry.refresh();
    while content(&registry, "1") != 11 {
        std::thread::yield_now();
    }
    assert_eq!(running.id().0[0], 1);
    // What cannot be read leaves what is there.
    loader.place(&place, None);
    registry.refresh();
    assert_eq!(content(&registry, "1"), 11);
    registry.follow_directory(root, &names(&["2"]));
    assert!(!registry.knows("1") && registry.knows("2") && registry.knows("3"));
}

#[test]
fn changes_outlive_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut durable = options();
    durable.state_dir = Some(dir.path().join("state"));
    let loader = Arc::new(MadeUp::default());
    let open = || registry(Arc::clone(&loader), Some(durable.clone()));
    let registry = open();
    registry.put(put("a", "1")).unwrap();
    registry.put(Put { pinned: Some(true), ..put("a", "2") }).unwrap();
    registry.put(put("gone", "3")).unwrap();
    registry.alias("x", "a", Expect::Anything).unwrap();
    registry.alias("y", "gone", Expect::Anything).unwrap();
    registry.roll_out("a", &BTreeMap::from([(1, 90), (2, 10)]), Expect::Anything).unwrap();
    registry.remove("gone", Expect::Anything).unwrap();
    let (names, before) = (registry.names(), registry.adapter("a").unwrap());
    drop(registry);
    let registry = open();
    let after = registry.adapter("a").unwrap();
    let seen = |info: &AdapterInfo| {
        let versions = info.versions.iter();
        let versions: Vec<_> = versions
            .map(|v| (v.number, v.weight, v.content, v.created, v.source.clone()))
            .collect();
        (info.aliases.clone(), info.origin, info.revision, info.pinned, versions)
    };
    assert_eq!(seen(&after), seen(&before));
    let listed = |names: Vec<NameInfo>| names.into_iter().map(|name| name.name).collect::<Vec<_>>();
    assert_eq!(listed(registry.names()), listed(names));
    assert!(registry.is_durable() && content(&registry, "a") == 1);
    // No revision comes twice.
    let next = registry.put(put("gone", "3")).unwrap();
    assert!(next.revision > before.revision + 1);
    // Files that were changed in the meantime are not what was registered.
    loader.place(&source("2"), Some(4));
    assert!(registry.roll_out("a", &BTreeMap::from([(2, 1)]), Expect::Anything).is_err());
}

/// Many threads ask while others load, replace, go back, unload and forget: each answer is one of
/// the contents its name ever had, whole, and nothing stays in memory in the end.
#[test]
fn churn_serves_nobody_a_strange_adapter() {
    const NAMES: usize = 20;
    let loader = Arc::new(MadeUp::default());
    let mut few = options();
    few.budget.max_resident = Some(4);
    few.budget.max_bytes = 12 * BYTES;
    let registry = Arc::new(registry(loader, Some(few)));
    // A name's contents are its number and its number plus 100.
    let place = |name: usize, round: usize| (name + 100 * (round % 2)).to_string();
    for name in 0..NAMES {
        registry.put(put(&format!("n{name}"), &place(name, 0))).unwrap();
    }
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let registry = &registry;
            scope.spawn(move || {
                for round in 0..2000_usize {
                    let name = (round * 7 + thread * 3) % NAMES;
                    let found = get(registry, &format!("n{name}")).unwrap();
                    assert_eq!(usize::from(found.id().0[0]) % 100, name);
                    assert_eq!(found.name, format!("n{name}"));
                }
            });
        }
        for thread in 0..2 {
            let registry = &registry;
            scope.spawn(move || {
                for round in 0..400_usize {
                    let number = (round * 5 + thread) % NAMES;
                    let name = format!("n{number}");
                    match round % 4 {
                        0 | 1 => {
                            registry.put(put(&name, &place(number, round))).unwrap();
                        }
                        2 => registry.unload(&name).unwrap(),
                        // There need not be an earlier version.
                        _ => drop(registry.roll_back(&name, Expect::Anything)),
                    }
                }
            });
        }
    });
    for name in 0..NAMES {
        registry.remove(&format!("n{name}"), Expect::Anything).unwrap();
    }
    assert_memory(&registry, 0);
    assert_eq!(registry.num_adapters(), 0);
}
