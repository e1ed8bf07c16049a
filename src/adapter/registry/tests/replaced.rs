//! Files that are replaced under adapters that follow them: what answers is what lies there, whatever
//! was evicted, kept and asked for meanwhile.

use proptest::prelude::*;

use super::*;

const NAMES: [&str; 3] = ["1", "2", "3"];

fn place(name: &str) -> Source {
    Source::Beneath { root: "/d".into(), path: name.into() }
}

/// A registry of [`NAMES`] in a directory, with room for one at hand and for all as they were read.
fn followed() -> (Arc<MadeUp>, Registry) {
    let loader = Arc::new(MadeUp::default());
    let mut one = options();
    one.budget.max_resident = Some(1);
    let registry = registry(Arc::clone(&loader), Some(one));
    registry.follow_directory(Path::new("/d"), &NAMES.map(str::to_owned).into());
    (loader, registry)
}

/// Waits until nothing is read any more.
fn settle(registry: &Registry) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while registry.book().slots().any(|slot| slot.is_loading()) {
        assert!(Instant::now() < deadline, "an adapter is read for ever");
        std::thread::yield_now();
    }
}

#[test]
fn what_is_kept_of_replaced_files_is_not_served() {
    let (loader, registry) = followed();
    assert_eq!((content(&registry, "1"), content(&registry, "2")), (1, 2));
    assert_eq!(residency(&registry, "1"), Residency::InMemory);
    loader.place(&place("1"), Some(11));
    assert_eq!(content(&registry, "1"), 11);
    // What was evicted is read again only where its files changed.
    let reads = loader.reads.load(Ordering::SeqCst);
    assert_eq!((content(&registry, "2"), content(&registry, "1")), (2, 11));
    assert_eq!(loader.reads.load(Ordering::SeqCst), reads);
}

#[test]
fn a_change_that_did_not_show_is_found_once_it_would() {
    let (loader, registry) = followed();
    loader.unsettled.store(true, Ordering::SeqCst);
    assert_eq!((content(&registry, "1"), content(&registry, "2")), (1, 2));
    loader.place_unseen(&place("1"), Some(11));
    loader.place_unseen(&place("2"), Some(12));
    registry.refresh();
    settle(&registry);
    assert_eq!(content(&registry, "2"), 2);
    loader.unsettled.store(false, Ordering::SeqCst);
    registry.refresh();
    settle(&registry);
    assert_eq!((content(&registry, "2"), content(&registry, "1")), (12, 11));
}

#[test]
fn files_that_were_only_touched_leave_the_version_in_place() {
    let (loader, registry) = followed();
    let before = get(&registry, "1").unwrap();
    loader.place(&place("1"), Some(1));
    registry.refresh();
    settle(&registry);
    assert!(Arc::ptr_eq(&before, &get(&registry, "1").unwrap()));
    let reads = loader.reads.load(Ordering::SeqCst);
    assert_eq!(reads, 2);
    registry.refresh();
    settle(&registry);
    assert_eq!(loader.reads.load(Ordering::SeqCst), reads);
}

#[test]
fn files_that_change_while_they_are_read_are_not_served() {
    let (loader, registry) = followed();
    *loader.while_read.lock().unwrap() = Some((place("1"), Some(11)));
    let error = get(&registry, "1").unwrap_err();
    assert_eq!(error.to_string(), "its files changed while they were read");
    assert_eq!(error.kind(), LoadErrorKind::NoRoom);
    assert_memory(&registry, 0);
    // The same under a version that answers: it goes on, and the next look finds the new one.
    assert_eq!(content(&registry, "2"), 2);
    loader.place(&place("2"), Some(12));
    *loader.while_read.lock().unwrap() = Some((place("2"), Some(22)));
    registry.refresh();
    settle(&registry);
    assert_eq!(content(&registry, "2"), 2);
    registry.refresh();
    settle(&registry);
    assert_eq!(content(&registry, "2"), 22);
}

#[test]
fn an_adapter_of_another_machine_that_is_followed_is_asked_for_at_each_load() {
    let (loader, registry) = followed();
    let source = Source::remote("s3://models/7", None).unwrap().unwrap();
    let version = DeclaredVersion { source: source.clone(), weight: 1 };
    let remote =
        Declared { name: "r".into(), aliases: vec![], versions: vec![version], pinned: false };
    registry.follow_file(&[remote]).unwrap();
    let fetched = || match registry.find("r", || 0) {
        Found::Loading(load) => {
            loader.deliver("7", true);
            load.wait().unwrap().id().0[0]
        }
        other => panic!("{other:?}"),
    };
    assert_eq!((fetched(), content(&registry, "1")), (7, 1));
    loader.place(&source, Some(8));
    assert_eq!((fetched(), content(&registry, "1")), (8, 1));
    // The same again is not read again.
    let reads = loader.reads.load(Ordering::SeqCst);
    assert_eq!((fetched(), loader.reads.load(Ordering::SeqCst)), (8, reads));
}

#[test]
fn what_was_registered_stays_what_it_was_whatever_lies_there() {
    let (loader, registry) = followed();
    registry.put(put("a", "/p/5")).unwrap();
    assert_eq!(content(&registry, "1"), 1);
    loader.place(&source("/p/5"), Some(6));
    assert_eq!(content(&registry, "a"), 5);
    registry.unload("a").unwrap();
    assert!(get(&registry, "a").unwrap_err().to_string().contains("as a new version"));
}

