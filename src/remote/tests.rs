//! Fetching over loopback, from a server that breaks off, fails and changes.

mod answers;
mod keeping;
#[path = "../../tests/support/object_server.rs"]
mod object_server;
mod places;

use std::fs;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use self::object_server::{Object, ObjectServer, Seen, object};
use super::*;
use crate::adapter::delta::AdapterId;
use crate::adapter::registry::Fetched as _;

const CONFIG: &str = r#"{"peft_type": "LORA"}"#;
const WEIGHTS: &str = "adapter_model.safetensors";

/// A server with the adapter `/acme`, and a place to keep what comes.
struct Scene {
    server: ObjectServer,
    dir: TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { server: ObjectServer::start(), dir: tempfile::tempdir().unwrap() };
        scene.place("/acme", 1);
        scene
    }

    /// Puts an adapter there; another `seed`, other weights.
    fn place(&self, path: &str, seed: u8) {
        self.server.put(&format!("{path}/adapter_config.json"), CONFIG.as_bytes());
        self.server.put(&format!("{path}/{WEIGHTS}"), &weights(seed));
    }

    fn settings(&self) -> Settings {
        let allowed = ["s3://bucket", "hf://org", &format!("http://{}", self.server.host())];
        Settings {
            allowed: allowed.iter().map(|prefix| prefix.parse().unwrap()).collect(),
            cache_dir: self.dir.path().join("cache"),
            cache_bytes: 1 << 20,
            max_bytes: 100_000,
            timeout: Duration::from_secs(60),
            silence: Duration::from_secs(60),
            slowest: Pace::default(),
            stores: Variables::default(),
            hub: Hub { endpoint: format!("http://{}", self.server.host()), ..Hub::default() },
        }
    }

    fn open(&self) -> Remote {
        Remote::open(self.settings()).unwrap()
    }

    fn location(&self, path: &str) -> Location {
        format!("http://{}{path}", self.server.host()).parse().unwrap()
    }

    /// The weights that come from `/acme`.
    fn fetch(&self, remote: &Remote, wanted: Wanted) -> Result<Vec<u8>, RemoteError> {
        remote.fetch(&self.location("/acme"), None, wanted).map(|kept| weights_in(&kept))
    }
}

/// Some thousand bytes.
fn weights(seed: u8) -> Vec<u8> {
    (0..20_000_u32).map(|n| (n * n / 7) as u8 ^ seed).collect()
}

fn weights_in(kept: &Kept) -> Vec<u8> {
    fs::read(kept.dir().join(WEIGHTS)).unwrap()
}

fn statuses(seen: &[Seen]) -> Vec<u16> {
    seen.iter().map(|seen| seen.status).collect()
}

fn entries(dir: &Path) -> usize {
    fs::read_dir(dir.join("cache/adapters")).unwrap().count()
}

#[test]
fn the_files_of_an_adapter_come_and_no_others() {
    let scene = Scene::new();
    scene.server.put("/acme/optimizer.pt", b"large");
    let remote = scene.open();
    let kept = remote.fetch(&scene.location("/acme"), None, Wanted::Now).unwrap();
    assert_eq!(weights_in(&kept), weights(1));
    assert_eq!(fs::read(kept.dir().join("adapter_config.json")).unwrap(), CONFIG.as_bytes());
    let mut names: Vec<_> =
        fs::read_dir(kept.dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["adapter_config.json", WEIGHTS, entry::MANIFEST]);
    assert_eq!(statuses(&scene.server.take_seen(WEIGHTS)), [200, 304]);
    // Again, nothing comes that is here already.
    let again = remote.fetch(&scene.location("/acme"), None, Wanted::Now).unwrap();
    assert_eq!((again.dir(), statuses(&scene.server.take_seen(""))), (kept.dir(), vec![304, 304]));
    // Other weights under the same name.
    scene.place("/acme", 2);
    assert_eq!(scene.fetch(&remote, Wanted::Newest).unwrap(), weights(2));
    assert_eq!(weights_in(&kept), weights(1));
}

