//! Joins readings to messages. PURE: readings and the time in, messages out.
//!
//! A message of several readings is a *batch*. Each reading in it ends with a newline, the last one
//! too, so that a receiver can split it at the newlines and loses no empty reading. A reading that
//! contains a newline, is too large, has its own content type or is the only one becomes a plain
//! message. The order is kept.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use crate::common::mqtt::draft::Draft;
use crate::common::mqtt::limits::MAX_PACKET;
use crate::common::mqtt::publish_size::PublishSize;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// The most readings in a message; with 1 there are no batches.
    pub readings: u32,
    pub wait: Duration,
    pub payload: usize,
    pub size: usize,
    pub properties: usize,
}

/// A draft of one reading, which borrows its payload from the input where it can.
pub type Reading<'a> = Draft<Cow<'a, [u8]>>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub draft: Draft,
    pub lines: LineNumbers,
}

/// The lines that the readings of a message came on, in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineNumbers {
    first: RangeInclusive<u64>,
    more: Vec<RangeInclusive<u64>>,
}

impl LineNumbers {
    fn new(line: u64) -> Self {
        let (first, more) = (line..=line, Vec::new());
        Self { first, more }
    }

    fn push(&mut self, line: u64) {
        let last = self.more.last_mut().unwrap_or(&mut self.first);
        if last.end().checked_add(1) == Some(line) {
            *last = *last.start()..=line;
        } else {
            self.more.push(line..=line);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = u64> {
        let ranges = std::iter::once(&self.first).chain(&self.more);
        ranges.flat_map(RangeInclusive::clone)
    }
}

#[derive(Debug)]
pub struct Batcher {
    limits: BatchLimits,
    pub max_packet: usize,
    /// With the time when it is due. Its payload ends with a newline, also with one reading.
    open: Option<(Batch, Instant)>,
    closed: VecDeque<Batch>,
    readings: u64,
    bytes: u64,
    /// Bytes of the last batch; the next one is likely to be as large.
    last: usize,
}

impl Batcher {
    pub fn new(limits: BatchLimits) -> Self {
        Self {
            limits,
            max_packet: MAX_PACKET,
            open: None,
            closed: VecDeque::new(),
            readings: 0,
            bytes: 0,
            last: 0,
        }
    }

    pub fn push(&mut self, reading: Reading<'_>, line: u64, now: Instant) {
        self.readings += 1;
        let most = self.max_payload(&reading);
        let bytes = reading.payload.len();
        if self.limits.readings <= 1
            || bytes >= most
            || reading.payload.contains(&b'\n')
            || has_content_type(&reading)
        {
            self.close_batch();
            self.bytes += bytes as u64;
            self.closed.push_back(single(reading, line));
            return;
        }
        if self.open.as_ref().is_some_and(|(Batch { draft, .. }, _)| {
            (&draft.topic, draft.qos, draft.retain) != (&reading.topic, reading.qos, reading.retain)
                || draft.properties != reading.properties
                || draft.payload.len() + bytes >= most
        }) {
            self.close_batch();
        }
        self.bytes += bytes as u64 + 1;
        if let Some((batch, _)) = &mut self.open {
            batch.draft.payload.extend_from_slice(&reading.payload);
            batch.draft.payload.push(b'\n');
            batch.draft.readings += 1;
            batch.lines.push(line);
            if batch.draft.readings >= self.limits.readings {
                self.close_batch();
            }
        } else {
            let mut batch = single(reading, line);
            let payload = &mut batch.draft.payload;
            payload.reserve(self.last.saturating_sub(bytes) + 1);
            payload.push(b'\n');
            self.open = Some((batch, now + self.limits.wait));
        }
    }

    /// While an earlier batch waits for the outbox, the open one can still grow.
    pub fn handle_time(&mut self, now: Instant) {
        if self.wake_at().is_some_and(|due| due <= now) {
            self.close_batch();
        }
    }

    pub fn wake_at(&self) -> Option<Instant> {
        let open = self.open.as_ref().filter(|_| self.closed.is_empty());
        open.map(|(_, due)| *due)
    }

    pub fn close_batch(&mut self) {
        let Some((mut batch, _)) = self.open.take() else {
            return;
        };
        let payload = &mut batch.draft.payload;
        self.last = payload.len();
        if batch.draft.readings == 1 {
            // A plain message has no newline at its end.
            payload.pop();
            self.bytes -= 1;
        }
        if payload.capacity() / 2 > payload.len() {
            payload.shrink_to_fit();
        }
        self.closed.push_back(batch);
    }

    pub fn next_batch(&mut self) -> Option<Batch> {
        let batch = self.closed.pop_front()?;
        self.readings -= u64::from(batch.draft.readings);
        self.bytes -= batch.draft.payload.len() as u64;
        Some(batch)
    }

    /// The outbox is full: this one is the next again.
    pub fn put_back(&mut self, batch: Batch) {
        self.readings += u64::from(batch.draft.readings);
        self.bytes += batch.draft.payload.len() as u64;
        self.closed.push_front(batch);
    }

    pub fn clear(&mut self) {
        self.open = None;
        self.closed.clear();
        (self.readings, self.bytes) = (0, 0);
    }

    pub fn has_closed_batch(&self) -> bool {
        !self.closed.is_empty()
    }

    /// The open batch counts too.
    pub fn pending_batches(&self) -> usize {
        self.closed.len() + usize::from(self.open.is_some())
    }

    pub fn pending_readings(&self) -> u64 {
        self.readings
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn max_payload(&self, reading: &Reading<'_>) -> usize {
        let (topic, given) = (reading.topic.len(), reading.properties.as_ref());
        let given = given.map_or(0, |properties| properties.encoded().len());
        let size = publish_size(topic, self.limits.properties + given, 0);
        let within = size.max_payload(self.max_packet).unwrap_or_default();
        let size = self.limits.size.saturating_sub(topic + given);
        self.limits.payload.min(size).min(within)
    }
}

/// That of a batch is another one, so such a reading stays alone.
fn has_content_type(reading: &Reading<'_>) -> bool {
    let properties = reading.properties.as_ref();
    properties.is_some_and(|properties| properties.fields().content_type.is_some())
}

fn publish_size(topic: usize, properties: usize, payload: usize) -> PublishSize {
    PublishSize {
        topic,
        has_packet_id: true,
        properties: Some(properties),
        payload,
    }
}

fn single(reading: Reading<'_>, line: u64) -> Batch {
    let (draft, lines) = (reading.into_owned(), LineNumbers::new(line));
    Batch { draft, lines }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::common::mqtt::message_properties::MessageProperties;
    use crate::common::mqtt::property_fields::PropertyFields;
    use crate::common::mqtt::qos::Qos;

    const WAIT: u64 = 50;

    const PROPERTIES: usize = 130;

    #[allow(clippy::disallowed_methods, reason = "any instant will do")]
    fn at(ms: u64) -> Instant {
        static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
        *ORIGIN + Duration::from_millis(ms)
    }

    fn batcher(readings: u32, payload: usize, size: usize) -> Batcher {
        Batcher::new(BatchLimits {
            readings,
            wait: Duration::from_millis(WAIT),
            payload,
            size,
            properties: PROPERTIES,
        })
    }

    fn reading<'a>(topic: &str, payload: &'a [u8]) -> Reading<'a> {
        Reading {
            topic: topic.into(),
            payload: payload.into(),
            qos: Qos::AtLeastOnce,
            retain: false,
            readings: 1,
            properties: None,
        }
    }

    fn drained(batcher: &mut Batcher) -> String {
        let messages = std::iter::from_fn(|| batcher.next_batch());
        let payloads: Vec<_> = messages.map(|batch| batch.draft.payload).collect();
        payloads.join(&b'|').escape_ascii().to_string()
    }

    #[test]
    fn line_numbers_keep_their_gaps() {
        let mut lines = LineNumbers::new(1);
        for line in [2, 5, 7, 8] {
            lines.push(line);
        }
        assert_eq!(lines.iter().collect::<Vec<_>>(), [1, 2, 5, 7, 8]);
        assert_eq!(lines.more.len(), 2);
    }

    #[test]
    fn a_batch_is_closed_when_it_is_full_and_when_it_is_due() {
        let mut batcher = batcher(3, 100, 100);
        for (n, payload) in (1..).zip([&b"a"[..], b"", b"b", b"c"]) {
            batcher.push(reading("t", payload), n, at(n));
        }
        assert_eq!(drained(&mut batcher), r"a\n\nb\n");
        assert_eq!(batcher.wake_at(), Some(at(4 + WAIT)));
        batcher.handle_time(at(3 + WAIT));
        assert!(!batcher.has_closed_batch() && batcher.pending_batches() == 1);
        batcher.handle_time(at(4 + WAIT));
        let last = batcher.next_batch().unwrap();
        assert_eq!((&*last.draft.payload, last.draft.readings), (&b"c"[..], 1));
        assert_eq!((batcher.pending_readings(), batcher.bytes()), (0, 0));
    }

    #[test]
    fn another_topic_a_newline_and_a_large_reading_end_a_batch() {
        let mut batcher = batcher(10, 8, 100);
        let inputs = "t1 t2 u3 t4\n t5 t12345678 t1234567 t t123456 t6";
        for (n, input) in (1..).zip(inputs.split(' ')) {
            let (topic, payload) = input.split_at(1);
            batcher.push(reading(topic, payload.as_bytes()), n, at(0));
        }
        batcher.close_batch();
        let expected = r"1\n2\n|3|4\n|5|12345678|1234567|\n123456\n|6";
        assert_eq!(drained(&mut batcher), expected);
        let mut retained = reading("t", b"2");
        retained.retain = true;
        batcher.push(reading("t", b"1"), 1, at(0));
        batcher.push(retained, 2, at(0));
        assert_eq!(drained(&mut batcher), "1");
    }

    #[test]
    fn other_properties_end_a_batch_and_a_content_type_makes_a_message_alone() {
        let mut batcher = batcher(10, 100, 100);
        let with =
            |payload: &'static [u8], user: &'static str, content_type: Option<&'static str>| {
                let fields = PropertyFields {
                    user: Some(vec![("n".into(), user.into())]),
                    content_type: content_type.map(Into::into),
                    ..PropertyFields::default()
                };
                let properties = MessageProperties::new(&fields);
                Reading {
                    properties,
                    ..reading("t", payload)
                }
            };
        for (n, reading) in (1..).zip([
            with(b"1", "a", None),
            with(b"2", "a", None),
            with(b"3", "b", None),
            reading("t", b"4"),
            with(b"5", "b", Some("text/plain")),
            with(b"6", "b", Some("text/plain")),
            with(b"7", "b", None),
        ]) {
            batcher.push(reading, n, at(0));
        }
        batcher.close_batch();
        assert_eq!(drained(&mut batcher), r"1\n2\n|3|4|5|6|7");
    }

