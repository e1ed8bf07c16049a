//! What is kept on the disk: which of it is the newest, and what becomes of it there.

use super::*;

fn manifests(scene: &Scene) -> Vec<std::path::PathBuf> {
    let dirs = fs::read_dir(scene.dir.path().join("cache/adapters")).unwrap();
    dirs.map(|dir| dir.unwrap().path().join(entry::MANIFEST)).collect()
}

/// Nobody answers from now on, and wants to be asked again but after the test.
fn away(scene: &Scene) {
    let mut script = scene.server.script();
    (script.failures, script.failure_headers) = (1_000_000, "retry-after: 3600\r\n".into());
}

/// What an earlier release wrote down: times instead of an order, from a clock that was ahead.
#[test]
fn a_clock_that_was_ahead_brings_no_earlier_version_back() {
    let scene = Scene::new();
    assert_eq!(scene.fetch(&scene.open(), Wanted::Now).unwrap(), weights(1));
    let path = manifests(&scene).remove(0);
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let fields = manifest.as_object_mut().unwrap();
    fields.remove("order").unwrap();
    fields.insert("confirmed".into(), 4_102_444_800_000_u64.into());
    fs::write(&path, manifest.to_string()).unwrap();
    scene.place("/acme", 2);
    let remote = scene.open();
    assert_eq!(scene.fetch(&remote, Wanted::Now).unwrap(), weights(2));
    away(&scene);
    assert_eq!(scene.fetch(&remote, Wanted::Newest).unwrap(), weights(2));
    drop(remote);
    let remote = scene.open();
    assert_eq!(scene.fetch(&remote, Wanted::Newest).unwrap(), weights(2));
    // The place has the first one again: that is the newest then.
    scene.server.script().failures = 0;
    scene.place("/acme", 1);
    assert_eq!(scene.fetch(&remote, Wanted::Newest).unwrap(), weights(1));
    away(&scene);
    drop(remote);
    assert_eq!(scene.fetch(&scene.open(), Wanted::Newest).unwrap(), weights(1));
}

/// Times of use that a clock ahead wrote do not keep an entry for ever, nor cost another its place.
#[test]
fn a_clock_that_was_ahead_keeps_nothing_on_the_disk() {
    let scene = Scene::new();
    let small = || Settings { cache_bytes: 50_000, ..scene.settings() };
    for (name, seed) in ["/a", "/b", "/c"].iter().zip(10..) {
        scene.place(name, seed);
    }
    let fetch = |remote: &Remote, name: &str| {
        drop(remote.fetch(&scene.location(name), None, Wanted::Now).unwrap());
    };
    fetch(&Remote::open(small()).unwrap(), "/a");
    let ahead = std::time::SystemTime::now() + Duration::from_secs(1 << 32);
    let manifest = fs::File::options().write(true).open(&manifests(&scene)[0]).unwrap();
    manifest.set_modified(ahead).unwrap();
    let remote = Remote::open(small()).unwrap();
    fetch(&remote, "/b");
    fetch(&remote, "/c");
    away(&scene);
    let last = |name: &str| remote.fetch(&scene.location(name), None, Wanted::Newest);
    assert!(last("/a").is_err() && last("/b").is_ok() && last("/c").is_ok());
}

