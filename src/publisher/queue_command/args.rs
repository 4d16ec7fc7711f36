//! The command line of `publisher queue`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::common::cli::args::LogArgs;
use crate::common::runtime::logging::Verbosity;

/// Looks at a queue file, and mends it. No broker is needed, and a running publisher is not
/// held up.
#[derive(Clone, Debug, Parser)]
#[command(name = "queue", max_term_width = 100, arg_required_else_help = false)]
pub struct QueueArgs {
    #[command(subcommand)]
    pub(super) action: Action,

    #[command(flatten)]
    log: LogArgs,
}

impl QueueArgs {
    /// How much to log.
    pub fn verbosity(&self) -> Verbosity {
        self.log.verbosity()
    }
}

#[derive(Clone, Debug, Subcommand)]
pub(super) enum Action {
    /// Counts, bytes, the age of the oldest message, dead letters and why they died
    Status {
        #[command(flatten)]
        file: FileArgs,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// One line a message
    List {
        #[command(flatten)]
        file: FileArgs,
        /// The dead letters, not the messages that wait
        #[arg(long)]
        dead: bool,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
        /// So many at most
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Write messages as JSON, as `subscriber --json` does; they stay in the queue
    Export {
        #[command(flatten)]
        file: FileArgs,
        /// The dead letters, not the messages that wait
        #[arg(long)]
        dead: bool,
    },
    /// Put dead letters back into the queue, at its end
    Retry {
        #[command(flatten)]
        file: FileArgs,
        /// Their numbers, as list --dead shows them; default: all
        #[arg(value_name = "ID")]
        ids: Vec<i64>,
    },
    /// Remove all messages that wait; move a damaged file aside
    Purge {
        #[command(flatten)]
        file: FileArgs,
        /// The dead letters, not the messages that wait
        #[arg(long)]
        dead: bool,
    },
}

#[derive(Args, Clone, Debug)]
pub(super) struct FileArgs {
    /// The queue file
    #[arg(long, value_name = "FILE")]
    pub(super) queue: PathBuf,
}
