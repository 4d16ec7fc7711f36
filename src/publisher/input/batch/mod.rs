//! Readings gathered into messages of several. PURE: readings and the time in, messages out.
//!
//! A message of several readings is a *batch*: each of them ends with a newline, the last one
//! too, so that a receiver takes it apart at the newlines and loses no empty reading. One that
//! has a newline in it goes alone, and so does one that is too large or has no company: as the
//! plain message that it would be without batches. Order is kept.

mod lines;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use lines::Lines;

use crate::common::mqtt::limits::{self, PublishParts};
use crate::common::mqtt::message::{Draft, Qos};

/// When a batch is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Readings in a message, at most; with 1 there are no batches.
    pub readings: u32,
    /// How long the first reading of a batch waits for others.
    pub wait: Duration,
    /// Bytes of a batch's payload, at most.
    pub payload: usize,
    /// Bytes of a batch's topic and payload together, at most.
    pub size: usize,
    /// Bytes of a batch's properties, at most.
    pub properties: usize,
}

/// One reading, and how it is to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading<'a> {
    /// A checked topic name.
    pub topic: Arc<str>,
    /// Any bytes.
    pub payload: Cow<'a, [u8]>,
    /// How it is to be delivered.
    pub qos: Qos,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
}

/// A message to be offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The message: a batch, or one reading alone.
    pub draft: Draft,
    /// Where it came from.
    pub lines: Lines,
}

#[derive(Debug)]
struct Open {
    batch: Batch,
    /// When it is closed at the latest.
    due: Instant,
}

/// What has been read and not yet accepted, in messages.
#[derive(Debug)]
pub struct Batcher {
    rule: Rule,
    /// Bytes of a packet that the broker takes.
    packet: usize,
    /// Its readings end with newlines, however few they are.
    open: Option<Open>,
    closed: VecDeque<Batch>,
    readings: u64,
    bytes: u64,
    /// The bytes of the last batch, which the next one is likely to have as well.
    last: usize,
}

impl Batcher {
    /// Nothing has been read.
    pub fn new(rule: Rule) -> Self {
        Self {
            rule,
            packet: limits::MAX_PACKET,
            open: None,
            closed: VecDeque::new(),
            readings: 0,
            bytes: 0,
            last: 0,
        }
    }

    /// The broker takes packets of so many bytes: no batch is made that is larger.
    pub fn fit(&mut self, packet: usize) {
        self.packet = packet;
    }

    /// Takes a reading that came on this line.
    pub fn push(&mut self, reading: Reading<'_>, line: u64, now: Instant) {
        self.readings += 1;
        let most = self.most(&reading.topic);
        let bytes = reading.payload.len();
        if self.rule.readings <= 1 || bytes >= most || reading.payload.contains(&b'\n') {
            self.close();
            self.bytes += bytes as u64;
            self.closed.push_back(alone(reading, line));
            return;
        }
        if self.open.as_ref().is_some_and(|open| {
            let has = &open.batch.draft;
            let alike =
                (&has.topic, has.qos, has.retain) == (&reading.topic, reading.qos, reading.retain);
            !alike || has.payload.len() + bytes >= most
        }) {
            self.close();
        }
        self.bytes += bytes as u64 + 1;
        if let Some(Open { batch, .. }) = &mut self.open {
            batch.draft.payload.extend_from_slice(&reading.payload);
            batch.draft.payload.push(b'\n');
            batch.draft.readings += 1;
            batch.lines.add(line);
            if batch.draft.readings >= self.rule.readings {
                self.close();
            }
        } else {
            let mut batch = alone(reading, line);
            let payload = &mut batch.draft.payload;
            payload.reserve(self.last.saturating_sub(bytes) + 1);
            payload.push(b'\n');
            let due = now + self.rule.wait;
            self.open = Some(Open { batch, due });
        }
    }

