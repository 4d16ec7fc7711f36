//! The configuration of the subscriber: its flags, checked.

use std::path::PathBuf;
use std::time::Duration;

use super::display::display_data::DisplayKind;
use super::display::value_extractor::ValueExtractor;
use super::message_receiver::selector::{Retained, SelectionOptions};
use super::output::destination::Rotation;
use super::render::RenderOptions;
use crate::common::cli::connection_config::ConnectionConfig;
use crate::common::client::RetainHandling;
use crate::common::connection::state::FiniteOrEndless;
use crate::common::mqtt::draft::Draft;
use crate::common::mqtt::qos::Qos;
use crate::common::runtime::process::ExecCommand;

#[derive(Clone, Debug)]
pub struct OutputFileConfig {
    pub path: PathBuf,
    pub rotation: Option<Rotation>,
}

#[derive(Clone, Debug)]
pub enum OutputConfig {
    Stdout(RenderOptions),
    File(OutputFileConfig, RenderOptions),
    Display(DisplayKind, ValueExtractor),
    Command { command: ExecCommand, jobs: usize },
}

#[derive(Clone, Debug)]
pub struct Config {
    pub connection: ConnectionConfig,
    pub filters: Vec<String>,
    pub qos: Qos,
    pub selection: SelectionOptions,
    /// Topics that are left out.
    pub exclude: Vec<String>,
    pub exit_after_subscribe: bool,
    pub idle_timeout: Option<Duration>,
    pub retain_handling: Option<RetainHandling>,
    pub remove_retained: bool,
    /// What to publish once all filters are granted.
    pub request: Option<Draft>,
    pub timeout: Option<Duration>,
    pub output: OutputConfig,
    pub session_expiry: Option<Duration>,
    pub retain_as_published: bool,
    pub subscription_identifier: Option<i32>,
    pub gaps: bool,
    pub state: Option<PathBuf>,
    pub summary: bool,
    pub metrics: Option<PathBuf>,
}

impl Config {
    /// Under which the state file has what belongs to the session.
    pub fn session_key(&self) -> String {
        let connection = &self.connection;
        format!("{} {}", connection.endpoint, connection.client_id)
    }

    pub fn finite_or_endless(&self) -> FiniteOrEndless {
        let has_last = self.selection.limit.is_some() || self.selection.retained == Retained::Only;
        let has_end = self.exit_after_subscribe || self.idle_timeout.is_some();
        if has_last || has_end || self.timeout.is_some() {
            FiniteOrEndless::Finite
        } else {
            FiniteOrEndless::Endless
        }
    }
}
