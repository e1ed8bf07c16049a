//! Adapters that come, change and go while others are answered: the binary, real files, real HTTP,
//! real crashes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::support::lora::{self, Shape};
use crate::support::model::{self, in_repository};
use crate::support::server::Server;

/// For something that happens by itself: never reached where it does.
const PATIENCE: Duration = Duration::from_secs(30);
/// What the servers of a churn have for keys and values.
const KV_CACHE_BYTES: usize = 64 << 20;

fn tiny() -> PathBuf {
    in_repository("tests/fixtures/tiny/f32/base")
}

/// Writes the adapters `a0`, `a1` and so on.
fn write_adapters(root: &Path, shape: Shape, count: usize, rank: usize) {
    for index in 0..count {
        lora::write_random_for(shape, &root.join(format!("a{index}")), rank, index as u64 + 1);
    }
}

fn request(model: &str) -> Value {
    json!({
        "model": model, "prompt": "Once upon a time", "max_tokens": 12, "temperature": 0,
        "ignore_eos": true,
    })
}

/// What a model says, where it says anything.
async fn ask(server: &Server, model: &str) -> Result<String, (u16, Value)> {
    attempt(server, model).await.expect("an answer")
}

/// The same, or nothing where the server is gone before its answer was whole.
async fn attempt(server: &Server, model: &str) -> Option<Result<String, (u16, Value)>> {
    let url = server.url("/v1/completions");
    let answer = reqwest::Client::new().post(url).json(&request(model)).send().await.ok()?;
    let (status, body) = (answer.status().as_u16(), answer.json::<Value>().await.ok()?);
    Some(match status {
        200 => Ok(body["choices"][0]["text"].as_str().unwrap().to_owned()),
        _ => Err((status, body)),
    })
}

async fn put(server: &Server, name: &str, path: &str) -> (u16, Value) {
    server.call("PUT", &format!("/admin/adapters/{name}"), &json!({"path": path})).await
}

/// Asks until the answer is as wanted.
async fn until(
    server: &Server,
    model: &str,
    wanted: impl Fn(&Result<String, (u16, Value)>) -> bool,
) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = ask(server, model).await;
        if wanted(&answer) {
            return;
        }
        assert!(Instant::now() < deadline, "{model}: {answer:?}\n{}", server.log());
    }
}

fn managed<'a>(root: &'a str, state: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["--served-model-name=base", "--allow-runtime-adapters", "--adapter-root"];
    args.extend([root, "--state-dir", state]);
    args.extend(more);
    args
}

/// What a churn is made of.
struct Churn {
    shape: Shape,
    names: usize,
    rank: usize,
    streams: usize,
    slots: &'static str,
    /// How often the server is killed and started again.
    crashes: usize,
    /// How long each of them lives at least.
    time: Duration,
    /// Bytes by which memory may grow in it: of what is used for the first time, the cache above all.
    growth: usize,
}

/// Streams ask for adapters by Zipf's law while each of them is replaced, rolled back, unloaded and
/// registered anew, and while the server is killed in the middle of it and started again: every
/// answer is, word for word, what one of the name's two versions says alone, no request fails but
/// those that the kill cut off, the registry is what was confirmed, and memory does not grow.
async fn churn(model: &Path, plan: Churn) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("adapters");
    // The name `n3` is served from `a6` and `a7`.
    write_adapters(&root, plan.shape, 2 * plan.names, plan.rank);
    let (root, state) = (root.to_str().unwrap(), folder.path().join("state"));
    // So little memory that all of it has been in use early.
    let kv_cache = format!("--kv-cache-memory={KV_CACHE_BYTES}");
    let bounds = [
        "--max-resident-adapters",
        plan.slots,
        "--adapter-memory=256MiB",
        &kv_cache,
        "--max-model-len=256",
    ];
    let args = managed(root, state.to_str().unwrap(), &bounds);
    let mut server = Server::start(model, &args);
    let alone = each_alone(&server, 2 * plan.names).await;
    for name in 0..plan.names {
        put(&server, &format!("n{name}"), &format!("a{}", 2 * name)).await;
    }
    let mut confirmed = registered(&server).await;
    for life in 0..=plan.crashes {
        if life > 0 {
            // Its state is locked until it has ended.
            server.wait();
            server = Server::start(model, &args);
            assert_eq!(registered(&server).await, confirmed, "life {life}");
        }
        churn_once(&server, &plan, &alone, &mut confirmed, life).await;
    }
    for name in 0..plan.names {
        let path = format!("/admin/adapters/n{name}");
        assert_eq!(server.call("DELETE", &path, &Value::Null).await.0, 204);
    }
    let deadline = Instant::now() + PATIENCE;
    while server.metric("sorsa:adapter_memory_bytes").await != 0.0 {
        assert!(Instant::now() < deadline, "adapters stay in memory");
    }
}

