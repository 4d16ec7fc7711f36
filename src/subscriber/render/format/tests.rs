//! Compares formats with recorded output of Debian's `mosquitto_sub` 2.0.11. The integration tests
//! compare with the program itself, as far as a broker can be made to send the message.

use super::*;
use crate::common::mqtt::properties::Repeated;
use crate::common::mqtt::qos::Qos;
use proptest::prelude::*;

const NOW: Duration = Duration::new(1_795_550_621, 4_187_478);

fn message(payload: &[u8]) -> Received<'_> {
    Received {
        topic: "t/a",
        payload,
        qos: Qos::AtLeastOnce,
        retained: false,
        packet_id: 3,
        seq: None,
        properties: None,
    }
}

fn shown(format: &str, message: &Received<'_>, escape: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
    let template = Template::parse(format).unwrap().in_zone(zone);
    let mut out = Sanitizer::new(&mut bytes, escape);
    let _ = template.render(&mut out, message, NOW);
    bytes
}

fn expect(format: &str, message: &Received<'_>, recorded: &[u8]) {
    let shown = shown(format, message, false);
    let [shown, expected] = [&shown[..], recorded].map(String::from_utf8_lossy);
    assert_eq!(shown, expected, "{format}");
}

/// Of three payloads, as Debian's `mosquitto_sub` 2.0.11 prints them.
#[test]
fn widths_are_as_recorded() {
    let format = "%2p|%5p|%05p|%-5p|%-05p|%0p|%.1p|%x|%X|%1x|%2x|%3x|%7x|%-7x|%07x|%-07x|%.1x|\
                  %010x|%-010X|%l|%5l|%-5l|%05l|%-05l|%.9l|%m|%05m|%%|%5%|%-5.3%";
    for (payload, recorded) in [
        (
            &b"abc"[..],
            &b"ab|  abc|00abc|abc  |abc  |abc|abc|616263|616263| |61| 61|     61|61     |\
               0000061|61     |616263|0000000061|61        |3|    3|3    |00003|3    |3|3|\
               00003|%|%|%"[..],
        ),
        (
            b"",
            b"  |     |00000|     |     ||||| |  |   |       |       |0000000|       ||\
              0000000000|          |0|    0|0    |00000|0    |0|3|00003|%|%|%",
        ),
        (
            b"\xff\0z",
            b"\xff\0|  \xff\0z|00\xff\0z|\xff\0z  |\xff\0z  |\xff\0z|\xff\0z|ff007a|\
              FF007A| |ff| ff|     ff|ff     |00000ff|ff     |ff007a|00000000ff|FF        |\
              3|    3|3    |00003|3    |3|3|00003|%|%|%",
        ),
    ] {
        expect(format, &message(payload), recorded);
    }
    expect("%-p|%-x|%-0p", &message(b"abc"), b"abc   |616263   |abc   ");
    expect(
        "%10q|%010r|%.1t|%5.2t|%-5.2t|%05.2t|%-05.2t",
        &message(b""),
        b"1|0|t|   t/|t/   |   t/|t/   ",
    );
}

#[test]
fn times_are_as_recorded() {
    let recorded = b"2026-11-24T21:03:41+0100|1795550621.004187478|\
        \x20          2026-11-24T21:03:41+0100|2026|2026-11-24T21:03:41+0100   |21:03:41.004187478";
    let format = "%I|%3U|%035I|%.4I|%-27I|@T.@N";
    expect(format, &message(b""), recorded);
    let unknown = "@E|@0|@1|@3|@9|@+|@ |@\u{e9}|@%|@@|@n@t";
    expect(
        unknown,
        &message(b""),
        "%E|%0|%1| %3|       %9|%+|% |%\u{e9}|%|@|\n\t".as_bytes(),
    );
    expect(
        r"\\\0\a\e\n\r\t\v",
        &message(b""),
        b"\\\0\x07\x1b\n\r\t\x0b",
    );
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
        repeated: Repeated::parse(REPEATED).unwrap(),
    };
    Received {
        properties: Some(properties),
        ..message(payload)
    }
}

#[test]
fn properties_are_as_recorded() {
    let full = with_properties(br#"{"a":1}"#);
    for (format, recorded) in [
        ("%A|%5A|%05A|%-5A", "|     |00000|     "),
        (
            "%C|%5C|%18C|%-18C|%018C|%.3C|%9.3C|%-9.3C|%09.3C",
            "text/plain; \u{e9}|text/plain; \u{e9}|    text/plain; \u{e9}|text/plain; \u{e9}    |    \
             text/plain; \u{e9}|tex|      tex|tex      |      tex",
        ),
        ("%D|%35D|%.1D", "co\x1brr|co\x1brr|co\x1brr"),
        (
            "%E|%05E|%-12E|%12E|%.1E|%2E",
            "-294967296|-294967296|-294967296  |  -294967296|-294967296|-294967296",
        ),
        ("%F|%5F|%05F|%-5F|%-05F", "1|    1|00001|1    |1    "),
        ("%.1P", "seq:b1c2/42/1769846400123 k:v \"q\" k:"),
        (
            "%R|%5R|%.2R|%9.2R|%-9.2R",
            "re/ply|re/ply|re|       re|re       ",
        ),
        ("%S|%5S|%05S", "7|    7|00007"),
    ] {
        expect(format, &full, recorded.as_bytes());
    }
    let none = message(b"");
    expect(
        "%A%C%D%E%F%P%R%S|%4C|%4R|%4D|%4P|%04E",
        &none,
        b"|    ||||0000",
    );
}

#[test]
fn json_is_as_recorded() {
    let head = "{\"tst\":\"2026-11-24T21:03:41.004187Z+0100\",\"topic\":\"t/a\",\"qos\":1,\
                \"retain\":0,\"payloadlen\":7,\"mid\":3,";
    let properties = "\"properties\":{\"subscription-identifier\":7,\
                      \"payload-format-indicator\":1,\"content-type\":\"text/plain; \u{e9}\",\
                      \"response-topic\":\"re/ply\",\"correlation-data\":\"co\\u001brr\",\
                      \"user-properties\":{\"seq\":\"b1c2/42/1769846400123\",\
                      \"k\":\"v \\\"q\\\"\",\"k\":\"\"},\
                      \"message-expiry-interval\":4000000000},";
    let full = with_properties(br#"{"a":1}"#);
    let text = format!("{head}{properties}\"payload\":\"{{\\\"a\\\":1}}\"}}");
    expect("%j", &full, text.as_bytes());
    let value = format!("{head}{properties}\"payload\":{{\"a\":1}}}}");
    expect("%J", &full, value.as_bytes());
    let none = Received {
        properties: Some(PublishProperties::default()),
        ..message(b"\"\xff\0nul")
    };
    let cut = head.replace("n\":7", "n\":6") + "\"payload\":\"\\\"\u{fffd}\"}";
    expect("%j", &none, cut.as_bytes());
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
    assert_eq!((&out[..], warning), (&b"ab"[..], Some(PayloadNotJson)));
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
                let mut bytes = Vec::new();
                let mut out = Sanitizer::new(&mut bytes, true);
                let _ = template.render(&mut out, &with_properties(&payload), NOW);
            }
            Err(error) => prop_assert!(!error.contains('\n') && !error.is_empty()),
        }
    }
}
