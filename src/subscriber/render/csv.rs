//! A message as a line of CSV (RFC 4180). PURE.

use std::time::Duration;

use super::sanitize::Sanitizer;
use crate::common::mqtt::message_json::rfc3339;
use crate::common::mqtt::publish::Received;

pub const HEADER: &[u8] = b"tst,topic,qos,retain,payload\r\n";

/// The most bytes of a payload in a line: its quotes doubled, and between quotes.
pub(super) fn max_length(payload: &[u8]) -> usize {
    payload.len() + memchr::memchr_iter(b'"', payload).count() + 2
}

/// `now` is the Unix time at which the message arrived.
pub(super) fn push_line(out: &mut Sanitizer<'_>, message: &Received<'_>, now: Duration) {
    out.push_trusted(rfc3339(now).as_bytes());
    out.push_trusted(b",");
    push_field(out, message.topic.as_bytes(), Sanitizer::push_name);
    let retain = u8::from(message.retained);
    let numbers = format!(",{},{retain},", message.qos.level());
    out.push_trusted(numbers.as_bytes());
    push_field(out, message.payload, Sanitizer::push_payload);
    out.push_trusted(b"\r\n");
}

/// RFC 4180, section 2: a field with commas, quotes or line breaks is between quotes, its quotes are doubled.
fn push_field<'a>(out: &mut Sanitizer<'a>, field: &[u8], push: fn(&mut Sanitizer<'a>, &[u8])) {
    if !field
        .iter()
        .any(|byte| matches!(byte, b',' | b'"' | b'\r' | b'\n'))
    {
        return push(out, field);
    }
    out.push_trusted(b"\"");
    for (index, part) in field.split(|byte| *byte == b'"').enumerate() {
        if index > 0 {
            out.push_trusted(b"\"\"");
        }
        push(out, part);
    }
    out.push_trusted(b"\"");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::mqtt::qos::Qos;

    fn line(topic: &str, payload: &[u8]) -> Vec<u8> {
        let message = Received {
            topic,
            payload,
            qos: Qos::AtLeastOnce,
            retained: true,
            packet_id: 1,
            properties: None,
            seq: None,
        };
        let mut out = Vec::new();
        let mut sanitizer = Sanitizer::new(&mut out, false);
        push_line(
            &mut sanitizer,
            &message,
            Duration::from_millis(1_769_846_400_250),
        );
        out
    }

    #[test]
    fn only_fields_that_need_quotes_have_them() {
        for (topic, payload, expected) in [
            ("a/b", &b"21.5"[..], &b"a/b,1,1,21.5\r\n"[..]),
            ("a,b", b"", b"\"a,b\",1,1,\r\n"),
            ("t", b"say \"yes\"\n", b"t,1,1,\"say \"\"yes\"\"\n\"\r\n"),
            ("t", b"\xff\0,", b"t,1,1,\"\xff\0,\"\r\n"),
        ] {
            let line = line(topic, payload);
            let expected = [&b"2026-01-31T08:00:00.250Z,"[..], expected].concat();
            assert_eq!(line, expected, "{}", String::from_utf8_lossy(&line));
            assert!(line.len() <= 60 + 2 * topic.len() + max_length(payload));
        }
    }
}
