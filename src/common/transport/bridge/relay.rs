//! Relays packets between the broker and the client library until either side has ended the connection.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use log::debug;
use nix::poll::{PollFd, PollFlags};

use super::bridge_callbacks::MessageCallbacks;
use super::broker_sender::BrokerSender;
use super::byte_queue::{ByteQueue, CHUNK};
use super::event::{AnswerProgress, BridgeEvent, ConnectionEnd, EndReason};
use super::packet_buffer::{NextPacket, PacketBuffer};
use super::packet_handler::{ConnectParameters, Effects, PacketHandler};
use super::read_pause::{Received, read_pause};
use super::ready_sides::{ReadySides, is_temporary, poll_fd_for_events, poll_until};
use crate::common::acks::ConnectionAcks;
use crate::common::mqtt::framing::PINGRESP;
use crate::common::mqtt::packet_text::describe;
use crate::common::mqtt::packet_type::PacketType;
use crate::common::runtime::affinity;
use crate::common::runtime::clock::{instant_now, sleep};
use crate::common::transport::connection_handle::ConnectionHandle;
use crate::common::transport::dial::DialedConnection;
use crate::common::transport::mqtt_stream::{MqttStream, linger};
use crate::common::transport::tls_error;
use crate::common::transport::tls_session::SessionResumption;

/// More than that at once, or 16 times that in the end, is worth another core for its encryption.
const LARGE: usize = 4 << 10;

/// Bytes of answers that a broker may leave unread before nothing more is read from it.
const MAX_UNANSWERED: usize = 64 << 10;

/// How long our DISCONNECT to a broker that breaks the protocol may take.
const DISCONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// How long the next PUBREL, and all of them, may take when the connection of a subscriber is to end.
const PUBREL_TIMEOUT: Duration = Duration::from_secs(1);
const ALL_PUBRELS_TIMEOUT: Duration = Duration::from_millis(2_500);

/// How long a broker may take to close the connection after DISCONNECT, and after one with an error.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
const VIOLATION_CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// How long the connection of a subscriber takes to end in order, at most.
pub const END_TIMEOUT: Duration = ALL_PUBRELS_TIMEOUT.saturating_add(CLOSE_TIMEOUT);

/// Returns when the connection has ended. The client library has the other end of `local`.
pub fn relay_packets(
    connection: DialedConnection,
    local: &UnixStream,
    handle: &ConnectionHandle,
    parameters: ConnectParameters,
    receiver: Option<&MessageCallbacks>,
    report: &mut dyn FnMut(BridgeEvent),
) {
    let mut relay = Relay {
        wire: connection.wire,
        local,
        handle,
        report,
        parameters,
        handler: PacketHandler::new(parameters, receiver),
        effects: Effects::default(),
        received: PacketBuffer::default(),
        sender: BrokerSender::new(parameters.v5),
        to_library: ByteQueue::default(),
        ready: ReadySides::default(),
        is_paused: false,
        has_hung_up: false,
        is_closed: false,
        is_local_open: true,
        has_library_write_failed: false,
        received_at: None,
        pause: None,
        is_pinned: true,
        bytes_from_paho: 0,
        end: None,
        end_by: None,
        end_at_latest: None,
        resumption: connection.resumption,
        is_session_unwritten: false,
    };
    let result = relay.run();
    let error = result.as_ref().err();
    let in_packet = relay.received.expected_size() > 0;
    let was_ended = matches!(result, Ok(EndReason::Lost | EndReason::Disconnected(_)));
    let connection_end = ConnectionEnd {
        reached: was_ended.then(|| relay.sender.count_begun_publishes(&relay.wire)),
        fault: error.and_then(|error| {
            tls_error::closing_fault(&connection.endpoint, &connection.credentials, error)
        }),
        cause: error.map(ToString::to_string),
        reason: result.unwrap_or(EndReason::Lost),
        in_order: relay.is_closed && !in_packet,
        in_packet,
    };
    let code = connection_end.reason.disconnect_code_to_send();
    if let Some(code) = code.filter(|_| parameters.v5) {
        let is_for_memory = matches!(connection_end.reason, EndReason::NoMemory(_));
        relay.send_disconnect(code, is_for_memory);
    }
    relay.wire.close();
    let is_by_us = connection_end.reason == EndReason::ByUs;
    if is_by_us && receiver.is_some() && relay.handler.is_connected() {
        linger(relay.wire.stream().socket(), CLOSE_TIMEOUT);
    }
    // Before the next attempt, or the process's end.
    relay
        .resumption
        .iter()
        .for_each(SessionResumption::handle_end);
    (relay.report)(BridgeEvent::Ended(connection_end));
    // The client library still reads what it has been sent.
    let _ = local.shutdown(Shutdown::Both);
    if code.is_some() {
        linger(relay.wire.stream().socket(), VIOLATION_CLOSE_TIMEOUT);
    }
}

