//! What one transaction does to the file.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::copy_detection::{CopyCheckResult, FileLocation};
use super::counters::Counters;
use super::rows;
use super::sqlite::{begin_write, int, release_free_pages, to_u64_or_zero};
use crate::common::mqtt::outgoing_message::OutgoingMessage;
use crate::common::runtime::clock::{boot_ms, unix_ms};
use crate::publisher::queue::limits::{Limits, MessageCountLimit};
use crate::publisher::queue::store_requests::{
    Counts, DeadLetter, MessageOutcome, OpenedQueue, RowId, StoreResult, WriteBatch,
};

/// An owner concludes a delivery from the missing row, too.
const KEEP_DELIVERED_MS: u64 = 3_600_000;
const KEEP_OTHERS_MS: u64 = 24 * 3_600_000;

pub(super) struct CountedTransaction<'a> {
    pub(super) transaction: Transaction<'a>,
    pub(super) counters: Counters,
    /// This process, as an owner of rows: it knows the outcomes of these.
    me: &'a str,
}

impl<'a> CountedTransaction<'a> {
    pub(super) fn begin(connection: &'a mut Connection, me: &'a str) -> rusqlite::Result<Self> {
        let transaction = begin_write(connection)?;
        let counters = Counters::read(&transaction)?;
        Ok(Self {
            transaction,
            counters,
            me,
        })
    }

    pub(super) fn commit(self) -> rusqlite::Result<Counts> {
        self.counters.write(&self.transaction)?;
        self.transaction.commit()?;
        Ok(self.counters.counts())
    }

