//! Files and directories that are written while a server follows them: halves of them take nothing
//! from anybody.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sorsa::tenant::key::KeyHash;

use crate::support::lora;
use crate::support::model::in_repository;
use crate::support::server::Server;

/// For something that happens by itself: never reached where it does.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longer than it takes to miss an adapter.
const LONG: Duration = Duration::from_secs(4);

fn tiny() -> PathBuf {
    in_repository("tests/fixtures/tiny/f32/base")
}

async fn status(server: &Server, key: &str, model: &str) -> u16 {
    let url = server.url("/v1/completions");
    let body = json!({"model": model, "prompt": "Once", "max_tokens": 1});
    let sent = reqwest::Client::new().post(url).bearer_auth(key).json(&body).send().await;
    sent.unwrap().status().as_u16()
}

async fn until(server: &Server, key: &str, model: &str, wanted: u16) {
    let deadline = Instant::now() + PATIENCE;
    while status(server, key, model).await != wanted {
        assert!(Instant::now() < deadline, "never {wanted}\n{}", server.log());
    }
}

/// Waits until the log says `text` so many times.
async fn logged(server: &Server, text: &str, times: usize) {
    let deadline = Instant::now() + PATIENCE;
    while server.log().matches(text).count() < times {
        assert!(Instant::now() < deadline, "no {text:?} in\n{}", server.log());
        tokio::task::yield_now().await;
    }
}

/// A tenant of its own for each key, with so many requests a minute.
fn keys(tenants: &[(&str, Option<u32>)]) -> String {
    let tenant = |(name, limit): &(&str, Option<u32>)| {
        let limit =
            limit.map_or_else(String::new, |limit| format!("requests_per_minute = {limit}\n"));
        let hash = KeyHash::of(&format!("sk-{name}"));
        format!(
            "[tenants.{name}]\nbase = true\n{limit}[keys.{name}]\ntenant = \"{name}\"\n\
             sha256 = \"{hash}\"\n"
        )
    };
    tenants.iter().map(tenant).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_keys_file_takes_no_key_and_no_used_up_rate() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    let whole = [("busy", Some(1)), ("other", None)];
    fs::write(&path, keys(&whole)).unwrap();
    let args = ["--served-model-name=base", "--keys", path.to_str().unwrap()];
    let server = Server::start(&tiny(), &args);
    let answers = async || {
        [status(&server, "sk-busy", "base").await, status(&server, "sk-other", "base").await]
    };
    assert_eq!(answers().await, [200, 200]);
    assert_eq!(answers().await, [429, 200]);
    // Everything up to the middle of the second key's digest, and then nothing at all.
    let text = keys(&whole);
    fs::write(&path, &text[..text.len() - 30]).unwrap();
    let kept = "the keys file is not followed, what was in force stays";
    logged(&server, kept, 1).await;
    assert_eq!(answers().await, [429, 200]);
    fs::write(&path, "").unwrap();
    logged(&server, kept, 2).await;
    assert_eq!(answers().await, [429, 200]);
    // It is repaired, and says something new.
    fs::write(&path, keys(&[("busy", Some(1)), ("other", None), ("new", None)])).unwrap();
    until(&server, "sk-new", "base", 200).await;
    assert_eq!(answers().await, [429, 200]);
    // A key that is taken out opens nothing, and its going forgives nobody.
    fs::write(&path, keys(&[("busy", Some(1)), ("new", None)])).unwrap();
    until(&server, "sk-other", "base", 401).await;
    assert_eq!(answers().await, [429, 401]);
    // At SIGHUP as well.
    fs::write(&path, keys(&[("busy", Some(1))])).unwrap();
    server.signal("HUP");
    until(&server, "sk-new", "base", 401).await;
    assert_eq!(answers().await, [429, 401]);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_half_readable_for_a_moment_retires_nothing() {
    use std::os::unix::fs::symlink;

    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("adapters");
    for name in ["used", "unused", "other"] {
        lora::write_random_for(lora::TINY, &dir.join(name), 2, 1);
    }
    let args = ["--served-model-name=base", "--adapter-dir", dir.to_str().unwrap()];
    let server = Server::start(&tiny(), &args);
    let listed = async || {
        let (_, models) = server.call("GET", "/v1/models", &Value::Null).await;
        models["data"].as_array().unwrap().len()
    };
    assert_eq!((status(&server, "", "used").await, listed().await), (200, 4));
    let wait = async || {
        let deadline = Instant::now() + LONG;
        while Instant::now() < deadline {
            assert_eq!((status(&server, "", "used").await, listed().await), (200, 4));
        }
    };
    // What is there cannot be told: a link to itself is nobody's to read, the superuser's neither.
    let marks = ["used", "unused"].map(|name| dir.join(name).join("adapter_config.json"));
    let texts = marks.each_ref().map(|mark| fs::read(mark).unwrap());
    for mark in &marks {
        fs::remove_file(mark).unwrap();
        symlink("adapter_config.json", mark).unwrap();
    }
    wait().await;
    for (mark, text) in marks.iter().zip(texts) {
        fs::remove_file(mark).unwrap();
        fs::write(mark, text).unwrap();
    }
    until(&server, "", "unused", 200).await;
    // All of it is away.
    fs::rename(&dir, folder.path().join("away")).unwrap();
    logged(&server, "cannot be read, its adapters stay", 1).await;
    wait().await;
    fs::rename(folder.path().join("away"), &dir).unwrap();
    logged(&server, "can be read again", 1).await;
    assert_eq!((status(&server, "", "other").await, listed().await), (200, 4));
    // What really goes is gone.
    fs::remove_dir_all(dir.join("unused")).unwrap();
    until(&server, "", "unused", 404).await;
    assert_eq!(listed().await, 3);
}