#[test]
fn a_directory_that_goes_away_is_made_anew() {
    let scene = Scene::new();
    let remote = scene.open();
    let kept = remote.fetch(&scene.location("/acme"), None, Wanted::Now).unwrap();
    kept.holds(AdapterId([1; 32]));
    let cache = scene.dir.path().join("cache");
    let gone: [&dyn Fn(); 4] = [
        &|| fs::remove_dir_all(&cache).unwrap(),
        &|| fs::remove_dir_all(cache.join("adapters")).unwrap(),
        &|| fs::remove_file(cache.join("lock")).unwrap(),
        &|| {
            fs::remove_dir_all(&cache).unwrap();
            fs::create_dir(&cache).unwrap();
        },
    ];
    for go in gone {
        go();
        assert_eq!(scene.fetch(&remote, Wanted::Same(AdapterId([1; 32]))).unwrap(), weights(1));
        // It is this server's as before.
        let error = Remote::open(scene.settings()).unwrap_err();
        assert!(matches!(error, RemoteError::Shared), "{error}");
        assert_eq!(entries(scene.dir.path()), 1);
    }
    // Another server's by now.
    fs::remove_dir_all(&cache).unwrap();
    let other = scene.open();
    let error = scene.fetch(&remote, Wanted::Now).unwrap_err();
    assert!(matches!(error, RemoteError::Shared), "{error}");
    drop(other);
    assert_eq!(scene.fetch(&remote, Wanted::Now).unwrap(), weights(1));
}

/// Bytes that never come cost nobody a place on the disk.
#[test]
fn nothing_leaves_the_disk_for_what_is_only_announced() {
    let scene = Scene::new();
    scene.place("/a", 2);
    let remote = Remote::open(Settings { cache_bytes: 50_000, ..scene.settings() }).unwrap();
    drop(remote.fetch(&scene.location("/a"), None, Wanted::Now).unwrap());
    let liar = b"HTTP/1.1 200 X\r\nconnection: close\r\ncontent-length: 49000\r\n\r\nfew".to_vec();
    scene.server.script().answers.insert(format!("/acme/{WEIGHTS}"), vec![liar; 5].into());
    let error = scene.fetch(&remote, Wanted::Now).unwrap_err();
    assert!(matches!(error, RemoteError::Unreachable { .. }), "{error}");
    assert_eq!(entries(scene.dir.path()), 1);
}

