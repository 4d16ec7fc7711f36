//! What one transaction does to the file.

use std::sync::Arc;
use std::time::SystemTime;

use rusqlite::{
    Connection, ErrorCode, OptionalExtension as _, Transaction, TransactionBehavior, params,
};

use super::rows::{self, int, uint};
use crate::common::event_loop::wall_clock;
use crate::common::message::Message;
use crate::common::queue::order::{Batch, Counts, Dead, End, Opened, RowId};

/// How long it is kept how a row with an owner ended, in milliseconds. A delivery goes
/// without saying after a while; the rest has to be told.
const KEEP_DELIVERED_MS: u64 = 60_000;
const KEEP_OTHERS_MS: u64 = 24 * 3_600_000;

/// Unix time in milliseconds.
pub(super) fn now_ms() -> u64 {
    let since = wall_clock().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Tries again as long as another process is in the middle of its transaction.
pub(super) fn patiently<T>(
    mut attempt: impl FnMut() -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    loop {
        match attempt() {
            Err(e) if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {}
            done => return done,
        }
    }
}

/// What a transaction changes in the books.
#[derive(Default)]
struct Sum {
    waiting: i64,
    bytes: i64,
    dead: i64,
    dead_bytes: i64,
    dropped: i64,
    expired: i64,
}

/// Writes a batch; gives the rows of its inserts. `owner` is set on them if they belong to a
/// process that does not drain.
pub(super) fn commit(
    connection: &mut Connection,
    batch: &Batch,
    me: &str,
    drains: bool,
) -> rusqlite::Result<(Vec<RowId>, Counts)> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut sum = Sum {
        dropped: int(batch.dropped),
        expired: int(batch.expired),
        ..Sum::default()
    };
    number(&transaction, batch)?;
    for (end, rows) in ranges(&batch.ends) {
        remove(&transaction, rows, end, me, &mut sum)?;
    }
    if batch.evict > 0 {
        evict(&transaction, batch.evict, me, &mut sum)?;
    }
    for dead in &batch.dead {
        bury(&transaction, dead, me, &mut sum)?;
    }
    for (row, attempts) in &batch.attempts {
        transaction
            .prepare_cached("UPDATE queue SET attempts = ?2 WHERE id = ?1")?
            .execute(params![row, attempts])?;
    }
    let mut ids = Vec::with_capacity(batch.inserts.len());
    {
        let mut insert = transaction.prepare_cached(rows::INSERT)?;
        for message in &batch.inserts {
            // What has no number is watched by its owner, whoever sends it.
            let owner = (!drains).then_some(me);
            ids.push(rows::insert(&mut insert, message, owner)?);
            sum.waiting += 1;
            sum.bytes += size(message.draft.topic.len(), message.draft.payload.len());
        }
    }
    let counts = book(&transaction, &sum)?;
    transaction.commit()?;
    Ok((ids, counts))
}

fn size(topic: usize, payload: usize) -> i64 {
    i64::try_from(topic + payload).unwrap_or(i64::MAX)
}

fn number(transaction: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    for (row, message) in &batch.numbers {
        transaction
            .prepare_cached("UPDATE queue SET stream = ?2, seq = ?3, crc = ?4 WHERE id = ?1")?
            .execute(params![
                row,
                &*message.stream,
                int(message.seq),
                rows::crc(message)
            ])?;
    }
    Ok(())
}

/// Rows that follow one another and have ended alike, as one range.
fn ranges(ends: &[(RowId, End)]) -> Vec<(&End, (RowId, RowId))> {
    let mut sorted: Vec<_> = ends.iter().collect();
    sorted.sort_by_key(|(row, _)| *row);
    let mut ranges: Vec<(&End, (RowId, RowId))> = Vec::new();
    for (row, end) in sorted {
        match ranges.last_mut() {
            Some((same, (_, last))) if *same == end && *last + 1 == *row => *last = *row,
            _ => ranges.push((end, (*row, *row))),
        }
    }
    ranges
}

/// Deletes rows; those of other processes that wait for them get a note.
fn remove(
    transaction: &Transaction<'_>,
    (first, last): (RowId, RowId),
    end: &End,
    me: &str,
    sum: &mut Sum,
) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(
        "DELETE FROM queue WHERE id BETWEEN ?1 AND ?2
         RETURNING id, owner, seq, length(CAST(topic AS BLOB)) + length(payload)",
    )?;
    let mut removed = statement.query([first, last])?;
    let mut told: Vec<(RowId, String, i64)> = Vec::new();
    while let Some(row) = removed.next()? {
        sum.waiting -= 1;
        sum.bytes -= row.get::<_, i64>(3)?;
        match end {
            End::Dropped => sum.dropped += 1,
            End::Expired => sum.expired += 1,
            End::Delivered | End::Dead(_) => {}
        }
        let owner: Option<String> = row.get(1)?;
        if let Some(owner) = owner.filter(|owner| owner != me) {
            told.push((
                row.get(0)?,
                owner,
                row.get::<_, Option<i64>>(2)?.unwrap_or(0),
            ));
        }
    }
    for (row, owner, seq) in told {
        let (kind, reason) = match end {
            End::Delivered => (0, None),
            End::Dropped => (1, None),
            End::Expired => (2, None),
            End::Dead(reason) => (3, Some(reason)),
        };
        transaction
            .prepare_cached("INSERT OR REPLACE INTO fate VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
            .execute(params![row, owner, seq, kind, reason, int(now_ms())])?;
    }
    Ok(())
}

