//! `sorsa bench`: measures a server under load, one that runs already or one of its own.
//!
//! The measuring is [`crate::bench`]'s; `bench_server.rs` starts the server.

use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rand::TryRngCore;
use rand::rngs::OsRng;
use serde_json::{Map, Value};
use tokio::signal::unix::{SignalKind, signal};

use super::bench_server::BenchServer;
use super::table::Table;
use crate::bench::client::Client;
use crate::bench::load::{Load, Outcome};
use crate::bench::measurement::Measurement;
use crate::bench::plan::{Point, Sweep};
use crate::bench::plot::plot;
use crate::bench::report::{HEADER, Report, Setup};
use crate::bench::target::{Names, prompt_source};
use crate::bench::workload::{Popularity, PromptSource, Workload};

/// Tokens of a warm-up's answer.
const WARM_UP_TOKENS: usize = 4;

/// Measures the throughput and latency of a server under load.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Model to start a server for, as `sorsa serve` takes it
    #[arg(value_name = "MODEL", required_unless_present = "url", conflicts_with = "url")]
    path: Option<PathBuf>,
    /// Adapter to serve as well (repeatable)
    #[arg(long, value_name = "NAME=PATH", requires = "path")]
    adapter: Vec<String>,
    /// More options for `sorsa serve`, after `--`
    #[arg(last = true, value_name = "SERVE OPTIONS", requires = "path")]
    serve: Vec<String>,
    /// Measure the OpenAI-compatible server at http://HOST:PORT instead
    #[arg(long)]
    url: Option<String>,
    /// API key for that server
    #[arg(long, env = "OPENAI_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,
    /// Spread the requests over these models instead of the base model (repeatable)
    #[arg(long = "model", value_name = "NAME")]
    names: Vec<String>,
    /// Numbers of concurrent streams; each is measured on its own
    #[arg(long, value_delimiter = ',', default_value = "1,8,16,32", value_name = "N,...")]
    concurrency: Vec<NonZeroUsize>,
    /// Length of each prompt, in tokens
    #[arg(long, default_value = "128", value_name = "N")]
    prompt_tokens: NonZeroUsize,
    /// Length of each answer, in tokens
    #[arg(long, default_value = "128", value_name = "N")]
    max_tokens: NonZeroUsize,
    /// Requests that each stream sends, one after the other
    #[arg(long, default_value = "2", value_name = "N")]
    requests_per_stream: NonZeroUsize,
    /// Repeat each measurement with more and more distinct adapters: this many per slot
    #[arg(
        long, value_delimiter = ',', num_args = 0..=1, require_equals = true,
        default_missing_value = "0.5,1,2,4", value_name = "RATIO,..."
    )]
    sweep_adapters: Vec<f64>,
    /// Number of adapters that the server keeps ready, to which the sweep's ratios refer [default:
    /// one per stream]
    #[arg(long, requires = "sweep_adapters", value_name = "N")]
    slots: Option<NonZeroUsize>,
    /// How requests are spread over the adapters
    #[arg(long, value_enum, default_value = "round-robin")]
    popularity: Popularity,
    /// Seed of the random prompts, to repeat a run [default: random, and reported]
    #[arg(long)]
    seed: Option<u64>,
    /// Fields to add to each request
    #[arg(long, value_parser = object, value_name = "JSON")]
    extra_body: Option<Map<String, Value>>,
    /// Fields to add to each request for this model (repeatable)
    #[arg(long, value_parser = named_object, value_name = "NAME=JSON")]
    model_body: Vec<(String, Map<String, Value>)>,
    /// Longest time that an answer may take, in seconds
    #[arg(long, default_value = "600", value_name = "SECONDS")]
    timeout: NonZeroUsize,
    /// Write the result as JSON to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the result as SVG in this file
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

fn object(text: &str) -> Result<Map<String, Value>, serde_json::Error> {
    serde_json::from_str(text)
}

fn named_object(text: &str) -> Result<(String, Map<String, Value>), String> {
    let (name, json) = text.split_once('=').ok_or("it is not NAME=JSON")?;
    Ok((name.to_owned(), object(json).map_err(|error| error.to_string())?))
}

/// Runs the command.
///
/// # Errors
/// Where there is no server to measure, a request fails, or a result cannot be written. What was
/// measured until then is still shown.
pub fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(
        args.sweep_adapters.iter().all(|ratio| ratio.is_finite() && *ratio > 0.0),
        "--sweep-adapters takes ratios above 0"
    );
    // One thread: the client shares the machine with the server.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (report, failure) = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            result = measure(args) => result,
            // Ends with an error rather than at once, so that the server ends too.
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            _ = terminate.recv() => bail!("terminated"),
        }
    })?;
    let mut table = Table::new(HEADER);
    report.rows().for_each(|row| table.row(row));
    table.print()?;
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &args.plot {
        let svg = plot(&report);
        fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))?;
    }
    failure.map_or(Ok(()), |failure| bail!("requests failed, the first with: {failure}"))
}

