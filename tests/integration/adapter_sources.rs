//! Adapters that are fetched: the binary, a store, a web server and a hub on loopback.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::lora;
use crate::support::model::in_repository;
use crate::support::object_server::{Object, ObjectServer, object};
use crate::support::server::Server;

const FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

fn tiny() -> PathBuf {
    in_repository("tests/fixtures/tiny/f32/base")
}

/// Two adapters in directories, and a server to put them on.
struct Scene {
    folder: TempDir,
    objects: ObjectServer,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { folder: tempfile::tempdir().unwrap(), objects: ObjectServer::start() };
        for index in 0..2_u64 {
            let dir = scene.folder.path().join(format!("a{index}"));
            lora::write_random_for(lora::TINY, &dir, 3, index + 1);
        }
        scene
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn read(&self, name: &str, file: &str) -> Vec<u8> {
        fs::read(Path::new(&self.path(name)).join(file)).unwrap()
    }

    /// Puts the files of the directory `name` at `path`.
    fn put(&self, name: &str, path: &str) {
        for file in FILES {
            self.objects.put(&format!("{path}/{file}"), &self.read(name, file));
        }
    }

    /// A server that keeps what it fetches in the scene's folder.
    fn serve(&self, args: &[&str], environment: &[(&str, &str)]) -> Server {
        let cache = self.path("cache");
        let mut all = vec!["--served-model-name=base", "--adapter-cache-dir", &cache];
        all.extend(args);
        Server::start_in(&tiny(), &all, environment)
    }
}

/// What a model says, and the digest of the adapter that said it.
async fn ask(server: &Server, model: &str) -> (String, Value) {
    let request = json!({
        "model": model, "prompt": "Once upon a time", "max_tokens": 12, "temperature": 0,
        "ignore_eos": true,
    });
    let answer = server.post("/v1/completions", &request).await;
    let text = answer["choices"][0]["text"].as_str().unwrap().to_owned();
    (text, answer["system_fingerprint"].clone())
}

async fn put(server: &Server, name: &str, body: Value) -> (u16, Value) {
    server.call("PUT", &format!("/admin/adapters/{name}"), &body).await
}

