//! The process at its edges: signals, the log, what bodies cost in memory, names it answers to, and a
//! tenant's name that is given again.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::model::in_repository;
use crate::support::server::Server;

const PATIENCE: Duration = Duration::from_secs(30);

fn tiny() -> PathBuf {
    in_repository("tests/fixtures/tiny/f32/base")
}

/// Waits until the log says `text` so many times.
async fn logged(server: &Server, text: &str, times: usize) {
    let deadline = Instant::now() + PATIENCE;
    while server.log().matches(text).count() < times {
        assert!(Instant::now() < deadline, "no {text:?} in\n{}", server.log());
        tokio::task::yield_now().await;
    }
}

async fn health(server: &Server) -> u16 {
    reqwest::get(server.url("/health")).await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_ends_no_server() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.toml");
    let made = Command::new(env!("CARGO_BIN_EXE_sorsa"))
        .args(["key", "new", "--tenant", "a", "--file"])
        .arg(&keys)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let adapters = folder.path().join("adapters.toml");
    std::fs::write(&adapters, "").unwrap();
    let (keys, adapters) = (keys.to_str().unwrap(), adapters.to_str().unwrap());
    for (flags, said) in [
        (&[][..], "there is nothing to read again"),
        (&["--api-key=sk-1"], "there is nothing to read again"),
        (&["--adapters", adapters], "--adapters will be read again"),
        (&["--keys", keys], "--keys will be read again"),
    ] {
        let mut server = Server::start(&tiny(), flags);
        for times in 1..=3 {
            server.signal("HUP");
            logged(&server, said, times).await;
        }
        assert_eq!(health(&server).await, 200, "{flags:?}");
        // What else orchestrators and terminals send.
        for harmless in ["PIPE", "WINCH", "CHLD", "URG", "CONT"] {
            server.signal(harmless);
            assert_eq!(health(&server).await, 200, "{harmless}");
        }
        server.signal("TERM");
        assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    }
}

#[test]
fn a_log_level_is_one_or_is_refused() {
    let sorsa = |args: &[&str], variable: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sorsa"));
        command.args(args).env_remove("SORSA_LOG_LEVEL");
        variable.map(|level| command.env("SORSA_LOG_LEVEL", level));
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    for wrong in ["wrn", "verbose", "sorsa=loud", ""] {
        for (args, variable) in
            [(vec!["serve", "x", "--log-level", wrong], None), (vec!["serve", "x"], Some(wrong))]
        {
            let (success, told) = sorsa(&args, variable);
            assert!(!success && told.contains("no log level"), "{wrong}: {told}");
            assert!(told.contains("--log-level"), "{wrong}: {told}");
        }
    }
    // Each is taken: what is wrong is then only that there is no model.
    for level in ["warning", "WARN", "sorsa=debug", "off", "warning,hyper=trace"] {
        let (success, told) = sorsa(&["serve", "/nowhere", "--log-level", level], None);
        assert!(!success && told.contains("/nowhere"), "{level}: {told}");
    }
}

#[test]
fn a_warning_is_logged_at_the_level_of_that_name() {
    let flags = ["--log-level=warning", "--adapter=x=/nowhere"];
    let (status, log) = Server::run_to_end(&tiny(), &flags);
    assert!(!status.success() && log.contains("no key is asked for"), "{log}");
}

#[test]
fn counts_sizes_and_times_that_cannot_be_are_refused() {
    for wrong in [
        "--max-waiting-requests=0",
        "--max-waiting-requests=9999999999999999999",
        "--adapter-loaders=100000000",
        "--max-body-size=0",
        "--usage-log-max-size=0",
        "--shutdown-timeout=18446744073709551615",
        "--adapter-load-timeout=18446744073709551615",
        "--allowed-host=a b",
    ] {
        let (status, log) = Server::run_to_end(&tiny(), &[wrong]);
        let flag = wrong.split('=').next().unwrap();
        assert!(!status.success() && log.contains("invalid value") && log.contains(flag), "{log}");
    }
}

