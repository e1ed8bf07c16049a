//! Answers that are not what was asked for: no bytes of one version end up in another.

use super::object_server::{Object, object};
use super::*;

/// A whole answer as it is sent.
fn raw(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

fn sized(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    raw(status, &format!("content-length: {}\r\n{headers}", body.len()), body)
}

#[test]
fn a_part_is_added_only_to_the_version_that_it_is_of() {
    let scene = Scene::new();
    let remote = scene.open();
    let (own, other) = (weights(1), weights(9));
    let tag = object(&own).tag.unwrap();
    let part = |range: &str, tag: &str, from: usize| {
        sized(206, &format!("content-range: {range}\r\n{tag}"), &other[from..])
    };
    let tagged = format!("etag: {tag}\r\n");
    let answers = [
        ("no tag", part("bytes 5000-19999/20000", "", 5000)),
        ("another tag", part("bytes 5000-19999/20000", "etag: \"other\"\r\n", 5000)),
        ("a weak tag", part("bytes 5000-19999/20000", &format!("etag: W/{tag}\r\n"), 5000)),
        ("another start", part("bytes 6000-19999/20000", &tagged, 6000)),
        ("the whole as a part", part("bytes 0-19999/20000", "etag: \"other\"\r\n", 0)),
        ("another size", part("bytes 5000-20000/20001", &tagged, 4999)),
        ("an unknown size", part("bytes 5000-19999/*", &tagged, 5000)),
        ("a range beyond the end", part("bytes 5000-20000/20000", &tagged, 4999)),
        ("no range", sized(206, &tagged, &other[5000..])),
        (
            "a range of nothing",
            sized(206, &format!("content-range: bytes */20000\r\n{tagged}"), b""),
        ),
        ("not satisfiable", sized(416, "", b"")),
        (
            "another version, broken off",
            raw(200, "content-length: 20000\r\netag: \"other\"\r\n", &other[..7000]),
        ),
        ("an empty answer", raw(200, "content-length: 20000\r\n", b"")),
        ("not modified", raw(304, &tagged, b"")),
    ];
    for (index, (what, answer)) in answers.into_iter().enumerate() {
        let place = format!("/acme{index}");
        scene.place(&place, 1);
        {
            let mut script = scene.server.script();
            script.cuts = vec![100, 5_000];
            let path = format!("{place}/{WEIGHTS}");
            // The first answer is the object's own; what comes next is not.
            script.later.insert(path, vec![answer].into());
        }
        let kept = remote.fetch(&scene.location(&place), None, Wanted::Now);
        let kept = kept.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(weights_in(&kept) == own, "{what}");
        let seen = scene.server.take_seen(&format!("{place}/{WEIGHTS}"));
        assert_eq!(seen[1].header("range"), Some("bytes=5000-"), "{what}");
        assert_eq!(seen[1].header("accept-encoding"), Some("identity"), "{what}");
        let script = scene.server.script();
        assert!(script.later.values().chain(script.answers.values()).all(|left| left.is_empty()));
    }
}

/// Another version, whole, in answer to a question for the rest of the first.
#[test]
fn a_whole_file_takes_the_place_of_a_part() {
    let scene = Scene::new();
    let mut script = scene.server.script();
    script.cuts = vec![100, 5_000];
    let path = format!("/acme/{WEIGHTS}");
    let other = object(&weights(9));
    let headers = format!("etag: {}\r\n", other.tag.clone().unwrap());
    script.later.insert(path.clone(), vec![sized(200, &headers, &weights(9))].into());
    script.change = Some((path.clone(), path, other));
    drop(script);
    assert_eq!(scene.fetch(&scene.open(), Wanted::Now).unwrap(), weights(9));
}

/// Its own store of files answers to what it was asked, or is asked again.
#[test]
fn an_answer_that_nobody_asked_for_is_none() {
    let scene = Scene::new();
    let remote = scene.open();
    let half = &weights(1)[..10_000];
    for answer in [
        sized(206, "content-range: bytes 0-9999/20000\r\n", half),
        sized(206, "", half),
        raw(304, "", b""),
        sized(408, "", b""),
        raw(200, "content-length: 20000\r\n", half),
        raw(200, "transfer-encoding: chunked\r\n", b"4\r\nhalf\r\n"),
        Vec::new(),
        b"HTTP/1.1 200".to_vec(),
        b"nonsense\r\n\r\n".to_vec(),
    ] {
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(60)]).into_owned();
        scene.server.script().answers.insert(format!("/acme/{WEIGHTS}"), vec![answer].into());
        let remote_weights = scene.fetch(&remote, Wanted::Now);
        assert!(remote_weights.is_ok_and(|bytes| bytes == weights(1)), "{shown}");
        fs::remove_dir_all(scene.dir.path().join("cache/adapters")).unwrap();
    }
}

/// Some frameworks send a tag with every file, and compare none.
#[test]
fn a_server_that_sends_tags_and_never_compares_them_can_be_fetched_from() {
    let scene = Scene::new();
    for file in ["adapter_config.json", WEIGHTS] {
        let mut script = scene.server.script();
        script.objects.get_mut(&format!("/acme/{file}")).unwrap().unconditional = true;
    }
    let remote = scene.open();
    assert_eq!(scene.fetch(&remote, Wanted::Now).unwrap(), weights(1));
    let again = scene.fetch(&remote, Wanted::Newest).unwrap();
    assert_eq!((again, entries(scene.dir.path())), (weights(1), 1));
    scene.place("/acme", 2);
    assert_eq!(scene.fetch(&remote, Wanted::Newest).unwrap(), weights(2));
}