#[test]
fn the_initial_factors_come_where_they_are_needed() {
    let scene = Scene::new();
    let config = r#"{"peft_type": "LORA", "init_lora_weights": "pissa"}"#;
    scene.server.put("/acme/adapter_config.json", config.as_bytes());
    scene.server.put("/acme/pissa_init/adapter_model.safetensors", b"initial");
    scene.server.put("/pair/config.json", br#"{"model_type": "sorsa"}"#);
    scene.server.put("/pair/model.safetensors", b"trained");
    let remote = scene.open();
    let kept = remote.fetch(&scene.location("/acme"), None, Wanted::Now).unwrap();
    let initial = fs::read(kept.dir().join("pissa_init").join(WEIGHTS)).unwrap();
    assert_eq!((initial.as_slice(), weights_in(&kept)), (&b"initial"[..], weights(1)));
    let pair = scene.location("/pair");
    let error = remote.fetch(&pair, None, Wanted::Now).unwrap_err();
    assert!(matches!(error, RemoteError::Missing { file: "init.safetensors" }), "{error}");
    scene.server.put("/pair/init.safetensors", b"initial");
    let kept = remote.fetch(&pair, None, Wanted::Now).unwrap();
    assert_eq!(fs::read(kept.dir().join("model.safetensors")).unwrap(), b"trained");
    for (path, config) in [("/model", r#"{"model_type": "llama"}"#), ("/none", "<html>")] {
        scene.server.put(&format!("{path}/config.json"), config.as_bytes());
        let error = remote.fetch(&scene.location(path), None, Wanted::Now).unwrap_err();
        assert!(matches!(error, RemoteError::Adapter(_)), "{error}");
    }
    let error = remote.fetch(&scene.location("/absent"), None, Wanted::Now).unwrap_err();
    assert!(matches!(error, RemoteError::Missing { file: "adapter_config.json" }), "{error}");
}

#[test]
fn a_broken_transfer_goes_on_where_it_broke() {
    let scene = Scene::new();
    // The configuration whole, then the weights in three pieces.
    scene.server.script().cuts = vec![100, 5_000, 7_000];
    let remote = scene.open();
    assert_eq!(scene.fetch(&remote, Wanted::Now).unwrap(), weights(1));
    let seen = scene.server.take_seen(WEIGHTS);
    let ranges: Vec<_> = seen.iter().map(|seen| seen.header("range")).collect();
    assert_eq!(ranges, [None, Some("bytes=5000-"), Some("bytes=12000-"), None]);
    let tag = object(&weights(1)).tag;
    assert!(seen[1..3].iter().all(|seen| seen.header("if-match") == tag.as_deref()));
    assert_eq!(seen.iter().map(|seen| seen.sent).sum::<usize>(), weights(1).len());
}

#[test]
fn what_was_given_up_goes_on_in_the_next_try() {
    let scene = Scene::new();
    scene.server.script().cuts = vec![100, 5_000, 0, 0, 0, 0, 0];
    let remote = scene.open();
    let error = scene.fetch(&remote, Wanted::Now).unwrap_err();
    assert!(matches!(error, RemoteError::Unreachable { .. }), "{error}");
    scene.server.script().cuts.clear();
    scene.server.take_seen("");
    assert_eq!(scene.fetch(&remote, Wanted::Now).unwrap(), weights(1));
    assert_eq!(scene.server.take_seen(WEIGHTS)[0].header("range"), Some("bytes=5000-"));
}

#[test]
fn an_object_that_changed_starts_over() {
    let scene = Scene::new();
    let weights_path = format!("/acme/{WEIGHTS}");
    {
        let mut script = scene.server.script();
        script.cuts = vec![100, 5_000];
        script.change = Some((weights_path.clone(), weights_path, object(&weights(9))));
    }
    let remote = scene.open();
    assert_eq!(scene.fetch(&remote, Wanted::Now).unwrap(), weights(9));
    assert_eq!(statuses(&scene.server.take_seen(WEIGHTS)), [200, 412, 200, 304]);
}

/// The weights are of another version than the configuration that came before them.
#[test]
fn files_belong_together() {
    let scene = Scene::new();
    let other = br#"{"peft_type": "LORA", "r": 8}"#;
    let change = (format!("/acme/{WEIGHTS}"), "/acme/adapter_config.json".into(), object(other));
    scene.server.script().change = Some(change);
    let kept = scene.open().fetch(&scene.location("/acme"), None, Wanted::Now).unwrap();
    assert_eq!(fs::read(kept.dir().join("adapter_config.json")).unwrap(), other);
    assert_eq!(statuses(&scene.server.take_seen("config.json")), [200, 200, 304]);
}

#[test]
fn digests_are_checked() {
    let scene = Scene::new();
    let (remote, location) = (scene.open(), scene.location("/acme"));
    let wrong = format!("sha256:{}", "0".repeat(64)).parse().ok();
    let error = remote.fetch(&location, wrong, Wanted::Now).unwrap_err();
    assert!(matches!(error, RemoteError::Digest { file: WEIGHTS, .. }), "{error}");
    assert_eq!(entries(scene.dir.path()), 0);
    let right = [FileDigest::Sha256([0; 32]), FileDigest::Blake3([0; 32])];
    for digest in right.map(|kind| kind.of_same_kind(&weights(1)[..]).unwrap()) {
        assert!(remote.fetch(&location, Some(digest), Wanted::Now).is_ok());
    }
    // What is kept and unchanged is checked as well.
    assert!(remote.fetch(&location, wrong, Wanted::Now).is_err());
}

#[test]
fn what_is_too_large_is_refused_before_it_comes_and_while_it_does() {
    let scene = Scene::new();
    let large = Object { bytes: vec![7; 200_000], endless: true, ..object(b"large") };
    let path = format!("/acme/{WEIGHTS}");
    let remote = scene.open();
    for endless in [false, true] {
        let object = Object { endless, ..large.clone() };
        scene.server.script().objects.insert(path.clone(), object);
        let error = scene.fetch(&remote, Wanted::Now).unwrap_err();
        assert!(matches!(error, RemoteError::TooLarge { limit: 100_000, .. }), "{error}");
        assert_eq!(statuses(&scene.server.take_seen(WEIGHTS)), [200]);
    }
    // A configuration is short.
    let config = Object { bytes: vec![b' '; 2 << 20], ..object(b"config") };
    scene.server.script().objects.insert("/acme/adapter_config.json".into(), config);
    let roomy = Settings { max_bytes: 8 << 20, cache_bytes: 8 << 20, ..scene.settings() };
    drop(remote);
    let error = scene.fetch(&Remote::open(roomy).unwrap(), Wanted::Now).unwrap_err();
    assert!(matches!(error, RemoteError::TooLarge { limit: 1_048_576, .. }), "{error}");
    assert_eq!(entries(scene.dir.path()), 0);
}

#[test]
fn nothing_is_fetched_from_where_it_may_not() {
    let (scene, other) = (Scene::new(), ObjectServer::start());
    let remote = scene.open();
    for place in [&format!("http://{}/acme", other.host()), "s3://other/acme", "hf://o/acme"] {
        let error = remote.fetch(&place.parse().unwrap(), None, Wanted::Now).unwrap_err();
        assert!(matches!(error, RemoteError::NotAllowed), "{error}");
    }
    // A host that may be asked sends to one that may not.
    other.put("/x", CONFIG.as_bytes());
    let redirect = Some(format!("http://{}/x?signature=secret", other.host()));
    let away = Object { redirect, ..Object::default() };
    scene.server.script().objects.insert("/acme/adapter_config.json".into(), away);
    let error = scene.fetch(&remote, Wanted::Now).unwrap_err();
    assert!(matches!(error, RemoteError::Redirect), "{error}");
    assert!(!error.to_string().contains("secret"));
    assert_eq!(other.take_seen(""), []);
    // And within the hosts that may.
    let within = Object { redirect: Some("/moved".into()), ..Object::default() };
    scene.server.script().objects.insert("/acme/adapter_config.json".into(), within);
    scene.server.put("/moved", CONFIG.as_bytes());
    assert_eq!(scene.fetch(&remote, Wanted::Now).unwrap(), weights(1));
}

#[test]
fn who_fails_is_asked_again_and_not_for_ever() {
    let scene = Scene::new();
    scene.server.script().failures = 3;
    let remote = scene.open();
    assert_eq!(scene.fetch(&remote, Wanted::Now).unwrap(), weights(1));
    scene.server.take_seen("");
    scene.server.script().failures = 1000;
    let error = scene.fetch(&remote, Wanted::Now).unwrap_err();
    assert!(matches!(error, RemoteError::Unreachable { .. }), "{error}");
    assert_eq!(scene.server.take_seen("").len(), 5);
    // Who wants the newest is content with what was the newest.
    assert_eq!(scene.fetch(&remote, Wanted::Newest).unwrap(), weights(1));
    // Something else than a failure is an answer.
    scene.server.script().failures = 0;
    scene.server.script().objects.clear();
    let error = scene.fetch(&remote, Wanted::Newest).unwrap_err();
    assert!(matches!(error, RemoteError::Missing { .. }), "{error}");
}

#[test]
fn who_comes_second_waits_for_the_first() {
    let scene = Scene::new();
    let remote = scene.open();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(scene.fetch(&remote, Wanted::Now).unwrap(), weights(1)));
        }
    });
    let sent: usize = scene.server.take_seen(WEIGHTS).iter().map(|seen| seen.sent).sum();
    assert_eq!(sent, weights(1).len());
}

