//! The rows of `tests/data/packets.tsv`, whose first lines explain the columns.

use std::fmt;

use crate::harness::packet::{kind, read_packet};

const TABLE: &str = include_str!("../../data/packets.tsv");

/// A row for one program and one version of MQTT.
pub(super) struct Case {
    pub(super) number: &'static str,
    pub(super) statement: &'static str,
    pub(super) what: &'static str,
    pub(super) publisher: bool,
    pub(super) level: u8,
    pub(super) state: State,
    pub(super) parts: Vec<Vec<u8>>,
    pub(super) right: Right,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum State {
    Connack,
    Subscribe,
    Published { qos: u8 },
    Released,
    Idle,
}

/// What the table says is right; its first lines explain the words.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Right {
    /// DISCONNECT with this reason code; without one with MQTT 3.1.1.
    Disconnect(Option<u8>),
    Borne,
    Skipped,
    Refused,
    Ended,
    Again,
}

/// The rows, one for each program and version.
pub(super) fn cases() -> Vec<Case> {
    let lines = TABLE.lines();
    let rows = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut cases = Vec::new();
    for row in rows {
        let columns: Vec<_> = row.split('\t').collect();
        let [
            number,
            statement,
            program,
            version,
            state,
            bytes,
            right,
            what,
        ] = columns[..]
        else {
            panic!("not eight columns: {row}");
        };
        for publisher in choices(program, ["publisher", "subscriber"]) {
            for version_5 in choices(version, ["5", "3.1.1"]) {
                cases.push(Case {
                    number,
                    statement,
                    what,
                    publisher,
                    level: if version_5 { 5 } else { 4 },
                    state: State::of(state),
                    parts: bytes.split('|').map(decode).collect(),
                    right: Right::of(right, version_5),
                });
            }
        }
    }
    cases
}

/// Which of two, the first of them being `true`, a column means.
fn choices(column: &str, [first, second]: [&str; 2]) -> Vec<bool> {
    match column {
        "both" => vec![true, false],
        one if one == first => vec![true],
        one if one == second => vec![false],
        other => panic!("{other} is not {first}, {second} or both"),
    }
}

/// Hexadecimal digits, of which some may be repeated: `(61*4)` is four times 61.
fn decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in text.split_inclusive([')', '(']) {
        let end = part.trim_end_matches(['(', ')']);
        let (digits, count) = match end.split_once('*') {
            Some((digits, count)) => (digits, count.parse().expect("a number")),
            None => (end, 1),
        };
        let digits = data_encoding::HEXLOWER.decode(digits.as_bytes());
        bytes.extend(digits.expect("hexadecimal digits").repeat(count));
    }
    bytes
}

impl State {
    fn of(column: &str) -> Self {
        match column {
            "connack" => Self::Connack,
            "subscribe" => Self::Subscribe,
            "published-1" => Self::Published { qos: 1 },
            "published-2" => Self::Published { qos: 2 },
            "released" => Self::Released,
            "idle" | "subscribed" => Self::Idle,
            other => panic!("no such state: {other}"),
        }
    }

    /// The QoS of the publisher.
    pub(super) fn qos(self) -> u8 {
        match self {
            Self::Published { qos } => qos,
            Self::Released => 2,
            _ => 1,
        }
    }

    /// Whether the publisher has sent its first message before the row's packets.
    pub(super) fn has_message(self) -> bool {
        matches!(self, Self::Published { .. } | Self::Released)
    }
}

impl Right {
    fn of(column: &str, version_5: bool) -> Self {
        match column {
            "borne" => Self::Borne,
            "skipped" => Self::Skipped,
            "refused" => Self::Refused,
            "ended" => Self::Ended,
            "again" => Self::Again,
            "close" => Self::Disconnect(None),
            code => {
                let code = u8::from_str_radix(code, 16).expect("a reason code");
                Self::Disconnect(version_5.then_some(code))
            }
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let program = if self.publisher {
            "publisher"
        } else {
            "subscriber"
        };
        let version = if self.level == 5 { "5" } else { "3.1.1" };
        let Self {
            number,
            statement,
            what,
            ..
        } = self;
        write!(
            f,
            "row {number}, {program}, MQTT {version}, {statement} ({what})"
        )
    }
}

impl Case {
    /// The kinds of the packets that acknowledge the publisher's first message.
    pub(super) fn acknowledgements(&self) -> Vec<u8> {
        let bytes = self.parts.concat();
        let mut rest = &bytes[..];
        let packets = std::iter::from_fn(|| read_packet(&mut rest).ok());
        let acks = packets
            .filter(|packet| matches!(packet.kind(), kind::PUBACK | kind::PUBREC | kind::PUBCOMP));
        let acks = acks.filter(|packet| packet.body().number() == 1);
        acks.map(|packet| packet.kind()).collect()
    }

    /// What completes the handshake of the PUBLISH that the last part begins with.
    pub(super) fn last_acknowledgement(&self) -> Option<(u8, u16)> {
        let packet = read_packet(&mut &self.parts.last()?[..]).ok()?;
        let kind = match self.parts.last()?.first()? >> 1 & 3 {
            0 => return None,
            1 => kind::PUBACK,
            _ => kind::PUBCOMP,
        };
        let mut fields = packet.body();
        // The topic, which need not be a string.
        for _ in 0..fields.number() {
            fields.byte();
        }
        Some((kind, fields.number()))
    }
}
