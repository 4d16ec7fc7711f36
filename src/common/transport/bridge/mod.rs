//! Carries packets between the broker and the client library, which holds the other end of a
//! local socket and believes that it is connected.
//!
//! One thread per connection, which has dialled it before: it sleeps in `poll(2)` until there is
//! something to carry. The `guard` looks at each packet of the broker; what the client library
//! sends passes as it is. Each direction holds little: whoever is slow holds the other up, as on any
//! connection.
//!
//! * `guard` decides what becomes of a packet, `incoming` finds the packets;
//! * `receiver` is who is handed messages, `end` how a connection ends;
//! * `wire` is the broker's side of the bridge.

mod end;
mod guard;
mod incoming;
#[cfg(test)]
mod packets;
mod receiver;
mod wire;

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Connected, Handle, Wire, alert};
use crate::common::acks::Acks;
use crate::common::cores;
use crate::common::event_loop::clock;
use crate::common::mqtt::framing::Follower;
use crate::common::mqtt::packet_type::PacketType;
pub use end::{End, Report, Severed};
pub use guard::Agreement;
use guard::{Effects, Guard};
use incoming::{Incoming, Next};
pub use receiver::{Ended, OnEnded, OnMessage, OnSkipped, OutOfMemory, Receiver, Skipped};
use wire::{PIECE, Piece, is_patient, linger};

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

/// How long the next PUBREL may take, when the connection of a subscriber is to end and its PUBREC has gone out, and how
/// long all of them may.
const PUBREL_TIMEOUT: Duration = Duration::from_secs(1);
const ALL_PUBRELS_TIMEOUT: Duration = Duration::from_millis(2_500);

/// How long a broker that has been sent DISCONNECT may take to close the connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The same for one that breaks the protocol.
const VIOLATION_CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// How long the connection of a subscriber takes to end in order, at most.
pub const END_TIMEOUT: Duration = ALL_PUBRELS_TIMEOUT.saturating_add(CLOSE_TIMEOUT);

/// Carries packets until either side has ended the connection.
pub fn carry(
    connected: Connected,
    local: &UnixStream,
    handle: &Handle,
    agreement: Agreement,
    receiver: Option<&Receiver>,
    report: &mut dyn FnMut(Report),
) {
    let Connected {
        way,
        wire,
        presented,
    } = connected;
    let mut bridge = Bridge {
        wire,
        local,
        local_open: true,
        takes_nothing: false,
        end: None,
        broken: None,
        handle,
        guard: Guard::new(agreement, receiver),
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
        sending: Follower::default(),
        begun: false,
        finished: false,
        end_by: None,
        end_at_latest: None,
        blocked: false,
        up: Piece::default(),
        down: Piece::default(),
        report,
    };
    let ended = bridge.set_up().and_then(|()| bridge.run());
    let severed = Severed {
        fault: ended
            .as_ref()
            .err()
            .and_then(|error| alert::last_words(&way, &presented, error)),
        cause: ended.as_ref().err().map(ToString::to_string),
        end: ended.unwrap_or(End::Lost),
        in_order: bridge.closed && bridge.incoming.expected() == 0,
        in_packet: bridge.incoming.expected() > 0,
    };
    let by_us = severed.end == End::ByUs;
    let code = severed.end.code();
    if let Some(code) = code.filter(|_| agreement.v5) {
        let is_for_memory = matches!(severed.end, End::NoMemory(_));
        bridge.send_disconnect(code, is_for_memory);
    }
    bridge.wire.close();
    if by_us && receiver.is_some() && bridge.guard.is_connected() {
        linger(bridge.wire.stream().tcp(), CLOSE_TIMEOUT);
    }
    (bridge.report)(Report::Severed(severed));
    // What it has been sent it still reads.
    let _ = local.shutdown(Shutdown::Both);
    if code.is_some() {
        linger(bridge.wire.stream().tcp(), VIOLATION_CLOSE_TIMEOUT);
    }
}

/// What is worth trying: what was not possible is not until it is reported to be.
struct Ready {
    wire_read: bool,
    local_read: bool,
    local_write: bool,
}

impl Default for Ready {
    fn default() -> Self {
        Self {
            wire_read: true,
            local_read: true,
            local_write: true,
        }
    }
}

struct Bridge<'a> {
    wire: Wire,
    local: &'a UnixStream,
    handle: &'a Handle,
    guard: Guard<'a>,
    /// Kept for its buffers.
    effects: Effects,
    incoming: Incoming,
    /// Nothing is read from the broker, because too many messages wait.
    paused: bool,
    /// The connection was seen to break while nothing was read from it.
    hung_up: bool,
    /// The broker has closed its side in order.
    closed: bool,
    ready: Ready,
    /// When messages came last.
    heard_at: Option<Instant>,
    /// They come in a burst.
    in_burst: bool,
    /// Its thread has not left the core of those who write to it.
    together: bool,
    /// Bytes that the client library has sent.
    carried: usize,
    /// The client library has not closed its end.
    local_open: bool,
    /// The client library takes nothing more.
    takes_nothing: bool,
    /// How the broker's side has ended.
    end: Option<End>,
    /// Nothing can be sent any more.
    broken: Option<io::Error>,
    /// Where the client library's packets end.
    sending: Follower,
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
    report: &'a mut dyn FnMut(Report),
}

