//! Whose load is next, and what becomes of one that nobody waits for any more.

use super::*;
use crate::tenant::turns::Party;

fn party(tenant: u32) -> Party {
    Party { tenant, weight: 1, alone: false }
}

/// One thread, which reads the adapter `first` until it is let go, and adapters by these names.
fn scene(names: impl Iterator<Item = String>) -> (Arc<MadeUp>, Registry, Load) {
    let loader = Arc::new(MadeUp::default());
    let registry = registry(Arc::clone(&loader), Some(Options { threads: 1, ..options() }));
    let declared = |name: String| Declared {
        versions: vec![DeclaredVersion { source: source(&name), weight: 1 }],
        name,
        aliases: Vec::new(),
        pinned: false,
    };
    let all: Vec<_> = std::iter::once("first".to_owned()).chain(names).map(declared).collect();
    registry.follow_file(&all).unwrap();
    loader.hold(true);
    let first = begin(&registry, 1, "first");
    // The thread has it.
    while registry.metrics.render().contains("sorsa:work_waiting{kind=\"adapter\"} 1") {
        std::thread::yield_now();
    }
    (loader, registry, first)
}

fn source(name: &str) -> Source {
    Source::Directory { path: Path::new("/made-up").join(name).join("7") }
}

fn numbered(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| format!("a{number}"))
}

fn begin(registry: &Registry, tenant: u32, name: &str) -> Load {
    match registry.find_for(party(tenant), name, || 0) {
        Found::Loading(load) => load,
        other => panic!("{name}: {other:?}"),
    }
}

/// The names that were read, in their order.
fn read(loader: &MadeUp) -> Vec<String> {
    let read = loader.read.lock().unwrap();
    let name = |path: &PathBuf| path.parent().unwrap().file_name().unwrap().to_owned();
    read.iter().map(|path| name(path).into_string().unwrap()).collect()
}

#[test]
fn between_a_load_and_its_turn_lies_one_load_of_another_tenant() {
    let (loader, registry, first) = scene(numbered(100).chain(["mine".to_owned()]));
    let theirs: Vec<_> = numbered(100).map(|name| begin(&registry, 1, &name)).collect();
    let mine = begin(&registry, 2, "mine");
    loader.hold(false);
    mine.wait().unwrap();
    assert_eq!(read(&loader)[..2], ["first", "mine"]);
    for load in theirs.into_iter().chain([first]) {
        load.wait().unwrap();
    }
    assert_eq!(read(&loader).len(), 102);
}

/// What somebody else has queued behind much of his own is loaded in the turn of whoever asks for it too,
/// and once.
#[test]
fn who_joins_a_load_waits_in_a_turn_of_its_own() {
    let (loader, registry, _first) = scene(numbered(100));
    let theirs: Vec<_> = numbered(100).map(|name| begin(&registry, 1, &name)).collect();
    let mine = begin(&registry, 2, "a99");
    loader.hold(false);
    mine.wait().unwrap();
    assert_eq!(read(&loader)[..2], ["first", "a99"]);
    theirs.into_iter().for_each(|load| drop(load.wait().unwrap()));
    assert_eq!(read(&loader).len(), 101);
}

#[test]
fn a_load_that_nobody_waits_for_is_not_begun() {
    let (loader, registry, first) = scene(numbered(100));
    let (left, stays): (Vec<_>, Vec<_>) = numbered(100)
        .map(|name| begin(&registry, 1, &name))
        .enumerate()
        .partition(|(number, _)| *number < 60);
    let told_to_come_again = begin(&registry, 1, "a5");
    let also = begin(&registry, 2, "a7");
    drop(left);
    told_to_come_again.leave();
    loader.hold(false);
    for load in stays.into_iter().map(|(_, load)| load).chain([first, also]) {
        load.wait().unwrap();
    }
    let read_before = read(&loader);
    assert_eq!(read_before.len(), 43, "{read_before:?}");
    assert!(read_before.contains(&"a5".to_owned()));
    // Whoever asks for it later has it loaded.
    begin(&registry, 1, "a6").wait().unwrap();
}

#[test]
fn what_the_operator_wants_is_loaded_whoever_waits() {
    let (loader, registry, _first) = scene(numbered(2));
    // Found for nobody in particular, and left at once.
    drop(registry.find("a0", || 0));
    // The operator joins a load that a tenant leaves.
    let load = begin(&registry, 1, "a1");
    drop(registry.find("a1", || 0));
    drop(load);
    loader.hold(false);
    while read(&loader).len() < 3 {
        std::thread::yield_now();
    }
}

/// A tenant's part of the queue is bounded; who is turned away leaves nothing behind that others meet.
#[test]
fn a_full_queue_turns_its_tenant_away_and_nobody_else() {
    const PART: usize = 2048;
    let (loader, registry, _first) = scene(numbered(PART + 1));
    let mut loads: Vec<_> = numbered(PART - 1).map(|name| begin(&registry, 1, &name)).collect();
    let name = format!("a{PART}");
    let Found::Failed(error) = registry.find_for(party(1), &name, || 0) else { panic!() };
    assert_eq!(error.kind(), LoadErrorKind::Busy);
    let mine = begin(&registry, 2, &name);
    // Those whose clients have left make room.
    loads.truncate(5);
    let after = begin(&registry, 1, "a2000");
    loader.hold(false);
    mine.wait().unwrap();
    after.wait().unwrap();
    assert_eq!(read(&loader)[..2], ["first".to_owned(), name]);
}
