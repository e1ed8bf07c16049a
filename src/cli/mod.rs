//! The command line: one file a command.

mod access;
mod adapter_loader;
mod adapter_scan;
mod adapter_watch;
mod base_check;
pub mod bench;
mod bench_server;
mod changes;
pub mod convert;
mod end_tokens;
pub mod extract;
mod followed_file;
mod gguf_vocab;
pub mod health;
pub mod inspect;
pub mod key;
mod keys_watch;
mod load;
pub mod merge;
mod model_files;
mod model_source;
mod names;
mod removed_part;
mod restored;
pub mod serve;
mod signals;
mod sources;
mod staging;
mod table;
mod tensor_files;
mod tensor_sink;
mod text_files;
pub mod verify;

use std::io::IsTerminal;

use clap::{Parser, Subcommand};

use crate::config::{LogArgs, LogFormat, ServeArgs};

/// Serve one base model and many fine-tuned adapters over OpenAI-compatible endpoints.
#[derive(Debug, Parser)]
#[command(name = "sorsa", version, about)]
pub struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a model and its adapters over HTTP
    Serve(Box<ServeArgs>),
    /// Write a GGUF file as a Hugging Face model directory, or an adapter as a PEFT LoRA
    Convert(convert::Args),
    /// Merge an adapter into its base model and write an ordinary Hugging Face model directory
    Merge(merge::Args),
    /// Extract the adapter that turns a base model into a fine-tuned one
    Extract(extract::Args),
    /// Show what a model, checkpoint or adapter directory holds
    Inspect(inspect::Args),
    /// Compare merged, batched and reference outputs of an adapter
    Verify(verify::Args),
    /// Measure the throughput and latency of a server under load
    Bench(Box<bench::Args>),
    /// Make API keys for tenants
    Key(key::Args),
    /// Check that a running server is alive; exits non-zero if it is not
    Health(health::HealthArgs),
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// Where the command fails; the message is for the person at the terminal.
    pub fn run(self) -> anyhow::Result<()> {
        start_logging(&self.log);
        match self.command {
            Command::Serve(args) => serve::run(*args),
            Command::Convert(args) => convert::run(&args),
            Command::Merge(args) => merge::run(&args),
            Command::Extract(args) => extract::run(&args),
            Command::Inspect(args) => inspect::run(&args),
            Command::Verify(args) => verify::run(&args),
            Command::Bench(args) => bench::run(&args),
            Command::Key(args) => key::run(&args),
            Command::Health(args) => health::run(&args),
        }
    }
}

/// Log lines go to stderr: stdout belongs to the commands' results.
fn start_logging(args: &LogArgs) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(args.log_level.filter())
        .with_writer(std::io::stderr)
        // Where nobody reads stderr any more, nobody could read of that there either.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    match args.log_format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Everything that a command and those beneath it say of themselves.
    fn said(command: &clap::Command) -> Vec<String> {
        let own = [command.get_about(), command.get_long_about(), command.get_after_help()];
        let arguments = command.get_arguments();
        let of_arguments =
            arguments.flat_map(|argument| [argument.get_help(), argument.get_long_help()]);
        let texts = own.into_iter().chain(of_arguments).flatten().map(ToString::to_string);
        texts.chain(command.get_subcommands().flat_map(said)).collect()
    }

    #[test]
    fn no_help_has_blanks_where_a_line_was_broken() {
        let said = said(&Cli::command());
        assert!(said.len() > 50, "only {} texts were found", said.len());
        let stray: Vec<_> = said.iter().filter(|text| text.contains("  ")).collect();
        assert!(stray.is_empty(), "{stray:#?}");
    }

    #[test]
    fn every_flag_of_serve_is_a_variable_of_its_name() {
        let cli = Cli::command();
        let serve = cli.find_subcommand("serve").unwrap();
        let flags = serve.get_arguments().filter_map(|argument| {
            // What is the default anyway, so that the last of two flags counts.
            let flag = argument.get_long().filter(|flag| *flag != "enable-prefix-caching")?;
            Some((flag, argument.get_env().map(|name| name.to_string_lossy().into_owned())))
        });
        let flags: Vec<_> = flags.collect();
        assert!(flags.len() > 50, "only {} flags were found", flags.len());
        for (flag, variable) in flags {
            let expected = format!("SORSA_{}", flag.replace('-', "_").to_uppercase());
            assert_eq!(variable, Some(expected), "--{flag}");
        }
    }
}
