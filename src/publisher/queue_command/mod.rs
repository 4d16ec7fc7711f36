//! The command `publisher queue`: shows what is in a queue file, and repairs it.

pub mod args;

use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::Path;
use std::time::Duration;

use log::{error, warn};
use serde_json::json;

use crate::common::escape::one_line;
use crate::common::fault::{Exit, Fault, Kind};
use crate::common::mqtt::json::{JsonLine, Parts, rfc3339};
use crate::common::mqtt::message::Message;
use crate::common::mqtt::timestamp::Timestamp;
use crate::common::runtime::clock::{timestamp, unix_ms};
use crate::common::runtime::escaping_writer::EscapingWriter;
use crate::common::runtime::stdio;
use crate::publisher::store::maintenance::{QueueMaintenance, Retried, move_aside};
use crate::publisher::store::paging::{ListedMessage, Table};
use crate::publisher::store::reader::{QueueReader, QueueStatus};
use args::{Action, QueueArgs};

pub fn run(args: QueueArgs) -> anyhow::Result<Exit> {
    stdio::check_stdout("the result is printed there")?;
    let mut out = EscapingWriter::stdout(BufWriter::new(stdio::stdout()));
    let done = run_action(args.action, &mut out).and_then(|exit| {
        out.flush()?;
        Ok(exit)
    });
    match done {
        // A reader that has seen enough is no failure.
        Err(CommandError::Output(e)) if e.kind() == ErrorKind::BrokenPipe => Ok(Exit::Success),
        Err(CommandError::Output(e)) => {
            let message = format!("standard output cannot be written: {e}");
            Err(Fault::permanent(Exit::Io, message).into())
        }
        Err(CommandError::Fault(fault)) => Err(fault.into()),
        Ok(exit) => Ok(exit),
    }
}

enum CommandError {
    Output(io::Error),
    Fault(Fault),
}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<Fault> for CommandError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

fn run_action(action: Action, out: &mut impl Write) -> Result<Exit, CommandError> {
    let table = |dead| {
        if dead {
            Table::DeadLetters
        } else {
            Table::Queue
        }
    };
    match action {
        Action::Status { file, json } => {
            let status = QueueReader::open(&file.queue)?.status()?;
            let text = if json {
                status_json(&status)
            } else {
                status_text(&file.queue, &status)
            };
            writeln!(out, "{text}")?;
            Ok(Exit::Success)
        }
        Action::List {
            file,
            dead,
            json,
            limit,
        } => {
            let format = if json { item_json } else { item_text };
            let limit = limit.unwrap_or(usize::MAX);
            let mut reader = QueueReader::open(&file.queue)?;
            write_messages(&mut reader, table(dead), limit, format, out)
        }
        Action::Export { file, dead } => export(&file.queue, table(dead), out),
        Action::Retry { file, ids } => retry(&file.queue, &ids, out),
        Action::Purge { file, dead } => purge(&file.queue, table(dead), out),
    }
}

fn export(queue: &Path, table: Table, out: &mut impl Write) -> Result<Exit, CommandError> {
    let mut reader = QueueReader::open_damaged(queue)?;
    let done = write_messages(&mut reader, table, usize::MAX, item_export, out);
    let exit = match (&done, reader.damaged) {
        (Err(CommandError::Fault(_)) | Ok(_), Some(fault)) => fault.exit,
        (Err(CommandError::Fault(fault)), None) => fault.exit,
        _ => return done,
    };
    let file = queue.display();
    let saved = format!(
        "{file}: the queue is damaged: what could be read is written, the rest is lost; \
         `publisher queue purge --queue {file}` moves it aside"
    );
    Err(Fault::permanent(exit, saved).into())
}

fn retry(queue: &Path, ids: &[i64], out: &mut impl Write) -> Result<Exit, CommandError> {
    let Retried {
        moved,
        missing,
        damaged,
    } = QueueMaintenance::open(queue)?.retry(ids)?;
    let damaged = if ids.is_empty() { damaged } else { 0 };
    writeln!(out, "{moved} back in the queue")?;
    let file = queue.display();
    for id in &missing {
        error!("{file}: no undamaged dead letter has the number {id}");
    }
    if damaged > 0 {
        error!(
            "{file}: {damaged} dead letters are damaged and stay; `publisher queue purge --dead` \
             removes them"
        );
    }
    Ok(if missing.is_empty() && damaged == 0 {
        Exit::Success
    } else {
        Exit::Data
    })
}

fn purge(queue: &Path, table: Table, out: &mut impl Write) -> Result<Exit, CommandError> {
    let opened = match QueueMaintenance::open(queue) {
        Err(fault) if fault.kind == Kind::Damaged => None,
        opened => Some(opened?),
    };
    if let Some(mut maintenance) = opened
        && maintenance.is_sound()?
    {
        let removed = maintenance.purge(table)?;
        writeln!(out, "{removed} removed")?;
        return Ok(Exit::Success);
    }
    let stamp: String = time(unix_ms())
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take("20260131T080000".len())
        .collect();
    let aside = move_aside(queue, &stamp)?;
    writeln!(out, "{} is now {}", queue.display(), aside.display())?;
    Ok(Exit::Success)
}

