//! Conversations that go wrong, with both programs: a server that says what no server should, a line
//! that changes what the programs say, input that is not as it should be. Looked for are aborts, reports of
//! a sanitizer, hangs, memory that grows, and wrong data. Each conversation that fails is written to a file, which
//! can be played again; those that ever failed are in `tests/data/conversations`. `scripts/fuzz` builds
//! what it needs.

// It measures how long the programs take.
#![allow(clippy::disallowed_methods)]

mod codec;
mod conversation;
mod inputs;
mod mutation;
mod packets;
mod program;
mod publisher;
mod relay;
mod runner;
mod server;
mod subscriber;
mod wire;
mod work;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;

use program::Program;
use runner::Setup;
use work::{Bounds, Plan};

#[derive(Parser)]
#[command(
    name = "fuzz",
    about = "Looks for conversations that the programs do not survive"
)]
struct Args {
    /// How long
    #[arg(default_value_t = 60)]
    seconds: u64,
    /// What the conversations are drawn from: the same seed, the same conversations
    #[arg(default_value_t = 1)]
    seed: u64,
    /// Conversations of each kind at most
    #[arg(long, value_name = "N")]
    conversations: Option<u64>,
    /// Only kinds of conversation whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Kinds at a time
    #[arg(long, value_name = "N", default_value_t = 4)]
    jobs: usize,
    /// Failures after which it ends
    #[arg(long, value_name = "N", default_value_t = 10)]
    failures: usize,
    /// Where publisher and subscriber are [default: beside this program]
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Run the programs under valgrind
    #[arg(long)]
    valgrind: bool,
    /// The programs are so many times as slow as usual, and their memory is not looked at
    #[arg(long, value_name = "N", default_value_t = 1)]
    slowness: u32,
    /// Where a conversation that fails is written to [default: beside the programs]
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// Play these files, and those in these directories, and nothing else
    #[arg(long, value_name = "PATH", num_args = 1..)]
    replay: Vec<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fuzz: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// How many failures there were.
fn run(args: &Args) -> anyhow::Result<usize> {
    let own = std::env::current_exe()?;
    let beside = own
        .parent()
        .and_then(Path::parent)
        .context("no directory above")?;
    let bin = args.programs.as_deref().unwrap_or(beside);
    let setup = Setup {
        publisher: bin.join("publisher"),
        subscriber: bin.join("subscriber"),
        valgrind: args.valgrind,
        slowness: args.slowness,
    };
    Program::check(&setup.publisher)?;
    Program::check(&setup.subscriber)?;
    if !args.replay.is_empty() {
        return work::replay(&setup, &files(&args.replay)?);
    }
    let save = args.save.clone().unwrap_or_else(|| bin.join("fuzz"));
    let plans = Plan::all(args.seed, args.only.as_deref());
    let bounds = Bounds {
        time: Duration::from_secs(args.seconds),
        conversations: args.conversations,
        jobs: args.jobs,
        failures: args.failures,
        save,
    };
    work::run(&setup, &plans, &bounds)
}

/// The files themselves, and those in directories, in order.
fn files(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            for entry in fs::read_dir(path).with_context(|| path.display().to_string())? {
                files.push(entry?.path());
            }
        } else {
            files.push(path.clone());
        }
    }
    files.sort();
    Ok(files)
}
