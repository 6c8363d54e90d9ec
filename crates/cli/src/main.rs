//! The remote-vae command line: the one place of this project that reads the environment, prints and exits.
#![allow(
    rustdoc::broken_intra_doc_links,
    rustdoc::bare_urls,
    reason = "the comments of arguments are help texts, printed as they are"
)]
#![forbid(unsafe_code)]

#[macro_use]
mod terminal;
#[macro_use]
mod misuse;

mod args;
mod banner;
mod batch;
mod bench;
mod completions;
mod config;
mod contents;
mod decode;
mod demo;
mod encode;
mod graphs;
mod health;
mod machine;
mod models;
#[cfg(feature = "otel")]
mod otel;
mod output;
mod place;
mod preview;
mod progress;
mod provenance;
mod pull;
mod quickstart;
mod roundtrip;
mod serve;
mod signals;
mod similarity;
mod source;

use std::process::ExitCode;

use tracing::Metadata;
use tracing_subscriber::filter::{FilterExt, LevelFilter, Targets, filter_fn};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{Layer, Registry};

use crate::args::{Args, Command, LogFormat};

/// The variables that glibc's allocator is set up by.
const ALLOCATOR: [&str; 4] =
    ["MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"];

fn main() -> ExitCode {
    terminal::tell_of_panics();
    let args = match Args::read() {
        Ok(args) => args,
        Err(error) => return failed(&error),
    };
    let serves = matches!(args.command, Command::Serve(_));
    // Whoever has set up the allocator decides alone.
    if serves && ALLOCATOR.iter().all(|name| std::env::var_os(name).is_none()) {
        kernels::settle_heap();
    }
    let quiet = if serves { LevelFilter::INFO } else { LevelFilter::WARN };
    let log = log(args.log.unwrap_or_else(|| Targets::new().with_default(quiet)), args.log_format);
    #[cfg(feature = "otel")]
    let traces = match serves.then(otel::Traces::from_environment).transpose() {
        Ok(traces) => traces.flatten(),
        Err(error) => return failed(&error),
    };
    #[cfg(feature = "otel")]
    let log = log.and_then(traces.as_ref().map(otel::Traces::layer));
    tracing_subscriber::registry().with(log).init();
    if serves {
        args::links::report();
    }
    args::variables::report();
    let result = match args.command {
        Command::Serve(args) => serve::run(args),
        // It is printed already.
        Command::Config(_) => Ok(()),
        Command::Decode(args) => decode::run(args),
        Command::Encode(args) => encode::run(args),
        Command::Roundtrip(args) => roundtrip::run(args),
        Command::Quickstart(args) => quickstart::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Models(args) => models::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Pull(args) => pull::run(&args),
        Command::Health(args) => health::run(&args),
    };
    #[cfg(feature = "otel")]
    if let Some(traces) = traces {
        traces.end();
    }
    // A server goes on without its greeting; of all others, what they print is the result, or part of it.
    let result = if serves { result } else { result.and_then(|()| terminal::check()) };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// Says what went wrong.
fn failed(error: &anyhow::Error) -> ExitCode {
    let style = clap::builder::styling::AnsiColor::Red.on_default().bold();
    note!("{style}error{style:#}: {}", sentence(error));
    if error.downcast_ref::<misuse::Misuse>().is_some() {
        return ExitCode::from(misuse::CODE);
    }
    error.downcast_ref::<batch::Incomplete>().map_or(ExitCode::FAILURE, |end| ExitCode::from(end.code))
}

/// Log lines, on stderr, so that what a command prints stays its own.
fn log(filter: Targets, format: LogFormat) -> impl Layer<Registry> {
    // Where our own lines come from is for those who look for a fault.
    let is_close = |level: LevelFilter| level > LevelFilter::INFO;
    let places =
        filter.default_level().is_some_and(is_close) || filter.iter().any(|(_, level)| is_close(level));
    // The steps of a request are for traces.
    let filter = filter.with_target(service::SPANS, LevelFilter::OFF);
    let is_ours = |metadata: &Metadata<'_>| metadata.target().starts_with("remote_vae");
    let ours = lines(format, places).with_filter(filter.clone().and(filter_fn(is_ours)));
    // Nobody could tell what a library's line is about if it did not say which library it is.
    let others = lines(format, true).with_filter(filter.and(filter_fn(move |metadata| !is_ours(metadata))));
    ours.and_then(others)
}

/// Prints log lines, with the module that each comes from or without.
fn lines(format: LogFormat, target: bool) -> Box<dyn Layer<Registry> + Send + Sync> {
    let lines = tracing_subscriber::fmt::layer().with_writer(|| terminal::Log).with_target(target);
    // Where stderr is gone, there is nowhere to say so: the attempt would panic.
    let lines = lines.log_internal_errors(false);
    match format {
        LogFormat::Text => {
            let colors = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
            lines.with_ansi(colors).boxed()
        }
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    }
}

/// An error and its causes in one line, fit for a terminal. Many of our errors already end in their cause; it is not said
/// twice.
fn sentence(error: &anyhow::Error) -> String {
    if let Some(client::Error::Refused { status: 401, .. }) = error.downcast_ref() {
        return "the server does not know this key, or wants one: give it with --api-key or REMOTE_VAE_API_KEY".to_owned();
    }
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    terminal::plain(&lines.join(" ")).into_owned()
}