#[test]
fn a_version_nobody_will_keep_is_charged_too() {
    let loader = Arc::new(MadeUp::default());
    let mut one = options();
    one.budget.max_bytes = BYTES;
    one.patience = Duration::ZERO;
    let registry = registry(loader, Some(one));
    registry.put(put("a", "1")).unwrap();
    let running = get(&registry, "a").unwrap();
    let error = registry.dry_run("b", source("2")).unwrap_err();
    assert!(matches!(&error, ChangeError::Load(e) if e.kind() == LoadErrorKind::NoRoom), "{error}");
    drop(running);
    assert_memory(&registry, 0);
    registry.dry_run("b", source("2")).unwrap();
    assert_memory(&registry, 0);
}

#[test]
fn one_in_use_is_evicted_only_where_there_is_no_other() {
    let loader = Arc::new(MadeUp::default());
    let mut two = options();
    two.budget.max_resident = Some(2);
    let registry = registry(loader, Some(two));
    registry.put(put("used", "1")).unwrap();
    let running = get(&registry, "used").unwrap();
    registry.put(put("idle", "2")).unwrap();
    assert_eq!(content(&registry, "idle"), 2);
    // The thread that loaded it lets go of it a moment after those who waited have it.
    let deadline = Instant::now() + Duration::from_secs(20);
    while registry.book().slots_of("idle").any(|slot| slot.is_in_use()) {
        assert!(Instant::now() < deadline, "it is in use for ever");
        std::thread::yield_now();
    }
    // The one in use was asked for longest ago.
    registry.put(put("new", "3")).unwrap();
    let resident = |name: &str| residency(&registry, name) == Residency::Resident;
    assert!(resident("used") && resident("new") && !resident("idle"));
    let other = get(&registry, "new").unwrap();
    registry.put(put("newest", "4")).unwrap();
    assert!(!resident("used") && resident("new") && resident("newest"));
    drop((running, other));
}

#[derive(Debug, Clone)]
enum Step {
    /// Other files come to lie there; 0 is nothing usable.
    Replace(usize, u8),
    Touch(usize),
    Ask(usize),
    Unload(usize),
    Refresh,
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..NAMES.len();
    prop_oneof![
        3 => (name.clone(), 0..20_u8).prop_map(|(name, content)| Step::Replace(name, content)),
        1 => name.clone().prop_map(Step::Touch),
        4 => name.clone().prop_map(Step::Ask),
        1 => name.prop_map(Step::Unload),
        2 => Just(Step::Refresh),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is replaced, touched, asked for, evicted and looked at, in whatever order: what was
    /// not at hand when it was asked for is what lies there, what was at hand is that or what was
    /// there at the last look, and after a look everything usable is what lies there.
    #[test]
    fn what_answers_is_what_lies_there(steps in prop::collection::vec(step(), 1..40)) {
        let (loader, registry) = followed();
        // What lies there, and what may answer until the next look.
        let mut lies = [1_u8, 2, 3];
        for step in steps {
            match step {
                Step::Replace(name, content) => {
                    lies[name] = content;
                    loader.place(&place(NAMES[name]), (content > 0).then_some(content));
                }
                Step::Touch(name) => {
                    let content = (lies[name] > 0).then_some(lies[name]);
                    loader.place(&place(NAMES[name]), content);
                }
                Step::Ask(name) => {
                    let at_hand = residency(&registry, NAMES[name]) == Residency::Resident;
                    match get(&registry, NAMES[name]) {
                        Ok(_) if at_hand => {}
                        Ok(version) => prop_assert_eq!(version.id().0[0], lies[name]),
                        // A failure answers for a while.
                        Err(_) => prop_assert!(!at_hand),
                    }
                }
                Step::Unload(name) => registry.unload(NAMES[name]).unwrap(),
                Step::Refresh => {
                    registry.refresh();
                    settle(&registry);
                    for (name, lies) in NAMES.iter().zip(lies) {
                        if residency(&registry, name) == Residency::Resident && lies > 0 {
                            prop_assert_eq!(content(&registry, name), lies);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_broken_is_told_before_anybody_asks() {
    let (loader, registry) = followed();
    let check = || registry.check_files(usize::MAX, Instant::now() + Duration::from_secs(60));
    let state = |name: &str| {
        let version = registry.adapter(name).unwrap().versions.remove(0);
        (version.residency, version.error)
    };
    loader.place(&place("1"), None);
    check();
    assert_eq!(state("1"), (Residency::Failed, Some("1 looks wrong".to_owned())));
    assert_eq!((state("2").0, registry.num_broken()), (Residency::Registered, 1));
    assert_eq!(loader.reads.load(Ordering::SeqCst), 0);
    // Nobody is kept from trying, and a failure that reading found stays.
    assert_eq!(get(&registry, "1").unwrap_err().to_string(), "1 holds no adapter");
    check();
    assert_eq!(state("1").1.unwrap(), "1 holds no adapter");
    loader.place(&place("1"), Some(11));
    check();
    assert_eq!((state("1").0, registry.num_broken()), (Residency::Registered, 0));
    assert_eq!(content(&registry, "1"), 11);
    // So many at a time, each in its turn.
    for name in NAMES {
        registry.unload(name).unwrap();
        loader.place(&place(name), None);
    }
    for broken in 1..=3 {
        registry.check_files(1, Instant::now() + Duration::from_secs(60));
        assert_eq!(registry.num_broken(), broken);
    }
}