/// Drops the oldest rows.
fn evict(
    transaction: &Transaction<'_>,
    count: u64,
    me: &str,
    sum: &mut Sum,
) -> rusqlite::Result<()> {
    let oldest: Vec<(RowId, End)> = transaction
        .prepare_cached("SELECT id FROM queue ORDER BY id LIMIT ?1")?
        .query_map([int(count)], |row| Ok((row.get(0)?, End::Dropped)))?
        .collect::<Result<_, _>>()?;
    for (end, rows) in ranges(&oldest) {
        remove(transaction, rows, end, me, sum)?;
    }
    Ok(())
}

/// Moves a message to the dead letters.
fn bury(
    transaction: &Transaction<'_>,
    dead: &Dead,
    me: &str,
    sum: &mut Sum,
) -> rusqlite::Result<()> {
    let Dead {
        row,
        message,
        reason,
    } = dead;
    let draft = &message.draft;
    // It has died already: how long it might have waited is of no interest any more.
    let crc = rows::crc(&Message {
        expires_ms: None,
        ..Message::clone(message)
    });
    transaction
        .prepare_cached(
            "INSERT INTO dead (stream, seq, accepted_ms, topic, payload, qos, retain, crc,
             died_ms, reason) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            &*message.stream,
            int(message.seq),
            int(message.accepted_ms),
            &*draft.topic,
            draft.payload,
            draft.qos.level(),
            draft.retain,
            crc,
            int(now_ms()),
            reason
        ])?;
    sum.dead += 1;
    sum.dead_bytes += size(draft.topic.len(), draft.payload.len());
    if let Some(row) = row {
        let end = End::Dead(reason.clone());
        remove(transaction, (*row, *row), &end, me, sum)?;
    }
    Ok(())
}

/// Moves rows that cannot be believed to the dead letters, as they are.
pub(super) fn bury_damaged(
    connection: &mut Connection,
    damaged: &[RowId],
    me: &str,
) -> rusqlite::Result<Counts> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut sum = Sum::default();
    let reason = "damaged on disk: its checksum does not fit";
    for row in damaged {
        let bytes: Option<i64> = transaction
            .query_row(
                "INSERT INTO dead (stream, seq, accepted_ms, topic, payload, qos, retain, crc,
                 died_ms, reason)
                 SELECT stream, seq, accepted_ms, topic, payload, qos, retain, crc, ?2, ?3
                 FROM queue WHERE id = ?1
                 RETURNING length(CAST(topic AS BLOB)) + length(payload)",
                params![row, int(now_ms()), reason],
                |row| row.get(0),
            )
            .optional()?;
        if let Some(bytes) = bytes {
            sum.dead += 1;
            sum.dead_bytes += bytes;
        }
        remove(
            &transaction,
            (*row, *row),
            &End::Dead(reason.into()),
            me,
            &mut sum,
        )?;
    }
    let counts = book(&transaction, &sum)?;
    transaction.commit()?;
    Ok(counts)
}

fn book(transaction: &Transaction<'_>, sum: &Sum) -> rusqlite::Result<Counts> {
    transaction
        .prepare_cached(
            "UPDATE books SET waiting = waiting + ?1, bytes = bytes + ?2, dead = dead + ?3,
             dead_bytes = dead_bytes + ?4, dropped = dropped + ?5, expired = expired + ?6,
             died = died + ?3",
        )?
        .execute(params![
            sum.waiting,
            sum.bytes,
            sum.dead,
            sum.dead_bytes,
            sum.dropped,
            sum.expired
        ])?;
    counts(transaction)
}

/// What is in the file.
pub(super) fn counts(connection: &Connection) -> rusqlite::Result<Counts> {
    connection
        .prepare_cached("SELECT waiting, bytes, dead_bytes FROM books")?
        .query_row([], |row| {
            Ok(Counts {
                rows: uint(row.get(0)?),
                bytes: uint(row.get(1)?),
                dead_bytes: uint(row.get(2)?),
            })
        })
}

/// A process begins to drain. If the one before did not end in order, it may have given
/// numbers away that are written nowhere: a new stream begins.
pub(super) fn begin(connection: &mut Connection, stream: &str) -> rusqlite::Result<Opened> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute(
        "UPDATE books SET stream = ?1, next_seq = 1 WHERE running = 1",
        [stream],
    )?;
    transaction.execute("UPDATE books SET running = 1", [])?;
    let now = now_ms();
    transaction.execute(
        "DELETE FROM fate WHERE at_ms < CASE kind WHEN 0 THEN ?1 ELSE ?2 END OR at_ms > ?3",
        [
            int(now.saturating_sub(KEEP_DELIVERED_MS)),
            int(now.saturating_sub(KEEP_OTHERS_MS)),
            int(now.saturating_add(KEEP_OTHERS_MS)),
        ],
    )?;
    let opened = look(&transaction, true)?;
    transaction.commit()?;
    Ok(opened)
}

/// What a process that does not drain needs to know.
pub(super) fn look(connection: &Connection, drains: bool) -> rusqlite::Result<Opened> {
    let (stream, next_seq): (String, i64) =
        connection.query_row("SELECT stream, next_seq FROM books", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    Ok(Opened {
        drains,
        stream: Arc::from(stream),
        next_seq: uint(next_seq).max(1),
        counts: counts(connection)?,
    })
}

/// Gives free pages back to the disk, so many at most; 0 is all.
pub(super) fn give_back(connection: &Connection, pages: u32) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut steps = statement.query([])?;
    // Each step is one page.
    while steps.next()?.is_some() {}
    Ok(())
}

/// The draining process ends in order.
pub(super) fn end(connection: &Connection, next_seq: u64) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE books SET running = 0, next_seq = ?1",
        [int(next_seq)],
    )?;
    Ok(())
}
