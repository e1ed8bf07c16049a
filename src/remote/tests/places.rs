//! Places that are slow, that moved, or that let nobody in: each costs only those who ask it, and is
//! told by what it is.

use std::sync::mpsc::sync_channel;

use super::object_server::{Object, ObjectServer, Seen, object};
use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn order(location: Location, asker: u32) -> Order {
    Order {
        location,
        digest: None,
        wanted: Wanted::Now,
        asker: Party { tenant: asker, weight: 1, alone: false },
    }
}

fn redirect(target: &str) -> Object {
    Object { redirect: Some(target.to_owned()), ..Object::default() }
}

#[test]
fn a_healthy_place_never_waits_for_a_sick_one() {
    let (scene, sick) = (Scene::new(), ObjectServer::start());
    let mut settings = scene.settings();
    settings.allowed.push(format!("http://{}", sick.host()).parse().unwrap());
    // However long this takes, nobody is given up.
    settings.timeout = Duration::from_secs(3600);
    settings.slowest.window = Duration::from_secs(3600);
    let remote = Remote::open(settings).unwrap();
    let (stuck, ended) = sync_channel(100);
    const ORDERS: usize = 40;
    for index in 0..ORDERS {
        let path = format!("/{index}/adapter_config.json");
        let slow = Object { drips: Some(1), ..object(&vec![b' '; 100_000]) };
        sick.script().objects.insert(path, slow);
        let location = format!("http://{}/{index}", sick.host()).parse().unwrap();
        let stuck = stuck.clone();
        remote.begin(order(location, 1), Arc::new(|| true), move |fetched| {
            stuck.send(fetched.map(drop)).unwrap();
        });
    }
    let (healthy, came) = sync_channel(100);
    remote.begin(order(scene.location("/acme"), 1), Arc::new(|| true), move |fetched| {
        healthy.send(fetched.map(|kept| weights_in(&kept))).unwrap();
    });
    let came = came.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(came.unwrap(), weights(1));
    // One tenant's fetches from the sick place leave others theirs.
    sick.put("/well/adapter_config.json", CONFIG.as_bytes());
    sick.put(&format!("/well/{WEIGHTS}"), &weights(3));
    let (other, came) = sync_channel(100);
    let location = format!("http://{}/well", sick.host()).parse().unwrap();
    remote.begin(order(location, 2), Arc::new(|| true), move |fetched| {
        other.send(fetched.map(|kept| weights_in(&kept))).unwrap();
    });
    let came = came.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(came.unwrap(), weights(3));
    assert!(ended.try_recv().is_err(), "a fetch from the sick place has ended");
    // And all are told at the end.
    drop(remote);
    for _ in 0..ORDERS {
        let error = ended.recv_timeout(Duration::from_secs(60)).unwrap().unwrap_err();
        assert!(matches!(error, RemoteError::Closed), "{error}");
    }
}

/// A registered version that is on the disk is not in the queue of its place, which is sick by now.
#[test]
fn what_is_here_waits_for_no_place() {
    let scene = Scene::new();
    let mut settings = scene.settings();
    settings.timeout = Duration::from_secs(3600);
    settings.slowest.window = Duration::from_secs(3600);
    let remote = Remote::open(settings).unwrap();
    let content = AdapterId([7; 32]);
    remote.fetch(&scene.location("/acme"), None, Wanted::Now).unwrap().holds(content);
    let slow = Object { drips: Some(1), ..object(&vec![b' '; 100_000]) };
    for path in (0..40).map(|index| format!("/{index}")).chain(["/acme".to_owned()]) {
        let config = format!("{path}/adapter_config.json");
        scene.server.script().objects.insert(config, slow.clone());
        remote.begin(order(scene.location(&path), 1), Arc::new(|| true), drop);
    }
    let (done, came) = sync_channel(100);
    let wanted = Wanted::Same(content);
    let order = Order { wanted, ..order(scene.location("/acme"), 1) };
    remote.begin(order, Arc::new(|| true), move |fetched| {
        done.send(fetched.map(|kept| weights_in(&kept))).unwrap()
    });
    let came = came.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(came.unwrap(), weights(1));
}

