//! Packets that are not what they say they are, or that a server never sends.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    LONG, PUBACK, PUBREC, SUBACK, UNSUBACK, accept, client, identifier, packet, send, server,
    string,
};
use crate::harness::{
    Server,
    packet::{kind, read_packet},
    server::{Stream, stay_silent},
};

/// Short enough to tell the end of a connection from the timeout of a client that noticed nothing.
const PROMPT: Duration = Duration::from_secs(5);

/// Sends one of these on each connection, after a CONNACK if `accepted`, and expects the client to
/// end that connection, and nothing else to happen to it.
fn expect_ends(version: u8, accepted: bool, cases: Vec<(&'static str, Vec<u8>)>) {
    let (count, next) = (cases.len(), AtomicUsize::new(0));
    let borne = Arc::new(Mutex::new(Vec::new()));
    let server = Server::plain({
        let borne = Arc::clone(&borne);
        move |stream| {
            let (name, bytes) = &cases[next.fetch_add(1, Ordering::SeqCst)];
            if accepted {
                accept(stream, &[]);
            } else {
                let _ = read_packet(stream);
            }
            let sent = Instant::now();
            let _ = stream.write_all(bytes);
            stay_silent(stream);
            if sent.elapsed() > PROMPT {
                borne.lock().unwrap().push(*name);
            }
        }
    });
    let attempts = format!("attempts={count}");
    let outcome = client(&server, version, &[&attempts]).run(LONG);
    let borne = borne.lock().unwrap();
    assert!(borne.is_empty(), "borne: {borne:?}\n{outcome}");
    outcome.expect_code(0);
}

/// A PUBLISH at QoS 0 for the topic `t`, with these bytes after the topic.
fn publish(rest: &[u8]) -> Vec<u8> {
    packet(0x30, &[&*string(b"t"), rest].concat())
}

/// Malformed in MQTT 3.1.1 as in MQTT 5.
fn of_any_version() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("PUBLISH without a topic", packet(0x30, &[])),
        ("half a length of a topic", packet(0x30, &[0])),
        (
            "a topic longer than its packet",
            packet(0x30, &[0, 9, b't']),
        ),
        (
            "QoS 1 without a packet identifier",
            packet(0x32, &string(b"t")),
        ),
        (
            "QoS 3",
            packet(0x36, &[&*string(b"t"), &[0, 1, 0]].concat()),
        ),
        ("PUBACK without a packet identifier", packet(PUBACK, &[])),
        ("half a packet identifier", packet(PUBREC, &[1])),
        ("PUBREL without a packet identifier", packet(0x62, &[])),
        ("SUBACK without a packet identifier", packet(SUBACK, &[0])),
        ("SUBACK without a code", packet(SUBACK, &[0, 1])),
        (
            "UNSUBACK without a packet identifier",
            packet(UNSUBACK, &[0]),
        ),
        ("a second CONNACK", packet(0x20, &[0, 0])),
        ("CONNECT", packet(0x10, b"\0\x04MQTT\x04\x02\0\x3c\0\0")),
        ("SUBSCRIBE", packet(0x82, &[0, 1, 0, 1, b't', 0])),
        ("UNSUBSCRIBE", packet(0xa2, &[0, 1, 0, 1, b't'])),
        ("PINGREQ", packet(0xc0, &[])),
        ("type 0", packet(0x00, &[])),
        ("AUTH", packet(0xf0, &[])),
        (
            "a length of five bytes",
            vec![0x30, 0x80, 0x80, 0x80, 0x80, 0x01],
        ),
    ]
}

#[test]
fn a_malformed_packet_of_mqtt_3_ends_the_connection() {
    expect_ends(4, true, of_any_version());
}

#[test]
fn a_malformed_packet_of_mqtt_5_ends_the_connection() {
    let mut cases = of_any_version();
    cases.extend([
        ("no property length", publish(&[])),
        ("a property length without end", publish(&[0x80])),
        (
            "a property length of five bytes",
            publish(&[0x80, 0x80, 0x80, 0x80, 0x01]),
        ),
        (
            "properties longer than their packet",
            publish(b"\x7f\x01\x01"),
        ),
        ("a byte behind the properties", publish(b"\x01\x01\x01x")),
        ("half a number of two bytes", publish(b"\x02\x23\0\x01x")),
        (
            "half a number of four bytes",
            publish(b"\x03\x02\0\0\0\x01xx"),
        ),
        (
            "a string longer than the properties",
            publish(b"\x04\x03\0\x05abcde"),
        ),
        (
            "a string longer than the packet",
            publish(b"\x04\x03\xff\xffa"),
        ),
        ("half a pair of strings", publish(b"\x04\x26\0\x01a\0\x01b")),
        (
            "a value longer than the properties",
            publish(b"\x06\x26\0\x01a\0\x09123456789"),
        ),
        (
            "a variable byte integer without end",
            publish(b"\x02\x0b\x80\x01"),
        ),
        ("an unknown property", publish(b"\x02\x7e\0x")),
        (
            "SUBACK with properties and no code",
            packet(SUBACK, &[0, 1, 0]),
        ),
        (
            "UNSUBACK with properties and no code",
            packet(UNSUBACK, &[0, 1, 0]),
        ),
        (
            "SUBACK with too long properties",
            packet(SUBACK, &[0, 1, 0x20, 1]),
        ),
        (
            "PUBACK with too long properties",
            packet(PUBACK, &[0, 1, 0, 9, 0x1f]),
        ),
        (
            "DISCONNECT with too long properties",
            packet(0xe0, &[0, 9, 0x1f]),
        ),
        ("AUTH with a reason", packet(0xf0, &[0x18, 0])),
    ]);
    expect_ends(5, true, cases);
}

