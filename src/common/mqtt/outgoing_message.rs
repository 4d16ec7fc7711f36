//! A message to publish, with its number. PURE.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::draft::Draft;
use super::publish_size::{
    INTEGER_PROPERTY_SIZE, PublishSize, string_property_size, user_property_size,
};
use super::qos::Qos;
use super::seq_property::SeqProperty;
use super::two_clock_time::{BootTime, TwoClockTime};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutgoingMessage {
    /// A name that no other message of this run has, in the order in which they came up.
    pub id: u64,
    /// The stream that numbers it: this run's, or the queue file's.
    pub stream: Arc<str>,
    /// Its number in the stream, from 1; 0 as long as it has none.
    pub seq: u64,
    /// Unix time at which it was taken, in milliseconds.
    pub accepted_ms: u64,
    /// The time since boot of the same moment; none if it is not known.
    pub accepted_boot: Option<BootTime>,
    /// Unix time in milliseconds at which it expires, by the clock that set `accepted_ms`: only the difference
    /// between the two counts.
    pub expires_ms: Option<u64>,
    /// When that will be on the monotonic clock. None as long as it is not known: the machine has restarted since.
    pub expires_at: Option<Instant>,
    /// Connections lost with it at the head, in runs before this one.
    pub attempts: u32,
    pub draft: Draft,
}

impl OutgoingMessage {
    /// Of its PUBLISH, in bytes. `sequence` is whether it has the `seq` property.
    pub fn packet_size(&self, v5: bool, sequence: bool) -> usize {
        let draft = &self.draft;
        let value = SeqProperty::value_size(&self.stream, self.seq, self.accepted_ms);
        let (seq, batch) = (SeqProperty::NAME.len() + value, Draft::BATCH_TYPE.len());
        let sizes = [
            (sequence, user_property_size(seq)),
            (draft.is_batch(), string_property_size(batch)),
            (self.expires_at.is_some(), INTEGER_PROPERTY_SIZE),
        ];
        let own = sizes.iter().filter(|(is_there, _)| *is_there);
        let own: usize = own.map(|(_, size)| size).sum();
        let given = draft.properties.as_ref();
        let given = given.map_or(0, |properties| properties.packet_size());
        let size = PublishSize {
            topic: draft.topic.len(),
            has_packet_id: draft.qos != Qos::AtMostOnce,
            properties: v5.then_some(own + given),
            payload: draft.payload.len(),
        };
        size.total()
    }

    pub fn to_seq_property(&self) -> SeqProperty {
        SeqProperty {
            stream: self.stream.to_string(),
            seq: self.seq,
            accepted_ms: self.accepted_ms,
        }
    }

    pub fn accepted_at(&self) -> TwoClockTime {
        TwoClockTime {
            wall_ms: self.accepted_ms,
            boot: self.accepted_boot,
        }
    }

    /// How long it may wait to be sent, from when it was taken.
    pub fn lifetime(&self) -> Option<Duration> {
        let ms = self.expires_ms?.saturating_sub(self.accepted_ms);
        Some(Duration::from_millis(ms))
    }

    /// As far as it is known `now`, at the time `at`; none if it never does.
    pub fn expiry_instant(&self, now: Instant, at: &TwoClockTime) -> Option<Instant> {
        let age = at.since(&self.accepted_at());
        now.checked_add(self.lifetime()?.saturating_sub(age))
    }
}

#[cfg(test)]
mod tests {
    use mqtt_protocol_core::mqtt::packet::{self, v3_1_1, v5_0};
    use proptest::prelude::*;

    use super::*;
    use crate::common::mqtt::message_properties::MessageProperties;
    use crate::common::mqtt::property_fields::PropertyFields;

    /// The bytes of its PUBLISH as an encoder makes them that has nothing in common with ours.
    fn encoded(message: &OutgoingMessage, v5: bool, sequence: bool) -> usize {
        let draft = &message.draft;
        let qos = packet::Qos::try_from(draft.qos.level()).unwrap();
        let identified = draft.qos != Qos::AtMostOnce;
        if !v5 {
            let publish = v3_1_1::Publish::builder().topic_name(&*draft.topic);
            let publish = publish.unwrap().qos(qos).payload(draft.payload.clone());
            let publish = if identified {
                publish.packet_id(1u16)
            } else {
                publish
            };
            return publish.build().unwrap().to_continuous_buffer().len();
        }
        let mut properties = packet::Properties::new();
        if sequence {
            let seq = message.to_seq_property().to_string();
            let property = packet::UserProperty::new(SeqProperty::NAME, &seq).unwrap();
            properties.push(property.into());
        }
        if draft.is_batch() {
            properties.push(packet::ContentType::new(Draft::BATCH_TYPE).unwrap().into());
        }
        if message.expires_at.is_some() {
            properties.push(packet::MessageExpiryInterval::new(60).unwrap().into());
        }
        if let Some(given) = &draft.properties {
            let fields = given.fields();
            let content_type = packet::ContentType::new(fields.content_type.unwrap());
            properties.push(content_type.unwrap().into());
            for (name, value) in fields.repeated.user() {
                properties.push(packet::UserProperty::new(name, value).unwrap().into());
            }
        }
        let publish = v5_0::Publish::builder().topic_name(&*draft.topic).unwrap();
        let publish = publish.qos(qos).payload(draft.payload.clone());
        let publish = publish.props(properties);
        let publish = if identified {
            publish.packet_id(1u16)
        } else {
            publish
        };
        publish.build().unwrap().to_continuous_buffer().len()
    }

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
            user in proptest::option::of(prop_oneof![0..100usize, 16_250..16_400usize]),
            (stream, number) in (prop_oneof![1..100usize, 16_250..16_400usize], any::<u64>()),
        ) {
            let given = user.map(|size| PropertyFields {
                content_type: Some("c".into()),
                user: Some(vec![("n".into(), "v".repeat(size).into()), ("n".into(), "".into())]),
                ..PropertyFields::default()
            });
            // A batch has its own content type.
            let given = given.filter(|_| readings == 1);
            let draft = Draft {
                topic: "t".repeat(topic).into(),
                payload: vec![b'\n'; payload],
                qos: Qos::from_level(level).unwrap(),
                readings,
                properties: given.and_then(|fields| MessageProperties::new(&fields)),
                ..Draft::default()
            };
            let message = OutgoingMessage {
                stream: "s".repeat(stream).into(),
                seq: number,
                accepted_ms: number,
                expires_at: expires.then(Instant::now),
                draft,
                ..OutgoingMessage::default()
            };
            prop_assert_eq!(message.packet_size(v5, sequence), encoded(&message, v5, sequence));
        }
    }
}
