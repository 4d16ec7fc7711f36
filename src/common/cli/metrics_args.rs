//! `--metrics`, and the flags of the command `status`, which both programs have.

#![allow(clippy::doc_markdown, reason = "doc comments are the text of --help")]

use std::path::PathBuf;

use clap::Args;

use super::args::LogArgs;
use crate::common::fault::Fault;
use crate::common::runtime::replaced_file;

#[derive(Args, Clone, Debug)]
pub struct MetricsArgs {
    /// Write metrics for Prometheus to this file every 15 seconds
    ///
    /// The file is replaced as a whole, also when a connection begins or ends and at the end of the run: node_exporter
    /// reads it with --collector.textfile.directory if its name ends with .prom. Use one file per process: one
    /// that another running program writes is left to it. A file that cannot be written is logged, and has no other effect.
    #[arg(long, value_name = "FILE", help_heading = "Log")]
    metrics: Option<PathBuf>,
}

impl MetricsArgs {
    pub fn into_path(self) -> Result<Option<PathBuf>, Fault> {
        if let Some(path) = &self.metrics
            && replaced_file::is_unsuitable(path)
        {
            let message = format!("{}: --metrics is not a regular file", path.display());
            return Err(Fault::usage(message).with_remedy("give the path of a new file"));
        }
        Ok(self.metrics)
    }
}

/// Tell by the exit code whether a running program is well
///
/// It reads the file that the program writes with --metrics, and connects to nothing. A program is well if it has
/// written the file within the last 60 seconds, is connected, its certificate has not expired, and the disk of its queue
/// file is not full. One that has ended is as well as its exit code. Messages that wait are no fault.
#[derive(Args, Clone, Debug)]
#[command(max_term_width = 100, after_long_help = include_str!("status_manual.txt"))]
pub struct StatusArgs {
    /// The metrics file of the program
    #[arg(long, value_name = "FILE")]
    pub metrics: PathBuf,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,

    /// A TOML file with values for flags that are not on the command line
    ///
    /// It may be that of the running program: only its key metrics is used.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    pub log: LogArgs,
}