#[test]
fn an_earlier_content_is_found_again() {
    let scene = Scene::new();
    let remote = scene.open();
    let (first, second) = (AdapterId([1; 32]), AdapterId([2; 32]));
    for (seed, content) in [(1, first), (2, second)] {
        scene.place("/acme", seed);
        remote.fetch(&scene.location("/acme"), None, Wanted::Now).unwrap().holds(content);
    }
    scene.server.take_seen("");
    for _ in 0..2 {
        assert_eq!(scene.fetch(&remote, Wanted::Same(first)).unwrap(), weights(1));
        assert_eq!(scene.fetch(&remote, Wanted::Same(second)).unwrap(), weights(2));
    }
    assert_eq!(scene.server.take_seen(""), []);
    // What is not here any more is asked for; whether it is the same, the reader tells.
    assert_eq!(scene.fetch(&remote, Wanted::Same(AdapterId([3; 32]))).unwrap(), weights(2));
    // The next process finds them too, even where nobody answers.
    drop(remote);
    scene.server.script().failures = 1000;
    let remote = scene.open();
    assert_eq!(scene.fetch(&remote, Wanted::Same(first)).unwrap(), weights(1));
    assert_eq!(scene.fetch(&remote, Wanted::Newest).unwrap(), weights(2));
}

