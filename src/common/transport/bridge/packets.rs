//! Plays the table of packets, `tests/data/packets.tsv`, to a guard without any connection around it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::End;
use super::guard::{Agreement, Effects, Guard};
use super::incoming::{Incoming, Next};
use super::receiver::Receiver;
use crate::common::acks::Backlog;
use crate::common::mqtt::framing::SentPacket;

const TABLE: &str = include_str!("../../../../tests/data/packets.tsv");

/// One row of the table, for one program and one version.
struct Row<'a> {
    name: &'a str,
    is_subscriber: bool,
    v5: bool,
    state: &'a str,
    bytes: Vec<u8>,
    right: &'a str,
}

fn rows() -> Vec<Row<'static>> {
    let lines = TABLE
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.flat_map(rows_of).collect()
}

fn rows_of(line: &'static str) -> Vec<Row<'static>> {
    let columns: Vec<&str> = line.split('\t').collect();
    let [name, _, program, version, state, bytes, right, _] = columns[..] else {
        panic!("{line}");
    };
    let one_of = |given: &str, wanted: &str| given == "both" || given == wanted;
    let mut rows = Vec::new();
    for is_subscriber in [false, true] {
        for v5 in [false, true] {
            let program_is = if is_subscriber {
                "subscriber"
            } else {
                "publisher"
            };
            if one_of(program, program_is) && one_of(version, if v5 { "5" } else { "3.1.1" }) {
                let bytes = decode(&bytes.replace('|', ""));
                rows.push(Row {
                    name,
                    is_subscriber,
                    v5,
                    state,
                    bytes,
                    right,
                });
            }
        }
    }
    rows
}

/// Hexadecimal, with `(61*4)` for 61616161.
fn decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(byte) = rest.get(..2) {
        if let Some(group) = rest.strip_prefix('(') {
            let (group, after) = group.split_once(')').unwrap();
            let (group, times) = group.split_once('*').unwrap();
            bytes.extend(decode(group).repeat(times.parse().unwrap()));
            rest = after;
        } else {
            bytes.push(u8::from_str_radix(byte, 16).unwrap());
            rest = &rest[2..];
        }
    }
    assert_eq!(rest, "", "{text}");
    bytes
}

fn play(row: &Row<'_>) -> String {
    let skipped = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&skipped);
    let receiver = Receiver {
        on_message: Arc::new(|_, ticket| {
            ticket.settle();
            Ok(())
        }),
        on_skipped: Arc::new(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        }),
        on_ended: Arc::new(|_| true),
        acks: Arc::new(Backlog::default()).begin_connection().unwrap(),
    };
    let agreement = Agreement {
        v5: row.v5,
        clean: true,
        max_packet: 16 << 20,
    };
    let mut guard = Guard::new(agreement, row.is_subscriber.then_some(&receiver));
    let mut effects = Effects::default();
    if row.state != "connack" {
        let connack = if row.v5 { &[0, 0, 0][..] } else { &[0, 0] };
        guard.take(0x20, connack, &mut effects).unwrap();
    }
    let sent = match row.state {
        "subscribe" => Some(0x82),
        "published-1" => Some(0x32),
        "published-2" | "released" => Some(0x34),
        _ => None,
    };
    if let Some(first) = sent {
        guard.sent(SentPacket {
            first,
            packet_id: 1,
        });
    }
    if row.state == "released" {
        guard.take(0x50, &[0, 1], &mut effects).unwrap();
        guard.sent(SentPacket {
            first: 0x62,
            packet_id: 1,
        });
    }
    let mut incoming = Incoming::default();
    incoming
        .fill(|buffer, _| {
            buffer.extend(&row.bytes);
            Ok(row.bytes.len())
        })
        .unwrap();
    loop {
        let taken = match incoming.next(row.v5, 16 << 20) {
            Ok(Next::Packet(first, body)) => guard.take(first, body, &mut effects),
            Ok(Next::Begun(first)) => match guard.admit(first) {
                Ok(_) if row.right == "again" => return "again".into(),
                Ok(_) => return "unfinished".into(),
                Err(end) => Err(end),
            },
            Ok(Next::Nothing) => break,
            Err(unreadable) => Err(guard.unreadable(unreadable)),
        };
        guard.complete(&mut effects);
        // PUBREL follows an acknowledgement that has gone out.
        receiver.acks.poll_acks(&mut effects.to_broker);
        if let Err(end) = taken {
            return match end {
                End::Violation(violation) | End::NoConnack(violation) => {
                    format!("{:02X} ({violation})", violation.code)
                }
                End::Refused(_) | End::Disconnected(_) if end.code().is_some() && row.v5 => {
                    format!("{:02X}", end.code().unwrap_or_default())
                }
                End::Refused(_) | End::OlderVersion(_) => "refused".into(),
                End::Disconnected(_) => "ended".into(),
                other => format!("{other:?}"),
            };
        }
    }
    if skipped.load(Ordering::Relaxed) > 0 {
        "skipped".into()
    } else {
        "borne".into()
    }
}

#[test]
fn every_packet_of_the_table_is_answered_as_the_table_says() {
    let rows = rows();
    assert!(rows.len() > 1_000, "only {}", rows.len());
    let wrong = rows.iter().filter_map(|row| {
        let got = play(row);
        let fits = match row.right {
            "close" => got.contains('('),
            code if code.len() == 2 && !row.v5 => got.contains('('),
            // Without a byte, or with a refusal of a subscription, the connection goes on here.
            "again" | "refused" => got == row.right || got == "borne",
            right => got.split(' ').next() == Some(right),
        };
        let program = if row.is_subscriber {
            "subscriber"
        } else {
            "publisher"
        };
        let (name, state, v5, right) = (row.name, row.state, row.v5, row.right);
        (!fits).then(|| format!("{name} {program} v5={v5} {state}: {right}, not {got}"))
    });
    let wrong: Vec<_> = wrong.collect();
    assert!(wrong.is_empty(), "{}: {wrong:#?}", wrong.len());
}
