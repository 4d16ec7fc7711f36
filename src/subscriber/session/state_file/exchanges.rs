//! QoS 2 from run to run: the packet identifiers of messages that have been dealt with and whose PUBREL is due, for
//! the session of one client at one broker.
//!
//! A row is written with what is remembered of its message, before PUBREC goes out, and removed before
//! PUBCOMP does. So a message that the broker sends again is known as long as the broker may do so, and no
//! longer: after PUBCOMP it uses the identifier for another. An identifier has one row, so there are 65,535 at most.

use rusqlite::{Connection, params};

use crate::common::acks::pending::Exchange;

const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS exchanges (
        client      TEXT NOT NULL,     -- endpoint and client identifier, as in sessions
        id          INTEGER NOT NULL,  -- the packet identifier
        fingerprint INTEGER NOT NULL,  -- of topic and payload: CRC-32 and, below it, length
        PRIMARY KEY (client, id)
    ) WITHOUT ROWID;";

/// The exchanges of one session.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    /// Endpoint and client identifier.
    client: String,
    /// There are rows of it, or there may be.
    any: bool,
}

impl Exchanges {
    /// Sees to it that there is a table for them.
    pub(super) fn prepare(connection: &Connection) -> rusqlite::Result<()> {
        connection.execute_batch(TABLE)
    }

    /// The session is this client's from now on: what earlier runs have left of it.
    pub(super) fn load(
        &mut self,
        connection: &Connection,
        client: &str,
    ) -> rusqlite::Result<Vec<Exchange>> {
        client.clone_into(&mut self.client);
        let sql = "SELECT id, fingerprint FROM exchanges WHERE client = ?1";
        let mut rows = connection.prepare(sql)?;
        let exchanges = rows.query_map([client], |row| {
            let fingerprint: i64 = row.get(1)?;
            let fingerprint = fingerprint.cast_unsigned();
            Ok(Exchange {
                packet_id: row.get(0)?,
                fingerprint,
            })
        })?;
        let exchanges: Vec<_> = exchanges.collect::<Result<_, _>>()?;
        self.any = !exchanges.is_empty();
        Ok(exchanges)
    }

    pub(super) fn add(
        &mut self,
        connection: &Connection,
        exchanges: &[Exchange],
    ) -> rusqlite::Result<()> {
        if exchanges.is_empty() {
            return Ok(());
        }
        self.any = true;
        let sql = "INSERT OR REPLACE INTO exchanges VALUES (?1, ?2, ?3)";
        let mut add = connection.prepare_cached(sql)?;
        for Exchange {
            packet_id,
            fingerprint,
        } in exchanges
        {
            add.execute(params![self.client, packet_id, fingerprint.cast_signed()])?;
        }
        Ok(())
    }

    /// Removes those with these packet identifiers.
    pub(super) fn remove(&self, connection: &mut Connection, ids: &[u16]) -> rusqlite::Result<()> {
        if !self.any {
            return Ok(());
        }
        let transaction = connection.transaction()?;
        {
            let sql = "DELETE FROM exchanges WHERE client = ?1 AND id = ?2";
            let mut remove = transaction.prepare_cached(sql)?;
            for id in ids {
                remove.execute(params![self.client, id])?;
            }
        }
        transaction.commit()
    }

    /// Removes all: the broker has lost the session.
    pub(super) fn clear(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        if std::mem::take(&mut self.any) {
            let sql = "DELETE FROM exchanges WHERE client = ?1";
            connection.execute(sql, [&self.client])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(packet_id: u16, fingerprint: u64) -> Exchange {
        Exchange {
            packet_id,
            fingerprint,
        }
    }

    /// As the next run finds them.
    fn left(connection: &Connection, client: &str) -> Vec<Exchange> {
        Exchanges::default().load(connection, client).unwrap()
    }

    #[test]
    fn each_session_has_its_own_and_an_identifier_has_one() {
        let mut file = Connection::open_in_memory().unwrap();
        Exchanges::prepare(&file).unwrap();
        Exchanges::prepare(&file).unwrap();
        let mut ours = Exchanges::default();
        assert_eq!(ours.load(&file, "ours").unwrap(), []);
        let mut theirs = Exchanges::default();
        theirs.load(&file, "theirs").unwrap();
        ours.add(&file, &[exchange(1, 10), exchange(u16::MAX, u64::MAX)])
            .unwrap();
        ours.add(&file, &[exchange(1, 11)]).unwrap();
        theirs.add(&file, &[exchange(1, 20)]).unwrap();
        let expected = [exchange(1, 11), exchange(u16::MAX, u64::MAX)];
        assert_eq!(left(&file, "ours"), expected);
        ours.remove(&mut file, &[1, 2]).unwrap();
        assert_eq!(left(&file, "ours"), expected[1..]);
        // A run that has not added any of them.
        let mut next = Exchanges::default();
        next.load(&file, "ours").unwrap();
        next.clear(&file).unwrap();
        assert_eq!(left(&file, "ours"), []);
        assert_eq!(left(&file, "theirs"), [exchange(1, 20)]);
    }
}
