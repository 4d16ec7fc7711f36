//! Who deals with readings: written, or given to a command.

use std::time::Duration;

use log::warn;

use super::executor::Executor;
use super::output::{Style, render};
use super::sink::Done;
use super::writer::Writer;
use crate::common::escape::quoted;
use crate::common::message::Received;

/// Who deals with readings.
#[derive(Debug)]
pub enum Outlet {
    /// They are written.
    Writer(Writer, Style),
    /// Each is given to a command.
    Executor(Executor),
}

impl Outlet {
    /// A reading. `now` is the Unix time of its arrival.
    pub fn put(&self, reading: &Received<'_>, now: Duration) {
        match self {
            Self::Writer(writer, style) => {
                let remark = writer.write(|out| render(out, reading, style, now));
                if let Some(remark) = remark {
                    warn!("{}: {remark}", quoted(reading.topic));
                }
            }
            Self::Executor(executor) => executor.put(reading),
        }
    }

    /// The message that the last readings belong to is complete.
    pub fn end(&self, done: Done) {
        match self {
            Self::Writer(writer, _) => writer.end(done),
            Self::Executor(executor) => executor.end(done),
        }
    }

    /// Opens a file anew.
    pub fn reopen(&self) {
        if let Self::Writer(writer, _) = self {
            writer.reopen();
        }
    }

    /// Waits until all has been dealt with, but not for ever.
    pub fn close(&self, patience: Duration) {
        match self {
            Self::Writer(writer, _) => writer.close(patience),
            Self::Executor(executor) => executor.close(patience),
        }
    }

    /// The process ends now.
    pub fn abandon(&self) {
        if let Self::Executor(executor) = self {
            executor.abandon();
        }
    }

    /// Commands that failed.
    #[must_use]
    pub fn failed(&self) -> Option<u64> {
        match self {
            Self::Writer(..) => None,
            Self::Executor(executor) => Some(executor.failed()),
        }
    }
}
