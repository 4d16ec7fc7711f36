//! MQTT 5's properties (MQTT 5.0 section 2.2.2): which packets may have which, how often, and of
//! what type their values are. PURE.

use super::packet_type::PacketType;
use super::reader::Reader;
use super::violation::Violation;

/// The properties that a broker may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of table 2-4 of MQTT 5.0")]
pub enum Property {
    PayloadFormatIndicator,
    MessageExpiryInterval,
    ContentType,
    ResponseTopic,
    CorrelationData,
    SubscriptionIdentifier,
    SessionExpiryInterval,
    AssignedClientIdentifier,
    ServerKeepAlive,
    AuthenticationMethod,
    AuthenticationData,
    ResponseInformation,
    ServerReference,
    ReasonString,
    ReceiveMaximum,
    TopicAliasMaximum,
    TopicAlias,
    MaximumQos,
    RetainAvailable,
    UserProperty,
    MaximumPacketSize,
    WildcardSubscriptionAvailable,
    SubscriptionIdentifierAvailable,
    SharedSubscriptionAvailable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A byte, or a two byte, four byte or variable byte integer.
    Number(u32),
    /// Binary data.
    Binary(&'a [u8]),
    /// A UTF-8 string, which may have a U+0000.
    Text(&'a str),
    /// Two of them.
    Pair(&'a str, &'a str),
}

impl Value<'_> {
    /// Whether one of its strings has a U+0000 (MQTT-1.5.4-2).
    pub fn has_nul(&self) -> bool {
        match self {
            Self::Text(text) => text.contains('\0'),
            Self::Pair(name, value) => name.contains('\0') || value.contains('\0'),
            Self::Number(_) | Self::Binary(_) => false,
        }
    }
}

#[derive(Clone, Copy)]
enum Type {
    Byte,
    Short,
    Long,
    Variable,
    Binary,
    Text,
    Pair,
}

/// What the specification says of one property.
struct Rule {
    id: u8,
    property: Property,
    name: &'static str,
    value: Type,
    /// The packets from a broker that may have it.
    packets: &'static [PacketType],
}

const fn rule(
    id: u8,
    property: Property,
    name: &'static str,
    value: Type,
    packets: &'static [PacketType],
) -> Rule {
    Rule {
        id,
        property,
        name,
        value,
        packets,
    }
}

const PUBLISH: &[PacketType] = &[PacketType::Publish];
const CONNACK: &[PacketType] = &[PacketType::Connack];
const ENDING: &[PacketType] = &[PacketType::Connack, PacketType::Disconnect];
const ANSWERS: &[PacketType] = &[
    PacketType::Connack,
    PacketType::Puback,
    PacketType::Pubrec,
    PacketType::Pubrel,
    PacketType::Pubcomp,
    PacketType::Suback,
    PacketType::Unsuback,
    PacketType::Disconnect,
];
const ALL: &[PacketType] = &[
    PacketType::Connack,
    PacketType::Publish,
    PacketType::Puback,
    PacketType::Pubrec,
    PacketType::Pubrel,
    PacketType::Pubcomp,
    PacketType::Suback,
    PacketType::Unsuback,
    PacketType::Disconnect,
];

/// Table 2-4 of MQTT 5.0, without what only a client sends.
const RULES: [Rule; 24] = {
    use Property as P;
    use Type::{Binary, Byte, Long, Pair, Short, Text, Variable};
    [
        rule(
            0x01,
            P::PayloadFormatIndicator,
            "Payload Format Indicator",
            Byte,
            PUBLISH,
        ),
        rule(
            0x02,
            P::MessageExpiryInterval,
            "Message Expiry Interval",
            Long,
            PUBLISH,
        ),
        rule(0x03, P::ContentType, "Content Type", Text, PUBLISH),
        rule(0x08, P::ResponseTopic, "Response Topic", Text, PUBLISH),
        rule(
            0x09,
            P::CorrelationData,
            "Correlation Data",
            Binary,
            PUBLISH,
        ),
        rule(
            0x0B,
            P::SubscriptionIdentifier,
            "Subscription Identifier",
            Variable,
            PUBLISH,
        ),
        rule(
            0x11,
            P::SessionExpiryInterval,
            "Session Expiry Interval",
            Long,
            CONNACK,
        ),
        rule(
            0x12,
            P::AssignedClientIdentifier,
            "Assigned Client Identifier",
            Text,
            CONNACK,
        ),
        rule(
            0x13,
            P::ServerKeepAlive,
            "Server Keep Alive",
            Short,
            CONNACK,
        ),
        rule(
            0x15,
            P::AuthenticationMethod,
            "Authentication Method",
            Text,
            CONNACK,
        ),
        rule(
            0x16,
            P::AuthenticationData,
            "Authentication Data",
            Binary,
            CONNACK,
        ),
        rule(
            0x1A,
            P::ResponseInformation,
            "Response Information",
            Text,
            CONNACK,
        ),
        rule(0x1C, P::ServerReference, "Server Reference", Text, ENDING),
        rule(0x1F, P::ReasonString, "Reason String", Text, ANSWERS),
        rule(0x21, P::ReceiveMaximum, "Receive Maximum", Short, CONNACK),
        rule(
            0x22,
            P::TopicAliasMaximum,
            "Topic Alias Maximum",
            Short,
            CONNACK,
        ),
        rule(0x23, P::TopicAlias, "Topic Alias", Short, PUBLISH),
        rule(0x24, P::MaximumQos, "Maximum QoS", Byte, CONNACK),
        rule(0x25, P::RetainAvailable, "Retain Available", Byte, CONNACK),
        rule(0x26, P::UserProperty, "User Property", Pair, ALL),
        rule(
            0x27,
            P::MaximumPacketSize,
            "Maximum Packet Size",
            Long,
            CONNACK,
        ),
        rule(
            0x28,
            P::WildcardSubscriptionAvailable,
            "Wildcard Subscription Available",
            Byte,
            CONNACK,
        ),
        rule(
            0x29,
            P::SubscriptionIdentifierAvailable,
            "Subscription Identifier Available",
            Byte,
            CONNACK,
        ),
        rule(
            0x2A,
            P::SharedSubscriptionAvailable,
            "Shared Subscription Available",
            Byte,
            CONNACK,
        ),
    ]
};

/// What only a client sends: known, but in no packet of a broker.
const CLIENT_RULES: [(u8, &str); 3] = [
    (0x17, "Request Problem Information"),
    (0x18, "Will Delay Interval"),
    (0x19, "Request Response Information"),
];

/// The properties of a PUBLISH that may stand more than once, where they stand in the packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repeated<'a>(&'a [u8]);

impl<'a> Repeated<'a> {
    /// The properties that follow their length, all of them checked.
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Properties with their length in front, as a PUBLISH has them.
    ///
    /// # Errors
    ///
    /// What [`read`] has.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Violation> {
        read(&mut Reader::new(bytes), PacketType::Publish, |_, _| Ok(()))?;
        let mut reader = Reader::new(bytes);
        reader.variable()?;
        Ok(Self(reader.rest()))
    }