/// What each of the adapters says when nobody else is there.
async fn each_alone(server: &Server, count: usize) -> Vec<String> {
    let mut alone = Vec::new();
    for index in 0..count {
        assert_eq!(put(server, "alone", &format!("a{index}")).await.0 / 100, 2);
        alone.push(ask(server, "alone").await.unwrap());
    }
    server.call("DELETE", "/admin/adapters/alone", &Value::Null).await;
    let distinct: std::collections::BTreeSet<&String> = alone.iter().collect();
    assert!(distinct.len() * 10 > count * 9, "the adapters say the same: {distinct:?}");
    alone
}

/// A server's life under load, from its start to its being killed, or to its end in the last one: for
/// `plan.time`, and until it has answered.
async fn churn_once(
    server: &Server,
    plan: &Churn,
    alone: &[String],
    confirmed: &mut Registered,
    life: usize,
) {
    let (over, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    let last = life == plan.crashes;
    let asking = |stream: usize| {
        let (over, answers) = (&over, &answers);
        async move {
            let mut random = ChaCha8Rng::seed_from_u64((life * plan.streams + stream) as u64);
            while !over.load(Ordering::Relaxed) {
                let name = zipf(&mut random, plan.names);
                let Some(answer) = attempt(server, &format!("n{name}")).await else {
                    assert!(over.load(Ordering::Relaxed) && !last, "n{name}: no answer");
                    return;
                };
                let answer = answer.unwrap();
                assert!(alone[2 * name..2 * name + 2].contains(&answer), "n{name}: {answer:?}");
                answers.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let changing = async {
        let mut random = ChaCha8Rng::seed_from_u64(1 << 32 | life as u64);
        let started = Instant::now();
        // At any one moment there is more or less of what is just being loaded: a quarter's most counts.
        let mut most = [0; 4];
        // A machine that does much else takes longer for a few answers.
        let too_few = || answers.load(Ordering::Relaxed) <= plan.names;
        while started.elapsed() < plan.time || (too_few() && started.elapsed() < PATIENCE) {
            let name = random.random_range(0..plan.names);
            change(server, name, &mut random, confirmed).await;
            let quarter = 4.0 * started.elapsed().as_secs_f64() / plan.time.as_secs_f64();
            let most = &mut most[(quarter as usize).min(3)];
            *most = server.resident_bytes().max(*most);
        }
        (most[1], most[3])
    };
    let ending = async {
        let memory = changing.await;
        let evicted = server.metric("sorsa:adapter_evictions_total").await;
        over.store(true, Ordering::Relaxed);
        if !last {
            server.signal("KILL");
        }
        (memory, evicted)
    };
    let (_, ((settled, end), evicted)) =
        tokio::join!(join_all((0..plan.streams).map(asking)), ending);
    let answers = answers.into_inner();
    eprintln!("life {life}: {answers} answers, {evicted} evictions, {settled} to {end} bytes");
    assert!(answers > plan.names && evicted > 0.0);
    // What an allocator keeps for its threads is neither held nor lost.
    assert!(end < settled + settled / 50 + plan.growth, "memory grows: {settled} to {end}");
}

/// One change of one name, noted where it was confirmed; it succeeds, or there is no earlier version
/// to go back to.
async fn change(server: &Server, name: usize, random: &mut ChaCha8Rng, confirmed: &mut Registered) {
    let path = format!("/admin/adapters/n{name}");
    let (status, body) = match random.random_range(0..4) {
        0 | 1 => {
            let version = random.random_range(0..2);
            put(server, &format!("n{name}"), &format!("a{}", 2 * name + version)).await
        }
        2 => server.call("POST", &format!("{path}/unload"), &Value::Null).await,
        _ => server.call("POST", &format!("{path}/rollback"), &Value::Null).await,
    };
    assert!(matches!(status, 200 | 409), "{status} {body}");
    if status == 200 {
        confirmed.extend([answering(&body)]);
    }
}

/// A number below `count`, the n-th 1/n as often as the first.
fn zipf(random: &mut ChaCha8Rng, count: usize) -> usize {
    let total: f64 = (1..=count).map(|n| 1.0 / n as f64).sum();
    let mut place = random.random_range(0.0..total);
    (0..count - 1)
        .find(|n| {
            place -= 1.0 / (n + 1) as f64;
            place < 0.0
        })
        .unwrap_or(count - 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn churn_serves_each_its_own() {
    let plan = Churn {
        shape: lora::TINY,
        names: 12,
        rank: 4,
        streams: 8,
        slots: "4",
        crashes: 2,
        time: Duration::from_secs(2),
        growth: 8 << 20,
    };
    churn(&tiny(), plan).await;
}

/// The same for seconds on the real model.
#[tokio::test(flavor = "multi_thread")]
async fn churn_for_seconds() {
    let plan = Churn {
        shape: lora::SMOLLM2.of_size(0.2),
        names: 12,
        rank: 4,
        streams: 8,
        slots: "4",
        crashes: 1,
        time: Duration::from_secs(5),
        // In seconds not all of the cache has been in use.
        growth: (8 << 20) + KV_CACHE_BYTES,
    };
    churn(&model::hugging_face(), plan).await;
}

/// The same for minutes on the real model:
/// `cargo nextest run --release --test integration --run-ignored only churn_for_minutes`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: run it by name"]
async fn churn_for_minutes() {
    let plan = Churn {
        // Strong enough that each says something of its own.
        shape: lora::SMOLLM2.of_size(0.2),
        names: 200,
        rank: 4,
        streams: 32,
        slots: "16",
        crashes: 4,
        time: Duration::from_secs(40),
        growth: 8 << 20,
    };
    churn(&model::hugging_face(), plan).await;
}

/// What a caller knows of the registry: the revision of each name and where it is answered from.
type Registered = BTreeMap<String, (u64, String)>;

/// The entry of one adapter, as the interface tells of it.
fn answering(adapter: &Value) -> (String, (u64, String)) {
    let versions = adapter["versions"].as_array().unwrap();
    let version = versions.iter().find(|version| version["weight"] != 0).unwrap();
    let source = version["source"].as_str().unwrap().to_owned();
    (adapter["name"].as_str().unwrap().to_owned(), (adapter["revision"].as_u64().unwrap(), source))
}

async fn registered(server: &Server) -> Registered {
    let (status, body) = server.call("GET", "/admin/adapters", &Value::Null).await;
    assert_eq!(status, 200);
    body["adapters"].as_array().unwrap().iter().map(answering).collect()
}

/// Killed at any moment, the server comes back with every change it had confirmed, and of the one
/// it was making with all or nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loses_no_change_that_was_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    let (root, state) = (folder.path().join("adapters"), folder.path().join("state"));
    write_adapters(&root, lora::TINY, 4, 2);
    let args = managed(root.to_str().unwrap(), state.to_str().unwrap(), &[]);
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut confirmed = Registered::new();
    for crash in 0..6 {
        let server = Server::start(&tiny(), &args);
        let found = registered(&server).await;
        let unsure: Vec<_> = found
            .iter()
            .filter(|(name, value)| confirmed.get(*name) != Some(value))
            .map(|(name, _)| name)
            .chain(confirmed.keys().filter(|name| !found.contains_key(*name)))
            .collect();
        assert!(unsure.len() <= 1, "crash {crash}: {found:?} where {confirmed:?} was confirmed");
        confirmed = found;
        for (name, (_, source)) in &confirmed {
            assert!(ask(&server, name).await.is_ok(), "{name} from {source}");
        }
        let moments = random.random_range(0..60);
        let mut changes = ChaCha8Rng::seed_from_u64(crash);
        let making = async {
            loop {
                let name = format!("n{}", changes.random_range(0..5));
                let path = format!("a{}", changes.random_range(0..4));
                let client = reqwest::Client::new();
                let url = server.url(&format!("/admin/adapters/{name}"));
                if changes.random_range(0..4) == 0 {
                    let Ok(answer) = client.delete(url).send().await else { return };
                    if answer.status() == 204 {
                        confirmed.remove(&name);
                    }
                } else {
                    let sent = client.put(url).json(&json!({"path": path})).send().await;
                    let Ok(answer) = sent else { return };
                    let Ok(body) = answer.json::<Value>().await else { return };
                    confirmed.insert(name, (body["revision"].as_u64().unwrap(), path));
                }
            }
        };
        let killing = async {
            // Requests are the clock.
            for _ in 0..moments {
                server.call("GET", "/health", &Value::Null).await;
            }
            server.signal("KILL");
        };
        tokio::join!(making, killing);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_serves_what_lies_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let (made, dir) = (folder.path().join("made"), folder.path().join("served"));
    write_adapters(&made, lora::TINY, 3, 2);
    fs::create_dir(&dir).unwrap();
    let place = |from: &str, name: &str| {
        let target = dir.join(name);
        fs::create_dir_all(&target).unwrap();
        for file in ["adapter_model.safetensors", "adapter_config.json"] {
            // As a careful deployment does it: nobody sees half a file.
            fs::copy(made.join(from).join(file), target.join("new")).unwrap();
            fs::rename(target.join("new"), target.join(file)).unwrap();
        }
    };
    place("a0", "first");
    let dir_arg = dir.to_str().unwrap();
    let server = Server::start(&tiny(), &["--served-model-name=base", "--adapter-dir", dir_arg]);
    let base = ask(&server, "base").await.unwrap();
    let first = ask(&server, "first").await.unwrap();
    assert_ne!(first, base);
    for name in ["second", "../made/a1", "made", ".."] {
        assert_eq!(ask(&server, name).await.unwrap_err().0, 404, "{name}");
    }
    place("a1", "second");
    until(&server, "second", Result::is_ok).await;
    let second = ask(&server, "second").await.unwrap();
    assert!(second != first && second != base);
    // Other files under the same name are the adapter from then on.
    place("a2", "first");
    until(&server, "first", |answer| answer.as_ref().is_ok_and(|text| *text != first)).await;
    // What cannot be used leaves what is served.
    let changed = ask(&server, "first").await.unwrap();
    fs::write(dir.join("first/adapter_model.safetensors"), "broken").unwrap();
    let deadline = Instant::now() + PATIENCE;
    while server.metric("sorsa:adapter_load_failures_total").await == 0.0 {
        assert!(Instant::now() < deadline);
    }
    assert_eq!(ask(&server, "first").await.unwrap(), changed);
    fs::remove_dir_all(dir.join("second")).unwrap();
    until(&server, "second", |answer| matches!(answer, Err((404, _)))).await;
    // A link out of the directory is nobody's.
    #[cfg(unix)]
    std::os::unix::fs::symlink(made.join("a0"), dir.join("outside")).unwrap();
    place("a1", "third");
    until(&server, "third", Result::is_ok).await;
    assert_eq!(ask(&server, "outside").await.unwrap_err().0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_adapters_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    write_adapters(folder.path(), lora::TINY, 3, 2);
    let file = folder.path().join("adapters.toml");
    let write = |text: &str| {
        fs::write(folder.path().join("next.toml"), text).unwrap();
        fs::rename(folder.path().join("next.toml"), &file).unwrap();
    };
    write("[[adapter]]\nname = 'acme'\npath = 'a0'\naliases = ['live']\npinned = true\n");
    let server =
        Server::start(&tiny(), &["--served-model-name=base", "--adapters", file.to_str().unwrap()]);
    let first = ask(&server, "acme").await.unwrap();
    assert_eq!(ask(&server, "live").await.unwrap(), first);
    write("[[adapter]]\nname = 'acme'\npath = 'a1'\naliases = ['live']\n");
    until(&server, "live", |answer| answer.as_ref().is_ok_and(|text| *text != first)).await;
    let second = ask(&server, "acme").await.unwrap();
    // Nothing of a file that is wrong in part is taken over.
    write("[[adapter]]\nname = 'acme'\npath = 'a2'\n[[adapter]]\nname = 'new'\n");
    let deadline = Instant::now() + PATIENCE;
    while !server.log().contains("the file of adapters is not followed") {
        assert!(Instant::now() < deadline && ask(&server, "acme").await.is_ok());
    }
    assert_eq!(ask(&server, "acme").await.unwrap(), second);
    assert_eq!(ask(&server, "new").await.unwrap_err().0, 404);
    write("[[adapter]]\nname = 'new'\nrollout = [{path = 'a1', weight = 1}]\n");
    until(&server, "acme", |answer| matches!(answer, Err((404, _)))).await;
    assert_eq!(ask(&server, "new").await.unwrap(), second);
}

/// All that adapters took comes back when they go, to within 2 % of what the server had before.
#[tokio::test(flavor = "multi_thread")]
async fn unloaded_adapters_leave_no_memory_behind() {
    const COUNT: usize = 24;
    let folder = tempfile::tempdir().unwrap();
    let (root, state) = (folder.path().join("adapters"), folder.path().join("state"));
    // 10 MB each.
    write_adapters(&root, lora::SMOLLM2, COUNT, 8);
    let args = managed(
        root.to_str().unwrap(),
        state.to_str().unwrap(),
        // What the cache takes when it is first written to is not the adapters'.
        &["--kv-cache-memory=32MiB", "--max-model-len=256", "--adapter-memory=1GiB"],
    );
    let server = Server::start(&model::hugging_face(), &args);
    let all_answer = async |names: Vec<String>| {
        let answers = join_all(names.iter().map(|name| ask(&server, name))).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    };
    for _ in 0..4 {
        all_answer(vec!["base".into(); COUNT]).await;
    }
    let before = server.resident_bytes();
    for round in 0..3 {
        let names: Vec<String> = (0..COUNT).map(|index| format!("n{index}")).collect();
        for (index, name) in names.iter().enumerate() {
            assert_eq!(put(&server, name, &format!("a{index}")).await.0 / 100, 2);
        }
        all_answer(names.clone()).await;
        let loaded = server.resident_bytes();
        assert!(loaded > before + COUNT * (4 << 20), "{before} and {loaded} with adapters");
        for name in &names {
            let path = format!("/admin/adapters/{name}");
            assert_eq!(server.call("DELETE", &path, &Value::Null).await.0, 204);
        }
        let deadline = Instant::now() + PATIENCE;
        while server.metric("sorsa:adapter_memory_bytes").await != 0.0
            || server.resident_bytes() > before + before / 50
        {
            let after = server.resident_bytes();
            assert!(Instant::now() < deadline, "round {round}: {before}, {loaded}, {after} bytes");
        }
    }
}

/// At full size: `cargo nextest run --release --test integration --run-ignored only ten_megabytes`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes 10 GB: run it by name"]
async fn a_thousand_adapters_of_ten_megabytes() {
    const BUDGET: usize = 256 << 20;
    let folder = tempfile::tempdir().unwrap();
    write_adapters(folder.path(), lora::SMOLLM2, 1000, 8);
    let args = [
        "--served-model-name=base",
        "--kv-cache-memory=32MiB",
        "--max-model-len=256",
        "--adapter-memory=256MiB",
        "--adapter-dir",
        folder.path().to_str().unwrap(),
    ];
    let alone = Server::start(&model::hugging_face(), &args[..3]);
    for _ in 0..100 {
        ask(&alone, "base").await.unwrap();
    }
    let without = alone.resident_bytes();
    drop(alone);
    let started = Instant::now();
    let server = Server::start(&model::hugging_face(), &args);
    let ready = started.elapsed();
    let mut most = 0;
    for round in 0..20 {
        let names: Vec<String> = (0..50).map(|index| format!("a{}", 50 * round + index)).collect();
        let answers = join_all(names.iter().map(|name| ask(&server, name))).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        most = most.max(server.resident_bytes());
    }
    eprintln!("ready in {ready:?}; {without} bytes without adapters, {most} at most");
    assert!(ready < Duration::from_secs(10), "{ready:?}");
    // What is being read is in memory beside its file.
    assert!(most < without + without / 50 + BUDGET + (64 << 20), "{without} to {most}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_adapters_are_registered_at_once_and_few_of_them_resident() {
    let folder = tempfile::tempdir().unwrap();
    let (made, dir) = (folder.path().join("made"), folder.path().join("served"));
    write_adapters(&made, lora::TINY, 10, 2);
    for index in 0..1000 {
        let target = dir.join(format!("t{index}"));
        fs::create_dir_all(&target).unwrap();
        for file in ["adapter_model.safetensors", "adapter_config.json"] {
            let from = made.join(format!("a{}", index % 10)).join(file);
            fs::hard_link(from, target.join(file)).unwrap();
        }
    }
    let started = Instant::now();
    let args = [
        "--served-model-name=base",
        "--max-resident-adapters=8",
        "--adapter-dir",
        dir.to_str().unwrap(),
    ];
    let server = Server::start(&tiny(), &args);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let (_, models) = server.call("GET", "/v1/models", &Value::Null).await;
    assert_eq!(models["data"].as_array().unwrap().len(), 1001);
    let names: Vec<String> = (0..100).map(|index| format!("t{}", 37 * index % 1000)).collect();
    let answers = join_all(names.iter().map(|name| ask(&server, name))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert!(server.metric("sorsa:adapters_resident").await <= 8.0);
}
