//! Control packets as lines of the debug log, payloads cut. User name and password are not shown. PURE.

use std::fmt::Write as _;

use super::field_reader::FieldReader;
use super::framing::PacketSplitter;
use super::packet_type::PacketType;
use super::violation::Violation;
use crate::common::escape::escape;

const SHOWN: usize = 60;

/// Bytes kept of a packet that is being written.
const HEAD: usize = 1024;

/// Such as `PUBLISH qos 1 id 7 topic "temperature" 4 bytes "21.4"`. `body` is what follows the fixed header,
/// or the beginning of that; `length` is the Remaining Length.
pub fn describe(first: u8, body: &[u8], length: usize, v5: bool) -> String {
    let Some(packet) = PacketType::of(first) else {
        return format!("packet of the reserved type 0, {length} bytes");
    };
    let mut line = packet.name().to_owned();
    if describe_fields(&mut line, packet, first, body, length, v5).is_err() {
        line = format!("{} {length} bytes", packet.name());
    }
    line
}

fn describe_fields(
    line: &mut String,
    packet: PacketType,
    first: u8,
    body: &[u8],
    length: usize,
    v5: bool,
) -> Result<(), Violation> {
    let mut reader = FieldReader::new(body);
    match packet {
        PacketType::Connect => {
            reader.binary()?;
            let (level, flags, keep_alive) = (reader.byte()?, reader.byte()?, reader.u16()?);
            if level >= 5 {
                skip_properties(&mut reader)?;
            }
            let client_id = quoted(reader.binary()?);
            let version = if level >= 5 { "5" } else { "3.1.1" };
            let clean = flags >> 1 & 1;
            append_with_space(line, &format!("version {version} client {client_id}"));
            append_with_space(line, &format!("clean {clean} keep-alive {keep_alive}"));
        }
        PacketType::Connack => {
            let (flags, code) = (reader.byte()?, reader.byte()?);
            let session = flags & 1;
            append_with_space(line, &format!("code {code:#04x} session-present {session}"));
        }
        PacketType::Publish => {
            let qos = first >> 1 & 3;
            let topic = quoted(reader.binary()?);
            append_with_space(line, &format!("qos {qos}"));
            if qos > 0 {
                append_with_space(line, &format!("id {}", reader.u16()?));
            }
            for (bit, name) in [(8, "dup"), (1, "retain")] {
                if first & bit != 0 {
                    append_with_space(line, name);
                }
            }
            if v5 {
                skip_properties(&mut reader)?;
            }
            let payload = reader.rest();
            let size = length - (body.len() - payload.len());
            append_with_space(line, &format!("topic {topic} {size} bytes"));
            if size > 0 {
                append_with_space(line, &quoted(payload));
            }
        }
        PacketType::Puback | PacketType::Pubrec | PacketType::Pubrel | PacketType::Pubcomp => {
            append_with_space(line, &format!("id {}", reader.u16()?));
            if v5 {
                append_with_space(line, &format!("code {:#04x}", reader.byte().unwrap_or(0)));
            }
        }
        PacketType::Subscribe | PacketType::Unsubscribe => {
            append_with_space(line, &format!("id {}", reader.u16()?));
            if v5 {
                skip_properties(&mut reader)?;
            }
            while let Ok(filter) = reader.binary() {
                append_with_space(line, &format!("filter {}", quoted(filter)));
                if packet == PacketType::Subscribe {
                    append_with_space(line, &format!("qos {}", reader.byte()? & 3));
                }
            }
        }
        PacketType::Suback | PacketType::Unsuback => {
            append_with_space(line, &format!("id {}", reader.u16()?));
            if v5 {
                skip_properties(&mut reader)?;
            }
            for code in reader.rest().iter().take(SHOWN) {
                append_with_space(line, &format!("code {code:#04x}"));
            }
        }
        PacketType::Disconnect if v5 => {
            append_with_space(line, &format!("code {:#04x}", reader.byte().unwrap_or(0)));
        }
        PacketType::Pingreq | PacketType::Pingresp | PacketType::Disconnect => {}
        PacketType::Auth => append_with_space(line, &format!("{length} bytes")),
    }
    Ok(())
}

