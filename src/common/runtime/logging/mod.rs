//! The log on standard error, one line for each message: as text with UTC time and level, as JSON, or with a priority
//! for the journal of systemd.

mod log_line;

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write as _};

use env_logger::fmt::style::{AnsiColor, Style};
use env_logger::{Builder, Env, Logger, Target, WriteStyle};
use log::{Level, LevelFilter, Log, Metadata, Record};
use nix::sys::stat::fstat;
use parking_lot::Mutex;

use self::log_line::{LineForm, LogLine};
use super::repeat_filter::Repetition;
use super::stdio;
use crate::common::escape::one_line;
use crate::common::fault::Exit;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    Normal,
    Debug,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// The target of warnings that `--quiet` does not suppress.
pub const NOT_QUIET: &str = "iot_pubsub_not_quiet";

/// The Paho crate logs passwords at debug level; its warnings say less than ours.
const PAHO: &str = "paho_mqtt";
/// Logs what goes through a WebSocket at trace level, the CONNECT with its password included.
const WEBSOCKETS: &str = "tungstenite";

/// Lines held; of more, the oldest are dropped.
const MAX_HELD: usize = 500;

/// What every line needs beside its message.
static CONTEXT: Mutex<LogContext> = Mutex::new(LogContext {
    program: String::new(),
    client_id: None,
    form: LineForm::Text,
    is_initialised: false,
});

#[derive(Debug)]
struct LogContext {
    program: String,
    client_id: Option<String>,
    form: LineForm,
    /// The form is that of the run, whatever is read later.
    is_initialised: bool,
}

/// The last line of the terminal, below the log.
static PROGRESS: Mutex<Option<String>> = Mutex::new(None);

/// To the beginning of the line, and erases it (ECMA-48: CR, EL).
const ERASE_LINE: &str = "\r\x1b[K";

/// Lines for a terminal that something else is using.
static HELD: Mutex<Option<HeldLines>> = Mutex::new(None);

/// `env_logger`, which never logs the secrets of these crates, whatever `RUST_LOG` is set to.
struct SecretFilterLogger(Logger);

impl Log for SecretFilterLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        let may_log_secrets = target.starts_with(PAHO) || target.starts_with(WEBSOCKETS);
        (!may_log_secrets || metadata.level() <= LevelFilter::Info) && self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) && !hold_for_chart(record) {
            let progress = PROGRESS.lock();
            if progress.is_some() {
                write_to_terminal(ERASE_LINE);
            }
            self.0.log(record);
            if let Some(text) = &*progress {
                write_to_terminal(text);
            }
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

/// How lines are written that come before [`init`], such as an error of the command line.
pub fn prepare(program: &str, format: LogFormat) {
    let mut context = CONTEXT.lock();
    if !context.is_initialised {
        program.clone_into(&mut context.program);
        context.form = line_form(format);
    }
}

pub fn set_client_id(client_id: &str) {
    CONTEXT.lock().client_id = Some(client_id.to_owned());
}

/// JSON is JSON wherever it goes.
fn line_form(format: LogFormat) -> LineForm {
    match format {
        LogFormat::Json => LineForm::Json,
        LogFormat::Text if is_journal() => LineForm::Journal,
        LogFormat::Text => LineForm::Text,
    }
}

/// Whether standard error is a stream to the journal, as systemd.exec(5) says to find out.
fn is_journal() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else {
        return false;
    };
    fstat(io::stderr()).is_ok_and(|stat| *stream == *format!("{}:{}", stat.st_dev, stat.st_ino))
}

pub fn init(verbosity: Verbosity, format: LogFormat) {
    let mut context = CONTEXT.lock();
    context.form = line_form(format);
    context.is_initialised = true;
    drop(context);
    let level = match verbosity {
        Verbosity::Quiet => "error",
        Verbosity::Normal => "warn",
        Verbosity::Debug => "debug",
    };
    let logger = Builder::from_env(
        Env::default().default_filter_or(format!("{level},{PAHO}=off,{NOT_QUIET}=warn")),
    )
    .target(Target::Pipe(Box::new(stdio::blocking_stderr())))
    .write_style(if is_coloured() {
        WriteStyle::Always
    } else {
        WriteStyle::Never
    })
    .format(|out, record| writeln!(out, "{}", line(record, style(record.level()))))
    .build();
    let max = logger.filter();
    if log::set_boxed_logger(Box::new(SecretFilterLogger(logger))).is_ok() {
        log::set_max_level(max);
    }
}

/// Writes a line whatever the log level is; it need not be initialised. As text it begins with the program's name.
pub fn print_line(level: Level, message: &str, code: Option<Exit>) {
    let message = one_line(message);
    let context = CONTEXT.lock();
    stdio::print_error(&match context.form {
        LineForm::Text => format!("{}: {message}", context.program),
        form => {
            let code = code.map(|exit| exit.code().into());
            context.line(level.as_str(), &message, code).render(form)
        }
    });
}

