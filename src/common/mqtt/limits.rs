//! What MQTT allows in topic names, topic filters, client identifiers and sizes. PURE.
//!
//! Sources: MQTT 5.0 sections 1.5.4 (UTF-8 strings), 2.1.4 (remaining length), 4.7 (topics), 4.8.2 (shared
//! subscriptions); MQTT 3.1.1 sections 1.5.3 and 4.7. Names are checked before a message is accepted, because a
//! broker closes the connection for a wrong one, every time that the message is sent.
//!
//! Control characters are refused in names although the specification only advises against them: it lets a
//! receiver close the connection for one, and Mosquitto does (`utf8_mosq.c`).

use thiserror::Error;

/// The longest UTF-8 string, in bytes.
pub const MAX_STRING: usize = 65_535;

const MAX_REMAINING_LENGTH: usize = 268_435_455;

pub const MAX_PACKET: usize = 1 + variable_int_size(MAX_REMAINING_LENGTH) + MAX_REMAINING_LENGTH;

/// `QoS` 2 messages in flight at most where a broker of MQTT 3.1.1 is not known to take more. Only MQTT 5 lets
/// a broker say how many it takes (Receive Maximum); Mosquitto takes `max_inflight_messages`, 20 by default,
/// and with MQTT 3.1.1 acknowledges and drops what is above.
pub const EXACTLY_ONCE_WINDOW: usize = 20;

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum MqttStringError {
    #[error("is empty")]
    Empty,
    #[error("is {0} bytes long, at most {MAX_STRING} are allowed")]
    TooLong(usize),
    #[error("contains a NUL character")]
    Nul,
    #[error("contains the control character U+{0:04X}, for which brokers close the connection")]
    Control(u32),
    #[error("contains the wildcard '{0}', which only a subscriber's filter may")]
    Wildcard(char),
    #[error("has a '+' that does not stand alone between slashes")]
    MisplacedPlus,
    #[error("has a '#' that is not alone in the last level")]
    MisplacedHash,
    #[error("is not of the form $share/NAME/FILTER, with NAME free of wildcards")]
    BadShare,
}

/// Checks a string that may be empty, such as a user property.
pub fn check_string(text: &str) -> Result<(), MqttStringError> {
    if text.is_empty() {
        return Ok(());
    }
    check_text(text)
}

/// Checks any text in a packet, such as a password: not empty, not too long, no NUL.
pub fn check_text(text: &str) -> Result<(), MqttStringError> {
    if text.is_empty() {
        Err(MqttStringError::Empty)
    } else if text.len() > MAX_STRING {
        Err(MqttStringError::TooLong(text.len()))
    } else if text.contains('\0') {
        Err(MqttStringError::Nul)
    } else {
        Ok(())
    }
}

/// Checks any name in a packet, or the text of a property that a flag sets: a text without control characters (U+0001
/// to U+001F, U+007F to U+009F). Properties of lines of JSON may have them: a bridge passes on what other brokers take.
pub fn check_no_controls(name: &str) -> Result<(), MqttStringError> {
    check_text(name)?;
    let control = name.chars().find(|c| c.is_control());
    control.map_or(Ok(()), |c| Err(MqttStringError::Control(c.into())))
}

/// Whether a name has Unicode non-characters (U+FDD0 to U+FDEF, and the last two of each plane), which a receiver
/// may refuse (MQTT 5.0 section 1.5.4). Some brokers accept them, so they are not refused here.
pub fn has_noncharacters(name: &str) -> bool {
    name.chars().any(|c| {
        let code = u32::from(c);
        code & 0xFFFE == 0xFFFE || (0xFDD0..=0xFDEF).contains(&code)
    })
}

pub fn check_topic_name(name: &str) -> Result<(), MqttStringError> {
    check_no_controls(name)?;
    let wildcard = name.chars().find(|c| matches!(c, '+' | '#'));
    wildcard.map_or(Ok(()), |c| Err(MqttStringError::Wildcard(c)))
}

pub fn check_topic_filter(filter: &str) -> Result<(), MqttStringError> {
    check_no_controls(filter)?;
    let levels = match filter.strip_prefix("$share/") {
        None => filter,
        Some(shared) => {
            let (name, rest) = shared.split_once('/').ok_or(MqttStringError::BadShare)?;
            if name.is_empty() || name.contains(['+', '#']) || rest.is_empty() {
                return Err(MqttStringError::BadShare);
            }
            rest
        }
    };
    let mut parts = levels.split('/').peekable();
    while let Some(level) = parts.next() {
        if level.contains('#') && (level != "#" || parts.peek().is_some()) {
            return Err(MqttStringError::MisplacedHash);
        }
        if level.contains('+') && level != "+" {
            return Err(MqttStringError::MisplacedPlus);
        }
    }
    Ok(())
}

/// The bytes of a variable byte integer (MQTT 5.0 section 1.5.5).
pub(super) const fn variable_int_size(value: usize) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_for_which_a_broker_closes_the_connection_are_refused() {
        let long = "x".repeat(MAX_STRING + 1);
        for (name, expected) in [
            ("a/b", Ok(())),
            ("/", Ok(())),
            ("", Err(MqttStringError::Empty)),
            ("a/+", Err(MqttStringError::Wildcard('+'))),
            ("a/#", Err(MqttStringError::Wildcard('#'))),
            ("a\0b", Err(MqttStringError::Nul)),
            (&long, Err(MqttStringError::TooLong(65_536))),
            (&long[1..], Ok(())),
        ] {
            assert_eq!(check_topic_name(name), expected);
        }
    }

    #[test]
    fn characters_for_which_mosquitto_closes_the_connection_are_refused_by_name() {
        let controls = [
            '\u{1}', '\t', '\n', '\r', '\u{1b}', '\u{1f}', '\u{7f}', '\u{80}', '\u{9f}',
        ];
        for c in controls {
            let (name, refused) = (format!("a/{c}"), Err(MqttStringError::Control(c.into())));
            assert_eq!(check_topic_name(&name), refused);
            assert_eq!(check_topic_filter(&format!("{name}/#")), refused);
            assert_eq!(check_no_controls(&name), refused);
        }
        for c in [' ', '~', '\u{a0}', '\u{feff}', '\u{ffff}', '\u{202e}', '$'] {
            assert_eq!(check_topic_name(&format!("a/{c}")), Ok(()));
        }
        let why = check_topic_name("a\u{1b}[2J").unwrap_err().to_string();
        assert!(why.contains("U+001B") && !why.contains('\u{1b}'), "{why}");
    }

    #[test]
    fn filters_allow_wildcards_only_where_mqtt_does() {
        for good in "# + a/# +/b/+ $share/g/a/# foo/+ / $SYS/#".split(' ') {
            assert_eq!(check_topic_filter(good), Ok(()), "{good}");
        }
        for bad in "a# a/#/b #/ a+/b ++ $share/g $share//a $share/g+/a $share/g/".split(' ') {
            assert!(check_topic_filter(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_checked_name_is_always_a_valid_filter(name in "\\PC{0,40}") {
            if check_topic_name(&name).is_ok() && !name.starts_with("$share/") {
                prop_assert_eq!(check_topic_filter(&name), Ok(()));
            }
        }
    }
}
