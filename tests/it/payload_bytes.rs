//! Payloads of any bytes and of many megabytes, in each form in which `subscriber` passes them on: nothing is cut,
//! changed or copied more often than it has to be. `IOT_TEST_PAYLOAD=60000000` is the size of the large ones.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER, HEXUPPER};
use memchr::{memchr, memchr2};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::process::Process;
use crate::harness::running::Running;
use crate::harness::{Broker, Program, SOON, peer, temp_dir, times, wait_until};

/// Time limit for a large message on a busy machine.
const LONG: Duration = Duration::from_secs(120);

fn every_byte() -> Vec<u8> {
    (0..=u8::MAX).collect()
}

fn payloads() -> Vec<Vec<u8>> {
    let awkward: [&[u8]; 14] = [
        b"21.5",
        b"",
        b"\0",
        b"\0\0nul\0",
        b"\n",
        b"\r\n",
        b"\r",
        b"\n\n two\r\nlines\n",
        b"\"",
        b"\"quoted\", 'single', \"\"",
        b"\xff\xfe\x80 no UTF-8 \xc3",
        b"\xed\xa0\x80\xf4\x90\x80\x80\xc0\x80",
        "\u{feff}\u{1f600}\u{202e}\u{b0}C\u{2028}".as_bytes(),
        br#"back\slash %p @H \n {"a":1}"#,
    ];
    let mut all: Vec<_> = awkward.map(<[u8]>::to_vec).into();
    let descending = every_byte().into_iter().rev();
    all.extend([every_byte(), descending.collect()]);
    all
}

/// Publishes a payload of any bytes to `t`.
fn publish(broker: &Broker, file: &Path, payload: &[u8]) {
    let mut client = peer::client("mosquitto_pub", broker);
    client.args(["-q", "1", "-t", "t"]);
    if payload.is_empty() {
        client.arg("-n");
    } else {
        fs::write(file, payload).unwrap();
        client.arg("-f").arg(file);
    }
    assert!(client.status().unwrap().success());
}

/// A form of output.
struct Form {
    flags: &'static [&'static str],
    written: Written,
    /// What `mosquitto_sub` writes with the same flags for an empty payload, if it has them; else it writes the same.
    empty_of_peer: Option<&'static [u8]>,
}

enum Written {
    /// For each payload these bytes.
    Exactly(fn(&[u8]) -> Vec<u8>),
    /// Objects or lines from which the payloads are read back.
    Parsed(fn(&[u8]) -> Vec<Vec<u8>>),
    /// The same, up to the first NUL of a payload and without what is not UTF-8.
    ParsedText(fn(&[u8]) -> Vec<Vec<u8>>),
}

impl Written {
    #[track_caller]
    fn expect(&self, flags: &[&str], found: &[u8], payloads: &[Vec<u8>]) {
        match self {
            Self::Exactly(expected) => {
                let expected: Vec<_> = payloads.iter().map(|p| expected(p)).collect();
                expect_bytes(flags, found, &expected.concat());
            }
            Self::Parsed(read) => {
                expect_bytes(flags, &read(found).join(END), &payloads.join(END));
            }
            Self::ParsedText(read) => {
                let text = |payload: &Vec<u8>| {
                    let end = memchr(0, payload).unwrap_or(payload.len());
                    String::from_utf8_lossy(&payload[..end])
                        .into_owned()
                        .into_bytes()
                };
                let expected: Vec<_> = payloads.iter().map(text).collect();
                expect_bytes(flags, &read(found).join(END), &expected.join(END));
            }
        }
    }
}

/// Between the payloads of an output that is compared.
const END: &[u8] = b"\0|\0";

const fn ours(flags: &'static [&'static str], written: Written) -> Form {
    let empty_of_peer = None;
    Form {
        flags,
        written,
        empty_of_peer,
    }
}

const fn both(
    flags: &'static [&'static str],
    empty_of_peer: &'static [u8],
    written: fn(&[u8]) -> Vec<u8>,
) -> Form {
    let written = Written::Exactly(written);
    let empty_of_peer = Some(empty_of_peer);
    Form {
        flags,
        written,
        empty_of_peer,
    }
}

fn line(payload: &[u8]) -> Vec<u8> {
    [payload, b"\n"].concat()
}

