//! Both directions of a bridge, for as long as the connection lasts.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use log::debug;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::end::{Direction, End, Reached, Report};
use super::guard::{Agreement, Effects, Guard};
use super::incoming::{Incoming, Next};
use super::line::Line;
use super::ready::Ready;
use super::wire::{PIECE, Piece, Wire, is_patient, send, timeout};
use super::{ALL_PUBRELS_TIMEOUT, ConnectionHandle, PUBREL_TIMEOUT, send_queue, tls_error};
use crate::common::acks::ConnectionAcks;
use crate::common::mqtt::describe::{Describer, describe};
use crate::common::mqtt::framing::{PINGRESP, PacketTracker};
use crate::common::mqtt::packet_type::PacketType;
use crate::common::runtime::affinity;
use crate::common::runtime::clock::{clock, sleep};

/// While messages come faster than one per `BURST`, the broker is read from once per `PAUSE`: what has
/// come by then costs each of the threads it passes hardly more than a single message would.
const PAUSE: Duration = Duration::from_micros(200);
const BURST: Duration = Duration::from_millis(1);

/// More than that at once is a stream, or one large message, and so is 16 times that in the end:
/// encrypting it is work for another core.
const MUCH: usize = 4 << 10;

/// Bytes of answers that a broker may leave unread before nothing more is read from it.
const MAX_UNANSWERED: usize = 64 << 10;

/// How long our DISCONNECT to a broker that breaks the protocol may take.
const DISCONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// A bridge that carries.
pub(super) struct Carrier<'a> {
    pub(super) wire: Wire,
    local: &'a UnixStream,
    handle: &'a ConnectionHandle,
    pub(super) guard: Guard<'a>,
    /// Kept for its buffers.
    effects: Effects,
    pub(super) incoming: Incoming,
    /// Nothing is read from the broker, because too many messages wait.
    paused: bool,
    /// The connection was seen to break while nothing was read from it.
    hung_up: bool,
    /// The broker has closed its side in order.
    pub(super) closed: bool,
    ready: Ready,
    /// When messages came last.
    heard_at: Option<Instant>,
    /// They come in a burst.
    in_burst: bool,
    /// Its thread has not left the core of those who write to it.
    together: bool,
    carried: usize,
    local_open: bool,
    takes_nothing: bool,
    end: Option<End>,
    /// Nothing can be sent any more.
    broken: Option<io::Error>,
    /// Where the client library's packets end.
    sending: PacketTracker,
    describer: Describer,
    published: u64,
    line: Line,
    /// What is in `up` has to be answered, pings aside.
    is_answered: bool,
    /// The client library has sent its CONNECT, which comes before anything else (MQTT-3.1.0-1).
    begun: bool,
    /// The client library has sent its DISCONNECT, after which nothing may be sent (MQTT-3.14.4-1).
    finished: bool,
    /// The connection is to end in order, by then at the latest.
    end_by: Option<Instant>,
    /// The same, if the broker goes on sending.
    end_at_latest: Option<Instant>,
    /// The last write has not taken all: what it was given must be given again.
    blocked: bool,
    /// To the broker.
    up: Piece,
    /// To the client library, whole packets.
    down: Piece,
    pub(super) report: &'a mut dyn FnMut(Report),
}

impl<'a> Carrier<'a> {
    pub(super) fn new(
        wire: Wire,
        local: &'a UnixStream,
        handle: &'a ConnectionHandle,
        guard: Guard<'a>,
        report: &'a mut dyn FnMut(Report),
    ) -> Self {
        Self {
            wire,
            local,
            local_open: true,
            takes_nothing: false,
            end: None,
            broken: None,
            handle,
            guard,
            effects: Effects::default(),
            incoming: Incoming::default(),
            paused: false,
            hung_up: false,
            closed: false,
            ready: Ready::default(),
            heard_at: None,
            in_burst: false,
            together: true,
            carried: 0,
            sending: PacketTracker::default(),
            describer: Describer::default(),
            published: 0,
            line: Line::default(),
            is_answered: false,
            begun: false,
            finished: false,
            end_by: None,
            end_at_latest: None,
            blocked: false,
            up: Piece::default(),
            down: Piece::default(),
            report,
        }
    }

