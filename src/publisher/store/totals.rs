//! What has become of the messages that were written to a queue file, over its life.
//!
//! They change in the transaction that changes the rows, so after a crash or a power cut they are those of the rows that
//! are there. Only rows count: a message that is acknowledged before it is due on disk, or dropped before it is
//! written, was never in the file. At any time
//!
//! `accepted = delivered + dropped + expired + purged + messages that wait + dead letters`

use crate::publisher::queue::store_requests::MessageOutcome;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Unix time in milliseconds at which counting began; by a wall clock that may not have been set.
    pub since_ms: u64,
    /// Messages written to the file, among the dead letters too; and their topics, payloads and properties in bytes.
    pub accepted: u64,
    pub accepted_bytes: u64,
    pub delivered: u64,
    pub delivered_bytes: u64,
    pub dropped: u64,
    pub expired: u64,
    /// By `publisher queue purge`: messages that waited, and dead letters.
    pub purged: u64,
    /// Dead letters put back into the queue: they wait again.
    pub retried: u64,
}

impl Totals {
    pub(super) fn count_accepted(&mut self, bytes: u64) {
        self.accepted += 1;
        self.accepted_bytes += bytes;
    }

    pub(super) fn count_removed(&mut self, rows: u64, bytes: u64, outcome: &MessageOutcome) {
        match outcome {
            MessageOutcome::Delivered => {
                self.delivered += rows;
                self.delivered_bytes += bytes;
            }
            MessageOutcome::Dropped(_) => self.dropped += rows,
            MessageOutcome::Expired => self.expired += rows,
            // It is among the dead letters.
            MessageOutcome::Dead(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;

    use proptest::prelude::*;
    use rusqlite::Connection;

    use super::super::counters::Counters;
    use super::super::files::beside;
    use super::super::paging::{self, AvailableColumns, Table};
    use super::super::sqlite::count_rows;
    use super::super::transaction::{self, CountedTransaction};
    use super::super::{queue_maintenance, schema};
    use crate::common::mqtt::outgoing_message::OutgoingMessage;
    use crate::publisher::queue::limits::{DropBehavior, Limits, MessageCountLimit};
    use crate::publisher::queue::store_requests::{DeadLetter, MessageOutcome, RowId, WriteBatch};

    #[derive(Clone, Debug)]
    enum Change {
        /// This many messages of this size, by this process, which may not drain.
        Insert(usize, usize, bool),
        End(RowId, MessageOutcome),
        /// Of a message that may not be in the file.
        Die(Option<RowId>),
        FindDamaged(RowId),
        Limit(usize),
        Retry,
        Purge(Table),
        RollBack,
    }

    fn changes() -> impl Strategy<Value = Change> {
        let outcome = prop_oneof![
            Just(MessageOutcome::Delivered),
            Just(MessageOutcome::OLDEST_ON_DISK),
            Just(MessageOutcome::Expired),
        ];
        let row = 1..30 as RowId;
        prop_oneof![
            4 => (1usize..6, 0usize..50, any::<bool>()).prop_map(|(a, b, c)| Change::Insert(a, b, c)),
            4 => (row.clone(), outcome).prop_map(|(row, outcome)| Change::End(row, outcome)),
            2 => proptest::option::of(row.clone()).prop_map(Change::Die),
            1 => row.prop_map(Change::FindDamaged),
            1 => (0usize..6).prop_map(Change::Limit),
            1 => Just(Change::Retry),
            1 => prop_oneof![Just(Table::Queue), Just(Table::DeadLetters)].prop_map(Change::Purge),
            1 => Just(Change::RollBack),
        ]
    }

    fn message(size: usize) -> OutgoingMessage {
        let mut message = OutgoingMessage::default();
        message.draft.payload = vec![b'x'; size];
        message
    }

    fn write(connection: &mut Connection, batch: &WriteBatch, drains: bool) {
        transaction::write_batch(connection, batch, "me", drains).unwrap();
    }

    fn apply(connection: &mut Connection, change: &Change) {
        let mut batch = WriteBatch::default();
        match change {
            Change::Insert(count, size, drains) => {
                let inserts = std::iter::repeat_with(|| Arc::new(message(*size)));
                batch.inserts = inserts.take(*count).collect();
                write(connection, &batch, *drains);
            }
            Change::End(row, outcome) => {
                batch.ends.push((*row, outcome.clone()));
                write(connection, &batch, true);
            }
            Change::Die(row) => {
                let (message, reason) = (Arc::new(message(7)), "refused".into());
                let row = *row;
                batch.dead.push(DeadLetter {
                    row,
                    message,
                    reason,
                });
                write(connection, &batch, true);
            }
            Change::FindDamaged(row) => {
                transaction::bury_damaged(connection, &[*row], "me").unwrap();
            }
            Change::Limit(most) => {
                batch.inserts.push(Arc::new(message(1)));
                batch.within = Some(Limits {
                    capacity: MessageCountLimit::Messages(*most),
                    max_bytes: 1 << 20,
                    behavior: DropBehavior::Oldest,
                });
                write(connection, &batch, false);
            }
            Change::Retry => {
                let columns = AvailableColumns::detect(connection);
                let page = paging::read(connection, columns, Table::DeadLetters, 0).unwrap();
                let dead: Vec<_> = page
                    .iter()
                    .filter_map(|entry| entry.as_ref().ok())
                    .collect();
                queue_maintenance::requeue_dead_letters(connection, &dead).unwrap();
            }
            Change::Purge(table) => {
                queue_maintenance::delete_all(connection, *table).unwrap();
            }
            Change::RollBack => {
                let mut transaction = CountedTransaction::begin(connection, "me").unwrap();
                transaction.counters.totals.count_accepted(1);
                drop(transaction);
            }
        }
    }

    /// Expects that every message that was ever written is accounted for.
    fn expect_consistent(connection: &Connection) {
        let counters = Counters::read(connection).unwrap();
        let totals = &counters.totals;
        let rows = ["queue", "dead"].map(|table| count_rows(connection, table).unwrap());
        assert_eq!(rows, [counters.waiting, counters.dead]);
        let ended = totals.delivered + totals.dropped + totals.expired + totals.purged;
        assert_eq!(totals.accepted, ended + rows[0] + rows[1], "{counters:?}");
        assert!(
            totals.delivered_bytes <= totals.accepted_bytes,
            "{counters:?}"
        );
        assert_eq!(totals.since_ms, 9);
        counters.check_rows(connection).unwrap();
    }

    /// The order of the log is kept, and the test itself cuts it.
    fn open_without_syncs(queue: &Path) -> Connection {
        let connection = Connection::open(queue).unwrap();
        let off = connection.pragma_update(None, "synchronous", "OFF");
        off.unwrap();
        connection
    }

    /// What is on disk if the machine stops when the log has this length.
    fn cut_log(queue: &Path, at: f64, copy: &Path) -> Connection {
        fs::copy(queue, copy).unwrap();
        let mut log = fs::read(beside(queue, "-wal")).unwrap();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        #[allow(clippy::cast_precision_loss, reason = "any length will do")]
        log.truncate((log.len() as f64 * at) as usize);
        fs::write(beside(copy, "-wal"), log).unwrap();
        open_without_syncs(copy)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_message_that_was_written_is_accounted_for_even_after_a_power_cut(
            changes in proptest::collection::vec(changes(), 1..40),
            cuts in proptest::collection::vec(0.0f64..1.0, 8),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let queue = dir.path().join("queue.db");
            let mut connection = Connection::open(&queue).unwrap();
            schema::create(&mut connection, "s").unwrap();
            Counters::new("s", 9).write(&connection).unwrap();
            drop(connection);
            let mut connection = open_without_syncs(&queue);
            for change in &changes {
                apply(&mut connection, change);
                expect_consistent(&connection);
            }
            for (number, at) in cuts.into_iter().enumerate() {
                let copy = dir.path().join(format!("copy-{number}"));
                expect_consistent(&cut_log(&queue, at, &copy));
            }
        }
    }
}
