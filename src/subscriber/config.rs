//! What the subscriber is to do, checked.

use std::path::PathBuf;
use std::time::Duration;

use super::inbox::selector::{Retained, Selection};
use super::output::destination::Rotation;
use super::plot::value::Picker;
use super::render::Style;
use crate::common::cli::config::ConnectionConfig;
use crate::common::connection::state::RunKind;
use crate::common::mqtt::message::Qos;
use crate::common::runtime::process::ExecCommand;

/// A file to write to.
#[derive(Clone, Debug)]
pub struct File {
    pub path: PathBuf,
    /// When it is full.
    pub rotation: Option<Rotation>,
}

#[derive(Clone, Debug)]
pub enum OutputKind {
    /// They are written to standard output.
    Stdout(Style),
    /// They are written to a file.
    File(File, Style),
    /// They are drawn.
    Chart(Picker),
    Command {
        command: ExecCommand,
        /// How many at a time.
        jobs: usize,
    },
}

/// What the subscriber is to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// How to reach the broker.
    pub connection: ConnectionConfig,
    /// The topic filters.
    pub filters: Vec<String>,
    /// The quality of service to ask for.
    pub qos: Qos,
    /// Which messages are wanted, and how many.
    pub selection: Selection,
    /// How long to wait for them.
    pub timeout: Option<Duration>,
    /// What is to be done with them.
    pub output: OutputKind,
    /// How long the broker is to keep the session while away; none for none.
    pub session_expiry: Option<Duration>,
    /// Whether the broker is to leave the retain flag of live messages as it is.
    pub retain_as_published: bool,
    /// Whether missing numbers are told, and count.
    pub gaps: bool,
    /// What is remembered from run to run.
    pub state: Option<PathBuf>,
    /// Whether to sum up.
    pub summary: bool,
}

impl Config {
    /// Whether the run has an end of its own.
    pub fn run(&self) -> RunKind {
        let ends_by_itself =
            self.selection.limit.is_some() || self.selection.retained == Retained::Only;
        if ends_by_itself || self.timeout.is_some() {
            RunKind::Finite
        } else {
            RunKind::Endless
        }
    }
}
