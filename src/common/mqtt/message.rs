//! A message to publish, its number, and the `seq` property that carries the number to
//! the receiver. PURE.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::age::{BootTime, Timestamp};
use super::limits::{INTEGER_PROPERTY, PublishParts, string_property, user_property};
use super::properties::Repeated;

/// MQTT's quality of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Qos {
    /// At most once: nobody acknowledges.
    AtMostOnce = 0,
    /// At least once: PUBACK.
    AtLeastOnce = 1,
    /// Exactly once: PUBREC, PUBREL, PUBCOMP.
    ExactlyOnce = 2,
}

impl Qos {
    /// The number of the protocol.
    pub const fn level(self) -> u8 {
        self as u8
    }

    /// The QoS with that number; none for any other than 0 to 2.
    pub const fn from_level(level: u8) -> Option<Self> {
        match level {
            0 => Some(Qos::AtMostOnce),
            1 => Some(Qos::AtLeastOnce),
            2 => Some(Qos::ExactlyOnce),
            _ => None,
        }
    }
}

impl FromStr for Qos {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "0" => Ok(Qos::AtMostOnce),
            "1" => Ok(Qos::AtLeastOnce),
            "2" => Ok(Qos::ExactlyOnce),
            _ => Err("MQTT has QoS 0, 1 and 2"),
        }
    }
}

/// A message before it is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// A checked topic name.
    pub topic: Arc<str>,
    /// The payload, any bytes.
    pub payload: Vec<u8>,
    /// How it is to be delivered.
    pub qos: Qos,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
    /// Readings in the payload. With 1 it is that reading; with more it is a batch, and each of
    /// them, the last one too, ends with a newline.
    pub readings: u32,
}

impl Draft {
    /// The content type of a batch (MQTT 5, section 3.3.2.3.9).
    pub const BATCH_TYPE: &'static str = "application/x-ndjson";

    /// Readings in one message, at most.
    pub const MAX_READINGS: u32 = 100_000;

    /// Whether it holds several readings.
    pub fn is_batch(&self) -> bool {
        self.readings > 1
    }

    /// Each reading, in order, without the newline that ends it in a batch.
    pub fn each_reading(&self) -> impl Iterator<Item = &[u8]> {
        let alone = (!self.is_batch()).then_some(&*self.payload);
        let several = if self.is_batch() { &*self.payload } else { &[] };
        alone.into_iter().chain(lines(several))
    }
}

/// The lines in these bytes, without their newlines. What comes after the last newline is no
/// line.
pub fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut begin = 0;
    memchr::memchr_iter(b'\n', bytes).map(move |end| {
        let line = bytes.get(begin..end).unwrap_or_default();
        begin = end + 1;
        line
    })
}

/// A message that the publisher answers for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// A name that no other message of this run has, in the order in which they came up.
    pub key: u64,
    /// The stream that numbers it: this run's, or the queue file's.
    pub stream: Arc<str>,
    /// Its number in the stream, from 1; 0 as long as it has none.
    pub seq: u64,
    /// Unix time of acceptance in milliseconds.
    pub accepted_ms: u64,
    /// The time since boot of the same moment, which nobody sets; none if it is not known.
    pub accepted_boot: Option<BootTime>,
    /// Unix time in milliseconds after which it is not to be sent any more, had nobody set the
    /// clock since: how much later than `accepted_ms` it is, counts.
    pub expires_ms: Option<u64>,
    /// When that will be on the clock that nobody sets. None as long as it is not known: the
    /// machine has restarted since.
    pub expires_at: Option<Instant>,
    /// Connections lost with it at the head, in runs before this one.
    pub attempts: u32,
    /// What was asked for.
    pub draft: Draft,
}

impl Message {
    /// The size of its PUBLISH in bytes, exactly: with MQTT 5 or 3.1.1, with the `seq` property or without.
    pub fn packet_size(&self, v5: bool, sequence: bool) -> usize {
        let draft = &self.draft;
        let property = |there: bool, size: usize| if there { size } else { 0 };
        let seq = SeqProperty::NAME.len() + SeqProperty::size_of(self);
        let properties = property(sequence, user_property(seq))
            + property(draft.is_batch(), string_property(Draft::BATCH_TYPE.len()))
            + property(self.expires_at.is_some(), INTEGER_PROPERTY);
        let parts = PublishParts {
            topic: draft.topic.len(),
            identifier: draft.qos != Qos::AtMostOnce,
            properties: v5.then_some(properties),
            payload: draft.payload.len(),
        };
        parts.packet()
    }

    pub fn accepted(&self) -> Timestamp {
        Timestamp {
            wall_ms: self.accepted_ms,
            boot: self.accepted_boot,
        }
    }

