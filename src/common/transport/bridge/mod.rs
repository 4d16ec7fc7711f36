//! Carries bytes between the broker and the client library, which holds the other end of a
//! local socket and believes that it is connected.
//!
//! One thread for each connection, which has dialled it before: it sleeps in `poll(2)` until
//! there is something to carry. It holds at most one piece in either direction, so that whoever
//! is slow holds the other up, as on any connection. Where messages are received a `gate` holds
//! back what must wait for them.

mod gate;
mod wire;

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Connected, Handle, Wire, tls};
use crate::common::cores;
use crate::common::event_loop::clock;
use crate::common::fault::Fault;
use crate::common::flow::Flow;
use gate::Gate;
use wire::{PIECE, Piece, is_patient, linger};

/// While messages pour in, faster than one in `POURING`, the line is looked at so often and no
/// more: what has come by then costs each of those it passes hardly more than a single one would.
const PAUSE: Duration = Duration::from_micros(500);
const POURING: Duration = Duration::from_millis(1);

/// More than that at once is a stream, or one large message, and so is 16 times that in the end:
/// encrypting it is work for another core.
const MUCH: usize = 4 << 10;

/// How a connection came to its end.
#[derive(Clone, Debug)]
pub struct Severed {
    /// The client library closed it, and all that it had sent has gone out.
    pub by_us: bool,
    /// What it said in TLS at the end, if it said anything.
    pub fault: Option<Fault>,
    /// What the operating system says of the end; none for a close in order.
    pub cause: Option<String>,
}

/// Carries bytes until either side has had enough.
///
/// `certified` is whether a client certificate was shown.
///
/// The end of the connection is reported before the client library can see it: it sees it when
/// `local` is dropped.
pub fn carry(
    connected: Connected,
    certified: bool,
    local: &UnixStream,
    handle: &Handle,
    flow: Option<&Flow>,
) -> Severed {
    let way = connected.way;
    let mut bridge = Bridge {
        wire: connected.wire,
        local,
        local_open: true,
        deaf: false,
        ended: false,
        broken: None,
        handle,
        gate: flow.map(|flow| Gate::new(flow, clock())),
        hung_up: false,
        ready: Ready::default(),
        heard_at: None,
        pours: false,
        together: true,
        carried: 0,
        up: Piece::default(),
        down: Piece::default(),
    };
    let ended = bridge.set_up().and_then(|()| bridge.run());
    let severed = Severed {
        by_us: matches!(ended, Ok(true)),
        fault: ended
            .as_ref()
            .err()
            .and_then(|error| tls::last_words(&way, certified, error)),
        cause: ended.err().map(|error| error.to_string()),
    };
    bridge.wire.close();
    if severed.by_us && flow.is_some() {
        linger(bridge.wire.stream().tcp());
    }
    severed
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
    gate: Option<Gate<'a>>,
    /// The connection was seen to break while nothing was read from it.
    hung_up: bool,
    ready: Ready,
    /// When messages came last.
    heard_at: Option<Instant>,
    /// They come one upon the other.
    pours: bool,
    /// Its thread has not been let off the core of those who write to it.
    together: bool,
    /// Bytes that the client library has said.
    carried: usize,
    /// The client library has not closed its end.
    local_open: bool,
    /// The client library takes nothing more.
    deaf: bool,
    /// The broker has closed its end.
    ended: bool,
    /// Nothing can be sent any more.
    broken: Option<io::Error>,
    /// To the broker.
    up: Piece,
    /// From the broker.
    down: Piece,
}