#[test]
fn a_malformed_connack_ends_the_connection() {
    let short = ("half a CONNACK", packet(0x20, &[0]));
    expect_ends(4, false, vec![short.clone()]);
    expect_ends(
        5,
        false,
        vec![
            short,
            (
                "too long properties",
                packet(0x20, &[0, 0, 0x7f, 0x21, 0, 10]),
            ),
            ("properties without end", packet(0x20, &[0, 0, 0x80])),
            ("half a Receive Maximum", packet(0x20, &[0, 0, 3, 0x21, 0])),
        ],
    );
}

/// 60 KB, the loss of which shows after some hundred times.
fn long() -> Vec<u8> {
    string(&vec![b'x'; 60_000])
}

/// A property list with a Reason String of that length.
fn long_reason() -> Vec<u8> {
    let property = [&[0x1f], &*long()].concat();
    [super::variable(property.len()), property].concat()
}

/// Treats each connection with `treat` and hangs up; expects that no more memory is in use after 250
/// connections than after 50.
fn expect_nothing_stays(
    version: u8,
    treat: impl Fn(&mut dyn Stream) -> Option<()> + Send + Sync + 'static,
) {
    let server = Server::plain(move |stream| {
        // Nothing is the end of the connection, which each of them has.
        let _ = treat(stream);
    });
    let steps = ["attempts=50", "resident", "attempts=200", "resident"];
    let outcome = client(&server, version, &steps).run(LONG).expect_code(0);
    let resident = |line: usize| {
        let text = outcome.stdout.all()[line].text.clone();
        text.strip_prefix("resident: ")
            .unwrap()
            .parse::<usize>()
            .unwrap()
    };
    assert!(resident(3) < resident(1) + 4_000, "{outcome}");
}

#[test]
fn nothing_stays_of_an_auth_packet() {
    expect_nothing_stays(5, |stream| {
        accept(stream, &[])?;
        send(stream, 0xf0, &[&[0, 1, 0x18], &*long_reason()].concat())?;
        stay_silent(stream);
        Some(())
    });
}

#[test]
fn nothing_stays_of_a_topic_whose_packet_is_malformed() {
    for version in super::VERSIONS {
        expect_nothing_stays(version, |stream| {
            accept(stream, &[])?;
            send(stream, 0x32, &long())?;
            stay_silent(stream);
            Some(())
        });
    }
}

#[test]
fn nothing_stays_of_a_message_that_comes_three_times() {
    for version in super::VERSIONS {
        expect_nothing_stays(version, |stream| {
            let version = accept(stream, &[])?;
            let properties: &[u8] = if version == 5 { &[0] } else { &[] };
            for _ in 0..3 {
                send(stream, 0x34, &[&*long(), &[0, 1], properties].concat())?;
            }
            send(stream, 0x62, &[0, 1])?;
            while read_packet(stream).ok()?.kind() != 7 {}
            Some(())
        });
    }
}

#[test]
fn nothing_stays_of_the_reason_for_a_pubrec() {
    let server = server(|stream, packet, version| match packet.kind() {
        kind::PUBLISH => {
            let id = identifier(packet, version);
            send(stream, PUBREC, &[&id[..], &[0], &*long_reason()].concat())
        }
        kind::PUBREL => send(stream, 0x70, &packet.body().number().to_be_bytes()),
        _ => Some(()),
    });
    let mut steps = vec!["connect"];
    for _ in 0..2 {
        steps.extend(["publish=2,1"; 100]);
        steps.push("resident");
    }
    let outcome = client(&server, 5, &steps).run(LONG).expect_code(0);
    let resident: Vec<usize> = outcome
        .stdout
        .all()
        .iter()
        .filter_map(|line| line.text.strip_prefix("resident: ")?.parse().ok())
        .collect();
    assert!(resident[1] < resident[0] + 4_000, "{outcome}");
}
