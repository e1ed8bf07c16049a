//! Reads `src/` and holds it to the invariants of docs/ARCHITECTURE.md: who may import whom, what
//! is absent where, and sizes. A failure prints the sentence that was broken and every place. And the
//! pages: their links lead somewhere, and the README stays short.

#[path = "architecture/pages.rs"]
mod pages;
#[path = "architecture/scan.rs"]
mod scan;

use std::path::Path;

use pages::Page;
use scan::{Module, TestModule};

/// From a module (a path prefix within the crate) to the path prefixes it may name, besides itself.
/// The longest matching prefix decides. `"*"` is everything.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    ("bench", &[]),
    ("remote", &["adapter", "background", "tenant::turns"]),
    ("cli", &["*"]),
    (
        "config",
        &[
            "adapter", "engine", "kv_cache", "metrics", "model", "remote", "server", "tenant",
            "text",
        ],
    ),
    (
        "server",
        &[
            "engine::handle",
            "engine::request",
            "background",
            "grammar",
            "text",
            "adapter::registry",
            "metrics",
            "tenant",
        ],
    ),
    ("background", &[]),
    ("tenant", &[]),
    ("text", &[]),
    ("grammar", &[]),
    ("engine", &["grammar", "kv_cache", "adapter", "model", "metrics"]),
    ("kv_cache", &[]),
    ("model", &["layers", "adapter", "kv_cache"]),
    (
        "layers",
        &[
            "kv_cache::storage",
            "kv_cache::BlockId",
            "adapter::delta",
            "adapter::segments",
            "kernels",
        ],
    ),
    ("adapter", &["background", "kernels", "metrics", "tenant::turns"]),
    ("kernels", &[]),
    ("metrics", &[]),
];

/// Everything below the server: no HTTP, no wire type, no async.
const BELOW_SERVER: &[&str] = &[
    "tenant", "text", "grammar", "engine", "kv_cache", "adapter", "model", "layers", "kernels",
    "metrics",
];

const MAX_LINES: usize = 500;
const MAX_MEDIAN_LINES: usize = 150;
/// What a stranger reads first.
const MAX_README_LINES: usize = 199;

type Check = fn(&[Module]) -> Vec<String>;

/// The invariants, each in one sentence.
const INVARIANTS: &[(&str, Check)] = &[
    ("a module imports only what the arrows of docs/ARCHITECTURE.md allow", arrows),
    ("only the command line reads the configuration", config_readers),
    ("no HTTP below the server", http),
    ("no wire type below the server: JSON there is only files' own", wire_types),
    ("below the server tokio is known only to engine/handle.rs", tokio),
    ("the scheduler, the block manager and the prefix cache know no tensor", tensors),
    (
        "unsafe code is only in kernels/, and once in model/weights.rs for the memory map",
        unsafe_code,
    ),
    ("the engine holds no lock", locks),
    ("there is no mutable global but the working memory of threads", globals),
    ("only config/environment.rs reads the environment", environment),
    ("every module opens with a doc that says what it is", docs),
    ("no file has more than 500 lines without its tests", longest),
    ("the median file has at most 150 lines without its tests", median),
    ("nothing is left to be done by a panic", unfinished),
    ("no text has blanks where a line was broken", stray_blanks),
];

