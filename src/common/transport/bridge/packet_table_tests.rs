//! Gives the packets of `tests/data/packets.tsv` to a packet handler, without a connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::bridge_callbacks::MessageCallbacks;
use super::event::EndReason;
use super::packet_buffer::{NextPacket, PacketBuffer};
use super::packet_handler::{ConnectParameters, Effects, PacketHandler};
use crate::common::acks::SessionAcks;
use crate::common::mqtt::framing::SentPacket;
use crate::common::runtime::clock::instant_now;

const TABLE: &str = include_str!("../../../../tests/data/packets.tsv");

struct Row<'a> {
    name: &'a str,
    program: &'a str,
    v5: bool,
    state: &'a str,
    bytes: Vec<u8>,
    expected: &'a str,
}

fn rows() -> Vec<Row<'static>> {
    let mut rows = Vec::new();
    let is_row = |line: &&str| !line.starts_with('#') && !line.is_empty();
    for line in TABLE.lines().filter(is_row) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [name, _, program, version, state, bytes, expected, _] = columns[..] else {
            panic!("{line}");
        };
        let both = |value, values| if value == "both" { values } else { vec![value] };
        for program in both(program, vec!["publisher", "subscriber"]) {
            for version in both(version, vec!["3.1.1", "5"]) {
                rows.push(Row {
                    name,
                    program,
                    v5: version == "5",
                    state,
                    bytes: decode(&bytes.replace('|', "")),
                    expected,
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

fn outcome(row: &Row<'_>) -> String {
    let has_skipped = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&has_skipped);
    let receiver = MessageCallbacks {
        on_message: Arc::new(|_, ticket| {
            ticket.settle();
            Ok(())
        }),
        on_skipped: Arc::new(move |_| seen.store(true, Ordering::Relaxed)),
        on_exchanges_ended: Arc::new(|_| true),
        acks: Arc::new(SessionAcks::default()).begin_connection().unwrap(),
    };
    let parameters = ConnectParameters {
        v5: row.v5,
        clean: true,
        max_packet: 16 << 20,
    };
    let mut handler = PacketHandler::new(
        parameters,
        (row.program == "subscriber").then_some(&receiver),
    );
    let (mut effects, now) = (Effects::default(), instant_now());
    if row.state != "connack" {
        let connack = if row.v5 { &[0, 0, 0][..] } else { &[0, 0] };
        handler
            .handle_packet(0x20, connack, now, &mut effects)
            .unwrap();
    }
    let sent = match row.state {
        "subscribe" => Some(0x82),
        "published-1" => Some(0x32),
        "published-2" | "released" => Some(0x34),
        _ => None,
    };
    if let Some(first) = sent {
        handler.handle_sent(SentPacket::new(first, 1));
    }
    if row.state == "released" {
        handler
            .handle_packet(0x50, &[0, 1], now, &mut effects)
            .unwrap();
        handler.handle_sent(SentPacket::new(0x62, 1));
    }
    let mut buffer = PacketBuffer::default();
    buffer
        .receive_more(|buffer, _| {
            buffer.extend(&row.bytes);
            Ok(row.bytes.len())
        })
        .unwrap();
    loop {
        let outcome = match buffer.next(row.v5, 16 << 20) {
            Ok(NextPacket::Whole(first, body)) => {
                handler.handle_packet(first, body, now, &mut effects)
            }
            Ok(NextPacket::Begun(first)) => match handler.check_type_and_flags(first) {
                Ok(_) if row.expected == "again" => return "again".into(),
                Ok(_) => return "unfinished".into(),
                Err(end) => Err(end),
            },
            Ok(NextPacket::Nothing) => break,
            Err(error) => Err(handler.refine_end_reason(error)),
        };
        handler.complete_released(&mut effects);
        // PUBREL follows an acknowledgement that has gone out.
        receiver.acks.append_acks(&mut effects.to_broker, now);
        if let Err(end) = outcome {
            return match end {
                EndReason::Violation(violation) | EndReason::NoConnack(violation) => {
                    format!("{:02X} ({violation})", violation.code)
                }
                EndReason::Refused(_) | EndReason::Disconnected(_)
                    if end.disconnect_code_to_send().is_some() && row.v5 =>
                {
                    format!("{:02X}", end.disconnect_code_to_send().unwrap_or_default())
                }
                EndReason::Refused(_) | EndReason::OlderVersion(_) => "refused".into(),
                EndReason::Disconnected(_) => "ended".into(),
                other => format!("{other:?}"),
            };
        }
    }
    if has_skipped.load(Ordering::Relaxed) {
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
        let got = outcome(row);
        let fits = match row.expected {
            "close" => got.contains('('),
            code if code.len() == 2 && !row.v5 => got.contains('('),
            // Without a byte, or with a refusal of a subscription, the connection goes on here.
            "again" | "refused" => got == row.expected || got == "borne",
            expected => got.split(' ').next() == Some(expected),
        };
        let (name, program, state, v5) = (row.name, row.program, row.state, row.v5);
        (!fits).then(|| {
            format!(
                "{name} {program} v5={v5} {state}: {}, not {got}",
                row.expected
            )
        })
    });
    let wrong: Vec<_> = wrong.collect();
    assert!(wrong.is_empty(), "{}: {wrong:#?}", wrong.len());
}
