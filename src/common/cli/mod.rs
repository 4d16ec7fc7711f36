//! The command line of both programs: `args` are the shared flags as typed, `connection_config` is what they mean once
//! checked. The environment and a configuration file add to them; errors are one line; the exit code is set at the end.

pub mod args;
pub mod check_command_args;
mod completions;
pub mod connection_config;
pub mod foreign_flags;
mod log_format;
pub mod manual;
pub mod merged_settings;
pub mod metrics_args;
mod name_expander;
mod name_template;
mod proxy;
pub mod redact;
pub mod units;
mod usage_error;
mod will_args;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::OnceLock;

use anyhow::Context as _;
use clap::Parser;
use clap::error::ErrorKind;

use log::Level;

use self::log_format::find_log_format;
use super::fault::{Exit, Fault};
use crate::common::runtime::{logging, process, startup, stdio};
use crate::common::{client, transport};

pub const UNITS: &str = "D is a duration: a number of seconds, or with a unit as in 500ms, 5m, 2h, 7d.\n\
     SIZE is a number of bytes, or with a unit as in 64KiB, 1MiB, 1GB.";

/// A whole program: parses the command line, runs, and ends with the exit code. A fault is one line on standard error.
pub fn main<T: Parser>(run: impl FnOnce(T) -> anyhow::Result<Exit>) -> ExitCode {
    startup::prepare_process();
    transport::init();
    let command = command::<T>();
    let program = command.get_name().to_owned();
    let typed: Vec<_> = std::env::args_os().collect();
    prepare_log(&program, &typed);
    let exit = match parse(command, &typed) {
        Ok((Parsed::Run(args), settings)) => {
            SETTINGS_AT_START.get_or_init(|| settings);
            process::start_orphan_reaper()
                .context("threads cannot be started")
                .and_then(|()| run(args))
        }
        Ok((Parsed::Show(text), _)) => match stdio::stdout().write_all(&text) {
            // A reader that has seen enough is no failure.
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
                Err(e).context("standard output cannot be written")
            }
            _ => Ok(Exit::Success),
        },
        Err(fault) => Err(fault.into()),
    };
    let exit = exit.unwrap_or_else(|error| {
        // An error without an exit code is one of the operating system.
        let fault = error.downcast_ref::<Fault>();
        let exit = fault.map_or(Exit::Io, |fault| fault.exit);
        logging::print_line(Level::Error, &format!("{error:#}"), Some(exit));
        exit
    });
    transport::free_device_keys();
    exit.code().into()
}

/// Errors of the command line are written in the form of the other lines of the log.
fn prepare_log(program: &str, args: &[OsString]) {
    let variable = std::env::var_os("IOT_LOG_FORMAT");
    logging::prepare(program, find_log_format(args, variable.as_deref()));
}

pub fn command<T: Parser>() -> clap::Command {
    let version = format!(
        "{} ({}, {})",
        env!("CARGO_PKG_VERSION"),
        client::LIBRARY_VERSION,
        transport::library_version()
    );
    completions::add_completions_and_man(T::command().version(version))
}

/// What environment and configuration file set when the program was started.
static SETTINGS_AT_START: OnceLock<Settings> = OnceLock::new();

type Settings = BTreeMap<String, Option<Vec<OsString>>>;

/// Reads the configuration file again, checks it, and returns the names of the settings that have changed since the
/// program was started.
pub fn find_changed_settings<T: Parser>() -> Result<Vec<String>, Fault> {
    let typed: Vec<OsString> = std::env::args_os().collect();
    let (_, now) = parse::<T>(command::<T>(), &typed)?;
    let nothing = Settings::new();
    let earlier = SETTINGS_AT_START.get().unwrap_or(&nothing);
    let names: BTreeSet<&String> = earlier.keys().chain(now.keys()).collect();
    // A flag that is off is the same as one that is not there.
    let value = |settings: &Settings, name: &String| settings.get(name).cloned().flatten();
    let changed = names
        .into_iter()
        .filter(|name| value(earlier, name) != value(&now, name));
    Ok(changed.cloned().collect())
}

enum Parsed<T> {
    Run(T),
    /// Help, version, completions or a manual page, for standard output.
    Show(Vec<u8>),
}

fn parse<T: Parser>(
    mut command: clap::Command,
    typed: &[OsString],
) -> Result<(Parsed<T>, Settings), Fault> {
    let merged = merged_settings::merge(&command, typed.to_vec(), std::env::vars_os())?;
    // What the configuration file sets has become a flag.
    prepare_log(command.get_name(), &merged.args);
    for note in merged.notes {
        logging::print_line(Level::Warn, &note, None);
    }
    let parsed = command
        .try_get_matches_from_mut(merged.args)
        .and_then(
            |mut matches| match completions::generate_requested_text(&command, &matches) {
                Some(text) => Ok(Parsed::Show(text)),
                None => T::from_arg_matches_mut(&mut matches).map(Parsed::Run),
            },
        );
    let settings = merged.settings;
    let parsed = parsed.or_else(|error| {
        if matches!(
            error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
        ) {
            // -h and -V may be meant as the letters of another client.
            return match foreign_flags::find_answer_for_command_line(&command, typed) {
                Some(answer) => Err(Fault::usage(answer)),
                None => Ok(Parsed::Show(error.render().to_string().into_bytes())),
            };
        }
        let mut line = usage_error::explain(&command, typed, &error);
        for (flag, origin) in merged.origins {
            if line.split([' ', ':']).any(|word| word == flag) {
                line = format!("{line} ({flag} comes from {origin})");
            }
        }
        Err(Fault::usage(line))
    });
    Ok((parsed?, settings))
}
