//! Adapters that have to be fetched first: who waits for them, and who does not.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::made_up::{MadeUp, options, registry};
use super::*;

fn remote(path: &str) -> Source {
    Source::Remote { location: format!("https://away/{path}").parse().unwrap(), digest: None }
}

fn declared(name: &str, source: Source) -> Declared {
    let versions = vec![DeclaredVersion { source, weight: 1 }];
    Declared { name: name.into(), aliases: Vec::new(), versions, pinned: false }
}

/// One thread that loads, and adapters of a file by their sources.
fn scene(names: &[(&str, Source)]) -> (Arc<MadeUp>, Registry) {
    let loader = Arc::new(MadeUp::default());
    let registry = registry(Arc::clone(&loader), Some(Options { threads: 1, ..options() }));
    let declared: Vec<_> =
        names.iter().map(|(name, source)| declared(name, source.clone())).collect();
    registry.follow_file(&declared).unwrap();
    (loader, registry)
}

fn local(path: &str) -> Source {
    Source::Directory { path: path.into() }
}

fn party(tenant: u32) -> Party {
    Party { tenant, weight: 1, alone: false }
}

fn begin(registry: &Registry, asker: u32, name: &str) -> Load {
    match registry.find_for(party(asker), name, || 0) {
        Found::Loading(load) => load,
        other => panic!("{name}: {other:?}"),
    }
}

fn content(load: Load) -> u8 {
    load.wait().unwrap().id().0[0]
}

fn ordered(loader: &MadeUp) -> Vec<(String, Wanted, u32)> {
    let ordered = loader.ordered.lock().unwrap();
    let told = |(order, _): &(Order, Delivery)| {
        (order.location.path().to_owned(), order.wanted, order.asker.tenant)
    };
    ordered.iter().map(told).collect()
}

#[test]
fn no_thread_that_loads_waits_for_another_machine() {
    let names: Vec<String> = (10..60).map(|n: u8| n.to_string()).collect();
    let sources: Vec<_> = names.iter().map(|name| (name.as_str(), remote(name))).collect();
    let (loader, registry) = scene(&sources);
    registry.follow_directory(Path::new("/d"), &BTreeSet::from(["5".to_owned()]));
    let away: Vec<_> = names.iter().map(|name| begin(&registry, 7, name)).collect();
    assert_eq!(content(begin(&registry, 7, "5")), 5);
    assert_eq!(ordered(&loader).len(), away.len());
    assert_eq!(registry.adapter("10").unwrap().versions[0].residency, Residency::Loading);
    // One that comes is read; the others go on waiting.
    loader.deliver("30", true);
    let mut away = away.into_iter();
    assert_eq!(content(away.nth(20).unwrap()), 30);
    assert_eq!(ordered(&loader).len(), 49);
}

#[test]
fn all_who_wait_for_a_fetch_are_told_how_it_ended() {
    let (loader, registry) = scene(&[("1", remote("1")), ("2", remote("2")), ("3", remote("3"))]);
    let loads: Vec<_> = (0..3).map(|_| begin(&registry, 4, "1")).collect();
    assert_eq!(ordered(&loader), [("1".to_owned(), Wanted::Newest, 4)]);
    loader.deliver("1", false);
    for load in loads {
        let error = load.wait().unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (LoadErrorKind::Unreachable, "nobody answers")
        );
    }
    // It answers for a moment.
    assert!(matches!(registry.find("1", || 0), Found::Failed(_)));
    // One that is dropped, and one that is under way when the registry goes.
    let (second, third) = (begin(&registry, 0, "2"), begin(&registry, 0, "3"));
    drop(loader.ordered.lock().unwrap().remove(0));
    assert_eq!(second.wait().unwrap_err().to_string(), "fetching it was given up");
    drop(registry);
    loader.deliver("3", true);
    assert_eq!(third.wait().unwrap_err().kind(), LoadErrorKind::Unreachable);
}

