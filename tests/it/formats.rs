//! The subscriber's output formats, compared with `mosquitto_sub` itself: the same messages
//! from the same broker, and the same bytes, or for JSON the same values.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Stdio,
};

use tempfile::TempDir;

use crate::harness::process::Process;
use crate::harness::running::Running;
use crate::harness::{
    Broker, Program, SOON, ScriptedBroker, free_port, peer, temp_dir, wait_until,
};

/// Messages that are awkward to print, in ascending QoS: of one QoS they keep their order.
fn corpus() -> Vec<(u8, Vec<u8>)> {
    let large: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
    let text: [&[u8]; 18] = [
        b"21.5",
        b"",
        b"a",
        b"nul\0inside",
        b"\xff\xfe\x80 no UTF-8 \xc3",
        b"two\nlines\r\n",
        br#"back\slash "quotes" 'single' %p @H \n"#,
        b"\x01\x07\x08\x0b\x0c\x1f\x7f\t",
        b"\x1b[2J\x1b]0;title\x07\xc2\x9b1m",
        "\u{1f600}\u{202e}\u{b0}C".as_bytes(),
        br#"{"t":21.50,"list":[1,2.0,1e3, null ],"t":"\u00e9\/\ud83d\ude00","o":{}}"#,
        br#" "a string\u0000cut" "#,
        b"[1,]",
        b"-0.1e-6",
        b"123456789012345678901234567890",
        b"\xef\xbb\xbf[\"BOM\", \"\x1b\xff\"]",
        b"{\"a\":1}\n",
        b"null",
    ];
    let all = text.into_iter().map(<[u8]>::to_vec).chain([large]);
    let all: Vec<_> = all.collect();
    let at = |qos| all.iter().map(move |payload| (qos, payload.clone()));
    at(0).take(6).chain(at(1)).chain(at(2)).collect()
}

/// How to tell two outputs apart that were not written in the same microsecond.
#[derive(Clone, Copy)]
enum Masked {
    Nothing,
    /// The digits of the field `tst` of JSON, and bytes that are not UTF-8: ours is always valid
    /// JSON.
    Tst,
    /// The same, and how numbers and strings in JSON are written: only what they mean counts.
    Json,
    Digits,
}

impl Masked {
    fn apply(self, mut output: Vec<u8>) -> Vec<u8> {
        let mask = |bytes: &mut [u8]| {
            for byte in bytes.iter_mut().filter(|byte| byte.is_ascii_digit()) {
                *byte = b'9';
            }
        };
        match self {
            Masked::Nothing => {}
            Masked::Digits => mask(&mut output),
            Masked::Json => output = as_doubles(&parsed(&Masked::Tst.apply(output))),
            Masked::Tst => {
                output = String::from_utf8_lossy(&output).into_owned().into_bytes();
                let (name, length) = (b"{\"tst\":\"", 32);
                let mut at = 0;
                while at + name.len() + length <= output.len() {
                    if output[at..].starts_with(name) {
                        mask(&mut output[at + name.len()..][..length]);
                    }
                    at += 1;
                }
            }
        }
        output
    }
}

/// The same with each JSON object as it is after parsing.
fn parsed(output: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut rest = output;
    while let Some(at) = rest.iter().position(|byte| *byte == b'{') {
        plain.extend(&rest[..at]);
        let mut objects = serde_json::Deserializer::from_slice(&rest[at..]).into_iter();
        let object: serde_json::Value = objects.next().unwrap().unwrap();
        plain.extend(object.to_string().into_bytes());
        rest = &rest[at + objects.byte_offset()..];
    }
    plain.extend(rest);
    plain
}

/// The same with each number as the shortest that is the same double.
fn as_doubles(output: &[u8]) -> Vec<u8> {
    let in_number = |byte: u8| byte.is_ascii_digit() || b".+-eE".contains(&byte);
    let mut plain = Vec::new();
    for part in output.chunk_by(|a, b| in_number(*a) == in_number(*b)) {
        let text = std::str::from_utf8(part).ok();
        let number = text.filter(|text| text.bytes().any(|b| b.is_ascii_digit()));
        match number.and_then(|text| text.parse::<f64>().ok()) {
            Some(number) => plain.extend(number.to_string().into_bytes()),
            None => plain.extend(part),
        }
    }
    plain
}

