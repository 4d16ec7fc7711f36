//! Properties (MQTT 5.0 section 2.2.2): which packets may have which, how often, and their types. PURE.

use std::fmt;

use super::field_reader::FieldReader;
use super::packet_type::PacketType;
use super::violation::Violation;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PropertyId {
    PayloadFormatIndicator = 0x01,
    MessageExpiryInterval = 0x02,
    ContentType = 0x03,
    ResponseTopic = 0x08,
    CorrelationData = 0x09,
    SubscriptionIdentifier = 0x0B,
    SessionExpiryInterval = 0x11,
    AssignedClientIdentifier = 0x12,
    ServerKeepAlive = 0x13,
    AuthenticationMethod = 0x15,
    AuthenticationData = 0x16,
    RequestProblemInformation = 0x17,
    WillDelayInterval = 0x18,
    RequestResponseInformation = 0x19,
    ResponseInformation = 0x1A,
    ServerReference = 0x1C,
    ReasonString = 0x1F,
    ReceiveMaximum = 0x21,
    TopicAliasMaximum = 0x22,
    TopicAlias = 0x23,
    MaximumQos = 0x24,
    RetainAvailable = 0x25,
    UserProperty = 0x26,
    MaximumPacketSize = 0x27,
    WildcardSubscriptionAvailable = 0x28,
    SubscriptionIdentifierAvailable = 0x29,
    SharedSubscriptionAvailable = 0x2A,
}

impl PropertyId {
    /// A message may match several subscriptions (MQTT 5.0 section 3.3.2.3.8).
    fn may_repeat(self) -> bool {
        matches!(self, Self::UserProperty | Self::SubscriptionIdentifier)
    }
}

