//! Compares formats with recorded output of Debian's `mosquitto_sub` 2.0.11. The integration tests
//! compare with the program itself, as far as a broker can be made to send the message.

use super::*;
use crate::common::mqtt::properties::RawProperties;
use crate::common::mqtt::qos::Qos;
use crate::subscriber::render::tests::received;
use proptest::prelude::*;

const NOW: Duration = Duration::new(1_795_550_621, 4_187_478);

fn message(payload: &[u8]) -> Received<'_> {
    received("t/a", payload)
}

fn shown(format: &str, message: &Received<'_>, escape: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
    let template = Template::parse(format).unwrap().in_zone(zone);
    let mut out = Sanitizer::new(&mut bytes, escape);
    let _ = template.render(&mut out, message, NOW);
    bytes
}

fn with_properties(payload: &[u8]) -> Received<'_> {
    /// Three user properties and a subscription identifier, as they stand in a packet.
    const REPEATED: &[u8] = b"\x30\
        \x26\0\x03seq\0\x15b1c2/42/1769846400123\
        \x26\0\x01k\0\x05v \"q\"\
        \x0b\x07\
        \x26\0\x01k\0\0";
    let properties = PublishProperties {
        payload_format: Some(1),
        message_expiry: Some(4_000_000_000),
        topic_alias: None,
        response_topic: Some("re/ply"),
        correlation_data: Some(b"co\x1brr"),
        content_type: Some("text/plain; \u{e9}"),
        repeated: RawProperties::parse(REPEATED).unwrap(),
    };
    Received {
        properties: Some(properties),
        ..message(payload)
    }
}

#[test]
fn messages_are_rendered_as_recorded() {
    let recorded = include_str!("../../../../tests/data/formats.tsv");
    let lines = recorded.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(lines.clone().count(), 20);
    for line in lines {
        let [name, format, expected] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        let message = match name {
            "abc" => message(b"abc"),
            "empty" => message(b""),
            "binary" => message(b"\xff\0z"),
            "full" => with_properties(br#"{"a":1}"#),
            "cut" => Received {
                properties: Some(PublishProperties::default()),
                ..message(b"\"\xff\0nul")
            },
            _ => panic!("{line}"),
        };
        let shown = shown(format, &message, false);
        assert_eq!(shown.escape_ascii().to_string(), expected, "{line}");
    }
}

#[test]
fn an_empty_payload_is_null_and_one_that_is_not_json_is_left_out_with_a_warning() {
    let at_most_once = Received {
        qos: Qos::AtMostOnce,
        retained: true,
        ..message(b"")
    };
    let object = "\"qos\":0,\"retain\":1,\"payloadlen\":0,\"payload\":null}";
    for format in ["%j", "%J"] {
        let shown = shown(format, &at_most_once, false);
        assert!(shown.ends_with(object.as_bytes()), "{format}");
    }
    let template = Template::parse("a%Jb").unwrap();
    let mut out = Vec::new();
    let warning = template.render(&mut Sanitizer::new(&mut out, false), &message(b"x"), NOW);
    assert_eq!(
        (&out[..], warning),
        (&b"ab"[..], Some(FormatWarning::PayloadNotJson))
    );
}

#[test]
fn a_payload_that_is_cut_at_its_first_nul_is_warned_about() {
    let template = Template::parse("%j").unwrap();
    for (payload, warning) in [
        (&b"a\0b"[..], Some(FormatWarning::PayloadCut)),
        (b"\0", Some(FormatWarning::PayloadCut)),
        (b"a\xffb", None),
        (b"", None),
    ] {
        let mut out = Vec::new();
        let result = template.render(&mut Sanitizer::new(&mut out, false), &message(payload), NOW);
        assert_eq!(result, warning, "{payload:?}");
    }
}

#[test]
fn a_payload_that_is_only_copied_takes_no_memory_but_that_of_the_output() {
    let payload = vec![b'x'; 1_000_000];
    for (format, copies) in [("%p", 1), ("%x", 2), ("%j", 1), ("%p %j", 2), ("%t %l", 0)] {
        let template = Template::parse(format).unwrap();
        let (written, meanwhile) = template.payload_bounds(&payload, false);
        assert_eq!(
            (written / payload.len(), meanwhile),
            (copies, 0),
            "{format}"
        );
    }
}

#[test]
fn on_a_terminal_text_from_the_network_is_escaped_and_the_format_is_not() {
    let message = Received {
        topic: "a\x1b[2J",
        ..with_properties(b"\"\x1b\x9b\x7f\"")
    };
    let bold = shown(r"\e[1m%t|%3t|%p|%2p|%D|%P|%x", &message, true);
    let expected = "\x1b[1ma\\x1b[2J|a\\x1b[2J|\"\\x1b\\x9b\\x7f\"|\"\\x1b|co\\x1brr|\
                    seq:b1c2/42/1769846400123 k:v \"q\" k:|221b9b7f22";
    assert_eq!(String::from_utf8_lossy(&bold), expected);
    for format in ["%j", "%J"] {
        let shown = shown(format, &message, true);
        let json = String::from_utf8(shown).unwrap();
        assert!(json.contains("\\u001b\u{fffd}\\u007f"), "{json}");
    }
}

#[test]
fn only_local_times_need_the_time_zone() {
    let is_local = |format: &str| Template::parse(format).unwrap().has_local_time();
    assert!(["%I", "%j", "%J", "@H", "x@Zx"].into_iter().all(is_local));
    assert!(!is_local("%t %p %U @s @N @@ @q @n"));
}

proptest! {
    #[test]
    fn any_format_renders_or_is_refused_in_one_line(
        format in "([%@\\\\]?[-0]?[0-9]{0,3}[.]?[0-9]?[%@\\\\a-zA-Z0]?|\\PC){0,8}",
        payload in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        match Template::parse(&format) {
            Ok(template) => {
                let message = with_properties(&payload);
                for escapes in [false, true] {
                    let mut bytes = Vec::new();
                    let mut out = Sanitizer::new(&mut bytes, escapes);
                    let _ = template.render(&mut out, &message, NOW);
                    let (most, _) = template.payload_bounds(&payload, escapes);
                    let most = most + template.other_bounds(&message, escapes).0;
                    prop_assert!(bytes.len() <= most, "{} of {most}", bytes.len());
                }
            }
            Err(error) => prop_assert!(!error.contains('\n') && !error.is_empty()),
        }
    }
}
