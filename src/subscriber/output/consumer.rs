//! Who deals with readings: they are written, given to a command, or drawn.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use log::warn;

use super::batch::Readings;
use super::command::Envelope;
use super::executor::Executor;
use super::writer::Writer;
use crate::common::escape::quoted;
use crate::common::mqtt::message::{Draft, Received};
use crate::common::runtime::clock::clock;
use crate::common::transport::bridge::OutOfMemory;
use crate::subscriber::inbox::sink::{Done, Finish};
use crate::subscriber::plot::model::{Chart, Reading};
use crate::subscriber::plot::value::Picker;
use crate::subscriber::render::{Style, render};

/// Who deals with readings.
#[derive(Debug)]
pub enum Outlet {
    /// They are written.
    Writer(Writer, Style),
    /// Each is given to a command.
    Executor(Executor),
    /// They are drawn.
    Chart(Plotter),
}

/// What the readings of one message may come to when they are written, in bytes, beside their payloads. A message that
/// would come to more is one reading.
const MAX_RENDERED: usize = 16 << 20;

/// A message that there is memory for.
#[derive(Debug)]
pub struct Prepared<'a> {
    pub readings: Readings<'a>,
    /// What a command is given of it.
    envelope: Option<Envelope>,
}

/// Puts readings into a chart, which somebody else draws.
#[derive(Debug)]
pub struct Plotter {
    /// Picks the number out.
    pub picker: Picker,
    /// What is drawn.
    pub chart: Arc<Mutex<Chart>>,
    /// What is done with messages then.
    pub finish: Mutex<Finish>,
}

impl Plotter {
    fn chart(&self) -> MutexGuard<'_, Chart> {
        self.chart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, reading: &Received<'_>, now: Duration) {
        let seq = reading.seq.as_ref();
        let reading = Reading {
            topic: reading.topic,
            value: self.picker.pick(reading.payload),
            taken: seq.map(|seq| Duration::from_millis(seq.accepted_ms)),
            arrived: now,
        };
        self.chart().take(&reading, clock());
    }
}

/// Hands each reading of a message on, with what else the message says.
fn each<'a>(
    message: &Received<'a>,
    mut readings: impl Iterator<Item = &'a [u8]>,
    mut act: impl FnMut(&Received<'_>),
) {
    let Some(first) = readings.next() else { return };
    if first.len() == message.payload.len() {
        return act(message);
    }
    let mut reading = message.clone();
    reading.payload = first;
    act(&reading);
    for payload in readings {
        reading.payload = payload;
        act(&reading);
    }
}

impl Outlet {
    /// Takes a message apart, and sees to it that there is memory for its readings.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn prepare<'a>(&self, message: &Received<'a>) -> Result<Prepared<'a>, OutOfMemory> {
        let mut most = Draft::MAX_READINGS as usize;
        let mut envelope = None;
        match self {
            Self::Writer(writer, style) => {
                let mut overhead = 0;
                if Readings::may_be_several(message) {
                    overhead = style.overhead(message);
                    most = most.min(MAX_RENDERED / overhead.max(1));
                }
                let readings = Readings::of(message, most);
                let overhead = overhead.saturating_mul(readings.total());
                let (written, meanwhile) = style.most_bytes(message);
                writer.make_room(written.saturating_add(overhead), meanwhile)?;
                return Ok(Prepared { readings, envelope });
            }
            Self::Executor(_) => envelope = Some(Envelope::of(message)?),
            Self::Chart(_) => {}
        }
        let readings = Readings::of(message, most);
        Ok(Prepared { readings, envelope })
    }

    /// The first `wanted` readings of a message that was prepared. `now` is the Unix time of its arrival.
    pub fn put(
        &self,
        message: &Received<'_>,
        prepared: Prepared<'_>,
        wanted: usize,
        now: Duration,
    ) {
        let Prepared { readings, envelope } = prepared;
        match self {
            Self::Writer(writer, style) => {
                let mut remark = None;
                each(message, readings.take(wanted), |reading| {
                    let said = writer.write(|out| render(out, reading, style, now));
                    remark = remark.or(said);
                });
                if let Some(remark) = remark {
                    warn!("{}: {remark}", quoted(message.topic));
                }
            }
            Self::Executor(executor) => {
                if let Some(envelope) = envelope {
                    executor.put(envelope, readings.is_batch(), wanted);
                }
            }
            Self::Chart(plotter) => {
                each(message, readings.take(wanted), |reading| {
                    plotter.put(reading, now);
                });
            }
        }
    }

    /// The message that the last readings belong to is complete.
    pub fn end(&self, done: Done) {
        match self {
            Self::Writer(writer, _) => writer.end(done),
            Self::Executor(executor) => executor.end(done),
            Self::Chart(plotter) => {
                let mut finish = plotter
                    .finish
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                // It has told why if it cannot go on.
                let _ = finish.finish(done);
            }
        }
    }

    /// So many numbers are missing now.
    pub fn missing(&self, count: u64) {
        if let Self::Chart(plotter) = self {
            plotter.chart().missing(count);
        }
    }

    /// Opens a file anew.
    pub fn reopen(&self) {
        if let Self::Writer(writer, _) = self {
            writer.reopen();
        }
    }

    /// Waits until all has been dealt with, but not for ever; `false` if a write is stuck.
    pub fn close(&self, patience: Duration) -> bool {
        match self {
            Self::Writer(writer, _) => writer.close(patience),
            Self::Executor(executor) => {
                executor.close(patience);
                true
            }
            Self::Chart(_) => true,
        }
    }

    /// The process ends now.
    pub fn abandon(&self) {
        if let Self::Executor(executor) = self {
            executor.abandon();
        }
    }

    /// Commands that failed.
    pub fn failed(&self) -> Option<u64> {
        match self {
            Self::Writer(..) | Self::Chart(_) => None,
            Self::Executor(executor) => Some(executor.failed()),
        }
    }
}
