//! What the broker has sent and nobody has looked at: whole packets, and the beginning of one.

use std::io;

use super::wire::PIECE;
use crate::common::mqtt::framing;
use crate::common::mqtt::packet_type::PacketType;
use crate::common::mqtt::reason_code::PACKET_TOO_LARGE;
use crate::common::mqtt::violation::Violation;

/// Bytes from the broker. A packet costs its own size once, however large it is.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    bytes: Vec<u8>,
    /// Bytes of packets that have been looked at.
    done: usize,
    /// Bytes that are missing from the packet that has begun; 0 if that is not known.
    missing: usize,
}

/// What is next in what the broker has sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<'a> {
    /// A whole packet: its first byte, and its contents.
    Packet(u8, &'a [u8]),
    /// A packet has begun, with this byte.
    Begun(u8),
    Nothing,
}

/// There is no memory for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoMemory {
    /// Its size in bytes.
    pub(super) size: usize,
}

/// Why there is no next packet.
#[derive(Debug)]
pub(super) enum Unreadable {
    Violation(Violation),
    NoMemory(NoMemory),
}

impl Incoming {
    /// Lets `receive` append what has come: it is given the buffer and how much to take at most. A
    /// packet that has begun is taken to its end and no further, so that its buffer need not grow.
    pub(super) fn fill(
        &mut self,
        receive: impl FnOnce(&mut Vec<u8>, usize) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if self.done > 0 {
            self.bytes.drain(..self.done);
            self.done = 0;
        }
        if self.bytes.is_empty() {
            // One large message is no reason to hold so much for ever.
            self.bytes.shrink_to(4 * PIECE);
        }
        let is_large = self.bytes.len() + self.missing > 4 * PIECE;
        let most = if self.missing > 0 && is_large {
            self.missing.min(4 * PIECE)
        } else {
            PIECE
        };
        receive(&mut self.bytes, most)
    }

    /// The next packet. None may have more than `most` bytes.
    pub(super) fn next(&mut self, v5: bool, most: usize) -> Result<Next<'_>, Unreadable> {
        let rest = self.bytes.get(self.done..).unwrap_or_default();
        let header = framing::header(rest, v5).map_err(Unreadable::Violation)?;
        let Some(header) = header else {
            self.missing = 0;
            return Ok(rest
                .first()
                .map_or(Next::Nothing, |first| Next::Begun(*first)));
        };
        let total = header.total();
        if total > most {
            let packet = PacketType::of(header.first);
            let cause = format!("it has {total} bytes, above --max-packet, which is {most}");
            return Err(Unreadable::Violation(
                Violation::new(PACKET_TOO_LARGE, cause).in_packet(packet),
            ));
        }
        if rest.len() < total {
            self.missing = total - rest.len();
            if self.bytes.capacity() - self.bytes.len() < self.missing {
                self.make_room(total)?;
            }
            return Ok(Next::Begun(header.first));
        }
        self.missing = 0;
        let begin = self.done + header.length;
        self.done += total;
        let body = self.bytes.get(begin..self.done).unwrap_or_default();
        Ok(Next::Packet(header.first, body))
    }

    /// The size in bytes of the packet that has begun, as far as it is known.
    pub(super) fn expected(&self) -> usize {
        self.bytes.len().saturating_sub(self.done) + self.missing
    }

    /// Moves the packet that has begun to the front of a buffer that holds it whole.
    fn make_room(&mut self, total: usize) -> Result<(), Unreadable> {
        self.bytes.drain(..self.done);
        self.done = 0;
        let more = total.saturating_sub(self.bytes.len());
        self.bytes
            .try_reserve_exact(more)
            .map_err(|_| Unreadable::NoMemory(NoMemory { size: total }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(incoming: &mut Incoming, bytes: &[u8]) {
        let filled = incoming.fill(|buffer, most| {
            assert!(bytes.len() <= most);
            buffer.extend_from_slice(bytes);
            Ok(bytes.len())
        });
        assert_eq!(filled.unwrap(), bytes.len());
    }

    #[test]
    fn packets_come_out_whole_and_in_order() {
        let mut incoming = Incoming::default();
        add(&mut incoming, &[0xd0, 0, 0x30, 3, 0]);
        assert_eq!(incoming.next(true, 100).unwrap(), Next::Packet(0xd0, &[]));
        assert_eq!(incoming.next(true, 100).unwrap(), Next::Begun(0x30));
        add(&mut incoming, &[1, b't', 0xd0]);
        let packet = Next::Packet(0x30, &[0, 1, b't']);
        assert_eq!(incoming.next(true, 100).unwrap(), packet);
        assert_eq!(incoming.next(true, 100).unwrap(), Next::Begun(0xd0));
        add(&mut incoming, &[0]);
        assert_eq!(incoming.next(true, 100).unwrap(), Next::Packet(0xd0, &[]));
        assert_eq!(incoming.next(true, 100).unwrap(), Next::Nothing);
    }

    #[test]
    fn a_large_packet_has_a_buffer_of_its_own_size() {
        let mut incoming = Incoming::default();
        let size = 1_000_000;
        let mut packet = vec![0x30];
        framing::push_variable_int(&mut packet, size);
        let total = packet.len() + size;
        packet.resize(total, 0);
        let mut rest = &packet[..];
        while !rest.is_empty() {
            let next = incoming.next(true, total).unwrap();
            assert!(matches!(next, Next::Begun(_) | Next::Nothing));
            incoming
                .fill(|buffer, most| {
                    let (now, later) = rest.split_at(most.min(rest.len()));
                    buffer.extend_from_slice(now);
                    rest = later;
                    Ok(now.len())
                })
                .unwrap();
        }
        assert!(incoming.bytes.capacity() <= total + PIECE);
        match incoming.next(true, total).unwrap() {
            Next::Packet(_, body) => assert_eq!(body.len(), size),
            other => panic!("{other:?}"),
        }
        assert_eq!(incoming.next(true, total).unwrap(), Next::Nothing);
        add(&mut incoming, &[0xd0]);
        assert!(incoming.bytes.capacity() <= 4 * PIECE);
    }

    #[test]
    fn a_packet_above_the_maximum_is_refused_at_its_header() {
        let mut incoming = Incoming::default();
        add(&mut incoming, &[0x30, 0xff, 0x7f]);
        match incoming.next(true, 100) {
            Err(Unreadable::Violation(violation)) => assert_eq!(violation.code, 0x95),
            other => panic!("{other:?}"),
        }
    }
}