/// All loads, and the first failure of a request.
async fn measure(args: &Args) -> anyhow::Result<(Report, Option<String>)> {
    let server = args
        .path
        .as_ref()
        .map(|model| BenchServer::start(model, &args.adapter, &args.serve))
        .transpose()?;
    let url = match (&server, &args.url) {
        (Some(server), _) => server.url(),
        (None, Some(url)) => url,
        (None, None) => bail!("neither a model nor --url is given"),
    };
    let client = Client::new(url, args.api_key.as_deref())?;
    let mut session = Session::new(args, client).await?;
    let mut measurements = Vec::new();
    let mut failure = None;
    for point in session.points()? {
        let outcome = session.run(&point).await;
        failure = failure.or_else(|| outcome.failures.first().cloned());
        let measured = Measurement::new(point, &outcome);
        tracing::info!(
            streams = measured.point.concurrency,
            adapters = measured.point.adapters,
            tokens_per_second = measured.output_tokens_per_second,
            failed = measured.failed,
            "measured in {:.1} s",
            measured.seconds
        );
        measurements.push(measured);
    }
    Ok((Report { setup: session.setup(), measurements }, failure))
}

/// A server being measured.
struct Session<'a> {
    args: &'a Args,
    client: Client,
    names: Names,
    source: PromptSource,
    seed: u64,
    /// The next request's number: no prompt is sent twice.
    next: u64,
}

impl<'a> Session<'a> {
    async fn new(args: &'a Args, client: Client) -> anyhow::Result<Self> {
        let names = Names::of(&client).await?;
        let source = prompt_source(&client, &names.base).await;
        if source == PromptSource::Words {
            tracing::warn!(
                "the server has no /tokenize: prompts have as many words as asked, \
                            and about as many tokens"
            );
        }
        let seed = match args.seed {
            Some(seed) => seed,
            None => OsRng.try_next_u64().context("there is no source of random numbers")?,
        };
        Ok(Self { args, client, names, source, seed, next: 0 })
    }

    /// What is measured: the models named, or else the base and then all adapters given.
    fn points(&self) -> anyhow::Result<Vec<Point>> {
        let args = self.args;
        let streams: Vec<usize> = args.concurrency.iter().map(|count| count.get()).collect();
        if args.sweep_adapters.is_empty() {
            let counts = match (args.names.len(), args.adapter.len()) {
                (0, 0) => vec![0],
                (0, adapters) => vec![0, adapters],
                (named, _) => vec![named],
            };
            let all = streams.iter().flat_map(|streams| counts.iter().map(|c| (*streams, *c)));
            return Ok(all.map(|(streams, count)| Point::new(streams, count, None)).collect());
        }
        let slots = args.slots.map(NonZeroUsize::get);
        let sweep = Sweep { ratios: args.sweep_adapters.clone(), slots };
        let available = self.adapters().len();
        ensure!(available > 0, "--sweep-adapters: the server has no adapters");
        let (points, left_out) = sweep.points(&streams, available);
        for point in left_out {
            tracing::warn!(
                streams = point.concurrency,
                adapters = point.adapters,
                "left out: there are only {available} adapters"
            );
        }
        Ok(points)
    }

    /// The names that a load may be spread over.
    fn adapters(&self) -> &[String] {
        if self.args.names.is_empty() { &self.names.adapters } else { &self.args.names }
    }

    async fn run(&mut self, point: &Point) -> Outcome {
        let args = self.args;
        let models = match point.adapters {
            0 => vec![self.names.base.clone()],
            count => self.adapters().iter().take(count).cloned().collect(),
        };
        let workload = Workload {
            models,
            popularity: args.popularity,
            source: self.source.clone(),
            prompt_tokens: args.prompt_tokens.get(),
            max_tokens: args.max_tokens.get(),
            seed: self.seed,
            extra: args.extra_body.clone().unwrap_or_default(),
            extra_of_model: args.model_body.iter().cloned().collect(),
        };
        // Each model once, shortly: what is made at first use is made now.
        let warm_up = Workload {
            popularity: Popularity::RoundRobin,
            max_tokens: WARM_UP_TOKENS.min(workload.max_tokens),
            ..workload.clone()
        };
        let warmed = self.load(&warm_up, point.concurrency, warm_up.models.len()).await;
        if !warmed.failures.is_empty() {
            // What cannot be warmed up cannot be measured; its times mean nothing.
            return Outcome { failures: warmed.failures, ..Outcome::default() };
        }
        let requests = point.concurrency * args.requests_per_stream.get();
        self.load(&workload, point.concurrency, requests).await
    }

    async fn load(&mut self, workload: &Workload, concurrency: usize, requests: usize) -> Outcome {
        let timeout = Duration::from_secs(self.args.timeout.get() as u64);
        let load = Load { concurrency, requests, first: self.next, timeout };
        self.next += requests as u64;
        load.run(&self.client, workload).await
    }

    fn setup(self) -> Setup {
        let args = self.args;
        let target = match (&args.path, &args.url) {
            (Some(path), _) => path.display().to_string(),
            (None, url) => url.clone().unwrap_or_default(),
        };
        Setup {
            version: env!("CARGO_PKG_VERSION"),
            target,
            base: self.names.base,
            prompt_tokens: args.prompt_tokens.get(),
            exact_prompts: self.source != PromptSource::Words,
            max_tokens: args.max_tokens.get(),
            requests_per_stream: args.requests_per_stream.get(),
            popularity: args.popularity,
            seed: self.seed,
        }
    }
}
