//! The other direction: packets of the program are mutated on the way to a real Mosquitto.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use fastrand::Rng;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tempfile::TempDir;

use crate::conversation::{After, Conversation, End, Role, Step, payload};
use crate::mutation::mutate_sequence;
use crate::packets::{Packets, packet};
use crate::server::{Oracle, Outcome, QUIET};
use crate::wire::{Item, ServerStream, Version, kind, take_packet};

/// Limits of a conversation: duration, and packets of the program.
const LONGEST: Duration = Duration::from_millis(300);
const PACKETS: usize = 30;

/// A Mosquitto process, and a client that publishes messages to it.
pub(crate) struct Broker {
    process: Child,
    port: u16,
    _dir: TempDir,
    client: TcpStream,
}

impl Broker {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("mosquitto.conf");
        std::fs::write(
            &file,
            format!(
                "listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n\
                 log_type none\nmax_queued_messages 50\npersistent_client_expiration 1m\n"
            ),
        )?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", "mosquitto", "-c"])
            .arg(&file);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut process = command.spawn().context("mosquitto")?;
        let until = Instant::now() + Duration::from_secs(10);
        let client = loop {
            match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
                Ok(client) => break client,
                Err(error) if Instant::now() > until => {
                    let _ = process.kill();
                    return Err(error).context("mosquitto does not listen");
                }
                Err(_) => thread::park_timeout(Duration::from_millis(10)),
            }
        };
        let mut broker = Self {
            process,
            port,
            _dir: dir,
            client,
        };
        broker.client.set_nodelay(true)?;
        broker
            .client
            .set_read_timeout(Some(Duration::from_secs(5)))?;
        // No keep-alive.
        let connect = b"\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x05filla";
        broker.client.write_all(&packet(0x10, connect))?;
        broker.expect(kind::CONNACK)?;
        Ok(broker)
    }

    fn expect(&mut self, wanted: u8) -> anyhow::Result<()> {
        let mut read = Vec::new();
        let mut chunk = [0; 1024];
        loop {
            let mut rest = &read[..];
            if let Ok(Some(packet)) = take_packet(&mut rest) {
                if packet.kind() != wanted {
                    bail!("mosquitto answers {packet:02x?}");
                }
                return Ok(());
            }
            let count = self.client.read(&mut chunk)?;
            if count == 0 {
                bail!("mosquitto has closed its connection with the fuzzer");
            }
            read.extend_from_slice(&chunk[..count]);
        }
    }

    /// Publishes a message of each QoS for a subscriber, some of them retained.
    fn publish(&mut self, rng: &mut Rng, number: u64) -> anyhow::Result<()> {
        for qos in 0..3 {
            let name = payload(rng, &format!("{number}.{qos}"));
            let topic = rng.choice(["f/a", "f/b/c", "g"]).unwrap_or("g");
            let mut packets = Packets {
                rng,
                version: Version::V5,
                hostile: false,
            };
            let id = u16::from(qos) + 1;
            let publish = packets.publish(qos, id, topic, &name);
            self.client.write_all(&publish)?;
            if qos == 1 {
                self.expect(kind::PUBACK)?;
            }
            if qos == 2 {
                self.expect(kind::PUBREC)?;
                self.client.write_all(&packet(0x62, &id.to_be_bytes()))?;
                self.expect(kind::PUBCOMP)?;
            }
        }
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A conversation between a program and Mosquitto. The packets of Mosquitto are recorded in `script`, which can be
/// replayed.
pub(crate) struct Relay<'a, J: Oracle> {
    broker: &'a mut Broker,
    oracle: &'a mut J,
    rng: Rng,
    number: u64,
    script: &'a mut Conversation,
    program: TcpStream,
    mosquitto: TcpStream,
    up: Vec<u8>,
    down: Vec<u8>,
    said: ServerStream,
    counts: [usize; 16],
    /// Type of the program's last packet.
    last: u8,
    subscribed: usize,
    outcome: Outcome,
}

