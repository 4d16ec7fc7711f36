//! The command `publisher queue`: shows what is in a queue file, and repairs it.

pub mod args;

use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::Path;
use std::time::Duration;

use log::{error, warn};
use serde_json::{Value, json};

use crate::common::escape::one_line;
use crate::common::fault::{Exit, Fault, FaultCause};
use crate::common::mqtt::message_json::{JsonFields, MessageJson, rfc3339};
use crate::common::mqtt::outgoing_message::OutgoingMessage;
use crate::common::mqtt::properties_json::PropertiesJson;
use crate::common::mqtt::publish::PublishProperties;
use crate::common::mqtt::two_clock_time::{EARLIEST_MS, TwoClockTime};
use crate::common::runtime::clock::{two_clock_now, unix_ms};
use crate::common::runtime::escaping_writer::EscapingWriter;
use crate::common::runtime::stdio;
use crate::publisher::store::paging::{ListedMessage, Table};
use crate::publisher::store::queue_maintenance::{QueueFileEditor, move_aside};
use crate::publisher::store::reader::{QueueReader, QueueStatus};
use crate::publisher::store::totals::Totals;
use args::{Action, QueueArgs};

pub fn run(args: QueueArgs) -> anyhow::Result<Exit> {
    stdio::check_stdout("the result is printed there")?;
    let mut out = EscapingWriter::stdout(BufWriter::new(stdio::stdout()));
    let done = run_action(args.action, &mut out).and_then(|exit| Ok(out.flush().map(|()| exit)?));
    done.or_else(|error| match error.downcast_ref::<io::Error>() {
        // A reader that has seen enough is no failure.
        Some(e) if e.kind() == ErrorKind::BrokenPipe => Ok(Exit::Success),
        Some(e) => {
            let message = format!("standard output cannot be written: {e}");
            Err(Fault::permanent(Exit::Io, message).into())
        }
        None => Err(error),
    })
}

