//! A batch: readings that travel in one message, a line each. PURE.

use crate::common::message::{Draft, Received};

/// Whether a message is a batch. What follows a semicolon are parameters (RFC 9110, section 8.3.1).
fn is_batch(message: &Received<'_>) -> bool {
    let properties = message.properties.as_ref();
    let content = properties.and_then(|properties| properties.content_type.as_deref());
    content.is_some_and(|content| {
        let kind = content.split(';').next().unwrap_or_default();
        kind.trim().eq_ignore_ascii_case(Draft::BATCH_TYPE)
    })
}

/// The readings of a message: its payload, or the lines of a batch. The last line may end in a
/// newline or not.
#[must_use]
pub fn readings<'a>(message: &Received<'a>) -> Vec<&'a [u8]> {
    let payload = message.payload;
    if !is_batch(message) {
        return vec![payload];
    }
    let lines = payload.strip_suffix(b"\n").unwrap_or(payload);
    lines.split(|byte| *byte == b'\n').collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::message::{PublishProperties, Qos};

    fn taken_apart<'a>(payload: &'a [u8], content: Option<&str>) -> Vec<&'a [u8]> {
        readings(&Received {
            topic: "t",
            payload,
            qos: Qos::AtMostOnce,
            retained: false,
            mid: 0,
            seq: None,
            properties: Some(PublishProperties {
                content_type: content.map(Into::into),
                ..PublishProperties::default()
            }),
        })
    }

    #[test]
    fn a_batch_is_its_lines_and_anything_else_itself() {
        let batch = Some(Draft::BATCH_TYPE);
        assert_eq!(taken_apart(b"1\n2\n", batch), [b"1", b"2"]);
        assert_eq!(taken_apart(b"1\n2", batch), [b"1", b"2"]);
        assert_eq!(taken_apart(b"1\n\n", batch), [&b"1"[..], b""]);
        assert_eq!(taken_apart(b"1\n2", None), [b"1\n2"]);
        assert_eq!(taken_apart(b"1\n2", Some("text/plain")), [b"1\n2"]);
        let foreign = Some("Application/X-NDJSON; charset=utf-8");
        assert_eq!(taken_apart(b"1\n2", foreign), [b"1", b"2"]);
    }
}