    fn insert<'m>(
        &mut self,
        messages: impl Iterator<Item = &'m OutgoingMessage>,
        owner: Option<&str>,
    ) -> rusqlite::Result<Vec<RowId>> {
        let mut insert = self.transaction.prepare_cached(rows::INSERT)?;
        let mut insert = |message: &OutgoingMessage| {
            self.counters.count_inserted(message.draft.content_size());
            let row = self.counters.next_row();
            rows::insert(&mut insert, row, message, owner).map(|()| row)
        };
        messages.map(&mut insert).collect()
    }

    /// Moves a dead letter to the end of the queue. `false` if it is not there any more.
    pub(super) fn requeue_dead(
        &mut self,
        row: RowId,
        message: &OutgoingMessage,
    ) -> rusqlite::Result<bool> {
        let delete = "DELETE FROM dead WHERE id = ?1";
        if self.transaction.prepare_cached(delete)?.execute([row])? == 0 {
            return Ok(false);
        }
        rows::insert(
            &mut *self.transaction.prepare_cached(rows::INSERT)?,
            self.counters.next_row(),
            message,
            None,
        )?;
        self.counters.count_retried(message.draft.content_size());
        Ok(true)
    }

    fn write_numbers(&self, numbers: &[(RowId, Arc<OutgoingMessage>)]) -> rusqlite::Result<()> {
        for (row, message) in numbers {
            let (stream, seq) = (&*message.stream, int(message.seq));
            self.transaction
                .prepare_cached("UPDATE queue SET stream = ?2, seq = ?3, crc = ?4 WHERE id = ?1")?
                .execute(params![row, stream, seq, rows::crc(message)])?;
        }
        Ok(())
    }

    /// Whether any of the rows was there: another process may have removed them.
    fn remove(
        &mut self,
        (first, last): (RowId, RowId),
        outcome: &MessageOutcome,
    ) -> rusqlite::Result<bool> {
        // Not with RETURNING, for which SQLite makes a temporary table, and a journal to undo the statement.
        let mut select = self.transaction.prepare_cached(
            "SELECT count(*), count(owner), coalesce(sum(coalesce(octet_length(topic), 0)
             + coalesce(octet_length(payload), 0) + coalesce(octet_length(properties), 0)), 0)
             FROM queue WHERE id BETWEEN ?1 AND ?2",
        )?;
        let number = |row: &Row<'_>, index| row.get(index).map(to_u64_or_zero);
        let (rows, owned, bytes) = select.query_row([first, last], |row| {
            Ok((number(row, 0)?, number(row, 1)?, number(row, 2)?))
        })?;
        let to_report = if owned > 0 {
            self.rows_of_others((first, last))?
        } else {
            Vec::new()
        };
        if rows > 0 {
            self.counters.count_removed(rows, bytes, outcome);
            self.transaction
                .prepare_cached("DELETE FROM queue WHERE id BETWEEN ?1 AND ?2")?
                .execute([first, last])?;
        }
        let (kind, reason) = match outcome {
            MessageOutcome::Delivered => (0, None),
            MessageOutcome::Dropped(_) => (1, None),
            MessageOutcome::Expired => (2, None),
            MessageOutcome::Dead(reason) => (3, Some(reason)),
        };
        for (row, owner, seq) in to_report {
            self.transaction
                .prepare_cached("INSERT OR REPLACE INTO fate VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
                .execute(params![row, owner, seq, kind, reason, int(boot_ms())])?;
        }
        Ok(rows > 0)
    }

    /// The rows in this range that have another owner, which is waiting for the outcome: row, owner, sequence number.
    fn rows_of_others(
        &self,
        (first, last): (RowId, RowId),
    ) -> rusqlite::Result<Vec<(RowId, String, i64)>> {
        let mut select = self.transaction.prepare_cached(
            "SELECT id, CAST(owner AS TEXT), CAST(coalesce(seq, 0) AS INTEGER)
             FROM queue WHERE id BETWEEN ?1 AND ?2 AND owner IS NOT NULL",
        )?;
        let mut found = select.query([first, last])?;
        let mut others = Vec::new();
        while let Some(row) = found.next()? {
            // The owner of a damaged row cannot be known.
            let owner = row.get_ref(1)?.as_str().ok();
            if let Some(owner) = owner.filter(|owner| *owner != self.me) {
                others.push((row.get(0)?, owner.to_owned(), row.get(2)?));
            }
        }
        Ok(others)
    }

    fn evict(&mut self, limits: Limits) -> rusqlite::Result<Vec<(RowId, u64)>> {
        let max_messages = match limits.capacity {
            MessageCountLimit::Messages(most) => most as u64,
            MessageCountLimit::Disabled | MessageCountLimit::Unlimited => u64::MAX,
        };
        let max_bytes = limits.max_bytes.saturating_sub(self.counters.dead_bytes);
        let mut evicted = Vec::new();
        while self.counters.waiting > max_messages || self.counters.bytes > max_bytes {
            let oldest = self
                .transaction
                .prepare_cached("SELECT id, coalesce(seq, 0) FROM queue ORDER BY id LIMIT 1")?
                .query_row([], |row| Ok((row.get(0)?, to_u64_or_zero(row.get(1)?))));
            let Some((row, seq)) = oldest.optional()? else {
                break;
            };
            self.remove((row, row), &MessageOutcome::OLDEST_IN_QUEUE)?;
            evicted.push((row, seq));
        }
        Ok(evicted)
    }

    fn insert_dead(&mut self, dead: &DeadLetter) -> rusqlite::Result<()> {
        let message = &dead.message;
        let draft = &message.draft;
        // A dead letter has no expiry.
        let crc = rows::crc(&OutgoingMessage {
            expires_ms: None,
            ..OutgoingMessage::clone(message)
        });
        self.transaction
            .prepare_cached(
                "INSERT INTO dead (stream, seq, accepted_ms, topic, payload, qos, retain, crc,
                 died_ms, reason, readings, boot_id, boot_ms, properties)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
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
                dead.reason,
                draft.readings,
                message.accepted_boot.map(|at| at.boot.0),
                message.accepted_boot.map(|at| int(at.ms)),
                rows::encoded_properties(draft)
            ])?;
        let bytes = message.draft.content_size();
        self.counters.count_dead_letter(bytes);
        let outcome = MessageOutcome::Dead(dead.reason.clone());
        let was_waiting = match dead.row {
            Some(row) => self.remove((row, row), &outcome)?,
            None => false,
        };
        if !was_waiting {
            self.counters.totals.count_accepted(bytes);
        }
        Ok(())
    }

    fn bury_damaged(&mut self, row: RowId) -> rusqlite::Result<()> {
        let reason = "damaged on disk: its checksum does not fit";
        let bytes = self
            .transaction
            .query_row(
                "INSERT INTO dead (stream, seq, accepted_ms, topic, payload, qos, retain, crc,
                 died_ms, reason, readings, properties)
                 SELECT CAST(stream AS TEXT), CAST(seq AS INTEGER),
                 CAST(coalesce(accepted_ms, 0) AS INTEGER), CAST(coalesce(topic, '') AS TEXT),
                 CAST(coalesce(payload, '') AS BLOB), CAST(coalesce(qos, 0) AS INTEGER),
                 CAST(coalesce(retain, 0) AS INTEGER), CAST(coalesce(crc, 0) AS INTEGER), ?2, ?3,
                 CAST(coalesce(readings, 1) AS INTEGER), CAST(properties AS BLOB)
                 FROM queue WHERE id = ?1
                 RETURNING length(CAST(topic AS BLOB)) + length(payload)
                 + coalesce(length(properties), 0)",
                params![row, int(unix_ms()), reason],
                |row| row.get(0),
            )
            .optional()?;
        if let Some(bytes) = bytes {
            self.counters.count_dead_letter(to_u64_or_zero(bytes));
        }
        self.remove((row, row), &MessageOutcome::Dead(reason.into()))?;
        Ok(())
    }
}

