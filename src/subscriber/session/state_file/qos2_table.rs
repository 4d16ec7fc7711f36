//! QoS 2 across runs: the packet identifiers of written messages that await PUBREL, per session.
//!
//! A row is added before PUBREC goes out, and removed before PUBCOMP does. So a message that the broker sends again is
//! recognised as long as the broker may do so, and no longer: after PUBCOMP it uses the identifier for another message.
//! An identifier has one row, so a session has 65,535 at most.

use rusqlite::{Connection, params};

use crate::common::acks::owed_acks::Qos2ExchangeKey;

const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS exchanges (
        client      TEXT NOT NULL,     -- endpoint and client identifier, as in sessions
        id          INTEGER NOT NULL,  -- the packet identifier
        fingerprint INTEGER NOT NULL,  -- of topic and payload: CRC-32 and, below it, length
        PRIMARY KEY (client, id)
    ) WITHOUT ROWID;";

#[derive(Default)]
pub(super) struct Qos2Table {
    session: String,
    may_have_rows: bool,
}

impl Qos2Table {
    pub(super) fn create(connection: &Connection) -> rusqlite::Result<()> {
        connection.execute_batch(TABLE)
    }

    pub(super) fn load(
        &mut self,
        connection: &Connection,
        session: &str,
    ) -> rusqlite::Result<Vec<Qos2ExchangeKey>> {
        session.clone_into(&mut self.session);
        let sql = "SELECT id, fingerprint FROM exchanges WHERE client = ?1";
        let mut rows = connection.prepare(sql)?;
        let exchanges = rows.query_map([session], |row| {
            Ok(Qos2ExchangeKey {
                packet_id: row.get(0)?,
                content_checksum: row.get::<_, i64>(1)?.cast_unsigned(),
            })
        })?;
        let exchanges: Vec<_> = exchanges.collect::<Result<_, _>>()?;
        self.may_have_rows = !exchanges.is_empty();
        Ok(exchanges)
    }

    pub(super) fn add(
        &mut self,
        connection: &Connection,
        exchanges: &[Qos2ExchangeKey],
    ) -> rusqlite::Result<()> {
        if exchanges.is_empty() {
            return Ok(());
        }
        self.may_have_rows = true;
        let sql = "INSERT OR REPLACE INTO exchanges VALUES (?1, ?2, ?3)";
        let mut add = connection.prepare_cached(sql)?;
        for exchange in exchanges {
            let checksum = exchange.content_checksum.cast_signed();
            add.execute(params![self.session, exchange.packet_id, checksum])?;
        }
        Ok(())
    }

    pub(super) fn remove(&self, connection: &mut Connection, ids: &[u16]) -> rusqlite::Result<()> {
        if !self.may_have_rows {
            return Ok(());
        }
        let transaction = connection.transaction()?;
        {
            let sql = "DELETE FROM exchanges WHERE client = ?1 AND id = ?2";
            let mut remove = transaction.prepare_cached(sql)?;
            for id in ids {
                remove.execute(params![self.session, id])?;
            }
        }
        transaction.commit()
    }

    pub(super) fn clear(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        if std::mem::take(&mut self.may_have_rows) {
            let sql = "DELETE FROM exchanges WHERE client = ?1";
            connection.execute(sql, [&self.session])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(packet_id: u16, content_checksum: u64) -> Qos2ExchangeKey {
        Qos2ExchangeKey {
            packet_id,
            content_checksum,
        }
    }

    fn loaded_by_next_run(connection: &Connection, session: &str) -> Vec<Qos2ExchangeKey> {
        Qos2Table::default().load(connection, session).unwrap()
    }

    #[test]
    fn each_session_has_its_own_rows_and_each_identifier_has_one() {
        let mut file = Connection::open_in_memory().unwrap();
        Qos2Table::create(&file).unwrap();
        Qos2Table::create(&file).unwrap();
        let mut ours = Qos2Table::default();
        assert_eq!(ours.load(&file, "ours").unwrap(), []);
        let mut theirs = Qos2Table::default();
        theirs.load(&file, "theirs").unwrap();
        ours.add(&file, &[exchange(1, 10), exchange(u16::MAX, u64::MAX)])
            .unwrap();
        ours.add(&file, &[exchange(1, 11)]).unwrap();
        theirs.add(&file, &[exchange(1, 20)]).unwrap();
        let expected = [exchange(1, 11), exchange(u16::MAX, u64::MAX)];
        assert_eq!(loaded_by_next_run(&file, "ours"), expected);
        ours.remove(&mut file, &[1, 2]).unwrap();
        assert_eq!(loaded_by_next_run(&file, "ours"), expected[1..]);
        // A run that has not added any of them.
        let mut next = Qos2Table::default();
        next.load(&file, "ours").unwrap();
        next.clear(&file).unwrap();
        assert_eq!(loaded_by_next_run(&file, "ours"), []);
        assert_eq!(loaded_by_next_run(&file, "theirs"), [exchange(1, 20)]);
    }
}
