//! What goes to the broker: the client library's bytes, and our own packets between them.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use log::{Level, debug, log_enabled};
use nix::poll::PollFlags;

use super::byte_queue::ByteQueue;
use super::event::SentPublishCount;
use super::ready_sides::{is_temporary, poll_fd_for_events, poll_until};
use super::tcp_progress::{ProgressCheckResult, TcpProgress};
use crate::common::mqtt::framing::{PacketSplitter, SentPacket};
use crate::common::mqtt::packet_text::describe_packets;
use crate::common::mqtt::packet_type::PacketType;
use crate::common::runtime::clock::instant_now;
use crate::common::transport::mqtt_stream::MqttStream;
use crate::common::transport::unacknowledged_bytes;

#[derive(Debug, Default)]
pub(super) struct BrokerSender {
    pub(super) queue: ByteQueue,
    pub(super) progress: TcpProgress,
    /// The client library's packets, and those that have been written, for the log.
    from_library: PacketSplitter,
    written: PacketSplitter,
    v5: bool,
    publishes: u64,
    /// The broker has to answer what is in the queue, pings aside.
    needs_answer: bool,
    /// CONNECT comes before anything else (MQTT-3.1.0-1).
    has_connect: bool,
    /// Nothing may follow DISCONNECT (MQTT-3.14.4-1).
    has_disconnect: bool,
    is_blocked: bool,
    pub(super) error: Option<io::Error>,
}

impl BrokerSender {
    pub(super) fn new(v5: bool) -> Self {
        Self {
            v5,
            ..Self::default()
        }
    }

    pub(super) fn has_partial_library_packet(&self) -> bool {
        self.from_library.unfinished_bytes() > 0
    }

    pub(super) fn may_insert_packets(&self) -> bool {
        self.queue.is_empty()
            && !self.has_partial_library_packet()
            && self.has_connect
            && !self.has_disconnect
    }

    pub(super) fn add_disconnect(&mut self) {
        let packet = [PacketType::Disconnect.first_byte(0), 0];
        self.queue.bytes.extend(packet);
        self.has_disconnect = true;
    }

    /// Finds the packets that end in the queue, which are the client library's. Whether our own packets have to go
    /// out first, because DISCONNECT is among them.
    pub(super) fn scan_queued_packets(&mut self, mut ended: impl FnMut(SentPacket)) -> bool {
        let at_boundary = !self.has_partial_library_packet();
        let mut has_disconnect = false;
        self.needs_answer = false;
        self.from_library.track(&self.queue.bytes, |packet| {
            ended(packet);
            self.has_connect = true;
            let packet = PacketType::of(packet.first);
            self.publishes += u64::from(packet == Some(PacketType::Publish));
            self.needs_answer |= packet != Some(PacketType::Pingreq);
            has_disconnect |= packet == Some(PacketType::Disconnect);
        });
        self.needs_answer |= self.has_partial_library_packet();
        self.has_disconnect |= has_disconnect;
        has_disconnect && at_boundary
    }

    pub(super) fn send_queued(&mut self, wire: &mut MqttStream) -> bool {
        let before = wire.stream().counted_socket().written_bytes;
        let sent = self.write_queued(wire);
        if self.needs_answer {
            self.progress
                .handle_written(before, wire.stream().counted_socket().written_bytes);
        }
        match sent {
            Ok(count) => {
                self.needs_answer &= !self.queue.is_empty();
                self.is_blocked = false;
                count > 0
            }
            Err(e) if is_temporary(&e) => {
                self.is_blocked = true;
                false
            }
            // What the broker has sent before it closed is still to be read.
            Err(e) => {
                self.queue.clear();
                self.error = Some(e);
                true
            }
        }
    }

    fn write_queued(&mut self, wire: &mut MqttStream) -> io::Result<usize> {
        let count = wire.send(self.queue.rest())?;
        if log_enabled!(Level::Debug) {
            let written = self.queue.rest().get(..count).unwrap_or_default();
            describe_packets(&mut self.written, written, self.v5, |packet| {
                debug!("sent {packet}");
            });
        }
        self.queue.advance(count);
        Ok(count)
    }

    pub(super) fn has_unsent(&self, wire: &MqttStream) -> bool {
        !self.queue.is_empty() || wire.is_unflushed()
    }

    pub(super) fn count_begun_publishes(&self, wire: &MqttStream) -> SentPublishCount {
        let unfinished = self.from_library.unfinished_type();
        let is_begun = unfinished == Some(PacketType::Publish);
        // Where the system does not say, what was written counts as arrived.
        let queued = unacknowledged_bytes::unacknowledged(wire.stream().socket());
        SentPublishCount {
            begun: self.publishes + u64::from(is_begun),
            complete: unfinished.is_none()
                && !self.has_unsent(wire)
                && matches!(queued, Ok(Some(0)) | Err(_)),
        }
    }

    pub(super) fn measure_tcp_progress(&mut self, wire: &MqttStream) -> ProgressCheckResult {
        let queued = unacknowledged_bytes::unacknowledged(wire.stream().socket());
        let counted = wire.stream().counted_socket();
        let acknowledged = queued.ok().flatten();
        let acknowledged = acknowledged.map(|n| counted.written_bytes.saturating_sub(n));
        let has_unwritten = self.has_unsent(wire) || self.has_partial_library_packet();
        let received = counted.read_bytes;
        self.progress
            .measure_progress(acknowledged, received, has_unwritten, instant_now())
    }

    /// Removes the unfinished packet from the queue. Fails if part of it is out, or DISCONNECT may not follow.
    pub(super) fn discard_unfinished_packet(&mut self) -> bool {
        let unfinished = self.from_library.unfinished_bytes();
        let in_part = unfinished > self.queue.rest().len() || (unfinished > 0 && self.is_blocked);
        if in_part || !self.has_connect || self.has_disconnect || self.error.is_some() {
            return false;
        }
        let end = self.queue.bytes.len() - unfinished;
        self.queue.bytes.truncate(end);
        true
    }

    pub(super) fn flush(&mut self, wire: &mut MqttStream, until: Instant) {
        while self.has_unsent(wire) {
            let may_go_on = match self.write_queued(wire) {
                Err(e) if is_temporary(&e) => {
                    let wanted = poll_fd_for_events(wire.as_fd(), PollFlags::POLLOUT);
                    poll_until([wanted], Some(until)).is_ok()
                }
                written => written.is_ok(),
            };
            if !may_go_on || instant_now() >= until {
                return;
            }
        }
    }
}