    #[test]
    fn the_topic_and_the_broker_s_packet_size_limit_a_batch() {
        let mut narrow = batcher(10, 100, 10);
        let mut wide = batcher(1_000, 100_000, 100_000);
        wide.max_packet = 1_000;
        for n in 1..=1_000 {
            narrow.push(reading("topic", b"1"), n, at(0));
            wide.push(reading("t", b"1"), n, at(0));
        }
        let batch = narrow.next_batch().unwrap();
        assert_eq!(batch.draft.payload, b"1\n1\n");
        let bytes = wide.next_batch().unwrap().draft.payload.len();
        let size = publish_size(1, PROPERTIES, bytes).total();
        // A reading and its newline more would be too much.
        assert!((999..=1_000).contains(&size), "{size}");
    }

    #[test]
    fn a_batch_stays_open_while_an_earlier_one_waits_for_room() {
        let mut batcher = batcher(2, 100, 100);
        for n in 1..=3 {
            batcher.push(reading("t", b"x"), n, at(0));
        }
        let first = batcher.next_batch().unwrap();
        batcher.put_back(first);
        batcher.handle_time(at(1_000));
        assert_eq!((batcher.wake_at(), batcher.pending_batches()), (None, 2));
        batcher.push(reading("t", b"y"), 4, at(1_000));
        assert_eq!(drained(&mut batcher), r"x\nx\n|x\ny\n");
    }