/// Bodies of the largest size of all shapes: what each costs beyond its bytes.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_body_costs_a_few_times_its_bytes_whatever_its_shape() {
    let server =
        Server::start(&tiny(), &["--served-model-name=base", "--log-level=error,sorsa=info"]);
    let size = 8 << 20;
    let fill = |open: &str, item: &str, close: &str| {
        let count = (size - open.len() - close.len()) / item.len();
        format!("{open}{}{close}", item.repeat(count))
    };
    let url = server.url("/v1/completions");
    let client = reqwest::Client::new();
    let send = |body: String| {
        let post = client.post(&url).header("content-type", "application/json");
        async { post.body(body).send().await.unwrap().status().as_u16() }
    };
    // What any request needs, once.
    send(json!({"model": "base", "prompt": [[5], [6]], "max_tokens": 1}).to_string()).await;
    let ids = "{\"model\":\"base\",\"max_tokens\":1,";
    for (shape, status, body) in [
        ("ids", 400, fill(&format!("{ids}\"prompt\":[1"), ",1", "]}")),
        ("ids of their own", 413, fill(&format!("{ids}\"prompt\":[[1]"), ",[1]", "]}")),
        (
            "allowed ids",
            400,
            fill(&format!("{ids}\"prompt\":\"a\",\"allowed_token_ids\":[1"), ",1", "]}"),
        ),
        ("numbers", 413, fill("{\"metadata\":[1", ",1", "]}")),
        ("strings", 413, fill("{\"metadata\":[\"\"", ",\"\"", "]}")),
        ("arrays", 413, fill("{\"metadata\":[[]", ",[]", "]}")),
        ("objects", 413, fill("{\"metadata\":[{}", ",{}", "]}")),
        ("names", 413, fill("{\"a\":1", ",\"a\":1", "}")),
        ("open arrays", 400, fill("{\"a\":", "[", "")),
        ("open objects", 400, fill("{\"a\":", "{\"a\":", "")),
        ("open ids", 400, fill("{\"prompt\":", "[", "")),
        ("a text", 404, fill("{\"model\":\"nobody\",\"prompt\":\"", "\\n", "\"}")),
        ("nothing", 400, fill("{", " ", "")),
    ] {
        server.forget_peak();
        let before = server.peak_bytes();
        assert_eq!(send(body).await, status, "{shape}");
        let cost = server.peak_bytes().saturating_sub(before);
        let times = cost as f64 / size as f64;
        assert!(times <= 7.0, "{shape}: {times:.1} times its bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_server_answers_only_to_its_own_names() {
    let server = Server::start(&tiny(), &["--allowed-host", "sorsa.example,other"]);
    let status = |host: &'static str| {
        let request = reqwest::Client::new().get(server.url("/v1/models")).header("host", host);
        async { request.send().await.unwrap().status().as_u16() }
    };
    for (host, expected) in
        [("sorsa.example", 200), ("OTHER:8000", 200), ("localhost", 200), ("evil.example", 403)]
    {
        assert_eq!(status(host).await, expected, "{host}");
    }
    let (status, log) = Server::run_to_end(&tiny(), &["--allowed-host", "http://x"]);
    assert!(!status.success() && log.contains("--allowed-host"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_tenant_of_an_old_name_finds_no_cached_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.toml");
    let new_key = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sorsa"));
        let made = command.args(["key", "new", "--file"]).arg(&keys).args(args).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    };
    let root = new_key(&["--tenant", "platform", "--admin"]);
    let keys = keys.to_str().unwrap();
    let server = Server::start(&tiny(), &["--served-model-name=base", "--keys", keys]);
    let call = |method: &str, path: &str, key: &str, body: Value| {
        let method = method.parse().unwrap();
        let request = reqwest::Client::new().request(method, server.url(path)).bearer_auth(key);
        let request = if body.is_null() { request } else { request.json(&body) };
        async {
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
        }
    };
    let mut found = Vec::new();
    for _life in 0..2 {
        let tenant = json!({"base": true});
        assert_eq!(call("PUT", "/admin/tenants/acme", &root, tenant).await.0, 201);
        let (_, made) = call("POST", "/admin/keys", &root, json!({"tenant": "acme"})).await;
        let key = made["key"].as_str().unwrap();
        for _ in 0..2 {
            let prompt: Vec<u32> = (5..105).collect();
            let body = json!({"model": "base", "prompt": prompt, "max_tokens": 1});
            let (status, answer) = call("POST", "/v1/completions", key, body).await;
            assert_eq!(status, 200, "{answer}");
            found.push(answer["usage"]["prompt_tokens_details"]["cached_tokens"].clone());
        }
        let id = made["id"].as_str().unwrap();
        assert_eq!(call("DELETE", &format!("/admin/keys/{id}"), &root, Value::Null).await.0, 200);
        assert_eq!(call("DELETE", "/admin/tenants/acme", &root, Value::Null).await.0, 200);
    }
    assert_eq!(found, [0, 96, 0, 96]);
}