/// What follows its place is asked for at each load, though it is in memory as it was read.
#[test]
fn what_is_in_memory_is_used_where_the_place_still_has_it() {
    let loader = Arc::new(MadeUp::default());
    let budget = Budget { max_resident: Some(1), ..options().budget };
    let registry = registry(Arc::clone(&loader), Some(Options { budget, ..options() }));
    let both = [declared("1", remote("1")), declared("2", remote("2"))];
    registry.follow_file(&both).unwrap();
    let get = |name: &str| {
        let load = begin(&registry, 0, name);
        loader.deliver(name, true);
        content(load)
    };
    let reads = || loader.reads.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!((get("1"), get("2"), reads()), (1, 2, 2));
    // Evicted, and the same: nothing is read.
    assert_eq!((get("1"), reads()), (1, 2));
    // Evicted, and another one by now.
    loader.place(&remote("2"), Some(9));
    assert_eq!((get("2"), reads()), (9, 3));
    assert_eq!((get("1"), get("2"), reads()), (1, 9, 3));
}

/// What a changed file says is so at once, but for what has to come from elsewhere first.
#[test]
fn a_slow_place_holds_up_no_other_change() {
    let (loader, registry) = scene(&[("a", local("1")), ("b", local("2"))]);
    let answers = |name: &str| match registry.find(name, || 0) {
        Found::Ready(Target::Adapter(version)) => version.id().0[0],
        Found::Loading(load) => content(load),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!([answers("a"), answers("b")], [1, 2]);
    let until = |name: &str, expected: u8| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while answers(name) != expected {
            assert!(Instant::now() < deadline, "{name}");
            registry.take_over();
            std::thread::yield_now();
        }
    };
    let pinned = |name: &str, source| Declared { pinned: true, ..declared(name, source) };
    let file = [pinned("a", remote("3")), pinned("b", local("4")), pinned("c", remote("5"))];
    registry.follow_file(&file).unwrap();
    until("b", 4);
    assert_eq!(answers("a"), 1);
    // A new name is known at once, and whoever asks for it waits.
    let waiting = begin(&registry, 7, "c");
    // A later change waits for nothing either.
    registry.follow_file(&[declared("a", remote("6")), declared("c", remote("5"))]).unwrap();
    assert!(!registry.knows("b") && answers("a") == 1);
    loader.deliver("5", true);
    assert_eq!(content(waiting), 5);
    // What nobody wants any more may come: it takes nobody's place.
    loader.deliver("3", true);
    loader.deliver("6", true);
    until("a", 6);
    let deadline = Instant::now() + Duration::from_secs(20);
    while registry.memory_used() != 2 * made_up::BYTES {
        assert!(Instant::now() < deadline, "{} bytes", registry.memory_used());
        std::thread::yield_now();
    }
}

/// What the operator named starts with what it was last; what a caller registers is what lies there.
#[test]
fn a_server_starts_with_what_was_fetched_last() {
    let (loader, registry) = scene(&[]);
    std::thread::scope(|scope| {
        let declared = scope.spawn(|| registry.declare("1", remote("1")));
        let put = Put {
            name: "2",
            source: remote("2"),
            expect: Expect::Anything,
            pinned: None,
            activate: true,
        };
        let put = scope.spawn(|| registry.put(put));
        while ordered(&loader).len() < 2 {
            std::thread::yield_now();
        }
        let mut wanted = ordered(&loader);
        ["1", "2"].iter().for_each(|path| loader.deliver(path, true));
        declared.join().unwrap().unwrap();
        put.join().unwrap().unwrap();
        wanted.sort_by(|a, b| a.0.cmp(&b.0));
        let expected =
            [("1".to_owned(), Wanted::Newest, u32::MAX), ("2".to_owned(), Wanted::Now, u32::MAX)];
        assert_eq!(wanted, expected);
    });
}