    pub(super) fn set_up(&mut self) -> io::Result<()> {
        if self.guard.acks().is_some() {
            self.leave();
        }
        self.wire.stream().tcp().set_nonblocking(true)?;
        self.local.set_nonblocking(true)
    }

    /// There is work for another core.
    fn leave(&mut self) {
        if std::mem::take(&mut self.together) {
            affinity::unpin();
        }
    }

    pub(super) fn run(&mut self) -> io::Result<End> {
        loop {
            if self.end_by.is_none() && self.guard.acks().is_some_and(ConnectionAcks::is_ending) {
                if !self.guard.is_connected() {
                    return Ok(End::ByUs);
                }
                let now = clock();
                self.end_by = Some(now + PUBREL_TIMEOUT);
                self.end_at_latest = Some(now + ALL_PUBRELS_TIMEOUT);
            }
            let moved = self.step_down()? | self.step_up();
            if let Some(error) = self.broken.take_if(|_| !moved) {
                return Err(error);
            }
            if !self.local_open && self.up.is_empty() && !self.wire.is_unflushed() {
                return self.broken.take().map_or(Ok(End::ByUs), Err);
            }
            if self.down.is_empty()
                && let Some(end) = self.end.take()
            {
                return match self.broken.take() {
                    Some(error) if end == End::Lost => Err(error),
                    _ => Ok(end),
                };
            }
            if !moved {
                self.wait()?;
            }
        }
    }