#[test]
fn the_least_recently_used_leave_and_never_what_is_read() {
    let scene = Scene::new();
    let names = ["/a", "/b", "/c", "/d"];
    for (name, seed) in names.iter().zip(10..) {
        scene.place(name, seed);
    }
    let small = || Settings { cache_bytes: 50_000, ..scene.settings() };
    let remote = Remote::open(small()).unwrap();
    let fetch =
        |remote: &Remote, name: &str| remote.fetch(&scene.location(name), None, Wanted::Now);
    let a = fetch(&remote, "/a").unwrap();
    drop(fetch(&remote, "/b").unwrap());
    // There is room for two; the older one is being read.
    let c = fetch(&remote, "/c").unwrap();
    assert!(a.dir().exists() && weights_in(&a) == weights(10) && entries(scene.dir.path()) == 2);
    let error = fetch(&remote, "/d").unwrap_err();
    assert!(matches!(error, RemoteError::NoRoom { limit: 50_000 }), "{error}");
    drop(c);
    drop(fetch(&remote, "/d").unwrap());
    assert!(weights_in(&a) == weights(10) && entries(scene.dir.path()) == 2);
    drop(a);
    // Another process finds what was kept, and nothing that was half done.
    let partial = scene.dir.path().join("cache/partial/x");
    fs::create_dir_all(&partial).unwrap();
    fs::write(partial.join("y.part"), "half").unwrap();
    fs::create_dir_all(scene.dir.path().join("cache/adapters/strange")).unwrap();
    let error = Remote::open(small()).unwrap_err();
    assert!(matches!(error, RemoteError::Shared), "{error}");
    drop(remote);
    let remote = Remote::open(small()).unwrap();
    assert!(!partial.exists() && entries(scene.dir.path()) == 2);
    scene.server.take_seen("");
    drop(fetch(&remote, "/a").unwrap());
    assert!(scene.server.take_seen("").iter().all(|seen| seen.status == 304));
    // The one used last stays where there is less room.
    drop(remote);
    let remote = Remote::open(Settings { cache_bytes: 30_000, ..scene.settings() }).unwrap();
    assert_eq!(entries(scene.dir.path()), 1);
    scene.server.script().failures = 1000;
    let kept = remote.fetch(&scene.location("/a"), None, Wanted::Newest).unwrap();
    assert_eq!(weights_in(&kept), weights(10));
}