/// An [`io::Error`] is of the output, a [`Fault`] of the queue.
fn run_action(action: Action, out: &mut impl Write) -> anyhow::Result<Exit> {
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

fn export(queue: &Path, table: Table, out: &mut impl Write) -> anyhow::Result<Exit> {
    let mut reader = QueueReader::open_even_damaged(queue)?;
    let done = write_messages(&mut reader, table, usize::MAX, item_export, out);
    let failed = done.as_ref().err().map(|e| e.downcast_ref::<Fault>());
    let exit = match (failed, reader.damaged) {
        (Some(Some(_)) | None, Some(fault)) => fault.exit,
        (Some(Some(fault)), None) => fault.exit,
        _ => return done,
    };
    let file = queue.display();
    let saved = format!(
        "{file}: the queue is damaged: what could be read is written, the rest is lost; \
         `publisher queue purge --queue {file}` moves it aside"
    );
    Err(Fault::permanent(exit, saved).into())
}

fn retry(queue: &Path, ids: &[i64], out: &mut impl Write) -> anyhow::Result<Exit> {
    let retried = QueueFileEditor::open_and_migrate(queue)?.requeue_dead(ids)?;
    let damaged = if ids.is_empty() { retried.damaged } else { 0 };
    writeln!(out, "{} back in the queue", retried.moved)?;
    let (file, missing) = (queue.display(), retried.missing);
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

fn purge(queue: &Path, table: Table, out: &mut impl Write) -> anyhow::Result<Exit> {
    let opened = match QueueFileEditor::open_and_migrate(queue) {
        Err(fault) if fault.kind == FaultCause::Damaged => None,
        opened => Some(opened?),
    };
    if let Some(mut maintenance) = opened
        && maintenance.is_sound()?
    {
        let removed = maintenance.purge(table)?;
        writeln!(out, "{removed} removed")?;
        return Ok(Exit::Success);
    }
    let now = time(unix_ms());
    let stamp = now.chars().filter(char::is_ascii_alphanumeric);
    let stamp: String = stamp.take("20260131T080000".len()).collect();
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
) -> anyhow::Result<Exit> {
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
    failed.map_or(Ok(()), Err)?;
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

fn elapsed_since(accepted: &TwoClockTime) -> Duration {
    Duration::from_secs(two_clock_now().since(accepted).as_secs())
}

/// When a message expires by the clock as it is set now; Unix time in milliseconds.
fn expiry_unix_ms(message: &OutgoingMessage) -> Option<u64> {
    let now = two_clock_now();
    let lifetime = message.lifetime()?;
    let Some(age) = now.since_in_this_boot(&message.accepted_at()) else {
        return message.expires_ms;
    };
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let accepted = now.wall_ms.saturating_sub(ms(age));
    Some(accepted.saturating_add(ms(lifetime)))
}

fn status_text(queue: &Path, status: &QueueStatus) -> String {
    let oldest = status.oldest.map_or(String::new(), |accepted| {
        let age = humantime::format_duration(elapsed_since(&accepted));
        format!(", the oldest since {} ({age})", time(accepted.wall_ms))
    });
    let (queue, counters) = (queue.display(), &status.counters);
    let (waiting, bytes) = (counters.waiting, counters.bytes);
    let (dropped, expired, died) = (counters.dropped, counters.expired, counters.died);
    let (dead, dead_bytes) = (counters.dead, counters.dead_bytes);
    let mut lines = vec![
        format!("{queue}: {waiting} waiting, {bytes} bytes{oldest}"),
        format!("dead letters: {dead}, {dead_bytes} bytes"),
    ];
    let reasons = status.reasons.iter();
    lines.extend(reasons.map(|(reason, count)| format!("  {count} x {}", one_line(reason))));
    lines.push(format!(
        "since the file was created: {dropped} dropped, {expired} expired, {died} dead"
    ));
    lines.extend(status.totals.as_ref().map(totals_text));
    let drainer = match (status.draining, status.connected) {
        (false, _) => "no publisher drains it now",
        (true, None) => "a publisher drains it now",
        (true, Some(true)) => "a publisher drains it now, and is connected",
        (true, Some(false)) => "a publisher drains it now, and is not connected",
    };
    lines.push(drainer.into());
    lines.join("\n")
}

/// None if the wall clock had not been set.
fn counted_since(totals: &Totals) -> Option<String> {
    (totals.since_ms >= EARLIEST_MS).then(|| time(totals.since_ms))
}

fn totals_text(totals: &Totals) -> String {
    let since = counted_since(totals).unwrap_or_else(|| "an unknown time".into());
    let (accepted, accepted_bytes) = (totals.accepted, totals.accepted_bytes);
    let (delivered, delivered_bytes) = (totals.delivered, totals.delivered_bytes);
    let (dropped, expired) = (totals.dropped, totals.expired);
    let (purged, retried) = (totals.purged, totals.retried);
    format!(
        "written to the file since {since}: {accepted} messages, {accepted_bytes} bytes, of which \
         {delivered} delivered, {delivered_bytes} bytes, {dropped} dropped, {expired} expired, \
         {purged} purged; {retried} dead letters retried"
    )
}

fn totals_json(totals: &Totals) -> Value {
    json!({
        "since": counted_since(totals),
        "accepted": totals.accepted,
        "accepted_bytes": totals.accepted_bytes,
        "delivered": totals.delivered,
        "delivered_bytes": totals.delivered_bytes,
        "dropped": totals.dropped,
        "expired": totals.expired,
        "purged": totals.purged,
        "retried": totals.retried,
    })
}

fn status_json(status: &QueueStatus) -> String {
    let counters = &status.counters;
    json!({
        "waiting": counters.waiting,
        "bytes": counters.bytes,
        "oldest": status.oldest.map(|at| time(at.wall_ms)),
        "oldest_age_s": status.oldest.map(|at| elapsed_since(&at).as_secs()),
        "dead": counters.dead,
        "dead_bytes": counters.dead_bytes,
        "dead_reasons": status.reasons,
        "dropped_ever": counters.dropped,
        "expired_ever": counters.expired,
        "dead_ever": counters.died,
        "totals": status.totals.as_ref().map(totals_json),
        "draining": status.draining,
        "connected": status.connected,
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
    let reason = item.died.as_ref().map(|(_, reason)| one_line(reason));
    let died = reason.map_or(String::new(), |reason| format!(" {reason}"));
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
    let given = message.draft.properties.as_ref();
    let given = given.and_then(|given| PropertiesJson::new(given.fields(), false));
    if let Some(properties) = given {
        line["properties"] = serde_json::to_value(properties).unwrap_or_default();
    }
    if let Some(ms) = expiry_unix_ms(message) {
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

/// With the rest of the time until the message expires, by the clock as it is set now.
fn properties_json(message: &OutgoingMessage, is_dead: bool) -> Option<PropertiesJson<'_>> {
    let given = message.draft.properties.as_ref();
    let mut fields = given.map_or_else(PublishProperties::default, |given| given.fields());
    let expiry_ms = expiry_unix_ms(message).filter(|_| !is_dead);
    fields.message_expiry = expiry_ms.map(|ms| {
        let seconds = ms.saturating_sub(unix_ms()).div_ceil(1_000);
        u32::try_from(seconds).unwrap_or(u32::MAX)
    });
    PropertiesJson::new(fields, false)
}

fn item_export(item: &ListedMessage) -> String {
    let message = &item.message;
    let seq = (message.seq > 0).then(|| message.to_seq_property());
    let taken = Duration::from_millis(message.accepted_ms);
    let lines = message.draft.reading_payloads().map(|payload| {
        let parts = JsonFields {
            properties: properties_json(message, item.died.is_some()),
            topic: &message.draft.topic,
            payload,
            qos: message.draft.qos.level(),
            retain: message.draft.retain,
            seq: seq.as_ref(),
        };
        MessageJson::new(parts, taken, false).to_json()
    });
    lines.collect::<Vec<_>>().join("\n")
}