    fn payload() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop::sample::select(b"ab\n\0\xff".to_vec());
        prop::collection::vec(byte, 0..12)
    }

    proptest! {
        #[test]
        fn nothing_is_lost_reordered_too_large_or_late(
            most in 1u32..6,
            limit in 1usize..30,
            steps in prop::collection::vec((0u64..40, 0u8..2, payload()), 0..60),
        ) {
            let mut batcher = batcher(most, limit, 1_000);
            let (mut pushed, mut got) = (Vec::new(), Vec::new());
            let mut now = 0;
            let mut drain = |batcher: &mut Batcher, pushed: &[(u8, Vec<u8>, u64)], now: u64| {
                while let Some(Batch { draft, lines }) = batcher.next_batch() {
                    let (_, _, since) = &pushed[got.len()];
                    assert!(now - since <= WAIT, "late");
                    assert!(draft.readings <= most);
                    assert!(!draft.is_batch() || draft.payload.len() <= limit);
                    let topic: u8 = draft.topic.parse().unwrap();
                    let before = got.len();
                    got.extend(draft.reading_payloads().map(|reading| (topic, reading.to_vec())));
                    assert_eq!(got.len() - before, draft.readings as usize);
                    assert_eq!(lines.iter().count(), draft.readings as usize);
                }
                got.len()
            };
            for (line, (pause, topic, payload)) in (1..).zip(steps) {
                let next = now + pause;
                if let Some(due) = (now..=next).find(|ms| Some(at(*ms)) == batcher.wake_at()) {
                    batcher.handle_time(at(due));
                    drain(&mut batcher, &pushed, due);
                }
                now = next;
                pushed.push((topic, payload.clone(), now));
                batcher.push(reading(&topic.to_string(), &payload), line, at(now));
                let out = drain(&mut batcher, &pushed, now);
                prop_assert_eq!(batcher.pending_readings(), (pushed.len() - out) as u64);
                prop_assert!(most > 1 || batcher.pending_batches() == 0);
            }
            batcher.close_batch();
            drain(&mut batcher, &pushed, now);
            let expected: Vec<_> = pushed.into_iter().map(|(t, p, _)| (t, p)).collect();
            prop_assert_eq!(got, expected);
            prop_assert_eq!((batcher.pending_readings(), batcher.bytes()), (0, 0));
        }
    }
}