impl Bridge<'_> {
    fn set_up(&mut self) -> io::Result<()> {
        if self.guard.acks().is_some() {
            self.leave();
        }
        self.wire.stream().tcp().set_nonblocking(true)?;
        self.local.set_nonblocking(true)
    }

    /// There is work for another core.
    fn leave(&mut self) {
        if std::mem::take(&mut self.together) {
            cores::spread();
        }
    }

    fn run(&mut self) -> io::Result<End> {
        loop {
            if self.end_by.is_none() && self.guard.acks().is_some_and(Acks::is_ending) {
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

    /// Looks at the packets that are complete.
    fn take_packets(&mut self) {
        let Agreement { v5, max_packet, .. } = self.guard.agreement();
        let most = usize::try_from(max_packet).unwrap_or(usize::MAX);
        self.guard.answer_pings(&mut self.effects.to_library);
        while self.end.is_none() {
            let taken = match self.incoming.next(v5, most) {
                Ok(Next::Packet(first, body)) => self.guard.take(first, body, &mut self.effects),
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
            let boundary = self.sending.unfinished() == 0;
            let begun = &mut self.begun;
            self.sending.follow(&self.up.bytes, |packet| {
                guard.sent(packet);
                *begun = true;
                disconnects |= PacketType::of(packet.first) == Some(PacketType::Disconnect);
            });
            self.finished |= disconnects;
            if disconnects && boundary {
                // The broker reads nothing that comes behind it.
                let theirs = std::mem::take(&mut self.up.bytes);
                self.answer();
                self.up.bytes.extend(theirs);
            }
        }
        match self.wire.send(self.up.rest()) {
            Ok(count) => {
                self.up.advance(count);
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

    /// Whether the client library is read from. When the connection is to end, no further packet of it is begun.
    fn takes(&self) -> bool {
        let goes_on = self.end_by.is_none() || self.sending.unfinished() > 0;
        self.up.is_empty() && self.local_open && goes_on
    }

    /// Whether the connection is to end, and the exchanges of what has been acknowledged have come to their end or
    /// had their time.
    fn is_time_to_disconnect(&self) -> bool {
        let waits = self.guard.acks().is_some_and(Acks::awaits_pubrel);
        self.end_by.is_some_and(|by| !waits || clock() >= by)
    }

    /// Whether answers of our own may follow what has been sent.
    fn may_answer(&self) -> bool {
        self.up.is_empty() && self.sending.unfinished() == 0 && self.begun && !self.finished
    }

    /// Adds our own answers. The client library may not be in the middle of a packet.
    fn answer(&mut self) {
        self.up.bytes.append(&mut self.effects.to_broker);
        if let Some(acks) = self.guard.acks() {
            acks.take_due(&mut self.up.bytes);
        }
    }

    /// Tells the broker why the connection ends, behind what is whole of what waits to be sent, unless
    /// a packet has gone out in part.
    fn send_disconnect(&mut self, code: u8, is_for_memory: bool) {
        let unfinished = self.sending.unfinished();
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
            match self.wire.send(self.up.rest()) {
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

    /// Waits for messages that have been handed over to be dealt with.
    fn await_acks(&mut self, until: Instant) {
        let Some(acks) = self.guard.acks() else {
            return;
        };
        while acks.are_due_later() && clock() < until {
            acks.listen();
            acks.take_due(&mut self.up.bytes);
            let mut wanted = [PollFd::new(acks.as_fd(), PollFlags::POLLIN)];
            if poll(&mut wanted, timeout(until)).is_err() {
                return;
            }
            acks.heard();
        }
    }

    /// Sleeps until a step can move something. A side that is not waited for is left out:
    /// that it has hung up would be reported again and again.
    fn wait(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.in_burst) {
            std::thread::park_timeout(PAUSE);
            self.ready = Ready::default();
            return Ok(());
        }
        let acks = self.guard.acks();
        self.look();
        let holds = acks.filter(|acks| self.paused || acks.are_due_later());
        if let Some(acks) = holds {
            // What was settled before we listen wakes nobody.
            acks.listen();
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
        let unsent = !self.up.is_empty() || self.wire.is_unflushed();
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
        match poll(&mut wanted, end_by.map_or(PollTimeout::NONE, timeout)) {
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
            acks.heard();
        }
        Ok(())
    }
}

/// How long to wait until then.
fn timeout(until: Instant) -> PollTimeout {
    PollTimeout::try_from(until.saturating_duration_since(clock())).unwrap_or(PollTimeout::MAX)
}