/// `sha256sum`, by the tool itself.
fn sha256(path: &str) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    format!("sha256:{}", text.split(' ').next().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_of_a_store_is_what_it_is_in_a_directory() {
    let scene = Scene::new();
    scene.put("a0", "/models/acme/v1");
    // The connection breaks in the middle of the weights.
    scene.objects.script().cuts = vec![1 << 20, 3_000];
    let endpoint = format!("http://{}", scene.objects.host());
    let environment = [
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "very-secret"),
        ("AWS_REGION", "eu-central-1"),
    ];
    let local = format!("local={}", scene.path("a0"));
    let args = ["--adapter", &local, "--adapter", "stored=s3://models/acme/v1"];
    let server = scene.serve(&args, &environment);
    let stored = ask(&server, "stored").await;
    assert_eq!(stored, ask(&server, "local").await);
    assert_ne!(stored.0, ask(&server, "base").await.0);
    let seen = scene.objects.take_seen(FILES[1]);
    assert_eq!(seen[1].header("range"), Some("bytes=3000-"));
    assert!(!server.log().contains("very-secret") && !server.log().contains("AKIAEXAMPLE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn adapters_of_the_web_come_change_and_stay() {
    let scene = Scene::new();
    scene.put("a0", "/adapters/acme");
    let (source, state) =
        (format!("http://{}/adapters", scene.objects.host()), scene.path("state"));
    let args = ["--allow-runtime-adapters", "--adapter-source", &source, "--state-dir", &state];
    let server = scene.serve(&args, &[]);
    let acme = format!("{source}/acme");
    let (status, body) = put(&server, "acme", json!({"path": acme})).await;
    assert_eq!((status, &body["versions"][0]["source"]), (201, &json!(acme)), "{body}");
    let first = ask(&server, "acme").await;
    // Other files in the same place are another version, of the digest that was asked for.
    scene.put("a1", "/adapters/acme");
    let digest = sha256(&format!("{}/{}", scene.path("a1"), FILES[1]));
    let wrong = json!({"path": acme, "digest": sha256("/dev/null")});
    assert_eq!(put(&server, "acme", wrong).await.0, 400);
    let (status, body) = put(&server, "acme", json!({"path": acme, "digest": digest})).await;
    assert_eq!((status, body["versions"].as_array().unwrap().len()), (200, 2), "{body}");
    let second = ask(&server, "acme").await;
    assert_ne!(first, second);
    // Nobody needs the source for what was fetched before: neither to go back, nor after a restart.
    scene.objects.script().failures = 1_000_000;
    let path = "/admin/adapters/acme";
    assert_eq!(server.call("POST", &format!("{path}/rollback"), &Value::Null).await.0, 200);
    assert_eq!(ask(&server, "acme").await, first);
    drop(server);
    let server = scene.serve(&args, &[]);
    assert_eq!(ask(&server, "acme").await, first);
    let weights = json!({"weights": {"2": 1}});
    assert_eq!(server.call("PUT", &format!("{path}/rollout"), &weights).await.0, 200);
    assert_eq!(ask(&server, "acme").await, second);
    drop(server);
    // From where adapters are no longer fetched, they are not served either.
    let args =
        ["--allow-runtime-adapters", "--adapter-source", "s3://other", "--state-dir", &state];
    let server = scene.serve(&args, &[]);
    let request = json!({"model": "acme", "prompt": "Hello"});
    assert_eq!(server.try_post("/v1/completions", &request).await.0, 503);
    let (_, body) = server.call("GET", path, &Value::Null).await;
    let version = &body["versions"][1];
    let error = version["error"].as_str().unwrap();
    assert!(version["state"] == "failed" && error.contains("--adapter-source"), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_source_is_said() {
    let (scene, other) = (Scene::new(), ObjectServer::start());
    scene.put("a0", "/adapters/acme");
    scene.objects.put("/adapters/empty/x", b"");
    let large = Object { bytes: vec![0; 2 << 20], ..object(b"large") };
    let away = Object {
        redirect: Some(format!("http://{}/x?signature=secret", other.host())),
        ..Object::default()
    };
    {
        let mut script = scene.objects.script();
        let config = script.objects["/adapters/acme/adapter_config.json"].clone();
        script.objects.insert("/adapters/large/adapter_config.json".into(), config);
        script.objects.insert(format!("/adapters/large/{}", FILES[1]), large);
        script.objects.insert("/adapters/away/adapter_config.json".into(), away);
    }
    scene.objects.put("/adapters/broken/adapter_config.json", b"{\"peft_type\": \"LORA\"}");
    scene.objects.put(&format!("/adapters/broken/{}", FILES[1]), b"no tensors");
    let host = format!("http://{}", scene.objects.host());
    let source = format!("{host}/adapters");
    let args =
        ["--allow-runtime-adapters", "--adapter-source", &source, "--max-adapter-size", "1MiB"];
    let server = scene.serve(&args, &[]);
    let zeros = "0".repeat(64);
    let at = |path: &str| json!({"path": format!("{host}/{path}")});
    let with =
        |path: &str, digest: &str| json!({"path": format!("{host}/{path}"), "digest": digest});
    let cases = [
        json!({"path": "ftp://models/acme"}),
        json!({"path": "https://user:secret@models/acme"}),
        json!({"path": format!("{source}/acme?token=secret")}),
        json!({"path": format!("{source}/../acme")}),
        json!({"path": format!("{source}/%2e%2e/acme")}),
        json!({"path": "s3://models/acme"}),
        json!({"path": "org/name@main"}),
        at("elsewhere/acme"),
        at("adapters/empty"),
        at("adapters/large"),
        at("adapters/away"),
        at("adapters/broken"),
        with("adapters/acme", "md5:00"),
        with("adapters/acme", &format!("blake3:{zeros}")),
        json!({"path": "acme", "digest": format!("sha256:{zeros}")}),
    ];
    let mut table = String::new();
    for body in cases {
        let (status, answer) = put(&server, "acme", body.clone()).await;
        table += &format!("{body}\n    {status} {answer}\n");
    }
    scene.objects.script().failures = 1_000_000;
    let (status, answer) = put(&server, "acme", at("adapters/acme")).await;
    table += &format!("nobody answers\n    {status} {answer}\n");
    let load = json!({"lora_name": "acme", "lora_path": "ftp://models/acme"});
    let (status, answer) = server.call("POST", "/v1/load_lora_adapter", &load).await;
    table += &format!("{load}\n    {status} {answer}\n");
    insta::assert_snapshot!(table.replace(&host, "http://HOST"));
    let log = server.log();
    assert!(!log.contains("secret") && !log.contains(&scene.path("cache/")), "{log}");
    assert_eq!(other.take_seen(""), []);
    assert_eq!(server.call("GET", "/admin/adapters/acme", &Value::Null).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_declares_adapters_of_the_hub() {
    let scene = Scene::new();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    for (revision, file) in [("v1", FILES[0]), (commit, FILES[0]), (commit, FILES[1])] {
        let object = Object {
            bearer: Some("hf_secret".into()),
            headers: vec![("x-repo-commit".into(), commit.into())],
            ..object(&scene.read("a0", file))
        };
        let path = format!("/org/name/resolve/{revision}/{file}");
        scene.objects.script().objects.insert(path, object);
    }
    let file = scene.path("adapters.toml");
    let local = scene.path("a0");
    let text = format!(
        "[[adapter]]\nname = 'acme'\npath = 'org/name@v1'\n[[adapter]]\nname = 'local'\npath = '{local}'\n"
    );
    fs::write(&file, text).unwrap();
    let endpoint = format!("http://{}", scene.objects.host());
    let hub = [("HF_ENDPOINT", endpoint.as_str()), ("HF_TOKEN", "hf_secret")];
    let args = ["--adapters", &file, "--adapter-source", "hf://org"];
    let server = scene.serve(&args, &hub);
    let answer = ask(&server, "acme").await;
    assert_eq!(answer, ask(&server, "local").await);
    assert!(!server.log().contains("hf_secret"));
    drop(server);
    scene.objects.take_seen("");
    let server = scene.serve(&args, &[hub[0], ("HF_HUB_OFFLINE", "1")]);
    assert_eq!(ask(&server, "acme").await, answer);
    assert_eq!(scene.objects.take_seen(""), []);
}

/// More slow places than threads that load, and more adapters at one of them than are fetched at a time.
#[tokio::test(flavor = "multi_thread")]
async fn slow_places_hold_up_neither_a_local_adapter_nor_another_place() {
    let (scene, slow) = (Scene::new(), [ObjectServer::start(), ObjectServer::start()]);
    scene.put("a0", "/adapters/acme");
    let hosts = slow.each_ref().map(|place| format!("http://{}", place.host()));
    let mut text = format!(
        "[[adapter]]\nname = 'local'\npath = '{}'\n[[adapter]]\nname = 'healthy'\npath = \
         'http://{}/adapters/acme'\n",
        scene.path("a0"),
        scene.objects.host()
    );
    for index in 0..24 {
        let (place, host) = (&slow[index % 2], &hosts[index % 2]);
        let config = Object { drips: Some(1), ..object(&vec![b' '; 100_000]) };
        place.script().objects.insert(format!("/{index}/{}", FILES[0]), config);
        text += &format!("[[adapter]]\nname = 'slow{index}'\npath = '{host}/{index}'\n");
    }
    let file = scene.path("adapters.toml");
    fs::write(&file, text).unwrap();
    let healthy = format!("http://{}", scene.objects.host());
    let sources = [&hosts[0], &hosts[1], &healthy].map(String::as_str).join(",");
    let args = ["--adapters", &file, "--adapter-source", &sources, "--adapter-loaders=1"];
    let server = scene.serve(&args, &[]);
    let asked: Vec<_> = (0..24)
        .map(|index| {
            let url = server.url("/v1/completions");
            let body = json!({"model": format!("slow{index}"), "prompt": "Hello"});
            tokio::spawn(reqwest::Client::new().post(url).json(&body).send())
        })
        .collect();
    while slow.iter().any(|place| place.script().seen.len() < 12) {
        tokio::task::yield_now().await;
    }
    assert_eq!(ask(&server, "local").await, ask(&server, "healthy").await);
    // And nothing has come of the others yet.
    assert!(asked.iter().all(|request| !request.is_finished()));
}