const FORMS: [Form; 12] = [
    both(&[], b"", line),
    both(&["-N"], b"", <[u8]>::to_vec),
    both(&["-v"], b"t (null)\n", |payload| {
        [b"t ", payload, b"\n"].concat()
    }),
    both(&["-F", "%p"], b"\n", line),
    both(&["-N", "-F", "%x"], b"", |payload| {
        HEXLOWER.encode(payload).into_bytes()
    }),
    both(&["-F", "%l %X|%p|"], b"0 ||\n", |payload| {
        let (length, hex) = (payload.len(), HEXUPPER.encode(payload));
        [format!("{length} {hex}|").as_bytes(), payload, b"|\n"].concat()
    }),
    ours(&["-J"], Written::Parsed(json_payloads)),
    ours(&["-J", "--pretty"], Written::Parsed(json_payloads)),
    ours(&["--csv"], Written::Parsed(csv_payloads)),
    ours(&["-F", "%j"], Written::ParsedText(json_payloads)),
    ours(&["--output"], Written::Exactly(line)),
    ours(
        &["--exec", "sh", "-c", "cat; echo ,"],
        Written::Exactly(|payload| [payload, b",\n"].concat()),
    ),
];

/// A form at work.
struct Case<'a> {
    form: &'a Form,
    file: PathBuf,
    running: Running,
}

impl<'a> Case<'a> {
    /// Returns once it has subscribed.
    fn start(form: &'a Form, broker: &Broker, file: PathBuf) -> Self {
        let program = Program::subscriber().to(broker).args(["-t", "t", "-d"]);
        let program = program.args(["--max-packet", "100MiB"]);
        // Unoptimised, 60 MB take longer to write than a keep-alive on a busy machine.
        let program = program.args(["--keep-alive", "600"]).args(form.flags);
        let program = if form.flags == ["--output"] {
            program.arg(&file)
        } else {
            program.stdout(File::create(&file).unwrap())
        };
        let running = program.start();
        running.wait_subscribed();
        Self {
            form,
            file,
            running,
        }
    }

    /// Expects these payloads. The result is how many bytes were written, and resident at most.
    fn expect(self, payloads: &[Vec<u8>]) -> (usize, usize) {
        let Self {
            form,
            file,
            running,
        } = self;
        let acknowledged = |line: &str| line.contains("sent PUBACK");
        let all = || running.stderr.count_of(acknowledged) == payloads.len();
        assert!(wait_until(LONG, all), "{running}");
        let peak = running.status("VmHWM:").expect("a live process");
        running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
        let written = fs::read(file).unwrap();
        form.written.expect(form.flags, &written, payloads);
        (written.len(), usize::try_from(peak).unwrap() * 1024)
    }
}

#[track_caller]
fn expect_bytes(flags: &[&str], found: &[u8], expected: &[u8]) {
    if found == expected {
        return;
    }
    let same = found.iter().zip(expected).take_while(|(a, b)| a == b);
    let same = same.count();
    let [found, expected] = [found, expected].map(|bytes| {
        let part = &bytes[same.saturating_sub(60)..(same + 60).min(bytes.len())];
        part.escape_ascii().to_string()
    });
    panic!("{flags:?}: at byte {same}\nfound    {found}\nexpected {expected}");
}

/// The last fields of lines of CSV, as RFC 4180 has them, after the names of the columns.
fn csv_payloads(text: &[u8]) -> Vec<Vec<u8>> {
    const COLUMNS: &[u8] = b"tst,topic,qos,retain,payload\r\n";
    let mut rest = text.strip_prefix(COLUMNS).unwrap();
    let mut payloads = Vec::new();
    while !rest.is_empty() {
        let mut field = Vec::new();
        if let Some(quoted) = rest.strip_prefix(b"\"") {
            rest = quoted;
            loop {
                let (part, after) = rest.split_at(memchr(b'"', rest).unwrap());
                field.extend(part);
                rest = &after[1..];
                let Some(after) = rest.strip_prefix(b"\"") else {
                    break;
                };
                field.push(b'"');
                rest = after;
            }
        } else {
            let (part, after) = rest.split_at(memchr2(b',', b'\r', rest).unwrap());
            field.extend(part);
            rest = after;
        }
        if let Some(after) = rest.strip_prefix(b",") {
            rest = after;
        } else {
            rest = rest.strip_prefix(b"\r\n").unwrap();
            payloads.push(field);
        }
    }
    payloads
}

