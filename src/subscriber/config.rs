//! The configuration of the subscriber: its flags, checked.

use std::path::PathBuf;
use std::time::Duration;

use super::inbox::selector::{Retained, Selection};
use super::output::destination::Rotation;
use super::plot::value_extractor::ValueExtractor;
use super::render::Style;
use crate::common::cli::config::ConnectionConfig;
use crate::common::connection::state::RunKind;
use crate::common::mqtt::qos::Qos;
use crate::common::runtime::process::ExecCommand;

#[derive(Clone, Debug)]
pub struct File {
    pub path: PathBuf,
    pub rotation: Option<Rotation>,
}

#[derive(Clone, Debug)]
pub enum OutputKind {
    Stdout(Style),
    File(File, Style),
    Chart(ValueExtractor),
    Command { command: ExecCommand, jobs: usize },
}

#[derive(Clone, Debug)]
pub struct Config {
    pub connection: ConnectionConfig,
    pub filters: Vec<String>,
    pub qos: Qos,
    pub selection: Selection,
    pub timeout: Option<Duration>,
    pub output: OutputKind,
    pub session_expiry: Option<Duration>,
    pub retain_as_published: bool,
    pub gaps: bool,
    pub state: Option<PathBuf>,
    pub summary: bool,
}

impl Config {
    pub fn run(&self) -> RunKind {
        let has_last = self.selection.limit.is_some() || self.selection.retained == Retained::Only;
        if has_last || self.timeout.is_some() {
            RunKind::Finite
        } else {
            RunKind::Endless
        }
    }
}
