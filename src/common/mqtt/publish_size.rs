//! The size of a PUBLISH (MQTT 5.0 and 3.1.1, section 3.3). PURE.

use super::limits::{MAX_PACKET, variable_int_size};

pub const INTEGER_PROPERTY_SIZE: usize = 1 + 4;

pub const fn string_property_size(bytes: usize) -> usize {
    1 + 2 + bytes
}

/// `bytes` are those of name and value.
pub const fn user_property_size(bytes: usize) -> usize {
    1 + 2 + 2 + bytes
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishSize {
    pub topic: usize,
    pub has_packet_id: bool,
    /// The properties, without their length; none with MQTT 3.1.1.
    pub properties: Option<usize>,
    pub payload: usize,
}

impl PublishSize {
    pub fn total(self) -> usize {
        let packet_id = if self.has_packet_id { 2 } else { 0 };
        let properties = self
            .properties
            .map_or(0, |size| variable_int_size(size) + size);
        let remaining = 2 + self.topic + packet_id + properties + self.payload;
        1 + variable_int_size(remaining) + remaining
    }

    /// The largest with which it fits into a packet of this many bytes; none if it never does.
    pub fn max_payload(self, packet: usize) -> Option<usize> {
        let total_with = |payload| Self { payload, ..self }.total();
        // Without a payload the remaining length takes up to three bytes less than with one.
        let rest = packet.checked_sub(total_with(0))?;
        (rest.saturating_sub(3)..=rest)
            .rev()
            .find(|payload| total_with(*payload) <= packet)
    }
}

/// For a PUBLISH to a topic of `topic` bytes, with 128 bytes left for properties.
pub fn max_payload(topic: usize) -> usize {
    let size = PublishSize {
        topic,
        has_packet_id: true,
        properties: Some(128),
        payload: 0,
    };
    size.max_payload(MAX_PACKET).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn around_a_boundary() -> impl Strategy<Value = usize> {
        prop_oneof![
            0..400usize,
            16_200..16_700usize,
            2_097_000..2_097_500usize,
            MAX_PACKET - 300..=MAX_PACKET
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn the_largest_payload_fits_and_one_byte_more_does_not(
            topic in 1usize..200,
            has_packet_id: bool,
            properties in proptest::option::of(0usize..300),
            packet in around_a_boundary(),
        ) {
            let size = PublishSize { topic, has_packet_id, properties, payload: 0 };
            let with = |payload| PublishSize { payload, ..size }.total();
            match size.max_payload(packet) {
                Some(payload) => prop_assert!(with(payload) <= packet && with(payload + 1) > packet),
                None => prop_assert!(with(0) > packet),
            }
        }
    }
}