fn write_messages(
    reader: &mut QueueReader,
    table: Table,
    limit: usize,
    format: fn(&ListedMessage) -> String,
    out: &mut impl Write,
) -> Result<Exit, CommandError> {
    let mut left = limit;
    let mut failed = None;
    let damaged = reader.for_each(table, |item| {
        if left == 0 {
            return false;
        }
        left -= 1;
        failed = writeln!(out, "{}", format(item)).err();
        failed.is_none()
    })?;
    if let Some(e) = failed {
        return Err(e.into());
    }
    if damaged > 0 {
        warn!(
            "{damaged} messages are damaged on disk (wrong checksum) and were left out; \
             `publisher queue purge --dead` removes them from the dead letters"
        );
        return Ok(Exit::Data);
    }
    Ok(Exit::Success)
}

fn time(ms: u64) -> String {
    rfc3339(Duration::from_millis(ms))
}

/// In whole seconds, as far as it is known.
fn age(accepted: &Timestamp) -> Duration {
    Duration::from_secs(timestamp().since(accepted).as_secs())
}

/// When a message expires by the clock as it is set now; Unix time in milliseconds.
fn expiry(message: &Message) -> Option<u64> {
    let now = timestamp();
    let lifetime = message.lifetime()?;
    let Some(age) = now.since_in_this_boot(&message.accepted()) else {
        return message.expires_ms;
    };
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let accepted = now.wall_ms.saturating_sub(ms(age));
    Some(accepted.saturating_add(ms(lifetime)))
}

fn status_text(queue: &Path, status: &QueueStatus) -> String {
    let oldest = status.oldest.map_or(String::new(), |accepted| {
        let age = humantime::format_duration(age(&accepted));
        format!(", the oldest since {} ({age})", time(accepted.wall_ms))
    });
    let (queue, waiting, bytes) = (queue.display(), status.waiting, status.bytes);
    let mut lines = vec![
        format!("{queue}: {waiting} waiting, {bytes} bytes{oldest}"),
        format!("dead letters: {}, {} bytes", status.dead, status.dead_bytes),
    ];
    for (reason, count) in &status.reasons {
        lines.push(format!("  {count} x {}", one_line(reason)));
    }
    lines.push(format!(
        "since the file was created: {} dropped, {} expired, {} dead",
        status.dropped, status.expired, status.died
    ));
    let who = if status.draining { "a" } else { "no" };
    lines.push(format!("{who} publisher drains it now"));
    lines.join("\n")
}

fn status_json(status: &QueueStatus) -> String {
    json!({
        "waiting": status.waiting,
        "bytes": status.bytes,
        "oldest": status.oldest.map(|at| time(at.wall_ms)),
        "oldest_age_s": status.oldest.map(|at| age(&at).as_secs()),
        "dead": status.dead,
        "dead_bytes": status.dead_bytes,
        "dead_reasons": status.reasons,
        "dropped_ever": status.dropped,
        "expired_ever": status.expired,
        "dead_ever": status.died,
        "draining": status.draining,
    })
    .to_string()
}

fn item_text(item: &ListedMessage) -> String {
    let message = &item.message;
    let draft = &message.draft;
    let seq = match message.seq {
        0 => "-".into(),
        seq => seq.to_string(),
    };
    let died = match &item.died {
        Some((_, reason)) => format!(" {}", one_line(reason)),
        None => String::new(),
    };
    let (id, taken) = (item.row, time(message.accepted_ms));
    let (topic, bytes) = (one_line(&draft.topic), draft.payload.len());
    let readings = match draft.readings {
        1 => String::new(),
        several => format!(" ({several} readings)"),
    };
    format!("{id} {seq} {taken} {topic} {bytes}{readings}{died}")
}

fn item_json(item: &ListedMessage) -> String {
    let message = &item.message;
    let numbered = message.seq > 0;
    let mut line = json!({
        "id": item.row,
        "stream": numbered.then_some(&*message.stream),
        "seq": numbered.then_some(message.seq),
        "taken": time(message.accepted_ms),
        "topic": &*message.draft.topic,
        "qos": message.draft.qos.level(),
        "retain": u8::from(message.draft.retain),
        "payloadlen": message.draft.payload.len(),
        "readings": message.draft.readings,
    });
    if let Some(ms) = expiry(message) {
        line["expires"] = time(ms).into();
    }
    if let Some((ms, reason)) = &item.died {
        line["died"] = time(*ms).into();
        line["reason"] = reason.as_str().into();
    } else {
        line["attempts"] = message.attempts.into();
    }
    line.to_string()
}

/// One line per reading, so that a batch can be published again like other lines.
fn item_export(item: &ListedMessage) -> String {
    let message = &item.message;
    let seq = (message.seq > 0).then(|| message.seq_property());
    let taken = Duration::from_millis(message.accepted_ms);
    let lines = message.draft.each_reading().map(|payload| {
        let parts = Parts {
            topic: &message.draft.topic,
            payload,
            qos: message.draft.qos.level(),
            retain: message.draft.retain,
            seq: seq.as_ref(),
        };
        JsonLine::new(parts, taken, false).text()
    });
    lines.collect::<Vec<_>>().join("\n")
}
