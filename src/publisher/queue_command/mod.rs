//! `publisher queue`: what is in a queue file, for people and for scripts.

pub mod args;

use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::Path;
use std::time::Duration;

use log::{error, warn};
use serde_json::json;

use crate::common::escape::one_line;
use crate::common::fault::{Exit, Fault, Kind};
use crate::common::mqtt::age::Timestamp;
use crate::common::mqtt::json::{JsonLine, Parts, rfc3339};
use crate::common::mqtt::message::Message;
use crate::common::runtime::clock::{timestamp, unix_ms};
use crate::common::runtime::escaping_writer::EscapingWriter;
use crate::common::runtime::stdio;
use crate::publisher::store::admin::{Admin, Retried, move_aside};
use crate::publisher::store::look::Look;
use crate::publisher::store::pages::{Item, Which};
use crate::publisher::store::status::Status;
use args::{Action, QueueArgs};

/// Carries out one command.
///
/// # Errors
///
/// A fault that names the file, the cause and the remedy.
pub fn run(args: QueueArgs) -> anyhow::Result<Exit> {
    stdio::check_stdout("the result is printed there")?;
    let mut out = EscapingWriter::stdout(BufWriter::new(stdio::stdout()));
    let done = carry_out(args.action, &mut out).and_then(|exit| {
        out.flush().map_err(Stop::Output)?;
        Ok(exit)
    });
    match done {
        // A reader that has seen enough is no failure.
        Err(Stop::Output(e)) if e.kind() == ErrorKind::BrokenPipe => Ok(Exit::Success),
        Err(Stop::Output(e)) => Err(Fault::permanent(
            Exit::Io,
            format!("standard output cannot be written: {e}"),
        )
        .into()),
        Err(Stop::Fault(fault)) => Err(fault.into()),
        Ok(exit) => Ok(exit),
    }
}

/// Why a command ends early.
enum Stop {
    Output(io::Error),
    Fault(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Stop::Fault(fault)
    }
}

fn carry_out(action: Action, out: &mut impl Write) -> Result<Exit, Stop> {
    let which = |dead| if dead { Which::Dead } else { Which::Waiting };
    match action {
        Action::Status { file, json } => {
            let status = Look::open(&file.queue)?.status()?;
            let text = if json {
                status_json(&status)
            } else {
                status_text(&file.queue, &status)
            };
            writeln!(out, "{text}").map_err(Stop::Output)?;
            Ok(Exit::Success)
        }
        Action::List {
            file,
            dead,
            json,
            limit,
        } => {
            let line = if json { item_json } else { item_text };
            let limit = limit.unwrap_or(usize::MAX);
            each(&mut Look::open(&file.queue)?, which(dead), limit, line, out)
        }
        Action::Export { file, dead } => {
            let mut look = Look::open_damaged(&file.queue)?;
            let done = each(&mut look, which(dead), usize::MAX, export_lines, out);
            let exit = match (&done, look.damaged) {
                (Err(Stop::Fault(_)) | Ok(_), Some(fault)) => fault.exit,
                (Err(Stop::Fault(fault)), None) => fault.exit,
                _ => return done,
            };
            let file = file.queue.display();
            let saved = format!(
                "{file}: the queue is damaged: what could be read is written, the rest is lost; \
                 `publisher queue purge --queue {file}` moves it aside"
            );
            Err(Fault::permanent(exit, saved).into())
        }
        Action::Retry { file, ids } => {
            let Retried {
                moved,
                missing,
                damaged,
            } = Admin::open(&file.queue)?.retry(&ids)?;
            writeln!(out, "{moved} back in the queue").map_err(Stop::Output)?;
            for id in &missing {
                error!(
                    "{}: no whole dead letter has the number {id}",
                    file.queue.display()
                );
            }
            if damaged > 0 && ids.is_empty() {
                error!(
                    "{}: {damaged} dead letters are damaged and stay; `publisher queue purge \
                     --dead` removes them",
                    file.queue.display()
                );
            }
            Ok(if missing.is_empty() && (damaged == 0 || !ids.is_empty()) {
                Exit::Success
            } else {
                Exit::Data
            })
        }
        Action::Purge { file, dead } => purge(&file.queue, which(dead), out),
    }
}