    /// How long it may wait for its sending, from its acceptance.
    pub fn lifetime(&self) -> Option<Duration> {
        let ms = self.expires_ms?.saturating_sub(self.accepted_ms);
        Some(Duration::from_millis(ms))
    }

    /// When it expires, as far as that is known `now`, at the time `at`; none if it never does.
    pub fn expiry(&self, now: Instant, at: &Timestamp) -> Option<Instant> {
        let age = at.since(&self.accepted());
        now.checked_add(self.lifetime()?.saturating_sub(age))
    }
}

/// The value of the `seq` user property: `STREAM/SEQ/MS`. A message sent again keeps it,
/// so a receiver can drop repeats, see gaps and tell when a reading was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeqProperty {
    /// Which run of which publisher, or which queue.
    pub stream: String,
    /// The number in it, from 1.
    pub seq: u64,
    /// Unix time of acceptance in milliseconds.
    pub accepted_ms: u64,
}

impl SeqProperty {
    /// The name of the user property.
    pub const NAME: &'static str = "seq";

    pub fn of(message: &Message) -> Self {
        Self {
            stream: message.stream.to_string(),
            seq: message.seq,
            accepted_ms: message.accepted_ms,
        }
    }

    /// The property among those of a message that has come, if it has one that we wrote.
    pub fn find(properties: &PublishProperties<'_>) -> Option<Self> {
        let mut user = properties.repeated.user();
        let (_, value) = user.find(|(name, _)| *name == Self::NAME)?;
        value.parse().ok()
    }

    /// Bytes of the longest property, name included, of a stream whose name has at most 64 bytes.
    pub const MOST: usize = Self::NAME.len() + 64 + 2 * ("/".len() + 20);

    /// Bytes of the property of a message, without writing it.
    pub fn size_of(message: &Message) -> usize {
        let digits = |number: u64| number.checked_ilog10().map_or(1, |log| log as usize + 1);
        message.stream.len() + digits(message.seq) + digits(message.accepted_ms) + 2
    }
}

impl fmt::Display for SeqProperty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.stream, self.seq, self.accepted_ms)
    }
}

impl FromStr for SeqProperty {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.rsplitn(3, '/');
        let accepted_ms = parts.next().and_then(|ms| ms.parse().ok()).ok_or(())?;
        let seq = parts.next().and_then(|seq| seq.parse().ok()).ok_or(())?;
        let stream = parts.next().filter(|stream| !stream.is_empty()).ok_or(())?;
        Ok(Self {
            stream: stream.to_owned(),
            seq,
            accepted_ms,
        })
    }
}

/// A received message, borrowed for as long as the callback runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// Its topic name.
    pub topic: &'a str,
    pub payload: &'a [u8],
    /// The QoS it came with.
    pub qos: Qos,
    /// Whether it is a retained message.
    pub retained: bool,
    /// The packet identifier; 0 at QoS 0.
    pub mid: u16,
    /// Its number, if it carries one that we wrote.
    pub seq: Option<SeqProperty>,
    /// What else MQTT 5 sent along; `None` with MQTT 3.1.1.
    pub properties: Option<PublishProperties<'a>>,
}

/// The properties of a PUBLISH (MQTT 5, section 3.3.2.3). They stay in the packet: there may be millions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishProperties<'a> {
    /// 1 if the sender says that the payload is UTF-8.
    pub payload_format: Option<u8>,
    /// Seconds that are left until it expires.
    pub message_expiry: Option<u32>,
    pub topic_alias: Option<u16>,
    /// Where an answer is to go.
    pub response_topic: Option<&'a str>,
    /// What the answer is to carry.
    pub correlation_data: Option<&'a [u8]>,
    /// What the payload is.
    pub content_type: Option<&'a str>,
    /// What may stand more than once.
    pub repeated: Repeated<'a>,
}

#[cfg(test)]
mod tests {
    use mqtt_protocol_core::mqtt::packet::{self, v3_1_1, v5_0};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_batch_is_taken_apart_at_its_newlines_and_nothing_else_is() {
        let draft = |payload: &[u8], readings| Draft {
            topic: "t".into(),
            payload: payload.into(),
            qos: Qos::AtLeastOnce,
            retain: false,
            readings,
        };
        let apart = |draft: Draft| {
            let readings = draft.each_reading().map(<[u8]>::to_vec);
            readings.collect::<Vec<_>>()
        };
        assert_eq!(
            apart(draft(b"a\n\n\0\xff\n", 3)),
            [&b"a"[..], b"", b"\0\xff"]
        );
        assert_eq!(apart(draft(b"\n\n", 2)), [b"", b""]);
        assert_eq!(apart(draft(b"a\nb\n", 1)), [b"a\nb\n"]);
        assert_eq!(apart(draft(b"", 1)), [b""]);
    }

