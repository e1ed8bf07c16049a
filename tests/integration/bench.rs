//! `sorsa bench` as its users run it: on a model, on a server that runs, and on one that refuses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::model::in_repository;
use crate::support::server::Server;

fn tiny(part: &str) -> PathBuf {
    in_repository("tests/fixtures/tiny/f32").join(part)
}

fn bench(arguments: &[&str]) -> Output {
    let short = ["--prompt-tokens=9", "--max-tokens=5", "--requests-per-stream=2"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_sorsa"));
    command.arg("bench").args(short).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// How many elements of this name a well-formed SVG holds.
fn count(svg: &str, name: &str) -> usize {
    let document = roxmltree::Document::parse(svg).unwrap();
    assert_eq!(document.root_element().tag_name().name(), "svg");
    document.descendants().filter(|node| node.tag_name().name() == name).count()
}

#[test]
fn a_sweep_over_adapters_fills_table_json_and_plot() {
    let folder = tempfile::tempdir().unwrap();
    let (json, plot) = (folder.path().join("result.json"), folder.path().join("result.svg"));
    let adapter = tiny("adapter");
    let adapters = ["a", "b", "c"].map(|name| format!("--adapter={name}={}", adapter.display()));
    let output = bench(&[
        tiny("base").to_str().unwrap(),
        &adapters[0],
        &adapters[1],
        &adapters[2],
        "--concurrency=1,2",
        "--sweep-adapters=0.5,1,2",
        "--seed=7",
        "--json",
        json.to_str().unwrap(),
        "--plot",
        plot.to_str().unwrap(),
        "--",
        "--max-num-seqs=2",
        "--served-model-name=tiny",
    ]);
    let table = stdout(&output);
    let report = read_json(&json);
    let measured = report["measurements"].as_array().unwrap();
    // The base, one, and 2 for one stream; the base, one, and 2 for two: 4 are not there.
    let adapters: Vec<_> =
        measured.iter().map(|m| (m["concurrency"].as_u64(), m["adapters"].as_u64())).collect();
    let expected = [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)];
    assert_eq!(adapters, expected.map(|(streams, count)| (Some(streams), Some(count))));
    assert!(String::from_utf8_lossy(&output.stderr).contains("left out"));
    assert_eq!(table.lines().count(), 1 + expected.len(), "{table}");
    assert!(table.starts_with("streams  adapters"), "{table}");

    for measured in measured {
        let requests = 2 * measured["concurrency"].as_u64().unwrap();
        assert_eq!(measured["failed"], 0);
        assert_eq!(measured["answered"], requests);
        assert_eq!(measured["prompt_tokens"], 9 * requests, "prompts are exact");
        assert_eq!(measured["output_tokens"], 5 * requests, "answers are whole");
        assert!(measured["output_tokens_per_second"].as_f64().unwrap() > 0.0);
        for times in ["ttft_ms", "itl_ms", "tpot_ms", "latency_ms"] {
            let times = &measured[times];
            assert!(times["p50"].as_f64().unwrap() <= times["p99"].as_f64().unwrap(), "{times}");
        }
    }
    assert_eq!((&report["base"], &report["seed"]), (&"tiny".into(), &7.into()));
    assert_eq!(report["exact_prompts"], true);
    let svg = fs::read_to_string(&plot).unwrap();
    // A line for each concurrency: throughput, and p50 and p99 of two times.
    assert_eq!(count(&svg, "polyline"), 2 * (1 + 2 + 2));
}

#[test]
fn a_running_server_is_measured_from_outside() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("result.json");
    let adapter = format!("own={}", tiny("adapter").display());
    let server = Server::start(&tiny("base"), &["--served-model-name=tiny", "--adapter", &adapter]);
    let url = server.url("/v1");
    let arguments = ["--url", &url, "--concurrency=3", "--json", json.to_str().unwrap()];
    let measured = |more: &[&str]| {
        stdout(&bench(&[&arguments, more].concat()));
        read_json(&json)["measurements"].clone()
    };
    let base = measured(&[]);
    assert_eq!((&base[0]["adapters"], &base[0]["answered"]), (&0.into(), &6.into()));
    assert_eq!(base.as_array().unwrap().len(), 1);
    let mixed = measured(&["--model=tiny", "--model=own", "--popularity=zipf"]);
    assert_eq!((&mixed[0]["adapters"], &mixed[0]["answered"]), (&2.into(), &6.into()));

    let refused = bench(&[&arguments[..], &["--model=nobody"]].concat());
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("nobody"), "{said}");
    let table = String::from_utf8_lossy(&refused.stdout);
    assert!(table.lines().count() == 2, "what was measured is shown: {table}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let model = tiny("base");
    let model = model.to_str().unwrap();
    for (arguments, expected) in [
        (&[][..], "required"),
        (&[model, "--url=http://127.0.0.1:1"], "cannot be used with"),
        (&["--url=http://127.0.0.1:1"], "no server answers on 127.0.0.1:1"),
        (&["--url=https://127.0.0.1"], "is no address of a server"),
        (&["--url=http://127.0.0.1:1", "--sweep-adapters=-1"], "above 0"),
        (&["/nowhere"], "did not start"),
        (&[model, "--sweep-adapters"], "the server has no adapters"),
    ] {
        let output = bench(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(expected), "{arguments:?}: {said}");
    }
}
