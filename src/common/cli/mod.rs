//! The command line of both programs: parsed, with what the environment and a configuration
//! file add to it, and the exit code at the end.
//!
//! * `args` are the flags that both share, and how they are checked;
//! * `config` is what they came to;
//! * `proxy` is the proxy of flag and environment;
//! * `doctor` are the flags of `check`;
//! * `foreign` are those that other clients have;
//! * `layers` brings in the environment and the file.

pub mod args;
pub mod check_args;
mod completions;
pub mod config;
mod proxy;
pub mod redact;
mod sources;
mod suggestions;
pub mod units;

use std::ffi::OsString;
use std::io::{self, Write as _};

use anyhow::Context as _;
use clap::Parser;
use clap::error::ContextValue;

use super::escape::one_line;
use super::fault::{Exit, Fault};
use crate::common::runtime::{process, startup, stdio};
use crate::common::{client, transport};

/// How durations and sizes are written, for the end of the help.
pub const UNITS: &str = "D is a duration: a bare number is seconds; 500ms, 5m, 2h work too. SIZE is bytes, or 64KiB, \
     1MiB, 1GB.";

/// A whole program: parses the command line, runs, and ends with the exit code. A fault is
/// one line on standard error.
pub fn main<T: Parser>(
    program: &str,
    run: impl FnOnce(T) -> anyhow::Result<Exit>,
) -> std::process::ExitCode {
    startup::prepare_process();
    transport::init();
    let exit = match parse(std::env::args_os()) {
        Ok(Parsed::Run(args)) => process::adopt_orphans()
            .context("threads cannot be started")
            .and_then(|()| run(args)),
        Ok(Parsed::Show(text)) => match stdio::stdout().write_all(&text) {
            // A reader that has seen enough is no failure.
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
                Err(e).context("standard output cannot be written")
            }
            _ => Ok(Exit::Success),
        },
        Err(fault) => Err(fault.into()),
    };
    let exit = exit.unwrap_or_else(|error| {
        stdio::print_error(&format!("{program}: {}", one_line(&format!("{error:#}"))));
        // What has no code of its own comes from the operating system.
        error
            .downcast_ref::<Fault>()
            .map_or(Exit::Io, |fault| fault.exit)
    });
    exit.code().into()
}

/// What the command line came to.
enum Parsed<T> {
    /// Flags to run with.
    Run(T),
    /// Help, version or another page, for standard output.
    Show(Vec<u8>),
}

/// Parses a command line. clap's errors, which span lines, become one.
fn parse<T: Parser>(args: impl IntoIterator<Item = OsString>) -> Result<Parsed<T>, Fault> {
    use clap::error::ErrorKind;
    let version = format!(
        "{} ({}, {})",
        env!("CARGO_PKG_VERSION"),
        client::library_version(),
        transport::library_version()
    );
    let mut command = completions::added_to(T::command().version(version));
    let typed: Vec<OsString> = args.into_iter().collect();
    let layered = sources::apply(&command, typed.clone(), std::env::vars_os())?;
    for note in layered.notes {
        stdio::print_error(&format!("{}: {}", command.get_name(), one_line(&note)));
    }
    let parsed = command
        .try_get_matches_from_mut(layered.args)
        .and_then(|mut matches| {
            if let Some(text) = completions::asked_for(&command, &matches)? {
                return Ok(Parsed::Show(text));
            }
            T::from_arg_matches_mut(&mut matches).map(Parsed::Run)
        });
    let unknown = |e: &clap::Error| {
        let kinds = [
            ErrorKind::UnknownArgument,
            ErrorKind::InvalidSubcommand,
            ErrorKind::DisplayHelp,
            ErrorKind::DisplayVersion,
        ];
        kinds
            .contains(&e.kind())
            .then(|| suggestions::answer(&command, &typed))
            .flatten()
    };
    match parsed {
        Ok(parsed) => Ok(parsed),
        Err(e) => {
            if let Some(answer) = unknown(&e) {
                return Err(Fault::usage(answer));
            }
            if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
                return Ok(Parsed::Show(e.render().to_string().into_bytes()));
            }
            let mut why = flatten(&without_passwords(&e));
            for (flag, origin) in layered.origins {
                if why.contains(&format!("{flag} ")) || why.contains(&format!("{flag}'")) {
                    why = format!("{why} ({flag} comes from {origin})");
                }
            }
            Err(Fault::usage(why))
        }
    }
}

/// An error of clap, without the passwords in what it quotes.
fn without_passwords(error: &clap::Error) -> String {
    let quoted = error.context().flat_map(|(_, value)| match value {
        ContextValue::String(text) => vec![text.as_str()],
        ContextValue::Strings(texts) => texts.iter().map(String::as_str).collect(),
        _ => Vec::new(),
    });
    redact::without_passwords(&error.render().to_string(), quoted)
}

/// `error: A\n\n  tip: B\n\nUsage: …` as `A; tip: B; see --help`.
fn flatten(rendered: &str) -> String {
    let text = rendered.split("\nUsage:").next().unwrap_or(rendered);
    let text = text.split("\nFor more information").next().unwrap_or(text);
    let mut parts: Vec<String> = Vec::new();
    for paragraph in text.trim().trim_start_matches("error: ").split("\n\n") {
        let words: Vec<&str> = paragraph.split_whitespace().collect();
        parts.push(words.join(" "));
    }
    parts.push("see --help".into());
    parts.join("; ")
}