    /// From the broker to receiver and client library; whether anything moved.
    fn step_down(&mut self) -> io::Result<bool> {
        let mut moved = false;
        if self.down.is_empty() && self.ready.wire_read && self.reads() {
            let wire = &mut self.wire;
            match self.incoming.fill(|into, most| wire.receive(into, most)) {
                Ok(0) => {
                    self.closed = true;
                    self.end = Some(End::Lost);
                }
                Ok(_) => {
                    let now = clock();
                    let before = self.heard_at.replace(now);
                    if let Some(latest) = self.end_at_latest {
                        self.end_by = Some(latest.min(now + PUBREL_TIMEOUT));
                    }
                    let in_burst = before.is_some_and(|at| now < at + BURST);
                    self.in_burst = in_burst && self.guard.acks().is_some();
                    self.take_packets();
                    moved = true;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => moved = true,
                Err(e) if is_patient(&e) => self.ready.wire_read = false,
                Err(e) if tls_error::is_eof(&e) => self.end = Some(End::Lost),
                Err(e) if e.kind() == io::ErrorKind::OutOfMemory => {
                    self.end = Some(End::NoMemory(self.incoming.expected()));
                }
                Err(e) => return Err(e),
            }
        }
        if self.takes_nothing {
            self.down.clear();
        }
        let count = self.hand_over();
        if count > 0 {
            self.down.advance(count);
            moved = true;
        }
        Ok(moved)
    }

    fn take_packets(&mut self) {
        let Agreement { v5, max_packet, .. } = self.guard.agreement();
        let most = usize::try_from(max_packet).unwrap_or(usize::MAX);
        self.guard.answer_pings(&mut self.effects.to_library);
        while self.end.is_none() {
            let taken = match self.incoming.next(v5, most) {
                Ok(Next::Packet(first, body)) => {
                    debug!("received {}", describe(first, body, body.len(), v5));
                    self.line
                        .heard(PacketType::of(first) == Some(PacketType::Publish));
                    self.guard.take(first, body, &mut self.effects)
                }
                Ok(Next::Begun(first)) => {
                    self.end = self.guard.admit(first).err();
                    break;
                }
                Ok(Next::Nothing) => break,
                Err(unreadable) => Err(self.guard.unreadable(unreadable)),
            };
            if let Some(connack) = self.effects.accepted.take() {
                (self.report)(Report::Accepted(connack));
            }
            self.end = taken.err();
        }
        self.guard.complete(&mut self.effects);
        let refused = std::mem::take(&mut self.effects.refused_subscriptions);
        if refused > 0 {
            let counter = &self.handle.refused_subscriptions;
            counter.fetch_add(refused, Ordering::Release);
        }
        if self.down.bytes.is_empty() {
            std::mem::swap(&mut self.down.bytes, &mut self.effects.to_library);
        } else {
            self.down.bytes.append(&mut self.effects.to_library);
        }
    }

    /// Whether the broker is read from.
    fn reads(&mut self) -> bool {
        // A broker that takes no answers gets no more chances to ask for them.
        let unanswered = self.effects.to_broker.len() + self.up.rest().len();
        let waits = self.look() || unanswered > MAX_UNANSWERED;
        self.end.is_none() && (!waits || self.handle.is_cancelled())
    }

    /// Looks whether too many messages wait. To be accepted comes before that.
    fn look(&mut self) -> bool {
        let acks = self.guard.acks().filter(|_| self.guard.is_connected());
        self.paused = acks.is_some_and(|acks| acks.is_full(self.paused));
        if self.paused && self.guard.owes_pingresp() {
            self.guard.answer_pings(&mut self.down.bytes);
        }
        self.paused
    }

    /// Hands the client library what is for it; how many bytes it took.
    fn hand_over(&mut self) -> usize {
        if self.down.is_empty() || !self.ready.local_write {
            return 0;
        }
        match self.local.write(self.down.rest()) {
            Ok(count) => count,
            Err(e) if is_patient(&e) => {
                self.ready.local_write = false;
                0
            }
            // It has closed, and nobody wants the rest; but it may have sent something before.
            Err(_) => {
                self.down.clear();
                self.takes_nothing = true;
                0
            }
        }
    }

    /// From the client library to the broker; whether anything moved.
    fn step_up(&mut self) -> bool {
        if self.broken.is_some() {
            return false;
        }
        let mut moved = false;
        if self.may_answer() {
            self.answer();
            if self.is_time_to_disconnect() {
                let first = PacketType::Disconnect.first_byte(0);
                self.up.bytes.extend([first, 0]);
                self.finished = true;
                self.local_open = false;
            }
        }
        if self.takes() && self.ready.local_read {
            self.up.bytes.resize(PIECE, 0);
            let count = match self.local.read(&mut self.up.bytes) {
                Ok(count) => {
                    self.local_open = count > 0;
                    count
                }
                Err(e) if is_patient(&e) => {
                    self.ready.local_read = false;
                    0
                }
                Err(_) => {
                    self.local_open = false;
                    0
                }
            };
            self.up.bytes.truncate(count);
            moved = count > 0;
            self.carried += count;
            if count > MUCH || self.carried > 16 * MUCH {
                self.leave();
            }
            let (guard, mut disconnects) = (&mut self.guard, false);
            let boundary = self.sending.unfinished_bytes() == 0;
            let (begun, published) = (&mut self.begun, &mut self.published);
            let mut is_answered = false;
            self.sending.track(&self.up.bytes, |packet| {
                guard.sent(packet);
                *begun = true;
                let packet = PacketType::of(packet.first);
                *published += u64::from(packet == Some(PacketType::Publish));
                is_answered |= packet != Some(PacketType::Pingreq);
                disconnects |= packet == Some(PacketType::Disconnect);
            });
            self.is_answered = is_answered || self.sending.unfinished_type().is_some();
            self.finished |= disconnects;
            if disconnects && boundary {
                // The broker reads nothing that comes behind it.
                let theirs = std::mem::take(&mut self.up.bytes);
                self.answer();
                self.up.bytes.extend(theirs);
            }
        }
        let before = self.written();
        let sent = self.send();
        if self.is_answered {
            self.line.wrote(before, self.written());
        }
        match sent {
            Ok(count) => {
                self.up.advance(count);
                self.is_answered &= !self.up.is_empty();
                self.blocked = false;
                moved |= count > 0;
            }
            Err(e) if is_patient(&e) => self.blocked = true,
            // What the broker has sent before it closed is still to be looked at.
            Err(e) => {
                self.up.clear();
                self.broken = Some(e);
                moved = true;
            }
        }
        moved
    }

    fn send(&mut self) -> io::Result<usize> {
        let v5 = self.guard.agreement().v5;
        send(&mut self.wire, &self.up, &mut self.describer, v5)
    }

    /// Whether the client library is read from. When the connection is to end, no further packet of it is begun.
    fn takes(&self) -> bool {
        let goes_on = self.end_by.is_none() || self.sending.unfinished_bytes() > 0;
        self.up.is_empty() && self.local_open && goes_on
    }

    /// Whether the connection is to end, and the exchanges of what has been acknowledged have come to their end or
    /// had their time.
    fn is_time_to_disconnect(&self) -> bool {
        let waits = self.guard.acks().is_some_and(ConnectionAcks::is_pubrel_due);
        self.end_by.is_some_and(|by| !waits || clock() >= by)
    }

    fn written(&self) -> u64 {
        self.wire.stream().counted().written_bytes()
    }

    /// What the broker had received of what was published, now that it has ended the connection.
    pub(super) fn reached(&self) -> Reached {
        let begun = self.sending.unfinished_type();
        let is_begun = begun == Some(PacketType::Publish);
        // Where the system does not say, what was written counts as arrived.
        let queued = send_queue::unacknowledged(self.wire.stream().tcp());
        Reached {
            begun: self.published + u64::from(is_begun),
            complete: begun.is_none()
                && !self.is_unsent()
                && matches!(queued, Ok(Some(0)) | Err(_)),
        }
    }

    fn is_unsent(&self) -> bool {
        !self.up.is_empty() || self.wire.is_unflushed()
    }

    /// Looks whether the line makes progress while an answer is due, and answers the client library's pings if it
    /// does: they may stand behind a large message.
    fn look_at_line(&mut self) {
        let queued = send_queue::unacknowledged(self.wire.stream().tcp());
        let acknowledged = queued
            .ok()
            .flatten()
            .map(|queued| self.written().saturating_sub(queued));
        let received = self.wire.stream().counted().read_bytes();
        let unwritten = self.is_unsent() || self.sending.unfinished_bytes() > 0;
        let progress = self.line.look(acknowledged, received, unwritten, clock());
        if !self.guard.is_connected() {
            return;
        }
        let told = [
            (progress.sent, Direction::Sent),
            (progress.arrived, Direction::Arrived),
            (progress.received, Direction::Received),
        ];
        for (_, direction) in told.into_iter().filter(|(moved, _)| *moved) {
            (self.report)(Report::Progress(direction));
        }
        if progress.sent || progress.arrived {
            // The client library may have pinged without our having read it.
            self.down.bytes.extend(PINGRESP);
        }
        if progress.alive {
            self.guard.answer_pings(&mut self.down.bytes);
        }
    }

    /// Whether answers of our own may follow what has been sent.
    fn may_answer(&self) -> bool {
        self.up.is_empty() && self.sending.unfinished_bytes() == 0 && self.begun && !self.finished
    }

    fn answer(&mut self) {
        self.up.bytes.append(&mut self.effects.to_broker);
        if let Some(acks) = self.guard.acks() {
            acks.poll_acks(&mut self.up.bytes);
        }
    }

    /// Tells the broker why the connection ends, behind what is whole of what waits to be sent, unless
    /// a packet has gone out in part.
    pub(super) fn send_disconnect(&mut self, code: u8, is_for_memory: bool) {
        let unfinished = self.sending.unfinished_bytes();
        let rest = self.up.rest().len();
        let in_part = unfinished > rest || (unfinished > 0 && self.blocked);
        if in_part || !self.begun || self.finished || self.broken.is_some() {
            return;
        }
        let keep = self.up.bytes.len() - unfinished;
        self.up.bytes.truncate(keep);
        let until = clock() + DISCONNECT_TIMEOUT;
        if is_for_memory {
            // What was received before it would come again, each time that it comes.
            self.await_acks(until);
        }
        self.answer();
        let first = PacketType::Disconnect.first_byte(0);
        self.up.bytes.extend([first, 1, code]);
        while !self.up.is_empty() || self.wire.is_unflushed() {
            match self.send() {
                Ok(count) => self.up.advance(count),
                Err(e) if is_patient(&e) => {
                    let mut wanted = [PollFd::new(self.wire.as_fd(), PollFlags::POLLOUT)];
                    if poll(&mut wanted, timeout(until)).is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
            if clock() >= until {
                return;
            }
        }
    }

    fn await_acks(&mut self, until: Instant) {
        let Some(acks) = self.guard.acks() else {
            return;
        };
        while acks.has_unacknowledged() && clock() < until {
            acks.request_wake_up();
            acks.poll_acks(&mut self.up.bytes);
            let mut wanted = [PollFd::new(acks.as_fd(), PollFlags::POLLIN)];
            if poll(&mut wanted, timeout(until)).is_err() {
                return;
            }
            acks.clear_wake_up();
        }
    }

    /// Sleeps until a step can move something. A side that is not waited for is left out:
    /// that it has hung up would be reported again and again.
    fn wait(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.in_burst) {
            sleep(PAUSE);
            self.ready = Ready::default();
            return Ok(());
        }
        let acks = self.guard.acks();
        self.look();
        let holds = acks.filter(|acks| self.paused || acks.has_unacknowledged());
        if let Some(acks) = holds {
            // What was settled before we listen wakes nobody.
            acks.request_wake_up();
            let paused = self.paused;
            let mut changed = paused != self.look();
            if self.may_answer() {
                self.answer();
                changed |= !self.up.is_empty();
            }
            if changed {
                return Ok(());
            }
        }
        let reads = self.reads();
        let unsent = self.is_unsent();
        let takes = self.takes();

        let mut flags = PollFlags::empty();
        let mut wanted: Vec<PollFd<'_>> = Vec::with_capacity(3);
        let mut want = |fd, read: bool, write: bool, always: bool| {
            flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, read);
            flags.set(PollFlags::POLLOUT, write);
            if always || !flags.is_empty() {
                wanted.push(PollFd::new(fd, flags));
            }
        };
        // That it breaks is to be noticed while nothing is read from it, but once.
        let watched = !reads && self.end.is_none() && !self.hung_up;
        let reads = reads && self.down.is_empty();
        want(self.wire.as_fd(), reads, unsent, watched);
        let polls_wire = reads || unsent || watched;
        let hands = !self.down.is_empty() && !self.takes_nothing;
        want(self.local.as_fd(), takes, hands, false);
        let polls_local = takes || hands;
        if let Some(acks) = acks {
            want(acks.as_fd(), true, false, false);
        }
        // Afterwards only what is still to be sent is waited for.
        let end_by = self.end_by.filter(|by| *by > clock());
        let look_at = if unsent || self.guard.is_waiting() {
            let received = self.wire.stream().counted().read_bytes();
            Some(self.line.look_at(clock(), received))
        } else {
            self.line.rest();
            None
        };
        let until = end_by.into_iter().chain(look_at).min();
        match poll(&mut wanted, until.map_or(PollTimeout::NONE, timeout)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut reported = wanted
            .iter()
            .map(|fd| fd.revents().unwrap_or_else(PollFlags::empty));
        let broken = PollFlags::POLLHUP | PollFlags::POLLERR;
        if polls_wire && let Some(wire) = reported.next() {
            self.hung_up |= wire.intersects(broken);
            self.ready.wire_read |= wire.intersects(broken | PollFlags::POLLIN);
        }
        if polls_local && let Some(local) = reported.next() {
            self.ready.local_read |= local.intersects(broken | PollFlags::POLLIN);
            self.ready.local_write |= local.intersects(broken | PollFlags::POLLOUT);
        }
        if let Some(acks) = acks
            && reported.next().is_some_and(|wake_up| !wake_up.is_empty())
        {
            acks.clear_wake_up();
        }
        if look_at.is_some_and(|at| clock() >= at) {
            self.look_at_line();
        }
        Ok(())
    }
}
