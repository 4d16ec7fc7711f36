//! A message before it has a number: topic, payload and how it is to be delivered. PURE.

use std::borrow::Cow;
use std::sync::Arc;

use super::qos::Qos;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draft<Payload = Vec<u8>> {
    pub topic: Arc<str>,
    pub payload: Payload,
    pub qos: Qos,
    pub retain: bool,
    /// Readings in the payload. With 1 it is that reading; with more it is a batch, and each of
    /// them, the last one too, ends with a newline.
    pub readings: u32,
}

impl Draft {
    /// The content type of a batch (MQTT 5, section 3.3.2.3.9).
    pub const BATCH_TYPE: &'static str = "application/x-ndjson";

    pub const MAX_READINGS: u32 = 100_000;

    /// Bytes of topic and payload, which count against the limits of a queue.
    pub fn content_size(&self) -> u64 {
        (self.topic.len() + self.payload.len()) as u64
    }

    pub fn is_batch(&self) -> bool {
        self.readings > 1
    }

    pub fn reading_payloads(&self) -> impl Iterator<Item = &[u8]> {
        let payload = &*self.payload;
        let (single, batch) = if self.is_batch() {
            (None, payload)
        } else {
            (Some(payload), &[][..])
        };
        single.into_iter().chain(split_complete_lines(batch))
    }
}

impl Draft<Cow<'_, [u8]>> {
    pub fn into_owned(self) -> Draft {
        Draft {
            topic: self.topic,
            payload: self.payload.into_owned(),
            qos: self.qos,
            retain: self.retain,
            readings: self.readings,
        }
    }
}

/// The lines in these bytes, without their newlines. What follows the last newline is no line.
pub fn split_complete_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut begin = 0;
    memchr::memchr_iter(b'\n', bytes).map(move |end| {
        let line = bytes.get(begin..end).unwrap_or_default();
        begin = end + 1;
        line
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_split_at_its_newlines_and_a_single_reading_is_not() {
        for (payload, readings, expected) in [
            (&b"a\n\n\0\xff\n"[..], 3, &[&b"a"[..], b"", b"\0\xff"][..]),
            (b"\n\n", 2, &[b"", b""]),
            (b"a\nb\n", 1, &[b"a\nb\n"]),
            (b"", 1, &[b""]),
        ] {
            let draft = Draft {
                payload: payload.to_vec(),
                readings,
                ..Draft::default()
            };
            assert_eq!(draft.reading_payloads().collect::<Vec<_>>(), expected);
        }
    }
}