fn purge(queue: &Path, which: Which, out: &mut impl Write) -> Result<Exit, Stop> {
    let admin = match Admin::open(queue) {
        Err(fault) if fault.kind == Kind::Damaged => None,
        opened => Some(opened?),
    };
    let sound = match admin {
        Some(admin) => admin.is_sound()?.then_some(admin),
        None => None,
    };
    let Some(mut admin) = sound else {
        let stamp: String = time(unix_ms())
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .take("20260131T080000".len())
            .collect();
        let aside = move_aside(queue, &stamp)?;
        writeln!(out, "{} is now {}", queue.display(), aside.display()).map_err(Stop::Output)?;
        return Ok(Exit::Success);
    };
    let removed = admin.purge(which)?;
    writeln!(out, "{removed} removed").map_err(Stop::Output)?;
    Ok(Exit::Success)
}

/// Writes what `line` makes of each message.
fn each(
    look: &mut Look,
    which: Which,
    limit: usize,
    line: fn(&Item) -> String,
    out: &mut impl Write,
) -> Result<Exit, Stop> {
    let mut left = limit;
    let mut failed = None;
    let damaged = look.each(which, |item| {
        if left == 0 {
            return false;
        }
        left -= 1;
        failed = writeln!(out, "{}", line(item)).err();
        failed.is_none()
    })?;
    if let Some(e) = failed {
        return Err(Stop::Output(e));
    }
    if damaged > 0 {
        warn!(
            "{damaged} damaged on disk and left out: their checksums do not fit; nothing can be \
             made of them but to remove them with `publisher queue purge --dead`"
        );
        return Ok(Exit::Data);
    }
    Ok(Exit::Success)
}

fn time(ms: u64) -> String {
    rfc3339(Duration::from_millis(ms))
}

/// How long ago, in whole seconds, as far as that is known.
fn age(taken: &Timestamp) -> Duration {
    Duration::from_secs(timestamp().since(taken).as_secs())
}

/// When a message expires, as the clock shows it now; Unix time in milliseconds.
fn expiry(message: &Message) -> Option<u64> {
    let now = timestamp();
    let lifetime = message.lifetime()?;
    let Some(age) = now.since_in_this_boot(&message.accepted()) else {
        return message.expires_ms;
    };
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let taken = now.wall_ms.saturating_sub(ms(age));
    Some(taken.saturating_add(ms(lifetime)))
}

fn status_text(queue: &Path, status: &Status) -> String {
    let mut lines = Vec::new();
    let oldest = status.oldest.map_or(String::new(), |taken| {
        let age = humantime::format_duration(age(&taken));
        format!(", the oldest since {} ({age})", time(taken.wall_ms))
    });
    let Status { waiting, bytes, .. } = status;
    lines.push(format!(
        "{}: {waiting} waiting, {bytes} bytes{oldest}",
        queue.display()
    ));
    lines.push(format!(
        "dead letters: {}, {} bytes",
        status.dead, status.dead_bytes
    ));
    for (reason, count) in &status.reasons {
        lines.push(format!("  {count} x {}", one_line(reason)));
    }
    lines.push(format!(
        "ever: {} dropped, {} expired, {} dead",
        status.dropped, status.expired, status.died
    ));
    lines.push(
        if status.draining {
            "a publisher drains it now"
        } else {
            "no publisher drains it now"
        }
        .into(),
    );
    lines.join("\n")
}

fn status_json(status: &Status) -> String {
    json!({
        "waiting": status.waiting,
        "bytes": status.bytes,
        "oldest": status.oldest.map(|taken| time(taken.wall_ms)),
        "oldest_age_s": status.oldest.map(|taken| age(&taken).as_secs()),
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

fn item_text(item: &Item) -> String {
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
    let (id, taken) = (item.id, time(message.accepted_ms));
    let (topic, bytes) = (one_line(&draft.topic), draft.payload.len());
    let readings = match draft.readings {
        1 => String::new(),
        several => format!(" ({several} readings)"),
    };
    format!("{id} {seq} {taken} {topic} {bytes}{readings}{died}")
}

fn item_json(item: &Item) -> String {
    let message = &item.message;
    let numbered = message.seq > 0;
    let mut line = json!({
        "id": item.id,
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

/// A line for each reading: so a batch can be published again as any other lines can.
fn export_lines(item: &Item) -> String {
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