    /// Closes the batch that is due, unless an earlier one still waits for its place: until
    /// that has gone, there may be more to come.
    pub fn tick(&mut self, now: Instant) {
        if self.wake_at().is_some_and(|due| due <= now) {
            self.close();
        }
    }

    /// When the next batch is due.
    pub fn wake_at(&self) -> Option<Instant> {
        let open = self.open.as_ref().filter(|_| self.closed.is_empty());
        open.map(|open| open.due)
    }

    /// Closes the batch that is open.
    pub fn close(&mut self) {
        let Some(Open { mut batch, .. }) = self.open.take() else {
            return;
        };
        let payload = &mut batch.draft.payload;
        self.last = payload.len();
        if batch.draft.readings == 1 {
            // No batch, and so without what would end it there.
            payload.pop();
            self.bytes -= 1;
        }
        if payload.capacity() / 2 > payload.len() {
            payload.shrink_to_fit();
        }
        self.closed.push_back(batch);
    }

    /// The next message to offer.
    pub fn next_batch(&mut self) -> Option<Batch> {
        let batch = self.closed.pop_front()?;
        self.readings -= u64::from(batch.draft.readings);
        self.bytes -= batch.draft.payload.len() as u64;
        Some(batch)
    }

    /// There was no room for it: it comes first again.
    pub fn put_back(&mut self, batch: Batch) {
        self.readings += u64::from(batch.draft.readings);
        self.bytes += batch.draft.payload.len() as u64;
        self.closed.push_front(batch);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.open = None;
        self.closed.clear();
        (self.readings, self.bytes) = (0, 0);
    }

    /// Whether a message can be offered.
    pub fn has_batch(&self) -> bool {
        !self.closed.is_empty()
    }

    /// Messages here, the open one included.
    pub fn messages(&self) -> usize {
        self.closed.len() + usize::from(self.open.is_some())
    }

    pub fn readings(&self) -> u64 {
        self.readings
    }

    /// Bytes of payload in them.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The largest payload of a batch for this topic, in bytes: at QoS 0 it could be two bytes larger.
    fn most(&self, topic: &str) -> usize {
        let parts = PublishParts {
            topic: topic.len(),
            identifier: true,
            properties: Some(self.rule.properties),
            payload: 0,
        };
        let within = parts.payload_within(self.packet).unwrap_or_default();
        let size = self.rule.size.saturating_sub(topic.len());
        self.rule.payload.min(size).min(within)
    }
}