impl<'a, J: Oracle> Relay<'a, J> {
    pub(crate) fn new(
        program: TcpStream,
        broker: &'a mut Broker,
        oracle: &'a mut J,
        number: u64,
        script: &'a mut Conversation,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let mosquitto = TcpStream::connect((Ipv4Addr::LOCALHOST, broker.port))
            .context("mosquitto is undelivered")?;
        mosquitto.set_nodelay(true)?;
        mosquitto.set_write_timeout(Some(Duration::from_secs(5)))?;
        script.end = End::Cut;
        Ok(Self {
            broker,
            oracle,
            rng: Rng::with_seed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            number,
            said: ServerStream::new(script.version, script.role == Role::Subscriber),
            script,
            program,
            mosquitto,
            up: Vec::new(),
            down: Vec::new(),
            counts: [0; 16],
            last: kind::CONNECT,
            subscribed: 0,
            outcome: Outcome::default(),
        })
    }

    /// Relays until either side closes, or a limit is reached.
    pub(crate) fn carry(mut self, slowness: u32) -> Result<Outcome, String> {
        let until = Instant::now() + LONGEST * slowness;
        let mut packets = 0;
        while Instant::now() < until && packets < PACKETS {
            let mut fds = [
                PollFd::new(self.program.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.mosquitto.as_fd(), PollFlags::POLLIN),
            ];
            let timeout = PollTimeout::try_from(QUIET * slowness).unwrap_or(PollTimeout::MAX);
            if poll(&mut fds, timeout).map_err(|error| error.to_string())? == 0 {
                break;
            }
            let [program, mosquitto] = fds.map(|fd| fd.any().unwrap_or_default());
            if program {
                match read(&mut self.program, &mut self.up) {
                    0 => {
                        self.outcome.closed = true;
                        break;
                    }
                    _ => packets += self.step_up()?,
                }
            }
            if mosquitto && (read(&mut self.mosquitto, &mut self.down) == 0 || !self.step_down()?) {
                break;
            }
        }
        self.outcome.complete = packets > 2;
        Ok(self.outcome)
    }

    /// From the program to Mosquitto. Returns the number of packets.
    fn step_up(&mut self) -> Result<usize, String> {
        let up = std::mem::take(&mut self.up);
        let mut rest = &up[..];
        let mut packets = Vec::new();
        while let Some(one) = take_packet(&mut rest)? {
            self.oracle.packet(&one)?;
            self.counts[usize::from(one.kind())] += 1;
            self.last = one.kind();
            if one.kind() == kind::DISCONNECT {
                self.outcome.code = Some(one.body.first().copied().unwrap_or(0));
            }
            packets.push(packet(one.first, one.body));
        }
        self.up = rest.to_vec();
        let count = packets.len();
        // Mutate the CONNECT less often, so that most conversations get past it.
        let of = if self.last == kind::CONNECT { 24 } else { 8 };
        if self.rng.u32(..of) == 0 {
            let version = self.script.version;
            let mut generator = Packets {
                rng: &mut self.rng,
                version,
                hostile: true,
            };
            let unexpected = generator.unexpected(b"unexpected");
            mutate_sequence(&mut self.rng, &mut packets, unexpected);
        }
        // An error shows at the next read.
        let _ = self.mosquitto.write_all(&packets.concat());
        Ok(count)
    }

    /// From Mosquitto to the program. Returns whether to continue.
    fn step_down(&mut self) -> Result<bool, String> {
        let down = std::mem::take(&mut self.down);
        if self.script.role == Role::Publisher
            && self.script.steps.is_empty()
            && down.len() > 3
            && down[0] == 0x20
            && down[3] != 0
        {
            // A refusal would end the publisher's run.
            return Ok(false);
        }
        let mut subscribed = 0;
        let oracle = &mut *self.oracle;
        self.said.follow(&down, |item| {
            if let Item::Other = item {
                subscribed += 1;
            }
            oracle.item(item);
        });
        self.script.steps.push(Step {
            after: After::Packet(self.last, self.counts[usize::from(self.last)]),
            bytes: down.clone(),
        });
        // An error shows at the next read.
        let _ = self.program.write_all(&down);
        self.subscribed += subscribed;
        if subscribed > 0 && self.subscribed == 2 && self.script.role == Role::Subscriber {
            let published = self.broker.publish(&mut self.rng, self.number);
            published.map_err(|error| format!("the fuzzer's own client: {error:#}"))?;
        }
        Ok(true)
    }
}

fn read(from: &mut TcpStream, into: &mut Vec<u8>) -> usize {
    let mut chunk = [0; 16 << 10];
    let count = from.read(&mut chunk).unwrap_or(0);
    into.extend_from_slice(&chunk[..count]);
    count
}