/// A place that takes connections and says nothing occupies its own fetches only, and those not for long.
#[test]
fn a_place_that_never_answers_is_given_up_soon() {
    let scene = Scene::new();
    let remote =
        Remote::open(Settings { silence: Duration::from_millis(200), ..scene.settings() }).unwrap();
    scene.server.script().silences = 2;
    assert_eq!(scene.fetch(&remote, Wanted::Now).unwrap(), weights(1));
    scene.server.take_seen("");
    put_repository(&scene.server, "org/name", 2);
    for location in [scene.location("/acme"), "hf://org/name".parse().unwrap()] {
        scene.server.script().silences = 1000;
        let error = remote.fetch(&location, None, Wanted::Now).unwrap_err();
        assert_eq!(error.to_string(), "it could not be fetched: no answer in time");
        assert_eq!(scene.server.take_seen("").len(), 3);
        // What was fetched last does for who is content with it.
        scene.server.script().silences = 1000;
        let newest = remote.fetch(&location, None, Wanted::Newest);
        assert_eq!(newest.is_ok(), location.scheme() != Scheme::Hf);
        scene.server.take_seen("");
    }
}

#[test]
fn what_comes_too_slowly_is_given_up_and_goes_on_later() {
    let scene = Scene::new();
    let slow = Object { drips: Some(20), ..object(&weights(1)) };
    scene.server.script().objects.insert(format!("/acme/{WEIGHTS}"), slow);
    let slowest = Pace { bytes: 1 << 30, window: Duration::from_millis(500) };
    let remote = Remote::open(Settings { slowest, ..scene.settings() }).unwrap();
    let error = scene.fetch(&remote, Wanted::Now).unwrap_err();
    assert!(matches!(error, RemoteError::TooSlow { .. }), "{error}");
    // Once: asking again at once would be as slow.
    assert_eq!(scene.server.take_seen(WEIGHTS).len(), 1);
    scene.place("/acme", 1);
    assert_eq!(scene.fetch(&remote, Wanted::Now).unwrap(), weights(1));
    let seen = scene.server.take_seen(WEIGHTS);
    let from = seen[0].header("range").unwrap().strip_prefix("bytes=").unwrap();
    assert!(from.trim_end_matches('-').parse::<u64>().unwrap() >= 20, "{from}");
    // Slow, and as fast as it has to be.
    let slow = Object { drips: Some(1_000), ..object(&weights(2)) };
    scene.server.script().objects.insert(format!("/acme/{WEIGHTS}"), slow);
    drop(remote);
    let slowest = Pace { bytes: 1, window: Duration::from_secs(1) };
    let remote = Remote::open(Settings { slowest, ..scene.settings() }).unwrap();
    assert_eq!(scene.fetch(&remote, Wanted::Now).unwrap(), weights(2));
}