#[test]
fn what_was_damaged_on_disk_is_fetched_again() {
    let scene = Scene::new();
    let remote = scene.open();
    let kept = remote.fetch(&scene.location("/acme"), None, Wanted::Now).unwrap();
    let path = kept.dir().join(WEIGHTS);
    let mut bytes = weights(1);
    bytes[777] ^= 1;
    fs::write(&path, &bytes).unwrap();
    drop(kept);
    assert_eq!(scene.fetch(&remote, Wanted::Now).unwrap(), weights(1));
}

#[test]
fn object_stores_are_asked_in_their_own_words() {
    let scene = Scene::new();
    scene.place("/bucket/acme/v1", 5);
    let host = format!("http://{}", scene.server.host());
    let variables = [
        ("AWS_ENDPOINT_URL", host.as_str()),
        ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "very-secret"),
        ("AWS_REGION", "eu-central-1"),
        ("GOOGLE_BASE_URL", &host),
        ("GOOGLE_BEARER_TOKEN", "very-secret"),
        ("AZURE_STORAGE_ENDPOINT", &host),
        ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "dmVyeS1zZWNyZXQ="),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut settings = Settings { stores: Variables(variables.into()), ..scene.settings() };
    settings.allowed.extend(["gs://bucket", "az://bucket"].map(|place| place.parse().unwrap()));
    assert!(!format!("{settings:?}").contains("secret"));
    let remote = Remote::open(settings).unwrap();
    for (scheme, signature) in [
        ("s3", "AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/"),
        ("gs", "Bearer very-secret"),
        ("az", "SharedKey account:"),
    ] {
        scene.server.script().cuts = vec![100, 5_000];
        let location = format!("{scheme}://bucket/acme/v1").parse().unwrap();
        let kept = remote.fetch(&location, None, Wanted::Now).unwrap();
        assert_eq!(weights_in(&kept), weights(5));
        let seen = scene.server.take_seen(WEIGHTS);
        assert_eq!(statuses(&seen), [200, 206, 304], "{scheme}");
        assert_eq!(seen[1].header("range"), Some("bytes=5000-"));
        let signed = |seen: &Seen| seen.header("authorization").unwrap().starts_with(signature);
        assert!(seen.iter().all(signed), "{scheme} {seen:?}");
        let absent = format!("{scheme}://bucket/none").parse().unwrap();
        let absent = remote.fetch(&absent, None, Wanted::Now).unwrap_err();
        assert!(matches!(absent, RemoteError::Missing { .. }), "{absent}");
    }
    scene.server.script().failures = 1000;
    let location = "s3://bucket/acme/v1".parse().unwrap();
    let error = remote.fetch(&location, None, Wanted::Now).unwrap_err().to_string();
    assert!(error.contains("could not be fetched") && !error.contains("http"), "{error}");
}

#[test]
fn what_was_given_up_makes_room_first() {
    let scene = Scene::new();
    scene.place("/a", 2);
    scene.place("/b", 3);
    scene.server.script().cuts = vec![100, 5_000, 0, 0, 0, 0, 0];
    let remote = Remote::open(Settings { cache_bytes: 45_000, ..scene.settings() }).unwrap();
    scene.fetch(&remote, Wanted::Now).unwrap_err();
    scene.server.script().cuts.clear();
    let partial = || fs::read_dir(scene.dir.path().join("cache/partial")).unwrap().count();
    let fetch = |path: &str| remote.fetch(&scene.location(path), None, Wanted::Now).unwrap();
    drop(fetch("/a"));
    assert_eq!((partial(), entries(scene.dir.path())), (1, 1));
    drop(fetch("/b"));
    assert_eq!((partial(), entries(scene.dir.path())), (0, 2));
    // It begins anew, and then the oldest makes room.
    assert_eq!(scene.fetch(&remote, Wanted::Now).unwrap(), weights(1));
    assert_eq!((partial(), entries(scene.dir.path())), (0, 2));
}