    #[test]
    fn the_seq_property_reads_back_what_it_wrote() {
        let property = SeqProperty {
            stream: "b1c2".into(),
            seq: 42,
            accepted_ms: 1_769_846_400_123,
        };
        assert_eq!(property.to_string(), "b1c2/42/1769846400123");
        assert_eq!(property.to_string().parse(), Ok(property));
        for foreign in ["", "42", "a/b/c", "/1/2", "a/1", "a/1/-2"] {
            assert!(foreign.parse::<SeqProperty>().is_err(), "{foreign}");
        }
    }

    fn message(draft: Draft, number: u64) -> Message {
        Message {
            key: 1,
            stream: "b1c2".into(),
            seq: number,
            accepted_ms: number,
            accepted_boot: None,
            expires_ms: None,
            expires_at: None,
            attempts: 0,
            draft,
        }
    }

    fn draft(topic: usize, payload: usize, qos: Qos, readings: u32) -> Draft {
        Draft {
            topic: "t".repeat(topic).into(),
            payload: vec![b'\n'; payload],
            qos,
            retain: false,
            readings,
        }
    }

    #[test]
    fn the_size_of_a_property_is_that_of_its_text() {
        for number in [0, 1, 9, 10, 99, 100, u64::MAX] {
            let mut message = message(draft(1, 0, Qos::AtLeastOnce, 1), number);
            let text = SeqProperty::of(&message).to_string();
            assert_eq!(SeqProperty::size_of(&message), text.len());
            message.stream = "s".repeat(64).into();
            let most = SeqProperty::NAME.len() + SeqProperty::size_of(&message);
            assert!(most <= SeqProperty::MOST);
            assert_eq!(most == SeqProperty::MOST, number == u64::MAX);
        }
    }

    /// The bytes of its PUBLISH as an encoder makes them that has nothing in common with ours.
    fn encoded(message: &Message, v5: bool, sequence: bool) -> usize {
        let draft = &message.draft;
        let qos = packet::Qos::try_from(draft.qos.level()).unwrap();
        let identified = draft.qos != Qos::AtMostOnce;
        if !v5 {
            let publish = v3_1_1::Publish::builder()
                .topic_name(&*draft.topic)
                .unwrap();
            let publish = publish.qos(qos).payload(draft.payload.clone());
            let publish = if identified {
                publish.packet_id(1u16)
            } else {
                publish
            };
            return publish.build().unwrap().to_continuous_buffer().len();
        }
        let mut properties = packet::Properties::new();
        if sequence {
            let seq = SeqProperty::of(message).to_string();
            let property = packet::UserProperty::new(SeqProperty::NAME, &seq).unwrap();
            properties.push(property.into());
        }
        if draft.is_batch() {
            properties.push(packet::ContentType::new(Draft::BATCH_TYPE).unwrap().into());
        }
        if message.expires_at.is_some() {
            properties.push(packet::MessageExpiryInterval::new(60).unwrap().into());
        }
        let publish = v5_0::Publish::builder().topic_name(&*draft.topic).unwrap();
        let publish = publish
            .qos(qos)
            .payload(draft.payload.clone())
            .props(properties);
        let publish = if identified {
            publish.packet_id(1u16)
        } else {
            publish
        };
        publish.build().unwrap().to_continuous_buffer().len()
    }

    /// Around the sizes at which a length takes one byte more.
    fn around_a_boundary() -> impl Strategy<Value = usize> {
        prop_oneof![8 => 0..300usize, 8 => 16_150..16_500usize, 1 => 2_096_950..2_097_200usize]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        #[allow(clippy::disallowed_methods, reason = "any instant will do")]
        fn the_size_of_a_packet_is_that_which_an_encoder_gives_it(
            (topic, payload) in (1usize..200, around_a_boundary()),
            (level, readings) in (0u8..3, 1u32..3),
            (v5, sequence, expires) in any::<(bool, bool, bool)>(),
            (stream, number) in (prop_oneof![1..100usize, 16_250..16_400usize], any::<u64>()),
        ) {
            let draft = draft(topic, payload, Qos::from_level(level).unwrap(), readings);
            let mut message = message(draft, number);
            message.stream = "s".repeat(stream).into();
            message.expires_at = expires.then(Instant::now);
            prop_assert_eq!(message.packet_size(v5, sequence), encoded(&message, v5, sequence));
        }
    }
}