#[test]
fn the_source_keeps_every_invariant() {
    let modules = scan::read_tree(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(modules.len() > 20, "only {} files were read", modules.len());
    let report = |(sentence, check): &(&str, Check)| {
        let places = check(&modules);
        (!places.is_empty()).then(|| format!("broken: {sentence}\n    {}", places.join("\n    ")))
    };
    let broken: Vec<String> = INVARIANTS.iter().filter_map(report).collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

/// A claim whose tests were renamed or deleted is held by nobody.
#[test]
fn every_test_that_the_docs_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/TESTS.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| ")).skip(2);
    let named = rows
        .flat_map(|row| row.rsplit('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2));
    let named: Vec<&str> = named.collect();
    assert!(named.len() > 50, "only {} tests are named", named.len());
    let sources: String = ["src", "tests"].map(|folder| scan::text_of(&root.join(folder))).concat();
    let missing: Vec<_> =
        named.iter().filter(|name| !sources.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "docs/TESTS.md names tests that do not exist: {missing:?}");
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = pages::read(root);
    let links: usize = pages.iter().map(|page| page.links().len()).sum();
    assert!(pages.len() > 5 && links > 30, "only {} pages, {links} links", pages.len());
    let broken = pages::broken_links(&pages, root);
    assert!(broken.is_empty(), "links lead nowhere:\n    {}", broken.join("\n    "));
}

#[test]
fn the_readme_is_short() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lines = std::fs::read_to_string(root.join("README.md")).unwrap().lines().count();
    assert!(
        lines <= MAX_README_LINES,
        "README.md has {lines} lines, {MAX_README_LINES} at most: what it is, two commands, the first \
         answers, and links into docs/ for the rest"
    );
}

fn below(module: &Module, tops: &[&str]) -> bool {
    module.path.first().is_some_and(|top| tops.contains(&top.as_str()))
}

/// True where `path` is `prefix` or lies within it, by whole parts.
fn within(path: &str, prefix: &str) -> bool {
    prefix == "*"
        || path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn arrows(modules: &[Module]) -> Vec<String> {
    let mut broken = Vec::new();
    for module in modules {
        let from = module.path.join("::");
        let matching = ARROWS.iter().filter(|(prefix, _)| within(&from, prefix));
        let rule = matching.max_by_key(|(prefix, _)| prefix.len());
        let Some((own, allowed)) = rule else {
            if !from.is_empty() {
                broken.push(format!("{}: no arrow is drawn for {from}", module.file));
            }
            continue;
        };
        for path in module.paths().into_iter().filter(|path| path.parts[0] == "crate") {
            let to = path.parts[1..].join("::");
            let fine = to.is_empty() || within(&to, own) || allowed.iter().any(|a| within(&to, a));
            if !fine {
                broken.push(format!("{}:{} {from} imports {to}", module.file, path.line));
            }
        }
    }
    broken
}

fn config_readers(modules: &[Module]) -> Vec<String> {
    let others = modules.iter().filter(|module| !below(module, &["cli", "config"]));
    let reads = |module: &Module| {
        let paths = module.paths().into_iter();
        let config =
            paths.filter(|path| path.parts.starts_with(&["crate".into(), "config".into()]));
        config.map(|path| format!("{}:{}", module.file, path.line)).collect::<Vec<_>>()
    };
    others.flat_map(reads).collect()
}

/// Every place where one of `names` stands in a module that `applies`.
fn named(modules: &[Module], names: &[&str], applies: impl Fn(&Module) -> bool) -> Vec<String> {
    let places = modules.iter().filter(|module| applies(module)).flat_map(|module| {
        let found = module.find(names).into_iter();
        found.map(|(line, name)| format!("{}:{line} {name}", module.file)).collect::<Vec<_>>()
    });
    places.collect()
}

fn http(modules: &[Module]) -> Vec<String> {
    let names = ["axum", "hyper", "hyper_util", "http", "http_body", "tower", "tower_http"];
    named(modules, &names, |module| below(module, BELOW_SERVER))
}

fn wire_types(modules: &[Module]) -> Vec<String> {
    let names = ["serde", "serde_json"];
    named(modules, &names, |module| {
        below(module, &["engine", "kv_cache", "layers", "kernels", "metrics"])
    })
}

fn tokio(modules: &[Module]) -> Vec<String> {
    let names = ["tokio", "tokio_stream", "futures", "futures_util", "async"];
    let applies =
        |module: &Module| below(module, BELOW_SERVER) && module.file != "engine/handle.rs";
    named(modules, &names, applies)
}

fn tensors(modules: &[Module]) -> Vec<String> {
    let files = ["engine/scheduler", "kv_cache/block_manager", "kv_cache/prefix_cache"];
    let names = ["candle_core", "candle_nn", "candle_transformers", "Tensor"];
    named(modules, &names, |module| files.iter().any(|file| module.file.starts_with(file)))
}

fn unsafe_code(modules: &[Module]) -> Vec<String> {
    let outside = |module: &Module| {
        let mmap = module.file == "model/weights.rs" && module.find(&["unsafe"]).len() == 1;
        !below(module, &["kernels"]) && !mmap
    };
    named(modules, &["unsafe"], outside)
}

fn locks(modules: &[Module]) -> Vec<String> {
    named(modules, &["Mutex", "RwLock", "Condvar"], |module| below(module, &["engine"]))
}

fn globals(modules: &[Module]) -> Vec<String> {
    let mutable = |text: &str| {
        let cells = ["mut", "Mutex", "RwLock", "Cell", "RefCell", "UnsafeCell", "ArcSwap"];
        cells.contains(&text) || text.starts_with("Atomic")
    };
    let mut broken = Vec::new();
    for module in modules.iter().filter(|module| module.file != "kernels/scratch.rs") {
        for (index, token) in module.tokens.iter().enumerate().filter(|(_, t)| t.text == "static") {
            // The declaration up to its value; a value made once (OnceLock, LazyLock) never changes.
            let declaration =
                module.tokens[index..].iter().take_while(|t| !["=", ";"].contains(&&*t.text));
            if declaration.into_iter().any(|token| mutable(&token.text)) {
                broken.push(format!("{}:{}", module.file, token.line));
            }
        }
    }
    broken
}

fn environment(modules: &[Module]) -> Vec<String> {
    let readers = modules.iter().filter(|module| module.file != "config/environment.rs");
    let env = ["std".to_owned(), "env".to_owned()];
    let reads = |module: &Module| {
        let paths = module.paths().into_iter().filter(|path| path.parts.starts_with(&env));
        paths.map(|path| format!("{}:{}", module.file, path.line)).collect::<Vec<_>>()
    };
    readers.flat_map(reads).collect()
}

fn docs(modules: &[Module]) -> Vec<String> {
    modules.iter().filter(|module| !module.documented).map(|module| module.file.clone()).collect()
}

fn longest(modules: &[Module]) -> Vec<String> {
    let long = modules.iter().filter(|module| module.lines > MAX_LINES);
    long.map(|module| format!("{} has {}", module.file, module.lines)).collect()
}

fn median(modules: &[Module]) -> Vec<String> {
    let mut lines: Vec<usize> = modules.iter().map(|module| module.lines).collect();
    lines.sort_unstable();
    let median = lines.get(lines.len() / 2).copied().unwrap_or(0);
    if median > MAX_MEDIAN_LINES { vec![format!("it has {median}")] } else { Vec::new() }
}

fn unfinished(modules: &[Module]) -> Vec<String> {
    named(modules, &["todo", "unimplemented"], |_| true)
}

/// Two blanks within a line of a text; those at its beginning and end are layout.
fn stray_blanks(modules: &[Module]) -> Vec<String> {
    let stray = |text: &str| {
        let lines = text.split("\\n").flat_map(str::lines);
        lines.map(str::trim).any(|line| line.contains("  "))
    };
    let places = |module: &Module| -> Vec<String> {
        let found = module.strings.iter().filter(|string| stray(&string.text));
        found.map(|string| format!("{}:{} {:?}", module.file, string.line, string.text)).collect()
    };
    modules.iter().flat_map(places).collect()
}

/// The checker itself, on made-up source.
mod on_made_up_source {
    use super::*;

    fn broken(check: Check, file: &str, source: &str) -> usize {
        check(&[Module::parse(file, source)]).len()
    }

    fn paths(file: &str, source: &str) -> Vec<String> {
        Module::parse(file, source).paths().iter().map(|path| path.parts.join("::")).collect()
    }

    #[test]
    fn a_text_that_lost_the_end_of_its_line_is_found() {
        let blanks = |source: &str| broken(stray_blanks, "cli/load.rs", source);
        assert_eq!(blanks("fn f() { bail!(\"serve that              one\") }"), 1);
        assert_eq!(blanks("fn f() { bail!(\"serve that\n             one\") }"), 0);
        assert_eq!(blanks("fn f() { bail!(\"serve that \\\n             one\") }"), 0);
        assert_eq!(blanks("fn f() { bail!(\"serve  \\\n             one\") }"), 1);
        assert_eq!(blanks("fn f() { print(\"  one\\n    two \"); r\"a  b\"; 'a' /* a  b */ }"), 0);
        assert_eq!(blanks("#[cfg(test)]\nmod tests { const A: &str = \"a  b\"; }"), 0);
    }

    #[test]
    fn use_trees_expand_to_absolute_paths() {
        let source = "use crate::{adapter::delta::{self, AdapterId as Id}, kv_cache::*};\n\
                      pub(crate) fn f() { super::batch::new(); self::g(); super::super::text::h() }\n\
                      mod inner { use super::own; mod deep { use super::super::x; } }";
        let expected = [
            "crate::adapter::delta",
            "crate::adapter::delta::AdapterId",
            "crate::kv_cache::*",
            "crate::engine::batch::new",
            "crate::engine::handle::g",
            "crate::text::h",
            "crate::engine::handle::own",
            "crate::engine::handle::x",
        ];
        assert_eq!(paths("engine/handle.rs", source), expected);
        assert_eq!(
            paths("engine/mod.rs", "use self::batch::Batch;"),
            ["crate::engine::batch::Batch"]
        );
        assert_eq!(paths("adapter/file.rs", "use super::sorsa; fn f() { sorsa::read() }").len(), 1);
        assert_eq!(paths("main.rs", "fn main() { sorsa::cli::run() }"), ["crate::cli::run"]);
    }

    #[test]
    fn comments_strings_and_lifetimes_are_no_code() {
        let source = "//! crate::engine\n/* unsafe */ fn f<'unsafe_>() -> &'static str {\n\
                      let _ = ('\"', '\\'', b\"unsafe\", r#\"unsafe \" todo!()\"#); \"\\\" unsafe\" }";
        let module = Module::parse("text/mod.rs", source);
        assert_eq!(module.find(&["unsafe", "todo", "static", "crate"]), []);
        assert!(module.find(&["str"]).len() == 1 && module.documented);
    }

    #[test]
    fn test_code_is_left_out_of_everything() {
        let source = "//! Doc.\nfn f() {}\n\n#[cfg(test)]\n#[allow(dead_code)]\nmod tests {\n    \
                      use crate::server::x;\n    fn g() { unsafe {} }\n}\n#[cfg(all(test, unix))]\n\
                      mod more;\nfn h() {}\n#[cfg(not(test))]\nfn real() { unsafe {} }\n";
        let module = Module::parse("text/mod.rs", source);
        assert_eq!(module.paths(), []);
        assert_eq!(module.test_modules, [TestModule::Named(vec!["text".into(), "more".into()])]);
        assert_eq!(module.lines, 5);
        assert_eq!(module.find(&["unsafe"]), [(14, "unsafe".to_owned())]);
    }

    #[test]
    fn test_modules_may_lie_in_other_files() {
        let source = "#[cfg(test)]\n#[path = \"sampler_tests.rs\"]\nmod tests;\nlet path = \"x\";";
        let module = Module::parse("engine/sampler.rs", source);
        assert_eq!(module.test_modules, [TestModule::AtPath("engine/sampler_tests.rs".into())]);
    }

    #[test]
    fn arrows_are_followed_in_one_direction() {
        for (file, source) in [
            ("main.rs", "use sorsa::cli::run;"),
            ("cli/serve.rs", "use crate::{config::Config, engine::Engine, server};"),
            ("server/state.rs", "use crate::{engine::{handle::X, request::Y}, adapter::registry};"),
            (
                "engine/mod.rs",
                "use crate::model::contract::CausalLm; use crate::kv_cache::BlockId;",
            ),
            ("model/llama.rs", "use crate::{layers::linear, adapter::delta, kv_cache::storage};"),
            ("layers/linear.rs", "use crate::adapter::{delta::D, segments::S}; use super::rotary;"),
            ("adapter/sorsa.rs", "use crate::kernels::reference; use super::delta::LowRankDelta;"),
        ] {
            assert_eq!(broken(arrows, file, source), 0, "{file}: {source}");
        }
        for (file, source) in [
            ("main.rs", "use sorsa::engine::Engine;"),
            ("server/state.rs", "use crate::engine::scheduler::Scheduler;"),
            ("server/state.rs", "use crate::engine::handler::X;"),
            ("server/state.rs", "use crate::adapter::{registry, file};"),
            ("text/stop.rs", "fn f() { crate::metrics::count() }"),
            ("engine/mod.rs", "use crate::server::stream;"),
            ("engine/mod.rs", "use super::text::detokenizer;"),
            ("model/llama.rs", "use crate::kernels::matmul;"),
            ("layers/linear.rs", "use crate::adapter::registry::Registry;"),
            ("adapter/sorsa.rs", "use crate::model::config;"),
            ("kernels/x86_64.rs", "use crate::layers::linear;"),
            ("novelty.rs", "fn f() {}"),
        ] {
            assert_eq!(broken(arrows, file, source), 1, "{file}: {source}");
        }
        assert_eq!(broken(config_readers, "server/mod.rs", "use crate::config::Config;"), 1);
        assert_eq!(broken(config_readers, "cli/serve.rs", "use crate::config::Config;"), 0);
    }

    #[test]
    fn what_must_be_absent_is_found() {
        let cases: &[(Check, &str, &str, usize)] = &[
            (http, "engine/mod.rs", "use axum::Json;", 1),
            (http, "server/mod.rs", "use axum::Json;", 0),
            (wire_types, "engine/request.rs", "#[derive(serde::Serialize)] struct X;", 1),
            (wire_types, "adapter/file.rs", "use serde_json::Value;", 0),
            (tokio, "engine/mod.rs", "use tokio::sync::mpsc;", 1),
            (tokio, "model/llama.rs", "async fn f() {}", 1),
            (tokio, "engine/handle.rs", "use tokio::sync::mpsc;", 0),
            (tensors, "engine/scheduler.rs", "use candle_core::Tensor;", 2),
            (tensors, "engine/model_runner.rs", "use candle_core::Tensor;", 0),
            (unsafe_code, "layers/linear.rs", "fn f() { unsafe {} }", 1),
            (unsafe_code, "kernels/x86_64.rs", "fn f() { unsafe {} }", 0),
            (unsafe_code, "model/weights.rs", "#[allow(unsafe_code)] fn f() { unsafe {} }", 0),
            (unsafe_code, "model/weights.rs", "fn f() { unsafe {} unsafe {} }", 2),
            (locks, "engine/mod.rs", "use std::sync::Mutex;", 1),
            (locks, "server/state.rs", "use std::sync::Mutex;", 0),
            (globals, "metrics.rs", "static mut X: u8 = 0;", 1),
            (globals, "metrics.rs", "static X: AtomicUsize = AtomicUsize::new(0);", 1),
            (globals, "metrics.rs", "static X: OnceLock<u8> = OnceLock::new();", 0),
            (globals, "metrics.rs", "fn f(x: &'static mut u8) { let mut y = x; }", 0),
            (environment, "cli/serve.rs", "use std::{env, fs};", 1),
            (environment, "cli/serve.rs", "fn f() { std::env::var(\"X\"); }", 1),
            (environment, "config/environment.rs", "fn f() { std::env::var(\"X\"); }", 0),
            (environment, "cli/mod.rs", "const V: &str = env!(\"CARGO_PKG_VERSION\");", 0),
            (docs, "text/mod.rs", "// A comment.\nfn f() {}", 1),
            (docs, "text/mod.rs", "//! A doc.\nfn f() {}", 0),
            (unfinished, "text/mod.rs", "fn f() { todo!() }", 1),
        ];
        for &(check, file, source, expected) in cases {
            assert_eq!(broken(check, file, source), expected, "{file}: {source}");
        }
    }

    #[test]
    fn a_link_that_leads_nowhere_is_found() {
        let page = |path: &str, text: &str| Page { path: path.into(), text: text.to_owned() };
        let other =
            page("docs/b.md", "# B\n## `--x`, or Y_z: why?\n## Twice\n```sh\n# no\n```\n## Twice");
        let broken = |text: &str| {
            let pages = [page("docs/a.md", text), page("docs/b.md", &other.text)];
            pages::broken_links(&pages, Path::new(env!("CARGO_MANIFEST_DIR"))).len()
        };
        for whole in [
            "[b](b.md) [b](b.md#b), [c](../README.md)",
            "[x](b.md#--x-or-y_z-why) [t](b.md#twice) [t](b.md#twice-1)",
            "# Own\n[own](#own) <https://no.where> [w](https://no.where/#x)",
            "`[b](c.md)`\n```\n[b](c.md)\n```\n    [b](c.md)",
        ] {
            assert_eq!(broken(whole), 0, "{whole}");
        }
        for wrong in [
            "[b](c.md)",
            "[b](../b.md)",
            "[own](#own)",
            "[b](b.md#no)",
            "[b](b.md#twice-2)",
            "[b](../Cargo.toml#package)",
            "`code` [b](c.md)",
            "```\n```\n[b](c.md)",
        ] {
            assert_eq!(broken(wrong), 1, "{wrong}");
        }
    }

    #[test]
    fn sizes_count_lines_that_are_not_blank() {
        let of = |lines: usize| Module::parse("text/mod.rs", &"x\n\n".repeat(lines));
        assert_eq!(longest(&[of(MAX_LINES)]).len(), 0);
        assert_eq!(longest(&[of(MAX_LINES + 1)]).len(), 1);
        assert_eq!(median(&[of(1), of(MAX_MEDIAN_LINES), of(400)]).len(), 0);
        assert_eq!(median(&[of(1), of(MAX_MEDIAN_LINES + 1), of(400)]).len(), 1);
    }
}