pub(super) fn write_batch(
    connection: &mut Connection,
    batch: &WriteBatch,
    me: &str,
    drains: bool,
) -> rusqlite::Result<StoreResult> {
    let mut transaction = CountedTransaction::begin(connection, me)?;
    transaction.counters.dropped += batch.dropped;
    transaction.counters.expired += batch.expired;
    transaction.write_numbers(&batch.numbers)?;
    for (outcome, rows) in outcome_ranges(&batch.ends) {
        transaction.remove(rows, outcome)?;
    }
    for dead in &batch.dead {
        transaction.insert_dead(dead)?;
    }
    for attempts in &batch.attempts {
        let sql = "UPDATE queue SET attempts = ?2 WHERE id = ?1";
        let mut update = transaction.transaction.prepare_cached(sql)?;
        update.execute(*attempts)?;
    }
    // Without an owner the draining process itself knows the outcome.
    let owner = (!drains).then_some(me);
    let inserts = batch.inserts.iter().map(|message| &**message);
    let ids = transaction.insert(inserts, owner)?;
    let evicted = batch.within.map(|limits| transaction.evict(limits));
    Ok(StoreResult::Committed {
        ids,
        evicted: evicted.transpose()?.unwrap_or_default(),
        counts: transaction.commit()?,
    })
}

fn outcome_ranges(ends: &[(RowId, MessageOutcome)]) -> Vec<(&MessageOutcome, (RowId, RowId))> {
    let mut sorted: Vec<_> = ends.iter().collect();
    sorted.sort_by_key(|(row, _)| *row);
    let ranges = sorted.chunk_by(|(row, end), (next, other)| end == other && row + 1 == *next);
    let bounds = ranges.map(|range| (&range[0].1, (range[0].0, range[range.len() - 1].0)));
    bounds.collect()
}

pub(super) fn bury_damaged(
    connection: &mut Connection,
    damaged: &[RowId],
    me: &str,
) -> rusqlite::Result<Counts> {
    let mut transaction = CountedTransaction::begin(connection, me)?;
    for row in damaged {
        transaction.bury_damaged(*row)?;
    }
    transaction.commit()
}

pub(super) struct DrainStart {
    pub(super) opened: OpenedQueue,
    pub(super) token: String,
    pub(super) copied: bool,
}

/// A new stream with a new token begins if the process before did not end in order (it may have given numbers to
/// messages that are not on disk) or if the file was copied (another process may give the same numbers).
pub(super) fn record_drain_start(
    connection: &mut Connection,
    new_stream: &str,
    new_token: &str,
    location: &FileLocation,
) -> rusqlite::Result<DrainStart> {
    let mut transaction = CountedTransaction::begin(connection, new_token)?;
    transaction.counters.check_rows(&transaction.transaction)?;
    let counters = &mut transaction.counters;
    let crashed = std::mem::replace(&mut counters.running, true);
    let found = location.check(&transaction.transaction, counters.next_seq)?;
    let copied = !crashed && found == CopyCheckResult::Copy;
    if crashed || copied {
        new_stream.clone_into(&mut counters.stream);
        counters.next_seq = 1;
    }
    let token = match found {
        CopyCheckResult::Original(token) if !crashed => token,
        _ => {
            location.write(&transaction.transaction, new_token)?;
            new_token.to_owned()
        }
    };
    delete_old_outcomes(&transaction.transaction)?;
    let opened = transaction.counters.to_opened(true);
    transaction.commit()?;
    Ok(DrainStart {
        opened,
        token,
        copied,
    })
}

