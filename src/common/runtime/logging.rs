//! The log: standard error, UTC time, level, message, one line each.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write as _};
use std::sync::{Mutex, PoisonError};

use env_logger::fmt::style::{AnsiColor, Style};
use env_logger::{Builder, Env, Logger, Target, WriteStyle};
use indicatif::ProgressBar;
use log::{Level, LevelFilter, Log, Metadata, Record};

use super::stdio;
use crate::common::escape::one_line;

/// How much to say, as the flags ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// Warnings and errors.
    Normal,
    /// Everything of this program.
    Debug,
}

/// The Paho crate prints passwords at debug level, and at warn what the link says better.
const PAHO: &str = "paho_mqtt";

/// Prints what goes through a WebSocket at trace level, the CONNECT with its password too.
const WEBSOCKETS: &str = "tungstenite";

/// `env_logger`, with a lid on what these crates may say whatever `RUST_LOG` asks for.
struct Capped(Logger);

impl Log for Capped {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let tells_secrets = [PAHO, WEBSOCKETS]
            .iter()
            .any(|name| metadata.target().starts_with(name));
        (!tells_secrets || metadata.level() <= LevelFilter::Info) && self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) && !keep(record) {
            let bar = BAR.lock().unwrap_or_else(PoisonError::into_inner);
            match &*bar {
                Some(bar) => bar.suspend(|| self.0.log(record)),
                None => self.0.log(record),
            }
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

/// The progress bar that has to step aside for a line.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// From here on there is this bar on standard error beside the log, or none.
pub fn beside(bar: Option<ProgressBar>) {
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = bar;
}

/// Lines kept; of more, the oldest go.
const KEPT: usize = 500;

/// The log while something else has the terminal.
#[derive(Debug, Default)]
struct Held {
    lines: VecDeque<(Level, String)>,
    left_out: u64,
    last: Option<(Level, String)>,
    count: u64,
}

/// Is there while something else has the terminal.
static HELD: Mutex<Option<Held>> = Mutex::new(None);

/// From here on lines for a terminal are kept, until [`release`]. Those for a file go there.
pub fn hold() {
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    held.get_or_insert_default();
}

/// The number of lines since [`hold`], and the message of the last, harmless on a terminal.
pub fn last_held() -> Option<(u64, Level, String)> {
    let held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    let held = held.as_ref()?;
    let (level, message) = held.last.clone()?;
    Some((held.count, level, message))
}

/// Ends what [`hold`] began. The lines that were kept, to be written to standard error: the
/// errors at the end by themselves, because they tell why.
pub fn release() -> (String, String) {
    let held = HELD.lock().unwrap_or_else(PoisonError::into_inner).take();
    held.map(Held::told).unwrap_or_default()
}

impl Held {
    fn told(self) -> (String, String) {
        let mut earlier = String::new();
        let mut errors = String::new();
        if self.left_out > 0 {
            earlier = format!("({} earlier lines are left out)\n", self.left_out);
        }
        for (level, line) in self.lines {
            if level != Level::Error {
                earlier.push_str(&std::mem::take(&mut errors));
            }
            let to = if level == Level::Error {
                &mut errors
            } else {
                &mut earlier
            };
            to.push_str(&line);
            to.push('\n');
        }
        (earlier, errors)
    }
}

/// Keeps a line, if lines are kept; `false` if it has still to be written.
fn keep(record: &Record<'_>) -> bool {
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(held) = &mut *held else { return false };
    let message = one_line(&record.args().to_string());
    if on_terminal() {
        let style = if coloured() {
            style(record.level())
        } else {
            Style::new()
        };
        let line = line(record, style);
        held.lines.push_back((record.level(), line));
        if held.lines.len() > KEPT {
            held.lines.pop_front();
            held.left_out += 1;
        }
    }
    held.count += 1;
    held.last = Some((record.level(), message));
    on_terminal()
}

/// Whether the log goes to a terminal.
pub fn on_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Starts the log. `RUST_LOG` wins over the flags. A second call changes nothing.
pub fn init(verbosity: Verbosity) {
    let level = match verbosity {
        Verbosity::Quiet => "error",
        Verbosity::Normal => "warn",
        Verbosity::Debug => "debug",
    };
    let logger = Builder::from_env(Env::default().default_filter_or(format!("{level},{PAHO}=off")))
        .target(Target::Pipe(Box::new(stdio::stderr())))
        .write_style(if coloured() {
            WriteStyle::Always
        } else {
            WriteStyle::Never
        })
        .format(|out, record| writeln!(out, "{}", line(record, style(record.level()))))
        .build();
    let max = logger.filter();
    if log::set_boxed_logger(Box::new(Capped(logger))).is_ok() {
        log::set_max_level(max);
    }
}

/// Whether there may be colours on standard error.
fn coloured() -> bool {
    on_terminal() && std::env::var_os("NO_COLOR").is_none()
}

fn style(level: Level) -> Style {
    let colour = |colour: AnsiColor| colour.on_default();
    match level {
        Level::Error => colour(AnsiColor::Red).bold(),
        Level::Warn => colour(AnsiColor::Yellow),
        Level::Info => colour(AnsiColor::Green),
        Level::Debug => colour(AnsiColor::Blue),
        Level::Trace => colour(AnsiColor::Cyan),
    }
}

fn line(record: &Record<'_>, style: Style) -> String {
    let level = record.level();
    #[allow(clippy::disallowed_methods, reason = "the time of the line")]
    let time = humantime::format_rfc3339_millis(std::time::SystemTime::now());
    let message = one_line(&record.args().to_string());
    format!("{time} {style}{level}{style:#} {message}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_errors_at_the_end_of_what_was_kept_are_told_last() {
        let line = |level, text: &str| (level, text.to_owned());
        let held = Held {
            lines: VecDeque::from([
                line(Level::Error, "a"),
                line(Level::Warn, "b"),
                line(Level::Error, "c"),
                line(Level::Error, "d"),
            ]),
            left_out: 3,
            ..Held::default()
        };
        let (earlier, errors) = held.told();
        assert_eq!(earlier, "(3 earlier lines are left out)\na\nb\n");
        assert_eq!(errors, "c\nd\n");
    }
}