    fn all(self) -> impl Iterator<Item = (Property, Value<'a>)> {
        let mut reader = Reader::new(self.0);
        // They have been read before, without an error.
        std::iter::from_fn(move || next(&mut reader, PacketType::Publish).ok())
    }

    /// The user properties, name and value, in the order of the packet.
    pub fn user(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.all().filter_map(|(_, value)| match value {
            Value::Pair(name, value) => Some((name, value)),
            _ => None,
        })
    }

    /// The identifiers of the subscriptions that the message matched.
    pub fn subscriptions(self) -> impl Iterator<Item = u32> {
        self.all().filter_map(|property| match property {
            (Property::SubscriptionIdentifier, Value::Number(id)) => Some(id),
            _ => None,
        })
    }
}

/// The next property.
fn next<'a>(
    reader: &mut Reader<'a>,
    packet: PacketType,
) -> Result<(Property, Value<'a>), Violation> {
    let id = reader.variable()?;
    let rule = find(id, packet)?;
    let value = match rule.value {
        Type::Byte => Value::Number(reader.byte()?.into()),
        Type::Short => Value::Number(reader.short()?.into()),
        Type::Long => Value::Number(reader.long()?),
        Type::Variable => Value::Number(reader.variable()?),
        Type::Binary => Value::Binary(reader.binary()?),
        Type::Text => Value::Text(reader.string()?),
        Type::Pair => Value::Pair(reader.string()?, reader.string()?),
    };
    Ok((rule.property, value))
}

/// Reads the properties of a packet of this type, from their length to their end, and hands each
/// to `each`.
///
/// # Errors
///
/// A malformed packet for a length beyond the packet, a property that is unknown, does not belong in
/// this packet or is cut off; a protocol error for one that may stand once and stands twice.
/// What `each` returns ends the reading.
pub fn read<'a>(
    reader: &mut Reader<'a>,
    packet: PacketType,
    mut each: impl FnMut(Property, Value<'a>) -> Result<(), Violation>,
) -> Result<(), Violation> {
    let length = reader.variable()?;
    let mut reader = Reader::new(reader.take(usize::try_from(length).unwrap_or(usize::MAX))?);
    let mut seen = 0u64;
    while !reader.is_empty() {
        let (property, value) = next(&mut reader, packet)?;
        let bit = 1u64 << property as u8;
        if seen & bit != 0 && !may_repeat(property) {
            return Err(Violation::protocol_error(format!(
                "{} stands twice",
                name(property)
            )));
        }
        seen |= bit;
        each(property, value)?;
    }
    Ok(())
}

fn name(property: Property) -> &'static str {
    let rule = RULES.iter().find(|rule| rule.property == property);
    rule.map_or("a property", |rule| rule.name)
}

fn find(id: u32, packet: PacketType) -> Result<&'static Rule, Violation> {
    let misplaced = |name: &str| {
        Err(Violation::malformed(format!(
            "{name} is no property of this packet"
        )))
    };
    let rule = RULES.iter().find(|rule| u32::from(rule.id) == id);
    match rule {
        Some(rule) if rule.packets.contains(&packet) => Ok(rule),
        // The specification names this one in particular (section 3.14.2.2.2).
        Some(rule) if packet == PacketType::Disconnect && rule.id == 0x11 => Err(
            Violation::protocol_error(format!("{} from a server", rule.name)),
        ),
        Some(rule) => misplaced(rule.name),
        None => match CLIENT_RULES
            .iter()
            .find(|(known, _)| u32::from(*known) == id)
        {
            Some((_, name)) => misplaced(name),
            None => Err(Violation::malformed(format!(
                "a property with the unknown identifier {id:#04x}"
            ))),
        },
    }
}

/// A message may match several subscriptions (MQTT 5.0 section 3.3.2.3.8).
fn may_repeat(property: Property) -> bool {
    matches!(
        property,
        Property::UserProperty | Property::SubscriptionIdentifier
    )
}