/// The payloads of JSON objects, one after the other.
fn json_payloads(text: &[u8]) -> Vec<Vec<u8>> {
    let objects = serde_json::Deserializer::from_slice(text).into_iter::<Value>();
    let payload = |object: Value| match (&object["payload"], &object["payload_base64"]) {
        (Value::String(text), Value::Null) => text.clone().into_bytes(),
        (Value::Null, Value::String(text)) => BASE64.decode(text.as_bytes()).unwrap(),
        (Value::Null, Value::Null) if object["payloadlen"] == 0 => Vec::new(),
        _ => panic!("{object}"),
    };
    objects.map(|object| payload(object.unwrap())).collect()
}

fn start_all<'a>(broker: &Broker, dir: &TempDir) -> Vec<Case<'a>> {
    let forms = FORMS.iter().enumerate();
    let start = |(number, form)| Case::start(form, broker, dir.path().join(format!("{number}")));
    forms.map(start).collect()
}

/// `mosquitto_sub`, until it has received `count` messages.
fn start_peer(broker: &Broker, form: &Form, count: usize, file: &Path) -> Process {
    let mut client = peer::client("mosquitto_sub", broker);
    client.args(["-t", "t", "-q", "1", "-C", &count.to_string()]);
    client.args(form.flags).stdin(Stdio::null());
    client.stdout(File::create(file).unwrap());
    Process::spawn(client)
}

#[test]
fn every_byte_comes_through_in_every_form() {
    let broker = Broker::builder().plain().start();
    let dir = temp_dir();
    let payloads = payloads();
    let ours = start_all(&broker, &dir);
    let with_peer = FORMS
        .iter()
        .filter(|form| form.empty_of_peer.is_some())
        .enumerate();
    let peers = with_peer.map(|(number, form)| {
        let file = dir.path().join(format!("peer {number}"));
        let process = start_peer(&broker, form, payloads.len(), &file);
        (form, process, file)
    });
    let peers: Vec<_> = peers.collect();
    let clients = ours.len() + peers.len();
    let all = || broker.log().count_of(|line| line.ends_with(" 1 t")) == clients;
    assert!(wait_until(SOON, all), "{}", broker.log().text());

    for payload in &payloads {
        publish(&broker, &dir.path().join("payload"), payload);
    }
    for case in ours {
        case.expect(&payloads);
    }
    for (form, mut process, file) in peers {
        assert!(process.wait(SOON).is_some(), "{:?}", form.flags);
        let (Written::Exactly(written), Some(empty)) = (&form.written, form.empty_of_peer) else {
            continue;
        };
        let expected = payloads.iter().map(|payload| match &payload[..] {
            [] => empty.to_vec(),
            payload => written(payload),
        });
        let expected = expected.collect::<Vec<_>>().concat();
        expect_bytes(form.flags, &fs::read(file).unwrap(), &expected);
    }
}

/// Expects that a payload is in memory once as it was received, and once as it is written.
fn expect_held_twice(one: &[u8]) {
    /// What the program takes without the message.
    const PROGRAM: usize = 24_000_000;
    let size = times("IOT_TEST_PAYLOAD", 10_000_000);
    let broker = Broker::builder().plain().start();
    let dir = temp_dir();
    let cases = start_all(&broker, &dir);
    let payload = one.repeat(size / one.len());
    publish(&broker, &dir.path().join("payload"), &payload);
    for case in cases {
        let flags = case.form.flags;
        let (written, peak) = case.expect(std::slice::from_ref(&payload));
        // A command holds it as it was received.
        let most = size + written.max(size) + PROGRAM;
        println!("{flags:?}: {written} bytes written, {peak} resident");
        assert!(peak < most, "{flags:?}: {peak} of {most}");
    }
}

#[test]
fn a_large_payload_of_any_bytes_is_held_twice_in_every_form() {
    expect_held_twice(&every_byte()[1..]);
}

#[test]
fn a_large_text_with_much_to_escape_is_held_twice_in_every_form() {
    expect_held_twice("\u{1}\"\r\n,\u{b0}C\u{1f600}\\".as_bytes());
}
