//! What one transaction does to the file.

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use super::counters::Books;
use super::home::{Found, Home};
use super::rows::{self, int, uint};
use super::sqlite;
use crate::common::mqtt::message::Message;
use crate::common::runtime::clock::{boot_ms, unix_ms};
use crate::publisher::queue::requests::{
    Counts, DeadLetter, Opened, Outcome, RowId, StoreResult, WriteBatch,
};
use crate::publisher::queue::{Capacity, Limits, size};

/// How long it is kept how a row with an owner ended, in milliseconds. A delivery goes
/// without saying after a while; the rest has to be told.
const KEEP_DELIVERED_MS: u64 = 3_600_000;
const KEEP_OTHERS_MS: u64 = 24 * 3_600_000;

/// Writes a batch. `me` is set on the rows of its inserts as their owner if they belong to a
/// process that does not drain.
pub(super) fn commit(
    connection: &mut Connection,
    batch: &WriteBatch,
    me: &str,
    drains: bool,
) -> rusqlite::Result<StoreResult> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut books = Books::read(&transaction)?;
    books.dropped += batch.dropped;
    books.expired += batch.expired;
    number(&transaction, batch)?;
    for (end, rows) in ranges(&batch.ends) {
        remove(&transaction, rows, end, me, &mut books)?;
    }
    for dead in &batch.dead {
        bury(&transaction, dead, me, &mut books)?;
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
            books.add(size(message));
        }
    }
    let evicted = match batch.within {
        Some(limits) => evict(&transaction, limits, me, &mut books)?,
        None => Vec::new(),
    };
    books.write(&transaction)?;
    transaction.commit()?;
    Ok(StoreResult::Committed {
        ids,
        evicted,
        counts: books.counts(),
    })
}

fn number(transaction: &Transaction<'_>, batch: &WriteBatch) -> rusqlite::Result<()> {
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
fn ranges(ends: &[(RowId, Outcome)]) -> Vec<(&Outcome, (RowId, RowId))> {
    let mut sorted: Vec<_> = ends.iter().collect();
    sorted.sort_by_key(|(row, _)| *row);
    let mut ranges: Vec<(&Outcome, (RowId, RowId))> = Vec::new();
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
    end: &Outcome,
    me: &str,
    books: &mut Books,
) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(
        "DELETE FROM queue WHERE id BETWEEN ?1 AND ?2
         RETURNING id, CAST(owner AS TEXT), CAST(coalesce(seq, 0) AS INTEGER),
         length(CAST(topic AS BLOB)) + length(CAST(payload AS BLOB))",
    )?;
    let mut removed = statement.query([first, last])?;
    let mut told: Vec<(RowId, String, i64)> = Vec::new();
    while let Some(row) = removed.next()? {
        books.take(uint(row.get(3)?), end);
        // One that is damaged has nobody who waits for it.
        let owner = row.get_ref(1)?.as_str().ok();
        if let Some(owner) = owner.filter(|owner| *owner != me) {
            told.push((row.get(0)?, owner.to_owned(), row.get(2)?));
        }
    }
    for (row, owner, seq) in told {
        let (kind, reason) = match end {
            Outcome::Delivered => (0, None),
            Outcome::Dropped(_) => (1, None),
            Outcome::Expired => (2, None),
            Outcome::Dead(reason) => (3, Some(reason)),
        };
        transaction
            .prepare_cached("INSERT OR REPLACE INTO fate VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
            .execute(params![row, owner, seq, kind, reason, int(boot_ms())])?;
    }
    Ok(())
}

/// Drops the oldest rows until the limits hold; gives them with their numbers.
fn evict(
    transaction: &Transaction<'_>,
    limits: Limits,
    me: &str,
    books: &mut Books,
) -> rusqlite::Result<Vec<(RowId, u64)>> {
    let most = match limits.capacity {
        Capacity::Messages(most) => most as u64,
        Capacity::Disabled | Capacity::Unlimited => u64::MAX,
    };
    let max_bytes = limits.max_bytes.saturating_sub(books.dead_bytes);
    let mut evicted = Vec::new();
    while books.waiting > most || books.bytes > max_bytes {
        let mut oldest =
            transaction.prepare_cached("SELECT id, seq FROM queue ORDER BY id LIMIT 1")?;
        let oldest = oldest.query_row([], |row| {
            Ok((
                row.get(0)?,
                uint(row.get::<_, Option<i64>>(1)?.unwrap_or(0)),
            ))
        });
        let Some((row, seq)) = oldest.optional()? else {
            break;
        };
        remove(
            transaction,
            (row, row),
            &Outcome::OLDEST_IN_QUEUE,
            me,
            books,
        )?;
        evicted.push((row, seq));
    }
    Ok(evicted)
}

/// Moves a message to the dead letters.
fn bury(
    transaction: &Transaction<'_>,
    dead: &DeadLetter,
    me: &str,
    books: &mut Books,
) -> rusqlite::Result<()> {
    let DeadLetter {
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
             died_ms, reason, readings, boot_id, boot_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
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
            int(unix_ms()),
            reason,
            draft.readings,
            message.accepted_boot.map(|at| at.boot.0),
            message.accepted_boot.map(|at| int(at.ms))
        ])?;
    books.bury(size(message));
    if let Some(row) = row {
        let end = Outcome::Dead(reason.clone());
        remove(transaction, (*row, *row), &end, me, books)?;
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
    let mut books = Books::read(&transaction)?;
    let reason = "damaged on disk: its checksum does not fit";
    for row in damaged {
        let bytes: Option<i64> = transaction
            .query_row(
                "INSERT INTO dead (stream, seq, accepted_ms, topic, payload, qos, retain, crc,
                 died_ms, reason, readings)
                 SELECT CAST(stream AS TEXT), CAST(seq AS INTEGER),
                 CAST(coalesce(accepted_ms, 0) AS INTEGER), CAST(coalesce(topic, '') AS TEXT),
                 CAST(coalesce(payload, '') AS BLOB), CAST(coalesce(qos, 0) AS INTEGER),
                 CAST(coalesce(retain, 0) AS INTEGER), CAST(coalesce(crc, 0) AS INTEGER), ?2, ?3,
                 CAST(coalesce(readings, 1) AS INTEGER)
                 FROM queue WHERE id = ?1
                 RETURNING length(CAST(topic AS BLOB)) + length(payload)",
                params![row, int(unix_ms()), reason],
                |row| row.get(0),
            )
            .optional()?;
        if let Some(bytes) = bytes {
            books.bury(uint(bytes));
        }
        remove(
            &transaction,
            (*row, *row),
            &Outcome::Dead(reason.into()),
            me,
            &mut books,
        )?;
    }
    books.write(&transaction)?;
    transaction.commit()?;
    Ok(books.counts())
}

