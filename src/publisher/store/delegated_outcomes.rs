//! What has become of the rows of a process that does not drain.

use rusqlite::Connection;

use super::sqlite::{begin_write, is_busy, is_full, to_u64_or_zero};
use crate::publisher::queue::store_requests::{MessageOutcome, RowId, StoreResult};

/// Those of `owner`. `numbered` is the last one whose number is known.
pub(super) fn read(
    connection: &mut Connection,
    owner: &str,
    numbered: RowId,
) -> rusqlite::Result<StoreResult> {
    // All three answers have to be of one time.
    let transaction = connection.transaction()?;
    let numbered = transaction
        .prepare_cached(
            "SELECT id, seq FROM queue WHERE owner = ?1 AND id > ?2 AND seq IS NOT NULL
             ORDER BY id",
        )?
        .query_map((owner, numbered), |row| {
            Ok((row.get(0)?, to_u64_or_zero(row.get(1)?)))
        })?
        .collect::<Result<_, _>>()?;
    let ends = transaction
        .prepare_cached("SELECT id, seq, kind, reason FROM fate WHERE owner = ?1")?
        .query_map([owner], |row| {
            let reason: Option<String> = row.get(3)?;
            let outcome = match row.get(2)? {
                1 => MessageOutcome::DROPPED_ELSEWHERE,
                2 => MessageOutcome::Expired,
                3 => MessageOutcome::Dead(reason.unwrap_or_default()),
                _ => MessageOutcome::Delivered,
            };
            Ok((row.get(0)?, to_u64_or_zero(row.get(1)?), outcome))
        })?
        .collect::<Result<Vec<(RowId, u64, MessageOutcome)>, _>>()?;
    let oldest = transaction
        .prepare_cached("SELECT min(id) FROM queue WHERE owner = ?1")?
        .query_row([owner], |row| row.get(0))?;
    transaction.finish()?;
    match delete_read(connection, &ends) {
        // Read again later; the queue ignores what it knows.
        Err(e) if is_full(&e) || is_busy(&e) => {}
        done => done?,
    }
    Ok(StoreResult::Outcomes {
        numbered,
        ends,
        oldest,
    })
}

/// An outcome that was written since they were read may be of an earlier row.
fn delete_read(
    connection: &mut Connection,
    read: &[(RowId, u64, MessageOutcome)],
) -> rusqlite::Result<()> {
    if read.is_empty() {
        return Ok(());
    }
    let transaction = begin_write(connection)?;
    for (row, ..) in read {
        let mut delete = transaction.prepare_cached("DELETE FROM fate WHERE id = ?1")?;
        delete.execute([row])?;
    }
    transaction.commit()
}