/// A redirect is a request like any other: it goes to places that were named.
#[test]
fn a_redirect_leads_to_named_places_only() {
    let scene = Scene::new();
    let host = format!("http://{}", scene.server.host());
    let allowed = [format!("{host}/adapters"), format!("{host}/moved")];
    let allowed = allowed.iter().map(|place| place.parse().unwrap()).collect();
    let remote = Remote::open(Settings { allowed, ..scene.settings() }).unwrap();
    scene.place("/adapters/acme", 1);
    scene.place("/moved/acme", 2);
    scene.place("/movedaway/acme", 3);
    let weights_path = format!("/adapters/acme/{WEIGHTS}");
    let fetch = || remote.fetch(&scene.location("/adapters/acme"), None, Wanted::Now);
    for target in [
        format!("/acme/{WEIGHTS}"),
        format!("{host}/acme/{WEIGHTS}"),
        format!("/movedaway/acme/{WEIGHTS}"),
        format!("/moved/../acme/{WEIGHTS}"),
        format!("/moved/..%2facme/{WEIGHTS}"),
        format!("//{}/acme/{WEIGHTS}", scene.server.host()),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "file:///etc/passwd".to_owned(),
        "http://[".to_owned(),
        String::new(),
    ] {
        scene.server.script().objects.insert(weights_path.clone(), redirect(&target));
        scene.server.take_seen("");
        let error = fetch().unwrap_err();
        let told = matches!(error, RemoteError::Redirect | RemoteError::Redirects { .. });
        assert!(told && !error.to_string().contains("acme"), "{target}: {error}");
        let asked = scene.server.take_seen("");
        assert!(asked.iter().all(|seen| seen.path.starts_with("/adapters/acme")), "{target}");
    }
    for target in [format!("/moved/acme/{WEIGHTS}"), format!("../../moved/acme/{WEIGHTS}")] {
        scene.server.script().objects.insert(weights_path.clone(), redirect(&target));
        assert_eq!(weights_in(&fetch().unwrap()), weights(2), "{target}");
    }
    scene.server.script().objects.insert(weights_path.clone(), redirect(&weights_path));
    let error = fetch().unwrap_err();
    assert!(matches!(error, RemoteError::Redirects { limit: 5 }), "{error}");
}

/// A hub's repository under `name`, and what a token is asked for.
fn put_repository(server: &ObjectServer, name: &str, seed: u8) {
    for revision in ["main", COMMIT] {
        for (file, bytes) in [("adapter_config.json", CONFIG.as_bytes()), (WEIGHTS, &weights(seed))]
        {
            let headers = vec![("x-repo-commit".into(), COMMIT.into())];
            let object = Object { headers, bearer: Some("hf_secret".into()), ..object(bytes) };
            server.script().objects.insert(format!("/{name}/resolve/{revision}/{file}"), object);
        }
    }
}

#[test]
fn a_repository_that_was_renamed_is_found_by_its_old_name() {
    let scene = Scene::new();
    let mut settings = scene.settings();
    settings.allowed = vec!["hf://org/old".parse().unwrap()];
    settings.hub.token = Some(Token("hf_secret".into()));
    let location: Location = "hf://org/old".parse().unwrap();
    put_repository(&scene.server, "neworg/new", 4);
    let host = format!("http://{}", scene.server.host());
    for revision in ["main", COMMIT] {
        for file in ["adapter_config.json", WEIGHTS] {
            let path = |name: &str| format!("/{name}/resolve/{revision}/{file}");
            // By a path and by a whole address.
            let base = if file == WEIGHTS { host.as_str() } else { "" };
            let moved = redirect(&format!("{base}{}", path("neworg/new")));
            scene.server.script().objects.insert(path("org/old"), moved);
        }
    }
    let remote = Remote::open(settings.clone()).unwrap();
    let fetch = |remote: &Remote| remote.fetch(&location, None, Wanted::Newest);
    assert_eq!(weights_in(&fetch(&remote).unwrap()), weights(4));
    // A redirect that may not be followed, a hub that is away: what was fetched last is used.
    let away = redirect("http://169.254.169.254/org/old");
    let path = "/org/old/resolve/main/adapter_config.json";
    scene.server.script().objects.insert(path.into(), away);
    drop(remote);
    let remote = Remote::open(settings).unwrap();
    assert_eq!(weights_in(&fetch(&remote).unwrap()), weights(4));
    {
        let mut script = scene.server.script();
        (script.failures, script.failure_headers) = (1, "retry-after: 3600\r\n".into());
    }
    assert_eq!(weights_in(&fetch(&remote).unwrap()), weights(4));
    // It was taken back: what was fetched is not served on.
    let gated = Object {
        headers: vec![("x-error-code".into(), "GatedRepo".into())],
        bearer: Some("x".into()),
        ..object(b"")
    };
    scene.server.script().objects.insert(path.into(), gated);
    let error = fetch(&remote).unwrap_err();
    assert!(matches!(error, RemoteError::Gated), "{error}");
}

