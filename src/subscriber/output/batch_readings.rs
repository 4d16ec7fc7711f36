//! Splits a batch into its readings, which are lines of one message. PURE.

use memchr::memchr_iter;

use crate::common::mqtt::draft::Draft;
use crate::common::mqtt::publish::Received;

/// Parameters may follow the content type after a semicolon (RFC 9110, section 8.3.1).
pub fn has_batch_type(message: &Received<'_>) -> bool {
    let properties = message.properties.as_ref();
    let content = properties.and_then(|properties| properties.content_type);
    content.is_some_and(|content| {
        let kind = content.split(';').next().unwrap_or_default();
        kind.trim().eq_ignore_ascii_case(Draft::BATCH_TYPE)
    })
}

#[derive(Clone, Debug)]
pub struct BatchReadings<'a> {
    payload: &'a [u8],
    pub is_batch: bool,
    pub count: usize,
}

impl<'a> BatchReadings<'a> {
    /// A payload of more than `max` lines is one reading, because each reading costs as much memory as a message.
    pub fn of(message: &Received<'a>, max: usize) -> Self {
        let payload = message.payload;
        let whole = Self {
            payload,
            is_batch: false,
            count: 1,
        };
        if !has_batch_type(message) {
            return whole;
        }
        let payload = payload.strip_suffix(b"\n").unwrap_or(payload);
        let count = 1 + memchr_iter(b'\n', payload).take(max).count();
        if count > max {
            return whole;
        }
        Self {
            payload,
            is_batch: true,
            count,
        }
    }

    pub fn payloads(self) -> impl Iterator<Item = &'a [u8]> {
        let Self {
            payload, is_batch, ..
        } = self;
        payload.split(move |byte| is_batch && *byte == b'\n')
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::mqtt::publish::PublishProperties;
    use crate::subscriber::render::tests::received;

    fn split<'a>(payload: &'a [u8], content: Option<&'a str>) -> Vec<&'a [u8]> {
        let mut message = received("t", payload);
        message.properties = Some(PublishProperties {
            content_type: content,
            ..PublishProperties::default()
        });
        let readings = BatchReadings::of(&message, Draft::MAX_READINGS as usize);
        let count = readings.count;
        let payloads: Vec<_> = readings.payloads().collect();
        assert_eq!(payloads.len(), count);
        payloads
    }

    #[test]
    fn a_batch_is_split_into_lines_and_other_payloads_are_not() {
        let batch = Some(Draft::BATCH_TYPE);
        assert_eq!(split(b"1\n2\n", batch), [b"1", b"2"]);
        assert_eq!(split(b"1\n2", batch), [b"1", b"2"]);
        assert_eq!(split(b"1\n\n", batch), [&b"1"[..], b""]);
        assert_eq!(split(b"", batch), [b""]);
        assert_eq!(split(b"1\n2", None), [b"1\n2"]);
        assert_eq!(split(b"1\n2", Some("text/plain")), [b"1\n2"]);
        let foreign = Some("Application/X-NDJSON; charset=utf-8");
        assert_eq!(split(b"1\n2", foreign), [b"1", b"2"]);
    }

    #[test]
    fn more_lines_than_a_publisher_sends_are_one_reading() {
        let batch = Some(Draft::BATCH_TYPE);
        let most = vec![b'\n'; Draft::MAX_READINGS as usize];
        assert_eq!(split(&most, batch).len(), most.len());
        let more = vec![b'\n'; Draft::MAX_READINGS as usize + 1];
        assert_eq!(split(&more, batch), [&more[..]]);
    }
}