#[test]
fn a_repository_of_the_hub_is_one_commit_of_it() {
    let (scene, storage) = (Scene::new(), ObjectServer::start());
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let bearer = Some("hf_secret".to_owned());
    let config = Object {
        bearer: bearer.clone(),
        headers: vec![("x-repo-commit".into(), commit.into())],
        ..object(CONFIG.as_bytes())
    };
    let redirect = Some(format!("http://{}/blob?signed", storage.host()));
    let large = Object { bearer, redirect, ..Object::default() };
    for revision in ["main", commit] {
        let path = format!("/org/name/resolve/{revision}");
        let mut script = scene.server.script();
        script.objects.insert(format!("{path}/adapter_config.json"), config.clone());
        script.objects.insert(format!("{path}/{WEIGHTS}"), large.clone());
    }
    storage.put("/blob?signed", &weights(3));
    let token = Some(Token("hf_secret".into()));
    let settings = |offline, token| {
        let mut settings = scene.settings();
        settings.allowed.push(format!("http://{}", storage.host()).parse().unwrap());
        settings.hub = Hub { token, offline, ..settings.hub };
        settings
    };
    let location: Location = "hf://org/name".parse().unwrap();
    let fetch = |remote: &Remote| remote.fetch(&location, None, Wanted::Now);
    // Nothing is known and nothing may be asked.
    let error = fetch(&Remote::open(settings(true, None)).unwrap()).unwrap_err();
    assert!(matches!(error, RemoteError::Offline), "{error}");
    let error = fetch(&Remote::open(settings(false, None)).unwrap()).unwrap_err();
    assert!(matches!(error, RemoteError::Refused { status: 401 }), "{error}");
    scene.server.take_seen("");
    let remote = Remote::open(settings(false, token)).unwrap();
    assert_eq!(weights_in(&fetch(&remote).unwrap()), weights(3));
    let seen = scene.server.take_seen("");
    assert!(seen.iter().all(|seen| seen.header("authorization") == Some("Bearer hf_secret")));
    let asked: Vec<_> =
        seen.iter().map(|seen| (seen.method.as_str(), seen.path.as_str())).collect();
    let of_commit = format!("/org/name/resolve/{commit}");
    let expected = [
        ("HEAD", "/org/name/resolve/main/adapter_config.json"),
        ("GET", &format!("{of_commit}/adapter_config.json")),
        ("GET", &format!("{of_commit}/{WEIGHTS}")),
    ];
    assert_eq!(asked, expected);
    // The token is the hub's alone.
    let stored = storage.take_seen("");
    assert!(stored.len() == 1 && stored[0].header("authorization").is_none());
    // The same commit again: one question, and no file.
    fetch(&remote).unwrap();
    assert_eq!((scene.server.take_seen("").len(), storage.take_seen("").len()), (1, 0));
    let error = remote.fetch(&"hf://org/none".parse().unwrap(), None, Wanted::Now).unwrap_err();
    assert!(matches!(error, RemoteError::NoRevision), "{error}");
    drop(remote);
    scene.server.take_seen("");
    let offline = Remote::open(settings(true, None)).unwrap();
    assert_eq!(weights_in(&fetch(&offline).unwrap()), weights(3));
    assert_eq!(scene.server.take_seen(""), []);
}

#[test]
fn it_takes_no_longer_than_it_may() {
    let scene = Scene::new();
    scene.server.script().failures = 1000;
    let hasty = Settings { timeout: Duration::from_millis(50), ..scene.settings() };
    let error = scene.fetch(&Remote::open(hasty).unwrap(), Wanted::Now).unwrap_err();
    assert!(matches!(error, RemoteError::TimedOut { .. }), "{error}");
}