/// The name that the specification has for it: the variant's, in words.
impl fmt::Display for PropertyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = String::new();
        for letter in format!("{self:?}").chars() {
            if letter.is_uppercase() && !words.is_empty() {
                words.push(' ');
            }
            words.push(letter);
        }
        f.write_str(&words.replace("Qos", "QoS"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A byte, or a two byte, four byte or variable byte integer.
    Number(u32),
    Binary(&'a [u8]),
    Text(&'a str),
    Pair(&'a str, &'a str),
}

impl Value<'_> {
    pub fn has_nul(&self) -> bool {
        match self {
            Self::Text(text) => text.contains('\0'),
            Self::Pair(name, value) => name.contains('\0') || value.contains('\0'),
            Self::Number(_) | Self::Binary(_) => false,
        }
    }
}

#[derive(Clone, Copy)]
enum ValueType {
    Byte,
    U16,
    U32,
    VariableInt,
    Binary,
    Text,
    Pair,
}

/// A property, the type of its value, and the packets from a broker that may have it.
type Rule = (PropertyId, ValueType, &'static [PacketType]);

const CLIENT_ONLY: &[PacketType] = &[];
const PUBLISH: &[PacketType] = &[PacketType::Publish];
const CONNACK: &[PacketType] = &[PacketType::Connack];
const REDIRECTS: &[PacketType] = &[PacketType::Connack, PacketType::Disconnect];
const ALL: &[PacketType] = &[
    PacketType::Publish,
    PacketType::Connack,
    PacketType::Puback,
    PacketType::Pubrec,
    PacketType::Pubrel,
    PacketType::Pubcomp,
    PacketType::Suback,
    PacketType::Unsuback,
    PacketType::Disconnect,
];
const ALL_BUT_PUBLISH: &[PacketType] = match ALL {
    [PacketType::Publish, others @ ..] => others,
    _ => ALL,
};

const RULES: [Rule; 27] = {
    use PropertyId as P;
    use ValueType::{Binary, Byte, Pair, Text, U16, U32, VariableInt};
    [
        (P::PayloadFormatIndicator, Byte, PUBLISH),
        (P::MessageExpiryInterval, U32, PUBLISH),
        (P::ContentType, Text, PUBLISH),
        (P::ResponseTopic, Text, PUBLISH),
        (P::CorrelationData, Binary, PUBLISH),
        (P::SubscriptionIdentifier, VariableInt, PUBLISH),
        (P::SessionExpiryInterval, U32, CONNACK),
        (P::AssignedClientIdentifier, Text, CONNACK),
        (P::ServerKeepAlive, U16, CONNACK),
        (P::AuthenticationMethod, Text, CONNACK),
        (P::AuthenticationData, Binary, CONNACK),
        (P::RequestProblemInformation, Byte, CLIENT_ONLY),
        (P::WillDelayInterval, U32, CLIENT_ONLY),
        (P::RequestResponseInformation, Byte, CLIENT_ONLY),
        (P::ResponseInformation, Text, CONNACK),
        (P::ServerReference, Text, REDIRECTS),
        (P::ReasonString, Text, ALL_BUT_PUBLISH),
        (P::ReceiveMaximum, U16, CONNACK),
        (P::TopicAliasMaximum, U16, CONNACK),
        (P::TopicAlias, U16, PUBLISH),
        (P::MaximumQos, Byte, CONNACK),
        (P::RetainAvailable, Byte, CONNACK),
        (P::UserProperty, Pair, ALL),
        (P::MaximumPacketSize, U32, CONNACK),
        (P::WildcardSubscriptionAvailable, Byte, CONNACK),
        (P::SubscriptionIdentifierAvailable, Byte, CONNACK),
        (P::SharedSubscriptionAvailable, Byte, CONNACK),
    ]
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawProperties<'a>(&'a [u8]);

impl<'a> RawProperties<'a> {
    /// Properties that have been [`read`] without an error.
    pub(super) fn from_checked(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn parse(bytes: &'a [u8]) -> Result<Self, Violation> {
        let mut reader = FieldReader::new(bytes);
        read(&mut reader, PacketType::Publish, |_, _| Ok(())).map(|()| Self(bytes))
    }

    pub fn all(self) -> impl Iterator<Item = (PropertyId, Value<'a>)> {
        let mut reader = FieldReader::new(self.0);
        let length = reader.variable_int();
        std::iter::from_fn(move || {
            length.as_ref().ok()?;
            next(&mut reader, PacketType::Publish).ok()
        })
    }

    pub fn user(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.all().filter_map(|(_, value)| match value {
            Value::Pair(name, value) => Some((name, value)),
            _ => None,
        })
    }

    pub fn subscriptions(self) -> impl Iterator<Item = u32> {
        self.all().filter_map(|property| match property {
            (PropertyId::SubscriptionIdentifier, Value::Number(id)) => Some(id),
            _ => None,
        })
    }
}

/// Reads the properties of a packet of this type, with their length, until `each` fails. One that must not repeat
/// and does is a protocol error; a length beyond the packet, or a property that is unknown, cut off or not one of
/// this packet, makes a malformed packet.
pub fn read<'a>(
    reader: &mut FieldReader<'a>,
    packet: PacketType,
    mut each: impl FnMut(PropertyId, Value<'a>) -> Result<(), Violation>,
) -> Result<(), Violation> {
    let length = reader.variable_int()?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let mut reader = FieldReader::new(reader.take(length)?);
    let mut seen = 0u64;
    while !reader.is_empty() {
        let (property, value) = next(&mut reader, packet)?;
        let bit = 1u64 << property as u8;
        if seen & bit != 0 && !property.may_repeat() {
            let cause = format!("{property} is there twice");
            return Err(Violation::protocol_error(cause));
        }
        seen |= bit;
        each(property, value)?;
    }
    Ok(())
}

fn next<'a>(
    reader: &mut FieldReader<'a>,
    packet: PacketType,
) -> Result<(PropertyId, Value<'a>), Violation> {
    let (property, value_type) = find_rule(reader.variable_int()?, packet)?;
    let value = match value_type {
        ValueType::Byte => Value::Number(reader.byte()?.into()),
        ValueType::U16 => Value::Number(reader.u16()?.into()),
        ValueType::U32 => Value::Number(reader.u32()?),
        ValueType::VariableInt => Value::Number(reader.variable_int()?),
        ValueType::Binary => Value::Binary(reader.binary()?),
        ValueType::Text => Value::Text(reader.string()?),
        ValueType::Pair => Value::Pair(reader.string()?, reader.string()?),
    };
    Ok((property, value))
}

fn find_rule(id: u32, packet: PacketType) -> Result<(PropertyId, ValueType), Violation> {
    let mut rules = RULES.iter();
    let rule = rules.find(|(property, ..)| u32::from(*property as u8) == id);
    let Some((property, value_type, packets)) = rule else {
        let cause = format!("a property with the unknown identifier {id:#04x}");
        return Err(Violation::malformed(cause));
    };
    if packets.contains(&packet) {
        return Ok((*property, *value_type));
    }
    // The specification names this one in particular (section 3.14.2.2.2).
    if packet == PacketType::Disconnect && *property == PropertyId::SessionExpiryInterval {
        let cause = format!("{property} from a server");
        return Err(Violation::protocol_error(cause));
    }
    let cause = format!("{property} is not a property of this packet");
    Err(Violation::malformed(cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_is_named_as_in_the_specification() {
        assert_eq!(PropertyId::MaximumQos.to_string(), "Maximum QoS");
        let session_expiry = PropertyId::SessionExpiryInterval;
        assert_eq!(session_expiry.to_string(), "Session Expiry Interval");
    }
}
