//! Messages as rows, and their checksum.
//!
//! The checksum is CRC-32 (ISO 3309, as in zlib) over the lengths and bytes of stream, topic and
//! payload and over the numbers in between, little-endian. The number of readings is included if it
//! is not 1, boot and time since boot if they are known, properties if there are any, so that rows of
//! older files stay valid. SQLite has no checksums: it does not notice a flipped bit in a payload.

use std::sync::Arc;

use rusqlite::types::{FromSql, ToSql};
use rusqlite::{Row, Statement};

use super::sqlite::{int, to_u64_or_zero};
use crate::common::mqtt::draft::Draft;
use crate::common::mqtt::message_properties::MessageProperties;
use crate::common::mqtt::outgoing_message::OutgoingMessage;
use crate::common::mqtt::qos::Qos;
use crate::common::mqtt::two_clock_time::{BootId, BootTime};
use crate::publisher::queue::store_requests::{RowId, StoredMessage};

pub(super) const COLUMNS: &str = "id, stream, seq, accepted_ms, expires_ms, topic, payload, qos, retain, crc, attempts, readings, boot_id, boot_ms, properties";

pub(super) const INSERT: &str = "INSERT INTO queue
    (id, stream, seq, accepted_ms, expires_ms, topic, payload, qos, retain, attempts, owner, crc,
     readings, boot_id, boot_ms, properties)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)";

/// Values that mostly are those of the row before: to share them saves an allocation.
pub(super) struct LastValues {
    topic: Arc<str>,
    properties: Option<Arc<MessageProperties>>,
}

impl Default for LastValues {
    fn default() -> Self {
        let (topic, properties) = (Arc::from(""), None);
        Self { topic, properties }
    }
}

pub(super) fn crc(message: &OutgoingMessage) -> u32 {
    let draft = &message.draft;
    let mut hasher = crc32fast::Hasher::new();
    let stream = if message.seq == 0 {
        ""
    } else {
        &message.stream
    };
    for text in [stream.as_bytes(), draft.topic.as_bytes(), &draft.payload] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text);
    }
    let expires = message.expires_ms.map_or(-1, int);
    for number in [int(message.seq), int(message.accepted_ms), expires] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(&[draft.qos.level(), u8::from(draft.retain)]);
    if draft.readings != 1 {
        hasher.update(&draft.readings.to_le_bytes());
    }
    if let Some(BootTime { boot, ms }) = &message.accepted_boot {
        hasher.update(&boot.0);
        hasher.update(&int(*ms).to_le_bytes());
    }
    if let Some(properties) = encoded_properties(draft) {
        hasher.update(&(properties.len() as u64).to_le_bytes());
        hasher.update(properties);
    }
    hasher.finalize()
}

pub(super) fn encoded_properties(draft: &Draft) -> Option<&[u8]> {
    let encoded = draft.properties.as_ref()?.encoded();
    (!encoded.is_empty()).then_some(encoded)
}

/// `owner` is the process that waits for the outcome and does not drain.
pub(super) fn insert(
    statement: &mut Statement<'_>,
    row: RowId,
    message: &OutgoingMessage,
    owner: Option<&str>,
) -> rusqlite::Result<()> {
    let draft = &message.draft;
    let numbered = message.seq > 0;
    let values: [&dyn ToSql; 16] = [
        &row,
        &numbered.then_some(&*message.stream),
        &numbered.then_some(int(message.seq)),
        &int(message.accepted_ms),
        &message.expires_ms.map(int),
        &&*draft.topic,
        &draft.payload,
        &draft.qos.level(),
        &draft.retain,
        &message.attempts,
        &owner,
        &crc(message),
        &draft.readings,
        &message.accepted_boot.map(|at| at.boot.0),
        &message.accepted_boot.map(|at| int(at.ms)),
        &encoded_properties(draft),
    ];
    statement.execute(values).map(drop)
}

/// Only the row if it is damaged.
pub(super) fn read_row(
    row: &Row<'_>,
    last: &mut LastValues,
) -> rusqlite::Result<Result<StoredMessage, RowId>> {
    let id: RowId = row.get(0)?;
    Ok(match message_from_row(row, last) {
        Some((message, stored)) if stored == i64::from(crc(&message)) => {
            Ok(StoredMessage { row: id, message })
        }
        _ => Err(id),
    })
}

/// With the stored checksum; none if a value has the wrong type.
fn message_from_row(row: &Row<'_>, last: &mut LastValues) -> Option<(OutgoingMessage, i64)> {
    fn get_column<T: FromSql>(row: &Row<'_>, index: usize) -> Option<T> {
        row.get(index).ok()
    }
    let topic = row.get_ref(5).ok()?.as_str().ok()?;
    if *last.topic != *topic {
        last.topic = topic.into();
    }
    let properties = match row.get_ref(14).ok()?.as_blob_or_null().ok()? {
        None => None,
        Some(bytes) => {
            let found = last.properties.take();
            let found = found.filter(|properties| properties.encoded() == bytes);
            last.properties = match found {
                None => Some(Arc::new(MessageProperties::decode(bytes)?)),
                found => found,
            };
            last.properties.clone()
        }
    };
    let stream: Option<String> = get_column(row, 1)?;
    let message = OutgoingMessage {
        id: 0,
        stream: stream.unwrap_or_default().into(),
        seq: to_u64_or_zero(get_column::<Option<i64>>(row, 2)?.unwrap_or(0)),
        accepted_ms: to_u64_or_zero(get_column(row, 3)?),
        accepted_boot: boot_time(get_column(row, 12)?, get_column(row, 13)?),
        expires_ms: get_column::<Option<i64>>(row, 4)?.map(to_u64_or_zero),
        expires_at: None,
        attempts: get_column(row, 10)?,
        draft: Draft {
            topic: Arc::clone(&last.topic),
            payload: get_column(row, 6)?,
            qos: Qos::from_level(get_column(row, 7)?)?,
            retain: get_column(row, 8)?,
            readings: get_column(row, 11)?,
            properties,
        },
    };
    Some((message, get_column(row, 9)?))
}

pub(super) fn boot_time(id: Option<[u8; 16]>, ms: Option<i64>) -> Option<BootTime> {
    let (boot, ms) = (BootId(id?), to_u64_or_zero(ms?));
    Some(BootTime { boot, ms })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::mqtt::property_fields::PropertyFields;

    fn checksum(readings: u32, content_type: Option<&'static str>) -> u32 {
        crc(&OutgoingMessage {
            stream: "5b7d025ce9bc0b91".into(),
            seq: 7,
            accepted_ms: 1_769_846_400_123,
            draft: Draft {
                topic: "a/b".into(),
                payload: b"1\n2\n".into(),
                qos: Qos::AtLeastOnce,
                retain: false,
                readings,
                properties: MessageProperties::new(&PropertyFields {
                    content_type: content_type.map(Into::into),
                    ..PropertyFields::default()
                }),
            },
            ..OutgoingMessage::default()
        })
    }

    #[test]
    fn the_checksum_covers_the_readings_of_a_batch_and_never_changes() {
        let of_readings = |readings| checksum(readings, None);
        // What released programs have written.
        let written = (3_970_355_274, 2_743_873_474);
        assert_eq!((of_readings(1), of_readings(2)), written);
        assert_ne!(of_readings(2), of_readings(3));
    }

    #[test]
    fn the_checksum_covers_properties_where_there_are_any() {
        let with = |content_type| checksum(1, Some(content_type));
        assert_ne!(with("a"), checksum(1, None));
        assert_ne!(with("a"), with("b"));
    }
}
