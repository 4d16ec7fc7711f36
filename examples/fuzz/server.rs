//! Plays the server of a conversation.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

use crate::conversation::{After, Conversation, End, Expect, LAST_ID, Role};
use crate::packets::packet;
use crate::wire::{
    Fault, Fields, Item, Packet, ServerStream, Version, kind, read_publish, take_packet,
};

/// How long the server waits for a packet before it continues with the step.
const TRIGGER: Duration = Duration::from_millis(20);

/// How long it waits for CONNECT.
const CONNECT: Duration = Duration::from_secs(5);

/// A pause after which no further packet is expected.
pub(crate) const QUIET: Duration = Duration::from_millis(10);

/// Limits of `End::Proper`: duration and messages.
const PROPER: Duration = Duration::from_millis(300);
const MESSAGES: usize = 3;

/// How long a program may take to close a connection after an invalid packet.
const CLOSE: Duration = Duration::from_secs(5);

/// Checks the packets of a conversation.
pub(crate) trait Oracle {
    /// The program has sent this packet.
    fn packet(&mut self, packet: &Packet<'_>) -> Result<(), String>;
    /// The server has sent this packet, and everything before it was valid.
    fn item(&mut self, item: Item<'_>);
}

/// The result of a conversation.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    /// The program closed the connection.
    pub(crate) closed: bool,
    /// Reason code of the program's DISCONNECT.
    pub(crate) code: Option<u8>,
    /// Number of expected packets that did not come in time.
    pub(crate) late: u32,
    /// The last of them.
    pub(crate) waited: Option<After>,
    /// The last message was acknowledged, or the publisher continued to publish.
    pub(crate) complete: bool,
    /// Why the program had to close the connection.
    pub(crate) fault: Option<Fault>,
}

/// The listening socket.
pub(crate) struct Listener {
    listener: TcpListener,
}

impl Listener {
    pub(crate) fn open() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener })
    }

    pub(crate) fn port(&self) -> anyhow::Result<u16> {
        Ok(self.listener.local_addr()?.port())
    }

    /// The next connection, or none after this time.
    pub(crate) fn accept(&self, within: Duration) -> anyhow::Result<Option<TcpStream>> {
        let until = Instant::now() + within;
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    stream.set_nodelay(true)?;
                    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
                    return Ok(Some(stream));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("accept"),
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let mut fds = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            poll(&mut fds, timeout)?;
        }
    }
}

/// A connection with a program.
pub(crate) struct Session<'a, J: Oracle> {
    stream: TcpStream,
    version: Version,
    oracle: &'a mut J,
    sent: ServerStream,
    incoming: Vec<u8>,
    /// Number of received packets of each type.
    counts: [usize; 16],
    /// Received packets that are not answered yet: type and identifier.
    owed: Vec<(u8, u16)>,
    /// Factor for all timeouts.
    slowdown: u32,
    ended: bool,
    last_acknowledged: bool,
    outcome: Outcome,
}

impl<'a, J: Oracle> Session<'a, J> {
    pub(crate) fn new(
        stream: TcpStream,
        version: Version,
        subscriber: bool,
        slowness: u32,
        oracle: &'a mut J,
    ) -> Self {
        Self {
            stream,
            version,
            oracle,
            sent: ServerStream::new(version, subscriber),
            incoming: Vec::new(),
            counts: [0; 16],
            owed: Vec::new(),
            slowdown: slowness,
            ended: false,
            last_acknowledged: false,
            outcome: Outcome::default(),
        }
    }

    /// Plays all steps and the end.
    pub(crate) fn play(mut self, conversation: &Conversation) -> Result<Outcome, String> {
        if conversation.valid && conversation.role == Role::Subscriber {
            // Every packet must come, even on a busy machine.
            self.slowdown *= 500;
        }
        for step in &conversation.steps {
            match step.after {
                After::Now => self.read(Duration::ZERO)?,
                After::Moment => self.read(Duration::from_millis(1))?,
                After::Packet(kind, count) => {
                    let within = if kind == kind::CONNECT {
                        CONNECT
                    } else {
                        TRIGGER * self.slowdown
                    };
                    let until = Instant::now() + within;
                    while self.counts[usize::from(kind)] < count && !self.ended {
                        let left = until.saturating_duration_since(Instant::now());
                        if left.is_zero() {
                            self.outcome.late += 1;
                            self.outcome.waited = Some(step.after);
                            break;
                        }
                        self.read(left)?;
                    }
                }
            }
            if self.ended {
                break;
            }
            self.write(&step.bytes);
        }
        match conversation.end {
            End::Close => self.listen()?,
            End::Cut => {}
            End::Reset => {
                let linger = nix::libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                // The connection may be closed already.
                let _ = setsockopt(&self.stream, sockopt::Linger, &linger);
            }
            End::Proper => self.answer_correctly(MESSAGES, PROPER)?,
        }
        let must_end = match conversation.expect {
            Some(Expect::Ends(_)) => Some("what has to end the connection"),
            _ => self.sent.fault(),
        };
        let waits = matches!(conversation.end, End::Close | End::Proper);
        if let Some(why) = must_end.filter(|_| waits && !self.ended) {
            self.expect_end(why)?;
        }
        self.outcome.closed = self.ended;
        self.outcome.fault = self.sent.fault();
        Ok(self.outcome)
    }