/// One format in both programs, at work.
struct Case {
    format: &'static str,
    masked: Masked,
    ours: Running,
    theirs: Process,
    output: TempDir,
}

impl Case {
    /// `own` is for `mosquitto_sub` alone.
    fn start(
        broker: &Broker,
        (qos, count): (&str, usize),
        (flags, own): (&[&str], &[&str]),
        case: &(&'static str, Masked),
    ) -> Self {
        let &(format, masked) = case;
        let count = count.to_string();
        let words = ["-t", "c/#", "-q", qos, "-C", &count, "-F", format];
        let output = temp_dir();
        let file = |name| File::create(output.path().join(name)).unwrap();
        let zone = "Europe/Berlin";
        let ours = Program::subscriber().to(broker).args(words).args(flags);
        let mut theirs = peer::client("mosquitto_sub", broker);
        theirs.args(words).args(flags).args(own).env("TZ", zone);
        theirs.stdin(Stdio::null()).stderr(Stdio::null());
        theirs.stdout(file("theirs"));
        Self {
            ours: ours.env("TZ", zone).stdout(file("ours")).start(),
            theirs: Process::spawn(theirs),
            format,
            masked,
            output,
        }
    }

    fn expect_equal(self) {
        let Self {
            format,
            ours,
            mut theirs,
            output,
            masked,
        } = self;
        let outcome = ours.finish(SOON).expect_code(0);
        assert!(
            theirs.wait(SOON).is_some(),
            "mosquitto_sub got less\n{outcome}"
        );
        let read = |name| masked.apply(fs::read(output.path().join(name)).unwrap());
        let (ours, theirs) = (read("ours"), read("theirs"));
        let same = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
        let [shown, expected] = [&ours, &theirs].map(|bytes| {
            let part = &bytes[same.saturating_sub(60)..(same + 60).min(bytes.len())];
            part.escape_ascii().to_string()
        });
        assert!(
            ours == theirs,
            "{format}: at byte {same}\nours   {shown}\ntheirs {expected}"
        );
    }
}

/// Runs all formats side by side, so that the messages need be published only once.
fn compare(qos: &str, flags: &[&str], cases: &[(&'static str, Masked)]) {
    let broker = Broker::start();
    let dir = temp_dir();
    publish(&broker, 1, b"kept", &["-t", "c/kept", "-r"], &dir);
    let count = corpus().len() + 1;
    let start = |case| Case::start(&broker, (qos, count), (flags, &[]), case);
    let running: Vec<_> = cases.iter().map(start).collect();
    wait_for_both(&broker, qos, cases.len());
    for (number, (qos, payload)) in corpus().into_iter().enumerate() {
        publish(
            &broker,
            qos,
            &payload,
            &["-t", &format!("c/{number}/\u{e9}")],
            &dir,
        );
    }
    for case in running {
        case.expect_equal();
    }
}

/// Waits until both programs of each case have subscribed.
fn wait_for_both(broker: &Broker, qos: &str, cases: usize) {
    let end = format!(" {qos} c/#");
    let subscribed = || {
        let lines = broker.log().all();
        lines
            .iter()
            .filter(|line| line.text.ends_with(&end))
            .count()
    };
    let all = wait_until(SOON, || subscribed() == 2 * cases);
    assert!(all, "{} of {}", subscribed(), 2 * cases);
}

fn publish(broker: &Broker, qos: u8, payload: &[u8], args: &[&str], dir: &TempDir) {
    let mut client = peer::client("mosquitto_pub", broker);
    client.args(["-q", &qos.to_string()]).args(args);
    if payload.is_empty() {
        client.arg("-n");
    } else {
        let file: PathBuf = dir.path().join("payload");
        fs::write(&file, payload).unwrap();
        client.arg("-f").arg(file);
    }
    assert!(client.status().unwrap().success());
}

#[test]
fn every_escape_is_printed_as_mosquitto_sub_prints_it() {
    use Masked::{Digits, Nothing};
    compare(
        "2",
        &[],
        &[
            ("", Nothing),
            ("%p", Nothing),
            ("%t %q %r %l %p|%%", Nothing),
            ("%m|%5m|%-5m|%05m", Nothing),
            ("%x|%X", Nothing),
            ("%-p|%-x|%-0X", Nothing),
            ("%3p|%03p|%-3p|%-03p|%.2p|%9.1p|%0p", Nothing),
            ("%300p|%0300p|%-300p|%-0300p", Nothing),
            ("%1x|%2x|%3x|%03x|%-3x|%-04X|%.2x|%41X|%041X|%-41x", Nothing),
            ("%0150000p|%150000x|%-99999p|%99999X", Nothing),
            (
                "%9t|%09t|%-9t|%.3t|%9.3t|%-9.3t|%9.0t|%.t|%.99t|%-.5t",
                Nothing,
            ),
            ("%9l|%09l|%-9l|%-09l|%.1l|%2l|%5q|%05r|%-5.2q", Nothing),
            (
                "%A%C%D%E%F%P%R%S|%5A%5C%5D%5E%5F%5P%5R%5S|%05A%05C%05E%05F%05S|%-4A%-4C%-04E",
                Nothing,
            ),
            (r"\\|\0|\a|\e[1m|\n|\r|\t|\v|\\n", Nothing),
            (
                "@@|@%|@n|@t|@E|@O|@0|@1|@2|@3|@9|@_|@-|@^|@#|@+|@:|@ |@\u{e9}|@K|@q|@!",
                Nothing,
            ),
            ("\u{1f600} literal \u{7f}\u{1b} %%t @@H", Nothing),
            ("%I|%35I|%-35I|%035I|%.10I|%30.10I", Digits),
            ("%U|%40U|%.3U|@N|@s.@N", Digits),
            (
                "@a|@A|@b|@B|@c|@C|@d|@D|@e|@F|@g|@G|@h|@H|@I|@j|@k|@l|@m|@M",
                Digits,
            ),
            (
                "@p|@P|@r|@R|@S|@T|@u|@U|@V|@w|@W|@x|@X|@y|@Y|@z|@Z|@5|@8",
                Digits,
            ),
            ("@Y-@m-@dT@H:@M:@S@z %t : %p", Digits),
        ],
    );
}

#[test]
fn json_is_printed_as_mosquitto_sub_prints_it() {
    let cases = [
        ("%j", Masked::Tst),
        ("%J", Masked::Json),
        ("a%J|%20j", Masked::Json),
    ];
    compare("2", &[], &cases);
}

#[test]
fn properties_are_printed_as_mosquitto_sub_prints_them() {
    let cases = [
        ("%C|%D|%E|%F|%P|%R|%S|%A", Masked::Digits),
        (
            "%9C|%-9C|%.3C|%9E|%-9E|%05E|%3F|%20R|%.2R|%5S",
            Masked::Digits,
        ),
        ("%j", Masked::Tst),
        ("%J", Masked::Json),
    ];
    let broker = Broker::start();
    let start = |case| Case::start(&broker, ("1", 2), (&[], &["-V", "mqttv5"]), case);
    let running: Vec<_> = cases.iter().map(start).collect();
    wait_for_both(&broker, "1", cases.len());
    // In the order in which ours prints them: it does not know the sender's.
    for text in ["7", "{\"a\":[1,2.50,\"\u{e9}\"]}"] {
        let mut client = peer::client("mosquitto_pub", &broker);
        client.args(["-V", "mqttv5", "-q", "1", "-t", "c/\u{e9}", "-m", text]);
        for property in [
            &["payload-format-indicator", "1"][..],
            &["content-type", "text/\u{e9} \"x\""],
            &["response-topic", "an/swer"],
            &["correlation-data", "co\u{1}re"],
            &["user-property", "seq", "s/1/1769846400000"],
            &["user-property", "a b", "c:\u{1f600}"],
            &["message-expiry-interval", "86400"],
        ] {
            client.args(["-D", "publish"]).args(property);
        }
        assert!(client.status().unwrap().success());
    }
    for case in running {
        case.expect_equal();
    }
}

#[test]
fn without_a_newline_there_is_none() {
    let cases = [
        ("%p", Masked::Nothing),
        ("%t\\n%x", Masked::Nothing),
        ("", Masked::Nothing),
    ];
    compare("1", &["-N"], &cases);
}

#[test]
fn a_format_that_mosquitto_sub_refuses_is_a_usage_error() {
    let nobody = free_port().to_string();
    for format in [
        "%", "%-", "%0", "%5", "a%5.", "%-05.3", "%z", "%Z", "%--t", "%0-5t", "%t%", "@", "a@",
        "@@@", "\\", "\\z", "\\\\\\", "\\x41", "%\u{e9}", "\\\u{e9}", "% t", "%\t",
    ] {
        let words = ["-h", "127.0.0.1", "-p", &nobody, "-t", "t", "-F", format];
        let theirs = std::process::Command::new("mosquitto_sub")
            .args(words)
            .output();
        let said = String::from_utf8_lossy(&theirs.unwrap().stderr).into_owned();
        assert!(said.contains("specifier"), "{format}: {said}");
        let ours = Program::subscriber().args(["-e", "localhost", "-t", "t", "-F", format]);
        let outcome = ours.run(SOON).expect_fault(64, &["--format", " for a"]);
        assert_eq!(outcome.stderr.count(), 1, "{outcome}");
    }
}

#[test]
fn flags_that_contradict_each_other_are_a_usage_error() {
    for flags in [
        &["-F", "%p", "-v"][..],
        &["-F", "%p", "-J"],
        &["-R", "--retained-only"],
    ] {
        let program = Program::subscriber().args(["-e", "localhost", "-t", "t"]);
        program
            .args(flags)
            .run(SOON)
            .expect_fault(64, &["cannot be used with"]);
    }
}

#[test]
fn a_payload_that_is_not_json_is_left_out_with_a_warning() {
    let broker = ScriptedBroker::script()
        .after_subscribe("t", "t", b"x\x1b")
        .tls();
    let program = Program::subscriber().at_port(broker.port());
    let program = program.args(["-t", "t", "-C", "1", "-F", "-%J-"]);
    let outcome = program.run(SOON).expect_code(0).expect_stdout("--\n");
    outcome.expect_stderr("WARN \"t\": the payload is not JSON");
}

/// What a terminal gets of a hostile message with these flags.
fn on_terminal(flags: &[&str]) -> Vec<u8> {
    let payload = "\"bell\u{7} \u{1b}[2J \u{9b}1m \u{7f} \u{8}end\"";
    let broker = ScriptedBroker::script()
        .after_subscribe("#", "a/\u{1b}[31m", payload.as_bytes())
        .tls();
    let program = Program::subscriber().at_port(broker.port());
    let program = program.args(["-t", "#", "-C", "1"]).args(flags);
    let outcome = program.start_on_terminal().finish(SOON).expect_code(0);
    assert!(outcome.stdout.text().contains("end"), "{outcome}");
    outcome.stdout.bytes()
}

const EVERY_STYLE: [&[&str]; 7] = [
    &[],
    &["-v"],
    &["-J"],
    &["-F", "%t: %p"],
    &["-F", "%99t: %-99p"],
    &["-F", "%j"],
    &["-F", "%J"],
];

#[test]
fn no_style_lets_an_escape_sequence_reach_a_terminal() {
    for flags in EVERY_STYLE {
        let shown = String::from_utf8(on_terminal(flags)).unwrap();
        let harmless = |c: char| !c.is_control() || matches!(c, '\r' | '\n');
        assert!(shown.chars().all(harmless), "{flags:?}: {shown:?}");
    }
    // What the user wrote is the user's business.
    let bold = on_terminal(&["-F", r"\e[1m%p"]);
    assert!(bold.starts_with(b"\x1b[1m\"bell\\x07 \\x1b[2J"));
}

#[test]
fn raw_lets_them_through() {
    for flags in EVERY_STYLE {
        let shown = on_terminal(&[flags, &["--raw"]].concat());
        // JSON escapes most control characters anyway.
        let raw = String::from_utf8(shown).unwrap();
        let json = ["-J", "%j", "%J"].iter().any(|style| flags.contains(style));
        let expected = if json {
            "\u{9b}1m \u{7f}"
        } else {
            "\u{1b}[2J \u{9b}1m \u{7f} \u{8}"
        };
        assert!(raw.contains(expected), "{flags:?}: {raw:?}");
        assert_eq!(raw.contains('\u{1b}'), !json, "{flags:?}: {raw:?}");
    }
}
