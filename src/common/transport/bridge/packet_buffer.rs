//! What the broker has sent and nobody has read: whole packets, and the beginning of one.

use std::io;

use super::byte_queue::CHUNK;
use super::event::EndReason;
use crate::common::mqtt::framing;
use crate::common::mqtt::packet_type::PacketType;
use crate::common::mqtt::reason_codes::PACKET_TOO_LARGE;
use crate::common::mqtt::violation::Violation;

/// Each packet is kept once, however large it is.
#[derive(Debug, Default)]
pub(super) struct PacketBuffer {
    bytes: Vec<u8>,
    read: usize,
    /// Bytes that are missing from the packet that has begun; 0 if that is not known.
    missing: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextPacket<'a> {
    Whole(u8, &'a [u8]),
    Begun(u8),
    Nothing,
}

impl PacketBuffer {
    /// `receive` gets the buffer and how much to append at most. A large packet is received to its end and no
    /// further, so that its buffer need not grow.
    pub(super) fn receive_more(
        &mut self,
        receive: impl FnOnce(&mut Vec<u8>, usize) -> io::Result<usize>,
    ) -> io::Result<usize> {
        self.drop_read();
        if self.bytes.is_empty() {
            // After one large message not that much memory is kept.
            self.bytes.shrink_to(4 * CHUNK);
        }
        let is_large = self.missing > 0 && self.bytes.len() + self.missing > 4 * CHUNK;
        let most = if is_large {
            self.missing.min(4 * CHUNK)
        } else {
            CHUNK
        };
        receive(&mut self.bytes, most)
    }

    /// The error is a violation or a lack of memory.
    pub(super) fn next(&mut self, v5: bool, most: usize) -> Result<NextPacket<'_>, EndReason> {
        let rest = self.bytes.get(self.read..).unwrap_or_default();
        let Some(header) = framing::parse_header(rest, v5)? else {
            self.missing = 0;
            let first = rest.first();
            return Ok(first.map_or(NextPacket::Nothing, |first| NextPacket::Begun(*first)));
        };
        let total = header.total();
        if total > most {
            let cause = format!("it has {total} bytes, above --max-packet, which is {most}");
            let violation = Violation::new(PACKET_TOO_LARGE, cause);
            let packet = PacketType::of(header.first);
            return Err(violation.in_packet(packet).into());
        }
        self.missing = total.saturating_sub(rest.len());
        if self.missing > 0 {
            if self.bytes.capacity() - self.bytes.len() < self.missing {
                self.drop_read();
                let more = total.saturating_sub(self.bytes.len());
                let reserved = self.bytes.try_reserve_exact(more);
                reserved.map_err(|_| EndReason::NoMemory(total))?;
            }
            return Ok(NextPacket::Begun(header.first));
        }
        let begin = self.read + header.length;
        self.read += total;
        let body = self.bytes.get(begin..self.read).unwrap_or_default();
        Ok(NextPacket::Whole(header.first, body))
    }

    /// The size in bytes of the packet that has begun, as far as it is known.
    pub(super) fn expected_size(&self) -> usize {
        self.bytes.len().saturating_sub(self.read) + self.missing
    }

    fn drop_read(&mut self) {
        self.bytes.drain(..self.read);
        self.read = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(received: &mut PacketBuffer, bytes: &[u8]) {
        let filled = received.receive_more(|buffer, most| {
            assert!(bytes.len() <= most);
            buffer.extend_from_slice(bytes);
            Ok(bytes.len())
        });
        assert_eq!(filled.unwrap(), bytes.len());
    }

    #[test]
    fn packets_come_out_whole_and_in_order() {
        let mut received = PacketBuffer::default();
        add(&mut received, &[0xd0, 0, 0x30, 3, 0]);
        for (packet, more) in [
            (NextPacket::Whole(0xd0, &[]), &[][..]),
            (NextPacket::Begun(0x30), &[1, b't', 0xd0]),
            (NextPacket::Whole(0x30, &[0, 1, b't']), &[]),
            (NextPacket::Begun(0xd0), &[0]),
            (NextPacket::Whole(0xd0, &[]), &[]),
            (NextPacket::Nothing, &[]),
        ] {
            assert_eq!(received.next(true, 100).unwrap(), packet);
            if !more.is_empty() {
                add(&mut received, more);
            }
        }
    }

    #[test]
    fn a_large_packet_gets_a_buffer_of_its_own_size() {
        let mut received = PacketBuffer::default();
        let size = 1_000_000;
        let mut packet = vec![0x30];
        framing::push_variable_int(&mut packet, size);
        let total = packet.len() + size;
        packet.resize(total, 0);
        let mut rest = &packet[..];
        while !rest.is_empty() {
            let next = received.next(true, total).unwrap();
            assert!(matches!(next, NextPacket::Begun(_) | NextPacket::Nothing));
            let filled = received.receive_more(|buffer, most| {
                let (now, later) = rest.split_at(most.min(rest.len()));
                buffer.extend_from_slice(now);
                rest = later;
                Ok(now.len())
            });
            filled.unwrap();
        }
        assert!(received.bytes.capacity() <= total + CHUNK);
        match received.next(true, total).unwrap() {
            NextPacket::Whole(_, body) => assert_eq!(body.len(), size),
            other => panic!("{other:?}"),
        }
        assert_eq!(received.next(true, total).unwrap(), NextPacket::Nothing);
        add(&mut received, &[0xd0]);
        assert!(received.bytes.capacity() <= 4 * CHUNK);
    }

    #[test]
    fn a_packet_above_the_maximum_is_refused_at_its_header() {
        let mut received = PacketBuffer::default();
        add(&mut received, &[0x30, 0xff, 0x7f]);
        match received.next(true, 100) {
            Err(EndReason::Violation(violation)) => assert_eq!(violation.code, 0x95),
            other => panic!("{other:?}"),
        }
    }
}