/// Outcomes that were not read for so long that their owners must have ended.
pub(super) fn delete_old_outcomes(connection: &Connection) -> rusqlite::Result<()> {
    // Both processes run in the same boot.
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

/// Ends draining in order; returns at most `max_pages` free pages of an empty queue to the disk.
pub(super) fn record_drain_end(
    connection: &mut Connection,
    next_seq: u64,
    max_pages: u32,
) -> rusqlite::Result<()> {
    let mut transaction = CountedTransaction::begin(connection, "")?;
    transaction.counters.running = false;
    transaction.counters.next_seq = next_seq;
    if transaction.counters.waiting == 0 && max_pages > 0 {
        release_free_pages(&transaction.transaction, max_pages)?;
    }
    transaction.commit().map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::counters::highest_row;
    use super::super::files::beside;
    use super::super::schema;
    use super::*;
    use crate::common::mqtt::two_clock_time::{BootId, BootTime};

    const LOG_HEADER: u64 = 32;
    const FRAME: u64 = 24 + 1_024;

    /// A new file whose log is never copied into it.
    fn new_file(queue: &Path) -> Connection {
        let mut connection = Connection::open(queue).unwrap();
        schema::create(&mut connection, "5b7d025ce9bc0b91").unwrap();
        for (pragma, value) in [("wal_autocheckpoint", 0), ("synchronous", 0)] {
            connection.pragma_update(None, pragma, value).unwrap();
        }
        connection
    }

    fn frames(queue: &Path) -> u64 {
        let log = fs::metadata(beside(queue, "-wal")).unwrap();
        (log.len() - LOG_HEADER) / FRAME
    }

    fn reading(seq: u64) -> OutgoingMessage {
        let mut message = OutgoingMessage {
            stream: "5b7d025ce9bc0b91".into(),
            seq,
            accepted_ms: 1_769_846_400_123 + seq * 1_000,
            accepted_boot: Some(BootTime {
                boot: BootId([7; 16]),
                ms: seq * 1_000,
            }),
            ..OutgoingMessage::default()
        };
        message.draft.topic = "site/7/temperature".into();
        message.draft.payload = vec![b'x'; 77];
        message
    }

    #[test]
    fn a_reading_that_is_stored_alone_writes_little_more_than_two_pages() {
        const READINGS: u64 = 100;
        let directory = tempfile::tempdir().unwrap();
        let queue = directory.path().join("queue.db");
        let mut connection = new_file(&queue);
        let before = frames(&queue);
        for seq in 1..=READINGS {
            let mut batch = WriteBatch::default();
            batch.inserts.push(Arc::new(reading(seq)));
            write_batch(&mut connection, &batch, "me", true).unwrap();
        }
        let written = frames(&queue) - before;
        // Two: the row's and that of the counters. Each sixth row has a new page, and so three more: the new page's parent,
        // the list of all parents, by which free pages are returned to the disk, and the head of the file.
        assert!(written <= 255, "{written} pages for {READINGS} readings");
    }

    #[test]
    fn no_row_gets_a_number_that_another_one_had() {
        let directory = tempfile::tempdir().unwrap();
        let [new, old] = ["new", "old"].map(|name| directory.path().join(name));
        drop(new_file(&new));
        let older = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/queue-7.db");
        fs::copy(older, &old).unwrap();
        schema::migrate(&mut Connection::open(&old).unwrap()).unwrap();
        for (queue, first) in [(new, 1), (old, 4)] {
            let open = || Connection::open(&queue).unwrap();
            let write = |batch: &WriteBatch| match write_batch(&mut open(), batch, "me", true) {
                Ok(StoreResult::Committed { ids, .. }) => ids,
                other => panic!("{other:?}"),
            };
            let insert = WriteBatch {
                inserts: vec![Arc::new(reading(1)), Arc::new(reading(2))],
                ..WriteBatch::default()
            };
            assert_eq!(write(&insert), [first, first + 1]);
            let rows = 1..=first + 1;
            let remove = WriteBatch {
                ends: rows.map(|row| (row, MessageOutcome::Delivered)).collect(),
                dead: vec![DeadLetter {
                    row: None,
                    message: Arc::new(reading(3)),
                    reason: "refused".into(),
                }],
                ..WriteBatch::default()
            };
            assert_eq!(write(&remove), [0; 0]);
            let mut connection = open();
            let dead = "SELECT max(id) FROM dead";
            let dead = connection.query_row(dead, [], |row| row.get(0)).unwrap();
            let mut transaction = CountedTransaction::begin(&mut connection, "me").unwrap();
            assert!(transaction.requeue_dead(dead, &reading(3)).unwrap());
            transaction.commit().unwrap();
            assert_eq!(highest_row(&connection), Ok(first + 2));
            assert_eq!(write(&insert), [first + 3, first + 4]);
        }
    }
}