/// A process begins to drain, in a file that lives at `home`. If the one before did not end in order,
/// it may have given numbers away that are written nowhere; if the file is not where it was, or was
/// put back from a copy, another process may give the same numbers: a new stream begins. Gives the
/// file's token, `token` with a new stream, and whether it is one for the second reason.
pub(super) fn begin(
    connection: &mut Connection,
    stream: &str,
    home: &Home,
    token: &str,
) -> rusqlite::Result<(Opened, String, bool)> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut books = Books::read(&transaction)?;
    let crashed = std::mem::replace(&mut books.running, true);
    let found = home.token(&transaction, books.next_seq)?;
    let moved = !crashed && found == Found::Elsewhere;
    if crashed || moved {
        stream.clone_into(&mut books.stream);
        books.next_seq = 1;
    }
    let token = match found {
        Found::Here(token) if !crashed => token,
        _ => {
            home.write(&transaction, token)?;
            token.to_owned()
        }
    };
    books.write(&transaction)?;
    forget_fates(&transaction)?;
    transaction.commit()?;
    Ok((opened(books, true), token, moved))
}

/// Forgets how rows have ended whose owners have not asked for so long that they are gone.
pub(super) fn forget_fates(connection: &Connection) -> rusqlite::Result<()> {
    // Owner and drainer run in the same boot.
    let now = boot_ms();
    connection.execute(
        "DELETE FROM fate WHERE at_ms < CASE kind WHEN 0 THEN ?1 ELSE ?2 END OR at_ms > ?3",
        [
            int(now.saturating_sub(KEEP_DELIVERED_MS)),
            int(now.saturating_sub(KEEP_OTHERS_MS)),
            int(now.saturating_add(KEEP_OTHERS_MS)),
        ],
    )?;
    Ok(())
}

/// What a process that does not drain needs to know.
pub(super) fn look(connection: &Connection) -> rusqlite::Result<Opened> {
    Ok(opened(Books::read(connection)?, false))
}

fn opened(books: Books, drains: bool) -> Opened {
    Opened {
        drains,
        counts: books.counts(),
        next_seq: books.next_seq.max(1),
        stream: books.stream.into(),
    }
}

/// The draining process ends in order. If nothing waits any more, so many free pages are
/// given back to the disk at most.
pub(super) fn end(connection: &mut Connection, next_seq: u64, pages: u32) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut books = Books::read(&transaction)?;
    books.running = false;
    books.next_seq = next_seq;
    books.write(&transaction)?;
    if books.waiting == 0 && pages > 0 {
        sqlite::give_back(&transaction, pages)?;
    }
    transaction.commit()
}