/// The level of a failure that may be repeated: what is not to be logged is still in the debug log.
pub fn level_of(repetition: Repetition) -> Level {
    match repetition {
        Repetition::Suppressed => Level::Debug,
        Repetition::First | Repetition::Repeated { .. } => Level::Warn,
    }
}

/// Replaces the line below the log, which must be a terminal and wide enough; none removes it.
pub fn show_progress(text: Option<String>) {
    let mut shown = PROGRESS.lock();
    if shown.is_some() {
        write_to_terminal(ERASE_LINE);
    }
    *shown = text;
    if let Some(text) = &*shown {
        write_to_terminal(text);
    }
}

fn write_to_terminal(text: &str) {
    let _ = stdio::blocking_stderr().write_all(text.as_bytes());
}

/// Holds lines for a terminal until [`take_held_lines`]. Lines for a file are still written.
pub fn hold_lines() {
    HELD.lock().get_or_insert_default();
}

/// The number of lines since [`hold_lines`], with level and message of the last, escaped.
pub fn last_held_line() -> Option<(u64, Level, String)> {
    let held = HELD.lock();
    let held = held.as_ref()?;
    let (level, message) = held.last.clone()?;
    Some((held.count, level, message))
}

/// Ends what [`hold_lines`] began, and returns the lines, to be written to standard error: first
/// all earlier ones, second the errors at the end, because they give the cause.
pub fn take_held_lines() -> (String, String) {
    HELD.lock()
        .take()
        .map(HeldLines::split_off_last_errors)
        .unwrap_or_default()
}

pub fn is_on_terminal() -> bool {
    io::stderr().is_terminal()
}

#[derive(Debug, Default)]
struct HeldLines {
    lines: VecDeque<(Level, String)>,
    dropped: u64,
    last: Option<(Level, String)>,
    count: u64,
}

impl HeldLines {
    fn split_off_last_errors(self) -> (String, String) {
        let mut earlier = String::new();
        let mut errors = String::new();
        if self.dropped > 0 {
            earlier = format!("({} earlier lines are left out)\n", self.dropped);
        }
        for (level, line) in self.lines {
            let line = line + "\n";
            if level == Level::Error {
                errors.push_str(&line);
            } else {
                earlier.push_str(&std::mem::take(&mut errors));
                earlier.push_str(&line);
            }
        }
        (earlier, errors)
    }
}

/// Holds a line if lines are held; `false` if it has to be written now.
fn hold_for_chart(record: &Record<'_>) -> bool {
    let mut held = HELD.lock();
    let Some(held) = &mut *held else { return false };
    let level = record.level();
    if is_on_terminal() {
        let style = if is_coloured() {
            style(level)
        } else {
            Style::new()
        };
        held.lines.push_back((level, line(record, style)));
        if held.lines.len() > MAX_HELD {
            held.lines.pop_front();
            held.dropped += 1;
        }
    }
    held.count += 1;
    held.last = Some((level, one_line(&record.args().to_string())));
    is_on_terminal()
}

fn is_coloured() -> bool {
    is_on_terminal() && std::env::var_os("NO_COLOR").is_none()
}

fn style(level: Level) -> Style {
    match level {
        Level::Error => AnsiColor::Red.on_default().bold(),
        Level::Warn => AnsiColor::Yellow.on_default(),
        Level::Info => AnsiColor::Green.on_default(),
        Level::Debug => AnsiColor::Blue.on_default(),
        Level::Trace => AnsiColor::Cyan.on_default(),
    }
}

impl LogContext {
    fn line<'a>(&'a self, level: &'a str, msg: &'a str, code: Option<i64>) -> LogLine<'a> {
        #[allow(clippy::disallowed_methods, reason = "the time of the line")]
        let now = std::time::SystemTime::now();
        LogLine {
            ts: humantime::format_rfc3339_millis(now).to_string(),
            level,
            program: &self.program,
            client_id: self.client_id.as_deref(),
            msg,
            code,
        }
    }
}

fn line(record: &Record<'_>, style: Style) -> String {
    let message = one_line(&record.args().to_string());
    let code = record.key_values().get("code".into());
    let code = code.and_then(|code| code.to_i64());
    let context = CONTEXT.lock();
    let level = record.level().as_str();
    let line = context.line(level, &message, code);
    match context.form {
        LineForm::Text => {
            let level = &format!("{style}{level}{style:#}");
            LogLine { level, ..line }.render(LineForm::Text)
        }
        form => line.render(form),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_errors_at_the_end_of_the_held_lines_come_last() {
        let levels = [Level::Error, Level::Warn, Level::Error, Level::Error];
        let texts = ["a", "b", "c", "d"].map(str::to_owned);
        let lines = levels.into_iter().zip(texts).collect();
        let held = HeldLines {
            lines,
            dropped: 3,
            ..HeldLines::default()
        };
        let (earlier, errors) = held.split_off_last_errors();
        assert_eq!(earlier, "(3 earlier lines are left out)\na\nb\n");
        assert_eq!(errors, "c\nd\n");
    }
}