/// A file system that takes so much of a file and no more, in a process of its own:
/// `a_full_disk_is_told_by_what_it_is` starts it.
#[test]
#[ignore = "it needs a limit on the size of files"]
fn on_a_full_disk() {
    let scene = Scene::new();
    let remote = scene.open();
    let error = scene.fetch(&remote, Wanted::Now).unwrap_err();
    let told = error.to_string();
    let (_, after) =
        told.split_once("there is no room on the disk of --adapter-cache-dir: ").unwrap();
    let written: usize = after.split(' ').next().unwrap().parse().unwrap();
    assert!((1..weights(1).len()).contains(&written), "{told}");
    assert!(
        told.contains(&format!("of {WEIGHTS}, which has {}, could be", weights(1).len())),
        "{told}"
    );
    assert!(!told.contains(scene.dir.path().to_str().unwrap()), "{told}");
    // Nothing of it stays to fill the disk, and what is small still comes.
    assert_eq!(fs::read_dir(scene.dir.path().join("cache/partial")).unwrap().count(), 0);
    scene.server.put(&format!("/acme/{WEIGHTS}"), b"small");
    assert_eq!(scene.fetch(&remote, Wanted::Now).unwrap(), b"small");
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_told_by_what_it_is() {
    // Files of 8 KiB or 16, as the shell has it; one that is longer is an error and no signal.
    let limited = "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\"";
    let test = std::env::current_exe().unwrap();
    let mut child = std::process::Command::new("sh");
    child.args(["-c", limited]).arg(test).args(["on_a_full_disk", "--ignored"]);
    let output = child.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
}

/// A link or a pipe in an entry is no file that was fetched.
#[cfg(unix)]
#[test]
fn what_is_no_file_on_the_disk_is_fetched_again() {
    let scene = Scene::new();
    let remote = scene.open();
    let elsewhere = scene.dir.path().join("elsewhere");
    fs::write(&elsewhere, weights(1)).unwrap();
    for with_link in [true, false] {
        let kept = remote.fetch(&scene.location("/acme"), None, Wanted::Now).unwrap();
        kept.holds(AdapterId([1; 32]));
        let path = kept.dir().join(WEIGHTS);
        drop(kept);
        fs::remove_file(&path).unwrap();
        if with_link {
            std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        } else {
            let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
            assert!(made.success());
        }
        scene.server.take_seen("");
        let kept =
            remote.fetch(&scene.location("/acme"), None, Wanted::Same(AdapterId([1; 32]))).unwrap();
        assert_eq!(scene.server.take_seen(WEIGHTS).len(), 2);
        assert!(kept.dir().join(WEIGHTS).symlink_metadata().unwrap().is_file());
    }
}

/// An earlier version may be nowhere else: for an error that says nothing of it, it is not removed.
#[cfg(unix)]
#[test]
fn what_cannot_be_read_for_a_moment_stays() {
    let scene = Scene::new();
    let config = r#"{"peft_type": "LORA", "init_lora_weights": "pissa"}"#;
    scene.server.put("/acme/adapter_config.json", config.as_bytes());
    scene.server.put(&format!("/acme/pissa_init/{WEIGHTS}"), b"initial");
    let (remote, content) = (scene.open(), AdapterId([1; 32]));
    let kept = remote.fetch(&scene.location("/acme"), None, Wanted::Now).unwrap();
    kept.holds(content);
    let (whole, part) = (kept.dir().to_owned(), kept.dir().join("pissa_init"));
    drop(kept);
    scene.place("/acme", 2);
    away(&scene);
    let aside = scene.dir.path().join("aside");
    // A link to itself is nobody's to look behind, the superuser's neither.
    let hide = |path: &Path| {
        fs::rename(path, &aside).unwrap();
        std::os::unix::fs::symlink(path.file_name().unwrap(), path).unwrap();
    };
    let show = |path: &Path| {
        fs::remove_file(path).unwrap();
        fs::rename(&aside, path).unwrap();
    };
    let fails = |remote: &Remote| {
        let error = scene.fetch(remote, Wanted::Same(content)).unwrap_err();
        assert!(matches!(error, RemoteError::Later { .. }), "{error}");
    };
    hide(&part);
    fails(&remote);
    drop(remote);
    // The next process neither removes it.
    let remote = scene.open();
    fails(&remote);
    show(&part);
    assert_eq!(scene.fetch(&remote, Wanted::Same(content)).unwrap(), weights(1));
    // All of it, and the directory itself is made anew meanwhile.
    hide(&whole);
    fs::remove_file(scene.dir.path().join("cache/lock")).unwrap();
    fails(&remote);
    show(&whole);
    assert_eq!(scene.fetch(&remote, Wanted::Same(content)).unwrap(), weights(1));
}

#[test]
fn only_what_stays_so_is_damage() {
    use std::io::{Error, ErrorKind};

    let too_many_files = Error::from_raw_os_error(24);
    let others = [ErrorKind::PermissionDenied, ErrorKind::TimedOut, ErrorKind::OutOfMemory];
    let passing = others.map(Error::from).into_iter().chain([too_many_files]);
    passing.for_each(|error| assert!(!entry::is_damage(&error), "{error:?}"));
    let gone = [ErrorKind::NotFound, ErrorKind::InvalidData, ErrorKind::UnexpectedEof];
    let lasting = gone.map(Error::from).into_iter().chain([Error::from_raw_os_error(5)]);
    lasting.for_each(|error| assert!(entry::is_damage(&error), "{error:?}"));
}

/// Who wants the newest, and cannot be told what that is, gets what was asked for or nothing.
#[test]
fn what_is_kept_is_used_only_where_its_digest_fits() {
    let scene = Scene::new();
    let remote = scene.open();
    let digest = |seed| FileDigest::Sha256([0; 32]).of_same_kind(&weights(seed)[..]).ok();
    let fetch = |digest| remote.fetch(&scene.location("/acme"), digest, Wanted::Newest);
    drop(fetch(digest(1)).unwrap());
    away(&scene);
    assert_eq!(weights_in(&fetch(digest(1)).unwrap()), weights(1));
    let error = fetch(digest(2)).unwrap_err();
    assert!(matches!(error, RemoteError::Later { .. }), "{error}");
}