/// Behind a balancer, each machine makes tags of its own.
#[test]
fn the_same_bytes_under_other_tags_are_the_same_file() {
    let scene = Scene::new();
    let remote = scene.open();
    let answers = |body: &[u8]| {
        let tagged = |n: u32| sized(200, &format!("etag: \"{n}\"\r\n"), body);
        (0..8).map(tagged).collect()
    };
    {
        let mut script = scene.server.script();
        script.answers.insert("/acme/adapter_config.json".into(), answers(CONFIG.as_bytes()));
        script.answers.insert(format!("/acme/{WEIGHTS}"), answers(&weights(1)));
    }
    for _ in 0..3 {
        assert_eq!(scene.fetch(&remote, Wanted::Newest).unwrap(), weights(1));
    }
    assert_eq!(entries(scene.dir.path()), 1);
}

/// Without tags, a configuration that is another one by now tells of weights that are.
#[test]
fn files_without_tags_belong_together() {
    let scene = Scene::new();
    let untagged = |bytes: &[u8]| Object { tag: None, ..object(bytes) };
    let other = br#"{"peft_type": "LORA", "r": 8}"#;
    {
        let mut script = scene.server.script();
        let config = "/acme/adapter_config.json".to_owned();
        script.objects.insert(config.clone(), untagged(CONFIG.as_bytes()));
        script.objects.insert(format!("/acme/{WEIGHTS}"), untagged(&weights(1)));
        script.change = Some((format!("/acme/{WEIGHTS}"), config, untagged(other)));
    }
    let kept = scene.open().fetch(&scene.location("/acme"), None, Wanted::Now).unwrap();
    assert_eq!(fs::read(kept.dir().join("adapter_config.json")).unwrap(), other);
    // The weights were fetched beside the new one too.
    assert_eq!(statuses(&scene.server.take_seen(WEIGHTS)), [200, 200]);
}

#[test]
fn what_is_compressed_is_refused_and_unpacked_by_nobody() {
    let scene = Scene::new();
    let remote = scene.open();
    for coding in ["gzip", "br", "Deflate", "gzip, identity"] {
        let packed = Object {
            headers: vec![("content-encoding".into(), coding.into())],
            ..object(b"\x1f\x8b bomb")
        };
        scene.server.script().objects.insert(format!("/acme/{WEIGHTS}"), packed);
        let error = scene.fetch(&remote, Wanted::Now).unwrap_err();
        assert!(matches!(error, RemoteError::Encoded), "{coding}: {error}");
    }
    let plain = Object {
        headers: vec![("content-encoding".into(), "identity".into())],
        ..object(&weights(1))
    };
    scene.server.script().objects.insert(format!("/acme/{WEIGHTS}"), plain);
    assert_eq!(scene.fetch(&remote, Wanted::Now).unwrap(), weights(1));
}

/// A body that ends where its connection does may have been longer.
#[test]
fn the_tag_of_a_body_without_an_end_vouches_for_nothing() {
    let scene = Scene::new();
    let headers = format!("etag: {}\r\n", object(&weights(1)).tag.unwrap());
    let cut = raw(200, &headers, &weights(1)[..10_000]);
    scene.server.script().answers.insert(format!("/acme/{WEIGHTS}"), vec![cut].into());
    let remote = scene.open();
    assert_eq!(scene.fetch(&remote, Wanted::Now).unwrap().len(), 10_000);
    assert_eq!(scene.fetch(&remote, Wanted::Newest).unwrap(), weights(1));
}

#[test]
fn a_place_that_wants_to_be_left_alone_is() {
    let scene = Scene::new();
    {
        let mut script = scene.server.script();
        script.failures = 1;
        script.failure_headers = "retry-after: 1\r\n".into();
    }
    let (remote, started) = (scene.open(), Instant::now());
    assert_eq!(scene.fetch(&remote, Wanted::Now).unwrap(), weights(1));
    assert!(started.elapsed() >= Duration::from_secs(1));
    scene.server.take_seen("");
    // For longer than there is time: nobody asks for it in vain.
    for after in ["3600", "Wed, 01 Jan 2200 00:00:00 GMT", "18446744073709551615"] {
        {
            let mut script = scene.server.script();
            script.failures = 1000;
            script.failure_headers = format!("retry-after: {after}\r\n");
        }
        let error = scene.fetch(&remote, Wanted::Now).unwrap_err();
        assert!(matches!(error, RemoteError::Later { seconds: 3600.., .. }), "{error}");
        assert_eq!(scene.server.take_seen("").len(), 1, "{after}");
    }
    // What says nothing of use says nothing.
    scene.server.script().failure_headers = "retry-after: soon\r\n".into();
    let error = scene.fetch(&remote, Wanted::Now).unwrap_err();
    assert!(matches!(error, RemoteError::Unreachable { .. }), "{error}");
}