#[test]
fn a_mirror_leads_to_named_places_and_takes_no_token_there() {
    let (scene, mirror) = (Scene::new(), ObjectServer::start());
    put_repository(&scene.server, "org/name", 5);
    for object in scene.server.script().objects.values_mut() {
        object.bearer = None;
    }
    for revision in ["main", COMMIT] {
        for file in ["adapter_config.json", WEIGHTS] {
            let path = format!("/org/name/resolve/{revision}/{file}");
            let target = redirect(&format!("http://{}{path}", scene.server.host()));
            mirror.script().objects.insert(format!("/mirror{path}"), target);
        }
    }
    let settings = |named: bool| {
        let mut settings = scene.settings();
        settings.allowed.retain(|prefix| named || prefix.location().scheme() == Scheme::Hf);
        settings.hub.endpoint = format!("http://{}/mirror/", mirror.host());
        settings.hub.token = Some(Token("hf_secret".into()));
        settings
    };
    let location: Location = "hf://org/name".parse().unwrap();
    let fetch = |named| Remote::open(settings(named)).unwrap().fetch(&location, None, Wanted::Now);
    let error = fetch(false).unwrap_err();
    assert!(matches!(error, RemoteError::Redirect), "{error}");
    assert_eq!(scene.server.take_seen(""), []);
    assert_eq!(weights_in(&fetch(true).unwrap()), weights(5));
    let has_token = |seen: &Seen| seen.header("authorization") == Some("Bearer hf_secret");
    assert!(mirror.take_seen("").iter().all(has_token));
    let seen = scene.server.take_seen("");
    assert!(!seen.is_empty() && !seen.iter().any(has_token));
}

/// What is wrong, in words that say what to do.
#[test]
fn a_place_that_lets_nobody_in_is_told_by_what_it_is() {
    let scene = Scene::new();
    let remote = scene.open();
    let coded = |code: &str| Object {
        headers: vec![("x-error-code".into(), code.into())],
        bearer: Some("another".into()),
        ..object(b"")
    };
    let fetch = |location: &str| {
        let error = remote.fetch(&location.parse().unwrap(), None, Wanted::Now).unwrap_err();
        error.to_string()
    };
    let config = |name: &str| format!("/org/{name}/resolve/main/adapter_config.json");
    for (code, told) in [
        ("GatedRepo", "the repository is gated: set HF_TOKEN"),
        ("RepoNotFound", "the hub has no such repository, or shows it only to others"),
        ("RevisionNotFound", "no such repository or revision"),
        ("Other", "with status 401: it wants credentials"),
    ] {
        scene.server.script().objects.insert(config(code), coded(code));
        let error = fetch(&format!("hf://org/{code}"));
        assert!(error.contains(told), "{error}");
    }
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 99\n";
    for file in ["adapter_config.json", WEIGHTS] {
        scene.place("/pointer", 1);
        scene.server.put(&format!("/pointer/{file}"), pointer);
        let error = fetch(&scene.location("/pointer").to_string());
        assert!(error.contains(&format!("{file} is a pointer of Git LFS")), "{error}");
    }
    scene.server.script().objects.insert("/locked/adapter_config.json".into(), coded(""));
    let error = fetch(&scene.location("/locked").to_string());
    assert!(error.contains("it wants credentials"), "{error}");
}

fn s3(scene: &Scene, more: &[(&str, &str)]) -> Remote {
    let host = format!("http://{}", scene.server.host());
    let own = [("AWS_ENDPOINT_URL", host.as_str()), ("AWS_REGION", "eu-central-1")];
    let variables = own.iter().chain(more).map(|(name, value)| ((*name).into(), (*value).into()));
    let stores = Variables(variables.collect());
    Remote::open(Settings { stores, ..scene.settings() }).unwrap()
}

