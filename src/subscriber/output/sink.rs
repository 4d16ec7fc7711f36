//! The three kinds of output: readings are written, given to a command, or drawn.

use std::sync::Arc;
use std::time::Duration;

use log::log;
use parking_lot::Mutex;

use super::batch_readings::{BatchReadings, has_batch_type};
use super::completion::{Acknowledger, FinishedMessages};
use super::exec_job::ExecMessage;
use super::executor::Executor;
use super::writer::Writer;
use crate::common::escape::quoted;
use crate::common::mqtt::draft::Draft;
use crate::common::mqtt::publish::Received;
use crate::common::runtime::clock::instant_now;
use crate::common::runtime::logging::level_of;
use crate::common::runtime::repeat_filter::RepeatFilter;
use crate::common::transport::bridge::OutOfMemory;
use crate::subscriber::display::display_data::{DisplayData, DisplayedReading};
use crate::subscriber::render::{RenderOptions, render};

pub enum OutputSink {
    Writer(Writer, RenderOptions, Mutex<RepeatFilter>),
    Executor(Executor),
    Display(DisplaySink),
}

/// The most bytes that the readings of one message may take when they are written, beside their
/// payloads. A batch that would take more counts as one reading.
const MAX_RENDERED: usize = 16 << 20;

pub struct SplitMessage<'a> {
    pub readings: BatchReadings<'a>,
    exec_message: Option<ExecMessage>,
}

pub struct DisplaySink {
    pub data: Arc<Mutex<DisplayData>>,
    pub acknowledger: Mutex<Acknowledger>,
}

fn for_each_reading<'a>(
    message: &Received<'a>,
    readings: BatchReadings<'a>,
    count: usize,
    mut act: impl FnMut(&Received<'_>),
) {
    if !readings.is_batch && count > 0 {
        return act(message);
    }
    let mut reading = message.clone();
    for payload in readings.payloads().take(count) {
        reading.payload = payload;
        act(&reading);
    }
}

/// As [`RenderOptions::memory_bounds`], for all readings of a message; `overhead` is that of each in a batch, else 0.
fn memory_bounds(
    style: &RenderOptions,
    message: &Received<'_>,
    readings: &BatchReadings<'_>,
    overhead: usize,
) -> (usize, usize) {
    let overhead = overhead.saturating_mul(readings.count);
    let (written, meanwhile) = style.memory_bounds(message, readings.clone().payloads());
    (written.saturating_add(overhead), meanwhile)
}