struct Relay<'a> {
    wire: MqttStream,
    local: &'a UnixStream,
    handle: &'a ConnectionHandle,
    report: &'a mut dyn FnMut(BridgeEvent),
    parameters: ConnectParameters,
    handler: PacketHandler<'a>,
    effects: Effects,
    received: PacketBuffer,
    sender: BrokerSender,
    to_library: ByteQueue,
    ready: ReadySides,
    is_paused: bool,
    has_hung_up: bool,
    is_closed: bool,
    is_local_open: bool,
    has_library_write_failed: bool,
    received_at: Option<Instant>,
    /// Before the broker is read from again.
    pause: Option<Duration>,
    is_pinned: bool,
    bytes_from_paho: usize,
    end: Option<EndReason>,
    /// When the connection is to end, and the same if the broker goes on sending.
    end_by: Option<Instant>,
    end_at_latest: Option<Instant>,
    resumption: Option<SessionResumption>,
    is_session_unwritten: bool,
}

impl Relay<'_> {
    fn run(&mut self) -> io::Result<EndReason> {
        if self.handler.acks().is_some() {
            self.unpin_thread();
        }
        self.wire.stream().socket().set_nonblocking(true)?;
        self.local.set_nonblocking(true)?;
        loop {
            if self.end_by.is_none() && self.handler.acks().is_some_and(ConnectionAcks::is_ending) {
                if !self.handler.is_connected() {
                    return Ok(EndReason::ByUs);
                }
                let now = instant_now();
                self.end_by = Some(now + PUBREL_TIMEOUT);
                self.end_at_latest = Some(now + ALL_PUBRELS_TIMEOUT);
            }
            let moved = self.relay_to_library()? | self.relay_to_broker();
            if let Some(error) = self.sender.error.take_if(|_| !moved) {
                return Err(error);
            }
            if !self.is_local_open && !self.sender.has_unsent(&self.wire) {
                return self.sender.error.take().map_or(Ok(EndReason::ByUs), Err);
            }
            if self.to_library.is_empty()
                && let Some(end) = self.end.take()
            {
                return match self.sender.error.take() {
                    Some(error) if end == EndReason::Lost => Err(error),
                    _ => Ok(end),
                };
            }
            if !moved {
                self.wait()?;
            }
        }
    }

    fn unpin_thread(&mut self) {
        if std::mem::take(&mut self.is_pinned) {
            affinity::unpin();
        }
    }

    fn relay_to_library(&mut self) -> io::Result<bool> {
        let may_read = self.to_library.is_empty() && self.ready.wire_read && self.may_read_broker();
        let moved = may_read && self.read_broker()?;
        if self.has_library_write_failed {
            self.to_library.clear();
        }
        Ok(self.write_library() || moved)
    }

    fn read_broker(&mut self) -> io::Result<bool> {
        let wire = &mut self.wire;
        let receive = |into: &mut Vec<u8>, most| wire.receive(into, most);
        match self.received.receive_more(receive) {
            Ok(0) => {
                self.is_closed = true;
                self.end = Some(EndReason::Lost);
            }
            Ok(_) => {
                let now = instant_now();
                let before = self.received_at.replace(now);
                if let Some(latest) = self.end_at_latest {
                    self.end_by = Some(latest.min(now + PUBREL_TIMEOUT));
                }
                let awaited = self.handler.count_awaited_pubacks();
                self.handle_packets(now);
                let since_last = before.map(|before| now.duration_since(before));
                self.pause = self
                    .describe_read(awaited)
                    .and_then(|received| read_pause(since_last, received));
                return Ok(true);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(e) if is_temporary(&e) => self.ready.wire_read = false,
            Err(e) if tls_error::is_eof(&e) => self.end = Some(EndReason::Lost),
            Err(e) if e.kind() == io::ErrorKind::OutOfMemory => {
                self.end = Some(EndReason::NoMemory(self.received.expected_size()));
            }
            Err(e) => return Err(e),
        }
        Ok(false)
    }

    /// `awaited` is how many PUBACK were due before the read.
    fn describe_read(&self, awaited: usize) -> Option<Received> {
        if self.handler.acks().is_some() {
            return Some(Received::Messages);
        }
        let still_awaited = self.handler.count_awaited_pubacks();
        let received = Received::Pubacks {
            read: awaited.saturating_sub(still_awaited),
            awaited: still_awaited,
        };
        // Of a WebSocket one message is read at a time, however many there are.
        matches!(self.wire, MqttStream::Bytes(_)).then_some(received)
    }

    fn handle_packets(&mut self, now: Instant) {
        let ConnectParameters { v5, max_packet, .. } = self.parameters;
        let max_packet = usize::try_from(max_packet).unwrap_or(usize::MAX);
        self.handler.answer_pings(&mut self.effects.to_library);
        while self.end.is_none() {
            let handled = match self.received.next(v5, max_packet) {
                Ok(NextPacket::Whole(first, body)) => {
                    debug!("received {}", describe(first, body, body.len(), v5));
                    let is_message = PacketType::of(first) == Some(PacketType::Publish);
                    self.sender.progress.handle_received_packet(is_message);
                    self.handler
                        .handle_packet(first, body, now, &mut self.effects)
                }
                Ok(NextPacket::Begun(first)) => {
                    self.end = self.handler.check_type_and_flags(first).err();
                    break;
                }
                Ok(NextPacket::Nothing) => break,
                Err(error) => Err(self.handler.refine_end_reason(error)),
            };
            if let Some(connack) = self.effects.accepted.take() {
                (self.report)(BridgeEvent::Accepted(connack));
                if let Some(resumption) = &self.resumption {
                    resumption.handle_connack();
                    self.is_session_unwritten = true;
                }
            }
            self.end = handled.err();
        }
        self.handler.complete_released(&mut self.effects);
        let refused = std::mem::take(&mut self.effects.refused_subscriptions);
        if refused > 0 {
            self.handle
                .refused_subscriptions
                .fetch_add(refused, Ordering::Release);
        }
        self.to_library.append(&mut self.effects.to_library);
    }

    fn may_read_broker(&mut self) -> bool {
        // A broker that does not read our answers may ask for no more.
        let unanswered = self.effects.to_broker.len() + self.sender.queue.rest().len();
        let waits = self.update_pause() || unanswered > MAX_UNANSWERED;
        self.end.is_none() && (!waits || self.handle.is_cancelled())
    }

    fn update_pause(&mut self) -> bool {
        let acks = self.handler.acks().filter(|_| self.handler.is_connected());
        self.is_paused = acks.is_some_and(|acks| acks.is_backlog_full(self.is_paused));
        if self.is_paused {
            // PINGRESP may stand behind a large message.
            self.handler.answer_pings(&mut self.to_library.bytes);
        }
        self.is_paused
    }

    fn write_library(&mut self) -> bool {
        if self.to_library.is_empty() || !self.ready.local_write {
            return false;
        }
        match self.local.write(self.to_library.rest()) {
            Ok(count) => {
                self.to_library.advance(count);
                return count > 0;
            }
            Err(e) if is_temporary(&e) => self.ready.local_write = false,
            // The client library has closed its end; but it may have sent something before.
            Err(_) => {
                self.to_library.clear();
                self.has_library_write_failed = true;
            }
        }
        false
    }

    fn relay_to_broker(&mut self) -> bool {
        if self.sender.error.is_some() {
            return false;
        }
        if self.sender.may_insert_packets() {
            self.add_outgoing_answers();
            if self.is_ready_to_disconnect() {
                self.sender.add_disconnect();
                self.is_local_open = false;
            }
        }
        let moved = self.may_read_library() && self.ready.local_read && self.read_library();
        self.sender.send_queued(&mut self.wire) || moved
    }

    fn read_library(&mut self) -> bool {
        self.sender.queue.bytes.resize(CHUNK, 0);
        let read = self.local.read(&mut self.sender.queue.bytes);
        let count = *read.as_ref().unwrap_or(&0);
        match read {
            Err(e) if is_temporary(&e) => self.ready.local_read = false,
            _ => self.is_local_open = count > 0,
        }
        self.sender.queue.bytes.truncate(count);
        self.bytes_from_paho += count;
        if count > LARGE || self.bytes_from_paho > 16 * LARGE {
            self.unpin_thread();
        }
        let handle_sent = |packet| self.handler.handle_sent(packet);
        if self.sender.scan_queued_packets(handle_sent) {
            // The broker reads nothing behind DISCONNECT.
            let from_library = std::mem::take(&mut self.sender.queue.bytes);
            self.add_outgoing_answers();
            self.sender.queue.bytes.extend(from_library);
        }
        count > 0
    }

    /// When the connection is to end, no further packet of the client library is begun.
    fn may_read_library(&self) -> bool {
        let goes_on = self.end_by.is_none() || self.sender.has_partial_library_packet();
        self.sender.queue.is_empty() && self.is_local_open && goes_on
    }

    /// Whether the connection is to end, and all that has been acknowledged is completed or had its time.
    fn is_ready_to_disconnect(&self) -> bool {
        let acks = self.handler.acks();
        let waits = acks.is_some_and(ConnectionAcks::is_any_pubrel_due);
        self.end_by.is_some_and(|by| !waits || instant_now() >= by)
    }

    fn add_outgoing_answers(&mut self) {
        let bytes = &mut self.sender.queue.bytes;
        bytes.append(&mut self.effects.to_broker);
        if let Some(acks) = self.handler.acks() {
            acks.append_acks(bytes, instant_now());
        }
    }

    /// Progress answers the client library's pings: PINGREQ and PINGRESP may stand behind a large message.
    fn report_progress(&mut self) {
        let progress = self.sender.measure_tcp_progress(&self.wire);
        if !self.handler.is_connected() {
            return;
        }
        for (has_moved, direction) in [
            (progress.part_arrived, AnswerProgress::PartArrived),
            (progress.all_arrived, AnswerProgress::AllArrived),
            (progress.has_contents, AnswerProgress::Received),
        ] {
            if has_moved {
                (self.report)(BridgeEvent::Progress(direction));
            }
        }
        if progress.part_arrived || progress.all_arrived {
            // The client library may have sent a PINGREQ that has not been read.
            self.to_library.bytes.extend(PINGRESP);
        }
        if progress.has_received {
            self.handler.answer_pings(&mut self.to_library.bytes);
        }
    }

    /// DISCONNECT follows the whole packets that wait to be sent, unless a packet has gone out in part.
    fn send_disconnect(&mut self, code: u8, is_for_memory: bool) {
        if !self.sender.discard_unfinished_packet() {
            return;
        }
        let until = instant_now() + DISCONNECT_TIMEOUT;
        if is_for_memory {
            // Messages received before it would come again, on each connection.
            self.await_acks_of_received(until);
        }
        self.add_outgoing_answers();
        let first = PacketType::Disconnect.first_byte(0);
        self.sender.queue.bytes.extend([first, 1, code]);
        self.sender.flush(&mut self.wire, until);
    }

    fn await_acks_of_received(&mut self, until: Instant) {
        while let Some(acks) = self.handler.acks()
            && acks.has_unacknowledged()
            && instant_now() < until
        {
            acks.request_wake_up();
            acks.append_acks(&mut self.sender.queue.bytes, instant_now());
            let wanted = poll_fd_for_events(acks.as_fd(), PollFlags::POLLIN);
            if poll_until([wanted], Some(until)).is_err() {
                return;
            }
            acks.clear_wake_up();
        }
    }

    fn wait(&mut self) -> io::Result<()> {
        if let Some(pause) = self.pause.take() {
            sleep(pause);
            self.ready = ReadySides::default();
            return Ok(());
        }
        self.update_pause();
        if self.wake_when_settled() {
            return Ok(());
        }
        // A file takes as long as the broker's answer, and delays nothing now.
        if self.is_session_unwritten && self.handler.is_answer_awaited() {
            self.is_session_unwritten = false;
            self.resumption
                .iter()
                .for_each(SessionResumption::handle_pause);
        }
        let acks = self.handler.acks();
        let may_read = self.may_read_broker();
        let has_unsent = self.sender.has_unsent(&self.wire);
        let mut wire_events = PollFlags::empty();
        wire_events.set(PollFlags::POLLIN, may_read && self.to_library.is_empty());
        wire_events.set(PollFlags::POLLOUT, has_unsent);
        let mut local_events = PollFlags::empty();
        local_events.set(PollFlags::POLLIN, self.may_read_library());
        let writes_library = !self.to_library.is_empty() && !self.has_library_write_failed;
        local_events.set(PollFlags::POLLOUT, writes_library);
        // While nothing is read from the broker, it is noticed once that the connection breaks.
        let is_watched = !may_read && self.end.is_none() && !self.has_hung_up;
        let wire_fd = PollFd::new(self.wire.as_fd(), wire_events);
        let wanted = [
            (is_watched || !wire_events.is_empty()).then_some(wire_fd),
            poll_fd_for_events(self.local.as_fd(), local_events),
            acks.map(|acks| PollFd::new(acks.as_fd(), PollFlags::POLLIN)),
        ];
        // Afterwards only what is still to be sent is waited for.
        let end_by = self.end_by.filter(|by| *by > instant_now());
        let progress = &mut self.sender.progress;
        let check_at = if has_unsent || self.handler.is_answer_awaited() {
            let received = self.wire.stream().counted_socket().read_bytes;
            Some(progress.schedule_check(instant_now(), received))
        } else {
            progress.stop();
            None
        };
        let until = end_by.into_iter().chain(check_at).min();
        let [wire, local, wake_up] = poll_until(wanted, until)?;
        let broken = PollFlags::POLLHUP | PollFlags::POLLERR;
        self.has_hung_up |= wire.intersects(broken);
        self.ready.wire_read |= wire.intersects(broken | PollFlags::POLLIN);
        self.ready.local_read |= local.intersects(broken | PollFlags::POLLIN);
        self.ready.local_write |= local.intersects(broken | PollFlags::POLLOUT);
        if let Some(acks) = acks.filter(|_| !wake_up.is_empty()) {
            acks.clear_wake_up();
        }
        if check_at.is_some_and(|at| instant_now() >= at) {
            self.report_progress();
        }
        Ok(())
    }

    /// Messages that were settled before the request wake nobody, so this checks once more.
    fn wake_when_settled(&mut self) -> bool {
        let was_paused = self.is_paused;
        match self.handler.acks() {
            Some(acks) if was_paused || acks.has_unacknowledged() => acks.request_wake_up(),
            _ => return false,
        }
        let is_changed = was_paused != self.update_pause();
        if self.sender.may_insert_packets() {
            self.add_outgoing_answers();
            return is_changed || !self.sender.queue.is_empty();
        }
        is_changed
    }
}
