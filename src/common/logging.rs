//! The log: standard error, UTC time, level, message, one line each.

use std::io::{self, IsTerminal, Write as _};
use std::sync::{Mutex, PoisonError};

use env_logger::{Builder, Env, Logger, Target, WriteStyle};
use indicatif::ProgressBar;
use log::{LevelFilter, Log, Metadata, Record};

use super::escape::one_line;

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

/// `env_logger`, with a lid on what the Paho crate may say whatever `RUST_LOG` asks for.
struct Capped(Logger);

impl Log for Capped {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        (!metadata.target().starts_with(PAHO) || metadata.level() <= LevelFilter::Info)
            && self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
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

/// Whether the log goes to a terminal.
#[must_use]
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
    let colour = on_terminal() && std::env::var_os("NO_COLOR").is_none();
    let logger = Builder::from_env(Env::default().default_filter_or(format!("{level},{PAHO}=off")))
        .target(Target::Stderr)
        .write_style(if colour {
            WriteStyle::Always
        } else {
            WriteStyle::Never
        })
        .format(|out, record| {
            let level = record.level();
            let style = out.default_level_style(level);
            #[allow(clippy::disallowed_methods, reason = "the time of the line")]
            let time = humantime::format_rfc3339_millis(std::time::SystemTime::now());
            let message = one_line(&record.args().to_string());
            writeln!(out, "{time} {style}{level}{style:#} {message}")
        })
        .build();
    let max = logger.filter();
    if log::set_boxed_logger(Box::new(Capped(logger))).is_ok() {
        log::set_max_level(max);
    }
}