fn append_with_space(line: &mut String, text: &str) {
    let _ = write!(line, " {text}");
}

fn skip_properties(reader: &mut FieldReader<'_>) -> Result<(), Violation> {
    let length = reader.variable_int()?;
    reader
        .take(usize::try_from(length).unwrap_or(usize::MAX))
        .map(drop)
}

fn quoted(bytes: &[u8]) -> String {
    // No character has more than four bytes.
    let head = bytes.get(..4 * SHOWN + 4).unwrap_or(bytes);
    let text = escape(head, &[]);
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("\"{}…\"", text.get(..end).unwrap_or_default()),
        None => format!("\"{text}\""),
    }
}

pub fn describe_packets(
    splitter: &mut PacketSplitter,
    bytes: &[u8],
    v5: bool,
    mut line: impl FnMut(&str),
) {
    splitter.split(bytes, HEAD, |header, head| {
        let body = head.get(header.length..).unwrap_or_default();
        line(&describe(header.first, body, header.remaining, v5));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]], v5: bool) -> Vec<String> {
        let (mut splitter, mut lines) = (PacketSplitter::default(), Vec::new());
        for piece in pieces {
            describe_packets(&mut splitter, piece, v5, |line| lines.push(line.to_owned()));
        }
        lines
    }

    #[test]
    fn each_packet_is_one_line() {
        let v5: [(&[u8], &str); 10] = [
            (b"\xd0\0", "PINGRESP"),
            (b"\x20\x03\x01\0\0", "CONNACK code 0x00 session-present 1"),
            (b"\x40\x02\0\x07", "PUBACK id 7 code 0x00"),
            (b"\x40\x04\0\x07\x87\0", "PUBACK id 7 code 0x87"),
            (b"\x30\x04\0\x09t\0", "PUBLISH 4 bytes"),
            (
                b"\x30\x07\0\x01t\x02\x01\x01\x1b",
                r#"PUBLISH qos 0 topic "t" 1 bytes "\x1b""#,
            ),
            (b"\x30\x04\0\x01t\0", "PUBLISH qos 0 topic \"t\" 0 bytes"),
            (
                b"\x82\x09\0\x01\0\0\x03a/#\x01",
                "SUBSCRIBE id 1 filter \"a/#\" qos 1",
            ),
            (
                b"\x90\x05\0\x01\0\x01\x87",
                "SUBACK id 1 code 0x01 code 0x87",
            ),
            (b"\xe0\x01\x04", "DISCONNECT code 0x04"),
        ];
        let v3: [(&[u8], &str); 3] = [
            (b"\x40\x02\0\x07", "PUBACK id 7"),
            (b"\xe0\0", "DISCONNECT"),
            (
                b"\x3b\x09\0\x01t\0\x0721.4",
                "PUBLISH qos 1 id 7 dup retain topic \"t\" 4 bytes \"21.4\"",
            ),
        ];
        for (rows, is_v5) in [(&v5[..], true), (&v3, false)] {
            for (packet, line) in rows {
                assert_eq!(lines(&[packet], is_v5), [*line]);
            }
        }
    }

    #[test]
    fn connect_shows_neither_user_name_nor_password() {
        let packet = b"\x10\x1c\0\x04MQTT\x05\xc2\0\x1e\0\0\x01c\0\x04user\0\x06secret";
        let expected = "CONNECT version 5 client \"c\" clean 1 keep-alive 30";
        assert_eq!(lines(&[packet], true), [expected]);
    }

    #[test]
    fn packets_are_found_in_pieces_of_any_size_and_large_ones_are_cut() {
        let mut packet = vec![0x30, 0xb0, 0xea, 0x01, 0, 1, b't', 0];
        packet.resize(4 + 30_000, b'x');
        packet.extend(b"\xc0\0");
        let expected = format!(
            "PUBLISH qos 0 topic \"t\" 29996 bytes \"{}…\"",
            "x".repeat(SHOWN)
        );
        for size in [1, 3, 1_000, 100_000] {
            let pieces: Vec<&[u8]> = packet.chunks(size).collect();
            assert_eq!(
                lines(&pieces, true),
                [expected.as_str(), "PINGREQ"],
                "{size}"
            );
        }
    }
}