/// A message of this reading only.
fn alone(reading: Reading<'_>, line: u64) -> Batch {
    let draft = Draft {
        topic: reading.topic,
        payload: reading.payload.into_owned(),
        qos: reading.qos,
        retain: reading.retain,
        readings: 1,
    };
    let lines = Lines::new(line);
    Batch { draft, lines }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    const WAIT: u64 = 50;

    const PROPERTIES: usize = 130;

    /// So many milliseconds after some origin.
    #[allow(clippy::disallowed_methods, reason = "any instant will do")]
    fn at(ms: u64) -> Instant {
        static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
        *ORIGIN + Duration::from_millis(ms)
    }

    fn batcher(readings: u32, payload: usize, size: usize) -> Batcher {
        Batcher::new(Rule {
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
        }
    }

    /// What comes out, with bars between.
    fn drained(batcher: &mut Batcher) -> String {
        let messages = std::iter::from_fn(|| batcher.next_batch());
        let payloads: Vec<_> = messages.map(|batch| batch.draft.payload).collect();
        payloads.join(&b'|').escape_ascii().to_string()
    }

    #[test]
    fn a_batch_is_closed_when_it_is_full_and_when_it_is_due() {
        let mut batcher = batcher(3, 100, 100);
        for (n, payload) in (1..).zip([&b"a"[..], b"", b"b", b"c"]) {
            batcher.push(reading("t", payload), n, at(n));
        }
        assert_eq!(drained(&mut batcher), r"a\n\nb\n");
        assert_eq!(batcher.wake_at(), Some(at(4 + WAIT)));
        batcher.tick(at(3 + WAIT));
        assert!(!batcher.has_batch() && batcher.messages() == 1);
        batcher.tick(at(4 + WAIT));
        let last = batcher.next_batch().unwrap();
        assert_eq!((&*last.draft.payload, last.draft.readings), (&b"c"[..], 1));
        assert_eq!((batcher.readings(), batcher.bytes()), (0, 0));
    }

    #[test]
    fn another_topic_a_newline_and_what_is_too_large_end_a_batch() {
        let mut batcher = batcher(10, 8, 100);
        let inputs = "t1 t2 u3 t4\n t5 t12345678 t1234567 t t123456 t6";
        for (n, input) in (1..).zip(inputs.split(' ')) {
            let (topic, payload) = input.split_at(1);
            batcher.push(reading(topic, payload.as_bytes()), n, at(0));
        }
        batcher.close();
        let expected = r"1\n2\n|3|4\n|5|12345678|1234567|\n123456\n|6";
        assert_eq!(drained(&mut batcher), expected);
        let mut retained = reading("t", b"2");
        retained.retain = true;
        batcher.push(reading("t", b"1"), 1, at(0));
        batcher.push(retained, 2, at(0));
        assert_eq!(drained(&mut batcher), "1");
    }

    #[test]
    fn the_topic_counts_and_so_does_the_broker_s_packet() {
        let mut narrow = batcher(10, 100, 10);
        let mut wide = batcher(1_000, 100_000, 100_000);
        wide.fit(1_000);
        for n in 1..=1_000 {
            narrow.push(reading("topic", b"1"), n, at(0));
            wide.push(reading("t", b"1"), n, at(0));
        }
        let batch = narrow.next_batch().unwrap();
        assert_eq!(batch.draft.payload, b"1\n1\n");
        let bytes = wide.next_batch().unwrap().draft.payload.len();
        let parts = PublishParts {
            topic: 1,
            identifier: true,
            properties: Some(PROPERTIES),
            payload: bytes,
        };
        // A reading and its newline more would be too much.
        assert!(
            (999..=1_000).contains(&parts.packet()),
            "{}",
            parts.packet()
        );
    }

    #[test]
    fn one_that_waits_for_its_place_gives_the_next_one_time() {
        let mut batcher = batcher(2, 100, 100);
        for n in 1..=3 {
            batcher.push(reading("t", b"x"), n, at(0));
        }
        let first = batcher.next_batch().unwrap();
        batcher.put_back(first);
        batcher.tick(at(1_000));
        assert_eq!((batcher.wake_at(), batcher.messages()), (None, 2));
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
                    got.extend(draft.each_reading().map(|reading| (topic, reading.to_vec())));
                    assert_eq!(got.len() - before, draft.readings as usize);
                    assert_eq!(lines.iter().count(), draft.readings as usize);
                }
                got.len()
            };
            for (line, (pause, topic, payload)) in (1..).zip(steps) {
                let next = now + pause;
                if let Some(due) = (now..=next).find(|ms| Some(at(*ms)) == batcher.wake_at()) {
                    batcher.tick(at(due));
                    drain(&mut batcher, &pushed, due);
                }
                now = next;
                pushed.push((topic, payload.clone(), now));
                batcher.push(reading(&topic.to_string(), &payload), line, at(now));
                let out = drain(&mut batcher, &pushed, now);
                prop_assert_eq!(batcher.readings(), (pushed.len() - out) as u64);
                prop_assert!(most > 1 || batcher.messages() == 0);
            }
            batcher.close();
            drain(&mut batcher, &pushed, now);
            let expected: Vec<_> = pushed.into_iter().map(|(t, p, _)| (t, p)).collect();
            prop_assert_eq!(got, expected);
            prop_assert_eq!((batcher.readings(), batcher.bytes()), (0, 0));
        }
    }
}
