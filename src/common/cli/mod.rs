//! The command line of both programs: parsed, with what the environment and a configuration
//! file add to it, and the exit code at the end.
//!
//! * `args` are the flags that both share, and how they are checked;
//! * `config` is what they came to;
//! * `doctor` are the flags of `check`;
//! * `foreign` are those that other clients have;
//! * `layers` brings in the environment and the file.

pub mod args;
pub mod config;
pub mod doctor;
mod foreign;
mod layers;
mod pages;

use std::ffi::OsString;
use std::io::{self, Write as _};

use clap::Parser;

use super::escape::one_line;
use super::fault::{Exit, Fault};
use super::{address_space, client, signals, transport};

/// How durations and sizes are written, for the end of the help.
pub const UNITS: &str = "D is a duration: a bare number is seconds; 500ms, 5m, 2h work too. SIZE is bytes, or 64KiB, \
     1MiB, 1GB.";

/// A whole program: parses the command line, runs, and ends with the exit code. A fault is
/// one line on standard error.
pub fn main<T: Parser>(
    program: &str,
    run: impl FnOnce(T) -> anyhow::Result<Exit>,
) -> std::process::ExitCode {
    address_space::use_sparingly();
    transport::init();
    signals::survive_file_size_limit();
    let exit = match parse(std::env::args_os()) {
        Ok(Parsed::Run(args)) => run(args),
        Ok(Parsed::Show(text)) => {
            // A reader that has seen enough is no failure.
            let _ = io::stdout().write_all(&text);
            Ok(Exit::Success)
        }
        Err(fault) => Err(fault.into()),
    };
    let exit = exit.unwrap_or_else(|error| {
        // Without standard error there is only the exit code.
        let _ = writeln!(
            io::stderr(),
            "{program}: {}",
            one_line(&format!("{error:#}"))
        );
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
    let mut command = pages::added_to(T::command().version(version));
    let typed: Vec<OsString> = args.into_iter().collect();
    let layered = layers::apply(&command, typed.clone(), std::env::vars_os())?;
    for note in layered.notes {
        // Without standard error nobody reads it.
        let _ = writeln!(io::stderr(), "{}: {}", command.get_name(), one_line(&note));
    }
    let parsed = command
        .try_get_matches_from_mut(layered.args)
        .and_then(|mut matches| {
            if let Some(text) = pages::asked_for(&command, &matches)? {
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
            .then(|| foreign::answer(&command, &typed))
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
            let mut why = flatten(&e.render().to_string());
            for (flag, origin) in layered.origins {
                if why.contains(&format!("{flag} ")) || why.contains(&format!("{flag}'")) {
                    why = format!("{why} ({flag} comes from {origin})");
                }
            }
            Err(Fault::usage(why))
        }
    }
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