impl OutputSink {
    pub fn reserve_message<'a>(
        &self,
        message: &Received<'a>,
    ) -> Result<SplitMessage<'a>, OutOfMemory> {
        let mut max = Draft::MAX_READINGS as usize;
        let mut exec_message = None;
        let mut overhead = 0;
        match self {
            Self::Writer(_, style, _) if has_batch_type(message) => {
                overhead = style.overhead(message)?;
                max = max.min(MAX_RENDERED / overhead.max(1));
            }
            Self::Executor(_) => exec_message = Some(ExecMessage::of(message)?),
            Self::Writer(..) | Self::Display(_) => {}
        }
        let readings = BatchReadings::of(message, max);
        if let Self::Writer(writer, style, _) = self {
            let (written, meanwhile) = memory_bounds(style, message, &readings, overhead);
            writer.reserve_memory(written, meanwhile)?;
        }
        Ok(SplitMessage {
            readings,
            exec_message,
        })
    }

    /// Takes the first `count` readings of a message that arrived at the Unix time `now`.
    pub fn push_message(
        &self,
        message: &Received<'_>,
        prepared: SplitMessage<'_>,
        count: usize,
        now: Duration,
    ) {
        let readings = prepared.readings;
        match self {
            Self::Writer(writer, style, warnings) => {
                let mut warning = None;
                for_each_reading(message, readings, count, |reading| {
                    let result = writer.write(|out| render(out, reading, style, now));
                    warning = warning.or(result);
                });
                if let Some(warning) = warning {
                    let line = format!("{}: {warning}", quoted(message.topic));
                    let repetition = warnings.lock().filter(&line, instant_now());
                    log!(level_of(repetition), "{line}{repetition}");
                }
            }
            Self::Executor(executor) => {
                if let Some(message) = prepared.exec_message {
                    executor.push(message, readings.is_batch, count);
                }
            }
            Self::Display(display) => for_each_reading(message, readings, count, |reading| {
                let seq = reading.seq.as_ref();
                let reading = DisplayedReading {
                    topic: reading.topic,
                    payload: reading.payload,
                    taken_at: seq.map(|seq| Duration::from_millis(seq.accepted_ms)),
                    arrived_at: now,
                };
                display.data.lock().add(&reading, instant_now());
            }),
        }
    }

    /// Ends the message pushed last; `completion` is due once its readings are done.
    pub fn push_completion(&self, completion: FinishedMessages) {
        match self {
            Self::Writer(writer, ..) => writer.finish_message(completion),
            Self::Executor(executor) => executor.close_message(completion),
            Self::Display(display) => {
                // On failure it has notified the event loop.
                let _ = display
                    .acknowledger
                    .lock()
                    .record_and_acknowledge(completion);
            }
        }
    }

    pub fn set_displayed_missing_count(&self, count: u64) {
        if let Self::Display(display) = self {
            display.data.lock().set_missing_count(count);
        }
    }

    pub fn reopen(&self) {
        if let Self::Writer(writer, ..) = self {
            writer.reopen();
        }
    }

    /// Waits until all readings are done; `false` if a write blocks beyond `grace_period`.
    pub fn close(&self, grace_period: Duration) -> bool {
        match self {
            Self::Writer(writer, ..) => writer.close(grace_period),
            Self::Executor(executor) => {
                executor.close(grace_period);
                true
            }
            Self::Display(_) => true,
        }
    }

    pub fn abort_commands(&self) {
        if let Self::Executor(executor) = self {
            executor.abort();
        }
    }

    pub fn failed_commands(&self) -> Option<u64> {
        match self {
            Self::Executor(executor) => Some(executor.failed_commands()),
            Self::Writer(..) | Self::Display(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::mqtt::publish::PublishProperties;
    use crate::subscriber::render::Format;
    use crate::subscriber::render::format_template::Template;
    use crate::subscriber::render::tests::received;

    const LINES: usize = 100;

    #[test]
    fn no_batch_takes_more_memory_than_was_reserved_for_it() {
        let custom = |format| Format::Custom(Template::parse(format).unwrap());
        let formats = [
            Format::Payload,
            Format::Verbose,
            Format::Json,
            Format::PrettyJson,
            Format::Csv,
            custom("%l %t %p"),
            custom("%j %x"),
            custom("%J"),
        ];
        let texts = [
            &b""[..],
            b"7",
            b"\x01",
            b"\xff",
            b"\"",
            b",",
            b"\x7f",
            b"\\",
            "\u{9b}\u{e0041}".as_bytes(),
        ];
        let lines: Vec<_> = [1, 4, 16]
            .into_iter()
            .flat_map(|count| texts.map(|text| text.repeat(count)))
            .collect();
        for format in &formats {
            for (line, escape) in lines.iter().flat_map(|line| [(line, false), (line, true)]) {
                // One line is no text, so the whole is none.
                for last in [&b"7"[..], b"\xff"] {
                    let mut payload = [line, &b"\n"[..]].concat().repeat(LINES);
                    payload.extend(last);
                    let mut message = received("site/a", &payload);
                    message.properties = Some(PublishProperties {
                        content_type: Some(Draft::BATCH_TYPE),
                        ..PublishProperties::default()
                    });
                    let style = RenderOptions {
                        format: format.clone(),
                        newline: true,
                        escape,
                    };
                    let readings = BatchReadings::of(&message, usize::MAX);
                    assert!(readings.count > LINES);
                    let overhead = style.overhead(&message).unwrap();
                    let (most, _) = memory_bounds(&style, &message, &readings, overhead);
                    let mut out = Vec::new();
                    let count = readings.count;
                    for_each_reading(&message, readings, count, |reading| {
                        render(&mut out, reading, &style, Duration::from_secs(1));
                    });
                    let line = line.escape_ascii();
                    assert!(out.len() <= most, "{}: {style:?} {line}", out.len() - most);
                }
            }
        }
    }
}
