//! What is kept on disk: over disks that are full for a while, and records that are of no use.

use std::io;
use std::sync::atomic::AtomicUsize;

use metrics::Gauge;
use redb::{Builder, StorageBackend};

use super::super::store::Store;
use super::*;

/// More writes than any test makes.
const ROOM: usize = usize::MAX / 2;

/// A disk that outlives the database that is open on it, and takes only so many writes.
#[derive(Debug, Clone)]
struct Disk(Arc<DiskState>);

#[derive(Debug)]
struct DiskState {
    room: AtomicUsize,
    bytes: Mutex<Vec<u8>>,
}

impl Disk {
    fn new() -> Self {
        Self(Arc::new(DiskState { room: AtomicUsize::new(ROOM), bytes: Mutex::default() }))
    }

    /// From now on it takes so many writes.
    fn take(&self, writes: usize) {
        self.0.room.store(writes, Ordering::SeqCst);
    }

    fn check(&self) -> io::Result<()> {
        let less = |room: usize| room.checked_sub(1);
        match self.0.room.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less) {
            Ok(_) => Ok(()),
            Err(_) => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    fn store(&self) -> Arc<Store> {
        let disk = self.clone();
        let open = move || Builder::new().create_with_backend(disk.clone());
        Store::of(Box::new(open), Gauge::noop()).unwrap()
    }

    /// A registry whose changes are stored on it.
    fn registry(&self) -> Registry {
        let loader = Arc::new(MadeUp::default());
        let store = self.store();
        let contents = store.read().unwrap();
        let names = vec!["base".to_owned()];
        let stored = Some((contents, store));
        Registry::with_store(names, None, options(), loader, Metrics::new(), stored).unwrap()
    }

    /// The same disk as it is now, in another machine.
    fn copy(&self) -> Self {
        let copy = Self::new();
        copy.0.bytes.lock().unwrap().clone_from(&self.0.bytes.lock().unwrap());
        copy
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.bytes.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = offset as usize;
        out.copy_from_slice(&self.0.bytes.lock().unwrap()[start..start + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.0.bytes.lock().unwrap().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        let start = offset as usize;
        self.0.bytes.lock().unwrap()[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// An adapter's name and revision, and the weights of its versions by number.
type Told = (String, u64, Vec<(u64, u32)>);

/// What a registry tells of the adapters in it.
fn told(registry: &Registry) -> Vec<Told> {
    let told = |info: AdapterInfo| {
        let split = info.versions.iter().map(|version| (version.number, version.weight)).collect();
        (info.name, info.revision, split)
    };
    registry.adapters().into_iter().map(told).collect()
}

fn until_stored(registry: &Registry) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !registry.stores_changes() {
        assert!(Instant::now() < deadline, "changes are never stored again");
        std::thread::yield_now();
    }
}

#[test]
fn a_disk_that_was_full_takes_changes_again() {
    let disk = Disk::new();
    let registry = disk.registry();
    registry.put(put("a", "1")).unwrap();
    disk.take(0);
    for _ in 0..3 {
        let error = registry.put(put("a", "2")).unwrap_err();
        assert!(matches!(error, ChangeError::Store(_)), "{error}");
        assert!(!registry.stores_changes() && content(&registry, "a") == 1);
    }
    disk.take(ROOM);
    // At the next change, whether or not somebody noticed before.
    registry.put(put("a", "3")).unwrap();
    assert!(registry.stores_changes());
    assert_eq!(told(&disk.copy().registry()), told(&registry));
    // And without a change.
    disk.take(0);
    registry.remove("a", Expect::Anything).unwrap_err();
    disk.take(ROOM);
    until_stored(&registry);
    assert_eq!(told(&disk.copy().registry()), told(&registry));
}

/// Wherever in the middle of a change the disk becomes full: the change was made, in memory and on the
/// disk, or it was not, in either.
#[test]
fn a_change_that_failed_leaves_nothing_behind_wherever_it_failed() {
    let mut failed = 0;
    for room in 0..60 {
        let disk = Disk::new();
        let registry = disk.registry();
        registry.put(put("a", "1")).unwrap();
        registry.alias("x", "a", Expect::Anything).unwrap();
        disk.take(room);
        let changed = registry.put(put("a", "2")).is_ok();
        let removed = registry.remove("x", Expect::Anything).is_ok();
        failed += usize::from(!changed);
        disk.take(ROOM);
        until_stored(&registry);
        assert_eq!(
            (content(&registry, "a"), registry.knows("x")),
            (1 + u8::from(changed), !removed)
        );
        let after = disk.copy().registry();
        assert_eq!(told(&after), told(&registry), "after {room} writes");
        assert_eq!(after.knows("x"), !removed, "after {room} writes");
        // No revision comes twice.
        let next = after.put(put("b", "1")).unwrap();
        assert!(told(&registry).iter().all(|(_, revision, _)| *revision < next.revision));
    }
    assert!((3..60).contains(&failed), "{failed} of 60 changes failed");
}

#[test]
fn a_record_that_is_of_no_use_costs_itself_only() {
    let disk = Disk::new();
    let registry = disk.registry();
    registry.put(put("good", "1")).unwrap();
    registry.alias("other", "good", Expect::Anything).unwrap();
    drop(registry);
    let adapter =
        |more: &str| format!(r#"{{"entry":"adapter","pinned":false,"revision":1{more}}}"#);
    let version = r#""versions":[{"number":1,"source":{"kind":"directory","path":"1"},
        "content":null,"created":0}]"#;
    let whole = format!(r#","next":2,"split":[[1,100]],{version}"#);
    let records = [
        ("empty", String::new()),
        ("torn", r#"{"entry":"adap"#.to_owned()),
        ("other-kind", r#"{"entry":"model"}"#.to_owned()),
        ("nobody", adapter(&format!(r#","next":2,"split":[],{version}"#))),
        ("nothing", adapter(&format!(r#","next":2,"split":[[1,0]],{version}"#))),
        ("missing", adapter(&format!(r#","next":3,"split":[[2,1]],{version}"#))),
        ("twice", adapter(&format!(r#","next":1,"split":[[1,1]],{version}"#))),
        ("default", adapter(&whole)),
        ("base", adapter(&whole)),
        ("old", adapter(&whole)),
    ];
    let edits = records.iter().map(|(name, json)| ((*name).to_owned(), Some(json.clone().into())));
    disk.store().write(edits.collect(), Vec::new(), 7).unwrap();
    let registry = disk.registry();
    let refused: Vec<_> = registry.refused().into_iter().map(|refused| refused.name).collect();
    let bad =
        ["base", "default", "empty", "missing", "nobody", "nothing", "other-kind", "torn", "twice"];
    assert_eq!(refused, bad);
    assert_eq!([content(&registry, "good"), content(&registry, "other")], [1, 1]);
    // A record from before it was stored what had answered.
    assert_eq!(content(&registry, "old"), 1);
    assert!(registry.roll_back("old", Expect::Anything).is_err());
    // They stay, and may be replaced or removed.
    drop(registry);
    let registry = disk.registry();
    assert_eq!(registry.refused().len(), bad.len());
    registry.put(put("torn", "5")).unwrap();
    registry.remove("default", Expect::Anything).unwrap();
    assert_eq!(registry.refused().len(), bad.len() - 2);
    drop(registry);
    let registry = disk.registry();
    assert_eq!((registry.refused().len(), content(&registry, "torn")), (bad.len() - 2, 5));
    assert!(registry.remove("default", Expect::Anything).is_err());
}

#[cfg(unix)]
#[test]
fn a_path_that_cannot_be_stored_is_refused_and_not_committed() {
    use std::os::unix::ffi::OsStrExt;

    let disk = Disk::new();
    let registry = disk.registry();
    registry.put(put("a", "1")).unwrap();
    let root = PathBuf::from(std::ffi::OsStr::from_bytes(b"/r\xff"));
    let source = Source::Beneath { root, path: "2".into() };
    for name in ["a", "b"] {
        let error = registry.put(Put { source: source.clone(), ..put(name, "") }).unwrap_err();
        assert!(matches!(error, ChangeError::Unstorable(_)), "{error}");
    }
    // That is not the disk's fault.
    assert!(registry.stores_changes());
    assert_eq!((content(&registry, "a"), registry.knows("b")), (1, false));
    let after = disk.copy().registry();
    assert_eq!((told(&after), after.refused()), (told(&registry), Vec::new()));
}

#[test]
fn what_is_wrong_with_a_state_directory_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = |dir: &Path| {
        let options = Options { state_dir: Some(dir.to_owned()), ..options() };
        let loader = Arc::new(MadeUp::default());
        let opened = Registry::open(vec!["base".into()], None, options, loader, Metrics::new());
        opened.map(drop).unwrap_err().to_string()
    };
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let shown = |path: &Path, what: &str| format!("--state-dir {}: {what}", path.display());
    assert_eq!(error(&file), shown(&file, "it is not a directory"));
    let beneath = file.join("state");
    assert!(error(&beneath).starts_with(&shown(&beneath, "the directory cannot be made: ")));
    let dir = folder.path().join("state");
    let first = Store::open(&dir, Gauge::noop()).unwrap();
    assert_eq!(error(&dir), shown(&dir, "adapters.redb is in use by another process"));
    drop(first);
    std::fs::write(dir.join("adapters.redb"), [7; 8192]).unwrap();
    assert!(error(&dir).starts_with(&shown(&dir, "adapters.redb")), "{}", error(&dir));
}
