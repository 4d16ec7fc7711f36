//! The command line of `publisher queue`.

#![allow(clippy::doc_markdown, reason = "doc comments are the text of --help")]

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::common::cli::args::LogArgs;
use crate::common::cli::units::integer_parser;

/// Inspect and repair a queue file
///
/// No broker is needed, and a running publisher is not delayed. status, list and export change nothing in the file,
/// whichever version of the program wrote it.
#[derive(Args, Clone, Debug)]
#[command(max_term_width = 100, arg_required_else_help = false, after_long_help = include_str!("manual.txt"))]
pub struct QueueArgs {
    #[command(subcommand)]
    pub(super) action: Action,

    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Clone, Debug, Subcommand)]
pub(super) enum Action {
    /// Print counts, bytes, the age of the oldest message, dead letters by reason, totals, and who drains the file
    ///
    /// The totals are of all messages that were ever written to the file: accepted, delivered, dropped, expired,
    /// removed by purge.
    Status {
        #[command(flatten)]
        file: FileArgs,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print one line for each message
    List {
        #[command(flatten)]
        file: FileArgs,
        /// The dead letters, not the messages that wait
        #[arg(long)]
        dead: bool,
        /// Print one JSON object for each message
        #[arg(long)]
        json: bool,
        /// Print N messages at most
        #[arg(long, value_name = "N", value_parser = integer_parser(0usize..))]
        limit: Option<usize>,
    },
    /// Print messages as JSON, as subscriber --json does; they stay in the queue
    Export {
        #[command(flatten)]
        file: FileArgs,
        /// The dead letters, not the messages that wait
        #[arg(long)]
        dead: bool,
    },
    /// Move dead letters back to the end of the queue
    Retry {
        #[command(flatten)]
        file: FileArgs,
        /// Numbers of the dead letters, as list --dead shows them; all if not given
        #[arg(value_name = "ID", value_parser = integer_parser::<i64>(..))]
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
