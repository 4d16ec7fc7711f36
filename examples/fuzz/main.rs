//! A fuzzer for both programs: a server that sends mutated packets, a relay that mutates what the programs send to
//! a real broker, and invalid input lines. It detects crashes, sanitizer reports, hangs, memory growth and wrong
//! data. Each failing conversation is written to a file that can be replayed; the files in
//! `tests/data/conversations` are replayed by every test run. `scripts/fuzz` builds what it needs.

// Deadlines need the clock.
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
    /// Duration in seconds
    #[arg(default_value_t = 60)]
    seconds: u64,
    /// Seed of the random generator: the same seed generates the same conversations
    #[arg(default_value_t = 1)]
    seed: u64,
    /// Maximum number of conversations for each target
    #[arg(long, value_name = "N")]
    conversations: Option<u64>,
    /// Only run targets whose name contains this text
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Number of targets that run at the same time
    #[arg(long, value_name = "N", default_value_t = 4)]
    jobs: usize,
    /// Stop after this number of failures
    #[arg(long, value_name = "N", default_value_t = 10)]
    failures: usize,
    /// Directory of publisher and subscriber [default: the parent of this program's directory]
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Run the programs under valgrind
    #[arg(long)]
    valgrind: bool,
    /// Multiply all timeouts by this factor; above 1, memory growth is not checked
    #[arg(long, value_name = "N", default_value_t = 1)]
    slowness: u32,
    /// Directory for failing conversations [default: `fuzz` in the programs' directory]
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// Replay these files, and the files in these directories, instead of fuzzing
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

/// Returns the number of failures.
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

/// The files, and the files in the directories, sorted.
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