#[test]
fn what_a_store_refuses_is_told_by_what_it_is() {
    let scene = Scene::new();
    let keys = [("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "very-secret")];
    let path = "/bucket/acme/adapter_config.json".to_owned();
    let fetch = |remote: &Remote| {
        remote.fetch(&"s3://bucket/acme".parse().unwrap(), None, Wanted::Now).unwrap_err()
    };
    let answer = |status: u16, headers: &str, body: &str| {
        let head = format!(
            "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}",
            body.len()
        );
        scene.server.script().answers.insert(path.clone(), vec![head.into_bytes()].into());
    };
    let remote = s3(&scene, &keys);
    answer(404, "", "<Error><Code>NoSuchBucket</Code></Error>");
    assert!(matches!(fetch(&remote), RemoteError::NoBucket));
    answer(404, "", "<Error><Code>NoSuchKey</Code></Error>");
    assert!(matches!(fetch(&remote), RemoteError::Missing { .. }));
    answer(403, "", "<Error><Code>InvalidAccessKeyId</Code>AKIAEXAMPLE</Error>");
    let error = fetch(&remote);
    assert!(matches!(error, RemoteError::Refused { status: 403 }), "{error}");
    assert!(!error.to_string().contains("AKIA"));
    answer(503, "retry-after: 3600\r\n", "");
    let error = fetch(&remote);
    assert!(matches!(error, RemoteError::Later { seconds: 3600, .. }), "{error}");
    answer(307, "location: http://169.254.169.254/\r\n", "");
    assert!(matches!(fetch(&remote), RemoteError::Redirect));
    answer(200, "content-encoding: gzip\r\nlast-modified: Thu, 26 Nov 2026 00:00:00 GMT\r\n", "{}");
    assert!(matches!(fetch(&remote), RemoteError::Encoded));
    drop(remote);
    // Nobody says who asks: not the variables, nor the machine.
    let host = format!("http://{}", scene.server.host());
    scene.server.take_seen("");
    let error = fetch(&s3(&scene, &[("AWS_METADATA_ENDPOINT", &host)]));
    assert!(matches!(error, RemoteError::NoCredentials { .. }), "{error}");
    assert!(error.to_string().contains("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"));
    assert!(scene.server.take_seen("").iter().all(|seen| seen.path.starts_with("/latest/")));
}

/// A store that does not know ranges, or sends another part than the one that was asked for.
#[test]
fn a_store_that_answers_otherwise_costs_no_byte() {
    let scene = Scene::new();
    let keys = [("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "very-secret")];
    let remote = s3(&scene, &keys);
    let (own, other) = (weights(1), weights(9));
    let tag = object(&own).tag.unwrap();
    let dated = "last-modified: Thu, 26 Nov 2026 00:00:00 GMT\r\n";
    let raw = |status: u16, headers: &str, body: &[u8]| {
        let head = format!(
            "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n{dated}{headers}\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    };
    let range = "content-range: bytes 5000-19999/20000\r\n";
    for (index, answer) in [
        raw(200, &format!("etag: {tag}\r\n"), &other),
        raw(206, range, &other[5000..]),
        raw(206, &format!("{range}etag: \"other\"\r\n"), &other[5000..]),
        raw(
            206,
            &format!("content-range: bytes 6000-19999/20000\r\netag: {tag}\r\n"),
            &other[6000..],
        ),
        raw(416, "", b""),
    ]
    .into_iter()
    .enumerate()
    {
        let place = format!("/bucket/acme{index}");
        scene.place(&place, 1);
        scene.server.script().cuts = vec![100, 5_000];
        scene.server.script().later.insert(format!("{place}/{WEIGHTS}"), vec![answer].into());
        let location = format!("s3:/{place}").parse().unwrap();
        let kept = remote.fetch(&location, None, Wanted::Now);
        let kept = kept.unwrap_or_else(|error| panic!("{index}: {error}"));
        assert!(weights_in(&kept) == own, "{index}");
    }
    // A part of a file that was asked for whole.
    scene.place("/bucket/half", 1);
    let half = raw(206, "content-range: bytes 0-9999/20000\r\n", &own[..10_000]);
    scene.server.script().answers.insert(format!("/bucket/half/{WEIGHTS}"), vec![half].into());
    let kept = remote.fetch(&"s3://bucket/half".parse().unwrap(), None, Wanted::Now).unwrap();
    assert!(weights_in(&kept) == own);
}