    /// The server has sent an invalid packet: the program must close the connection.
    fn expect_end(&mut self, why: Fault) -> Result<(), String> {
        let until = Instant::now() + CLOSE * self.slowdown;
        while !self.ended {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("keeps the connection after {why}"));
            }
            self.read(left)?;
        }
        Ok(())
    }

    /// Serves correctly until the program closes the connection.
    pub(crate) fn serve(mut self, within: Duration) -> Result<Outcome, String> {
        self.answer_correctly(usize::MAX, within)?;
        self.outcome.closed = self.ended;
        Ok(self.outcome)
    }

    /// Waits for the acknowledgement of the last message, or for a pause.
    fn listen(&mut self) -> Result<(), String> {
        let mut quiet = false;
        while !self.ended && !self.last_acknowledged && !quiet {
            let before = self.counts;
            self.read(QUIET * self.slowdown)?;
            quiet = before == self.counts;
        }
        self.outcome.complete = self.last_acknowledged;
        Ok(())
    }

    /// Answers the program's packets.
    fn answer_correctly(&mut self, messages: usize, within: Duration) -> Result<(), String> {
        let until = Instant::now() + within;
        let publish = usize::from(kind::PUBLISH);
        let start = self.counts[publish];
        while !self.ended && Instant::now() < until {
            for (kind, id) in std::mem::take(&mut self.owed) {
                self.answer(kind, id);
            }
            if self.counts[publish].saturating_sub(start) >= messages {
                self.outcome.complete = true;
                break;
            }
            let before = self.counts;
            let slowdown = if messages == usize::MAX {
                Duration::from_millis(100)
            } else {
                QUIET * self.slowdown
            };
            self.read(slowdown)?;
            if before == self.counts && messages < usize::MAX {
                break;
            }
        }
        Ok(())
    }

    fn answer(&mut self, kind: u8, id: u16) {
        let [high, low] = id.to_be_bytes();
        let bytes = match (kind, self.version) {
            (kind::CONNECT, Version::V311) => packet(0x20, &[0, 0]),
            (kind::CONNECT, Version::V5) => packet(0x20, &[0, 0, 0]),
            (kind::SUBSCRIBE, Version::V311) => packet(0x90, &[high, low, 2]),
            (kind::SUBSCRIBE, Version::V5) => packet(0x90, &[high, low, 0, 2]),
            (kind::PINGREQ, _) => packet(0xd0, &[]),
            (kind::PUBREL, _) => packet(0x70, &[high, low]),
            (kind::PUBREC, _) => packet(0x62, &[high, low]),
            (kind::PUBLISH, _) => packet(0x40, &[high, low]),
            // A PUBLISH of QoS 2.
            _ => packet(0x50, &[high, low]),
        };
        self.write(&bytes);
    }

    fn write(&mut self, bytes: &[u8]) {
        let (oracle, owed) = (&mut *self.oracle, &mut self.owed);
        self.sent.follow(bytes, |item| {
            if let Item::Accepted(_) = item {
                owed.retain(|owed| owed.0 != kind::CONNECT);
            }
            if let Item::Ack { kind, id, .. } = item {
                let answered = match kind {
                    kind::PUBACK => kind::PUBLISH,
                    kind::PUBREC => QOS_2,
                    kind::PUBCOMP => kind::PUBREL,
                    _ => kind::PUBREC,
                };
                owed.retain(|owed| *owed != (answered, id));
            }
            oracle.item(item);
        });
        // An error shows at the next read.
        let _ = self.stream.write_all(bytes);
    }

    /// Reads once, and handles the complete packets.
    fn read(&mut self, within: Duration) -> Result<(), String> {
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(within + Duration::from_micros(900));
        let timeout = if within.is_zero() {
            PollTimeout::ZERO
        } else {
            timeout.unwrap_or(PollTimeout::MAX)
        };
        match poll(&mut fds, timeout) {
            Ok(1..) => {}
            _ => return Ok(()),
        }
        let mut chunk = [0; 16 << 10];
        match self.stream.read(&mut chunk) {
            Ok(0) | Err(_) => self.ended = true,
            Ok(count) => self.incoming.extend_from_slice(&chunk[..count]),
        }
        let incoming = std::mem::take(&mut self.incoming);
        let mut rest = &incoming[..];
        while let Some(packet) = take_packet(&mut rest)? {
            self.take(&packet)?;
        }
        self.incoming = rest.to_vec();
        Ok(())
    }

    fn take(&mut self, packet: &Packet<'_>) -> Result<(), String> {
        let kind = packet.kind();
        self.counts[usize::from(kind)] += 1;
        self.oracle.packet(packet)?;
        let id = || Fields(packet.body).two().unwrap_or_default();
        match kind {
            kind::CONNECT => self.owed.push((kind, 0)),
            kind::SUBSCRIBE | kind::PUBREL | kind::PUBREC => self.owed.push((kind, id())),
            kind::PINGREQ => self.answer(kind, 0),
            kind::PUBACK => self.last_acknowledged |= id() == LAST_ID,
            kind::PUBLISH => {
                let publish = read_publish(packet, self.version)?;
                match publish.qos {
                    0 => {}
                    1 => self.owed.push((kind, publish.id)),
                    _ => self.owed.push((QOS_2, publish.id)),
                }
            }
            kind::DISCONNECT => self.outcome.code = Some(packet.body.first().copied().unwrap_or(0)),
            _ => {}
        }
        Ok(())
    }
}

/// Stands for a PUBLISH of QoS 2 in the list of unanswered packets.
const QOS_2: u8 = 0;