impl Bridge<'_> {
    fn set_up(&mut self) -> io::Result<()> {
        if self.gate.is_some() {
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

    /// `true` if the client library closed, `false` if the broker did.
    fn run(&mut self) -> io::Result<bool> {
        loop {
            let moved = self.step_down()? | self.step_up();
            if let Some(error) = self.broken.take_if(|_| !moved) {
                return Err(error);
            }
            if !self.local_open && self.up.is_empty() && !self.wire.is_unflushed() {
                return self.broken.take().map_or(Ok(true), Err);
            }
            if self.ended && self.down.is_empty() {
                return self.broken.take().map_or(Ok(false), Err);
            }
            if !moved {
                self.wait()?;
            }
        }
    }

    /// From the broker to the client library; whether anything moved.
    fn step_down(&mut self) -> io::Result<bool> {
        let mut moved = false;
        if self.down.is_empty() && self.ready.wire_read && self.hears() {
            match self.wire.receive(&mut self.down.bytes) {
                Ok(0) => self.ended = true,
                Ok(_) => {
                    self.handle.heard.store(true, Ordering::Release);
                    if let Some(gate) = &mut self.gate {
                        gate.hear(&self.down.bytes);
                        let now = clock();
                        let before = self.heard_at.replace(now);
                        self.pours = before.is_some_and(|at| now < at + POURING);
                    }
                    moved = true;
                }
                Err(e) if is_patient(&e) => self.ready.wire_read = false,
                Err(e) => return Err(e),
            }
        }
        if self.deaf {
            self.down.clear();
        }
        let count = self.hand_over();
        if count > 0 {
            self.down.advance(count);
            moved = true;
        }
        Ok(moved)
    }

    /// Whether the broker is to be listened to.
    fn hears(&mut self) -> bool {
        let hears = self.gate.as_mut().is_none_or(Gate::hears);
        !self.ended && (hears || self.handle.is_cancelled())
    }

    /// Hands the client library what it may have; how many bytes of what the broker said.
    fn hand_over(&mut self) -> usize {
        let rest = self.down.rest();
        let gate = self.gate.as_mut();
        let allowed = gate.as_ref().map_or(rest.len(), |g| g.allowance(rest));
        let answer = gate.as_ref().and_then(|gate| gate.answer());
        let (bytes, ours) = match answer {
            Some(answer) if !self.deaf => (answer, true),
            _ => (rest.get(..allowed).unwrap_or_default(), false),
        };
        if bytes.is_empty() || !self.ready.local_write {
            return 0;
        }
        match self.local.write(bytes) {
            // There is always room for two bytes, or for none.
            Ok(_) if ours => {
                if let Some(gate) = gate {
                    gate.answered();
                }
                0
            }
            Ok(count) => {
                if let Some(gate) = gate {
                    gate.handed(bytes.get(..count).unwrap_or_default());
                }
                count
            }
            Err(e) if is_patient(&e) => {
                self.ready.local_write = false;
                0
            }
            // It has closed, and nobody wants the rest; but it may have said something before.
            Err(_) => {
                self.down.clear();
                self.deaf = true;
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
        if let Some(gate) = &mut self.gate
            && self.up.is_empty()
        {
            gate.release(&mut self.up.bytes);
            gate.ping(clock(), &mut self.up.bytes);
        }
        if self.up.is_empty() && self.local_open && self.ready.local_read {
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
            if let Some(gate) = &mut self.gate {
                gate.say(&mut self.up.bytes);
            }
        }
        match self.wire.send(self.up.rest()) {
            Ok(count) => {
                self.up.advance(count);
                moved |= count > 0;
                if count > 0
                    && let Some(gate) = &mut self.gate
                {
                    gate.sent(clock());
                }
            }
            Err(e) if is_patient(&e) => {}
            // What the broker has said before it closed is still to be carried down.
            Err(e) => {
                self.up.clear();
                self.broken = Some(e);
                moved = true;
            }
        }
        moved
    }

    /// Sleeps until a step can move something. A side that is not waited for is left out:
    /// that it has hung up would be reported again and again.
    fn wait(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.pours) {
            std::thread::park_timeout(PAUSE);
            self.ready = Ready::default();
            return Ok(());
        }
        let holds = self.gate.as_ref().is_some_and(Gate::holds);
        if let Some(gate) = &mut self.gate
            && holds
        {
            // What was settled before the bell was asked for rings no more.
            gate.flow().listen();
            let closed = gate.closed();
            let mut news = closed != gate.look();
            // What is behind what the broker does not take has to wait for that.
            if self.up.is_empty() {
                gate.release(&mut self.up.bytes);
                news |= !self.up.is_empty();
            }
            if news {
                return Ok(());
            }
        }
        let hears = self.hears();
        let gate = self.gate.as_ref();
        let allowed = gate.map_or(self.down.rest().len(), |g| g.allowance(self.down.rest()));
        let hands = allowed > 0 || gate.is_some_and(|gate| gate.answer().is_some());
        let unsent = !self.up.is_empty() || self.wire.is_unflushed();
        let takes = self.up.is_empty() && self.local_open;

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
        let watched = !hears && !self.ended && !self.hung_up;
        let reads = hears && self.down.is_empty();
        want(self.wire.as_fd(), reads, unsent, watched);
        let polls_wire = reads || unsent || watched;
        let hands = hands && !self.deaf;
        want(self.local.as_fd(), takes, hands, false);
        let polls_local = takes || hands;
        if let Some(gate) = gate
            && holds
        {
            want(gate.flow().as_fd(), true, false, false);
        }
        let ping_at = gate.and_then(Gate::ping_at).filter(|_| !unsent);
        match poll(&mut wanted, timeout(ping_at)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut told = wanted
            .iter()
            .map(|fd| fd.revents().unwrap_or_else(PollFlags::empty));
        let broken = PollFlags::POLLHUP | PollFlags::POLLERR;
        if polls_wire && let Some(wire) = told.next() {
            self.hung_up |= wire.intersects(broken);
            self.ready.wire_read |= wire.intersects(broken | PollFlags::POLLIN);
        }
        if polls_local && let Some(local) = told.next() {
            self.ready.local_read |= local.intersects(broken | PollFlags::POLLIN);
            self.ready.local_write |= local.intersects(broken | PollFlags::POLLOUT);
        }
        Ok(())
    }
}

/// How long to wait until then.
fn timeout(until: Option<Instant>) -> PollTimeout {
    let left = until.map(|at| at.saturating_duration_since(clock()));
    // To the next millisecond: a little too early would be again and again.
    let left = left.map(|left| left + Duration::from_millis(1));
    left.map_or(PollTimeout::NONE, |left| {
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    })
}
