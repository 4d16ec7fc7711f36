//! Plays a row: brings program and server into the state that it names, sends its packets, and
//! looks at what the program does.

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Write},
    net::{Shutdown, TcpStream},
    sync::mpsc::{self, Receiver},
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::table::{Case, Right, State};
use crate::harness::{
    Program, SOON, Server,
    packet::{self, Packet, kind, read_packet},
    running::Running,
};

/// The identifier of the good message that a subscriber is sent after the row's packets.
const LATER: u16 = 0xfff0;

pub(super) fn play(case: &Case) -> Result<(), String> {
    let mut scene = Scene::set(case).map_err(|error| format!("before the packets: {error:#}"))?;
    let mut before = 0;
    for part in &case.parts {
        let first = part.first().copied().unwrap_or_default();
        // PUBREL follows PUBREC.
        if before >> 1 & 3 == 2 && before >> 4 == kind::PUBLISH && first >> 4 == kind::PUBREL {
            let pubrec = scene.connection.read_kind(kind::PUBREC);
            pubrec.map_err(|error| format!("{error:#}\n{}", scene.running))?;
        }
        before = first;
        // The program may rightly have left after the first of them.
        if scene.connection.send(part).is_err() {
            break;
        }
    }
    let seen = match case.right {
        Right::Disconnect(code) => scene.expect_disconnect(code),
        Right::Borne | Right::Skipped => scene.expect_to_go_on(),
        Right::Refused if case.state == State::Subscribe => scene.expect_refused_filter(),
        Right::Refused | Right::Ended => scene.expect_close(),
        Right::Again => scene.expect_another_attempt(),
    };
    seen.map_err(|error| format!("{error:#}\n{}", scene.running))?;
    scene.end()
}

/// A program, its server and the connection between them.
struct Scene<'a> {
    case: &'a Case,
    running: Running,
    connection: Connection,
    later_connections: Receiver<TcpStream>,
    _server: Server,
}

/// The server's end of a connection.
struct Connection {
    stream: TcpStream,
    level: u8,
    /// The publisher's messages at QoS 2 whose handshake is to be completed.
    incomplete: BTreeSet<u16>,
}

fn program(case: &Case, port: u16) -> Program {
    let program = if case.publisher {
        let qos = case.state.qos().to_string();
        let publisher = Program::publisher().stdin_pipe();
        publisher.args(["-l", "--qos", &qos])
    } else {
        Program::subscriber()
    };
    let version = if case.level == 5 { "5" } else { "3.1.1" };
    program
        .at_plain_port(port)
        .args(["-t", "t", "--mqtt-version", version])
        .args(["--base-backoff", "0.05", "--max-backoff", "0.1"])
}

impl<'a> Scene<'a> {
    /// Up to the place of the row's packets.
    fn set(case: &'a Case) -> Result<Self> {
        let (send, connections) = mpsc::channel();
        let server = Server::listen(0, move |stream| {
            let _ = send.send(stream);
        });
        let mut running = program(case, server.port()).start();
        if case.state.has_message() {
            running.send("first\n");
        }
        let stream = connections.recv_timeout(SOON)?;
        let mut scene = Self {
            case,
            running,
            connection: Connection::new(stream, case.level)?,
            later_connections: connections,
            _server: server,
        };
        let connection = &mut scene.connection;
        let connect = connection.read_kind(kind::CONNECT)?;
        if case.state == State::Connack {
            return Ok(scene);
        }
        connection.answer(&connect)?;
        if !case.publisher {
            let subscribe = connection.read_kind(kind::SUBSCRIBE)?;
            if case.state != State::Subscribe {
                connection.answer(&subscribe)?;
            }
        } else if case.state.has_message() {
            let publish = connection.read_kind(kind::PUBLISH)?;
            assert_eq!(publish.publish(0, case.level).packet_id, 1);
            if case.state == State::Released {
                connection.answer(&publish)?;
                connection.read_kind(kind::PUBREL)?;
            }
        }
        Ok(scene)
    }

    /// DISCONNECT with this code, or only the end of the connection; a line on stderr; another
    /// connection, on which messages come.
    fn expect_disconnect(&mut self, code: Option<u8>) -> Result<()> {
        let found = self.connection.read_to_end()?;
        let show =
            |code: Option<u8>| code.map_or("no DISCONNECT".into(), |code| format!("0x{code:02x}"));
        ensure!(found == code, "{} instead of {}", show(found), show(code));
        let fault = code.map(|code| format!("(0x{code:02x})"));
        let named = self.running.stderr.wait(SOON, |line| match &fault {
            Some(code) => line.contains(code),
            None => names_a_fault(line),
        });
        named.context("no line on stderr names the fault")?;
        self.expect_recovery()
    }

    /// The server closes the connection, and the program makes another.
    fn expect_another_attempt(&mut self) -> Result<()> {
        self.connection.stream.shutdown(Shutdown::Both)?;
        self.expect_recovery()
    }

    /// Messages come on another connection. That those of a publisher do is seen at its end.
    fn expect_recovery(&mut self) -> Result<()> {
        if self.case.publisher {
            // If it has ended, its exit code will show that.
            let _ = self.running.try_send("later\n");
            return Ok(());
        }
        let stream = self.later_connections.recv_timeout(SOON);
        let stream = stream.context("no other connection")?;
        self.connection = Connection::new(stream, self.case.level)?;
        for wanted in [kind::CONNECT, kind::SUBSCRIBE] {
            let packet = self.connection.read_kind(wanted)?;
            self.connection.answer(&packet)?;
        }
        self.expect_later_line(BTreeSet::new())
    }

    /// The program closes the connection without a DISCONNECT that names an error.
    fn expect_close(&mut self) -> Result<()> {
        match self.connection.read_to_end()? {
            None => (),
            Some(0) if self.case.right == Right::Refused => (),
            Some(code) => bail!("DISCONNECT with 0x{code:02x}"),
        }
        let line = self.running.stderr.wait(SOON, |_| true);
        line.context("nothing on stderr")?;
        Ok(())
    }

    /// A subscriber whose filter was refused leaves, or asks again and is granted it.
    fn expect_refused_filter(&mut self) -> Result<()> {
        let line = self.running.stderr.wait(SOON, |_| true);
        line.context("nothing on stderr")?;
        let Ok(packet) = self.connection.read() else {
            return Ok(());
        };
        match packet.kind() {
            kind::SUBSCRIBE => {
                self.connection.answer(&packet)?;
                self.expect_later_line(BTreeSet::new())
            }
            kind::DISCONNECT if disconnect_code(&packet) == 0 => Ok(()),
            kind => bail!("a packet of type {kind} after the refusal"),
        }
    }

    /// Messages come on the same connection.
    fn expect_to_go_on(&mut self) -> Result<()> {
        if self.case.publisher {
            return self.expect_later_message();
        }
        if self.case.state == State::Connack {
            let subscribe = self.connection.read_kind(kind::SUBSCRIBE)?;
            self.connection.answer(&subscribe)?;
        }
        if self.case.right == Right::Borne {
            return self.expect_later_line(BTreeSet::new());
        }
        let skipped = self.case.last_acknowledgement();
        self.expect_later_line(skipped.into_iter().collect())?;
        ensure!(
            self.running.stdout.text() == "later\n",
            "what was to be skipped is printed"
        );
        Ok(())
    }

    /// What a publisher is given to send now comes on this connection, which then ends well.
    fn expect_later_message(&mut self) -> Result<()> {
        self.acknowledge_first_message()?;
        self.running.send("later\n");
        self.running.close_stdin();
        let mut came = false;
        loop {
            let packet = self.connection.read();
            let packet = packet.context("no DISCONNECT after a later message")?;
            match packet.kind() {
                kind::PUBLISH => came |= packet.publish(0, self.case.level).text() == "later",
                kind::DISCONNECT => {
                    let code = disconnect_code(&packet);
                    ensure!(code == 0, "DISCONNECT with 0x{code:02x}");
                    ensure!(came, "DISCONNECT before the later message");
                    return Ok(());
                }
                _ => (),
            }
            self.connection.answer(&packet)?;
        }
    }

    /// What the row's packets have left of it.
    fn acknowledge_first_message(&mut self) -> Result<()> {
        let done = self.case.acknowledgements();
        let connection = &mut self.connection;
        match self.case.state {
            State::Published { qos: 1 } if done.is_empty() => connection.send(&[0x40, 2, 0, 1]),
            State::Published { qos: 2 } => {
                connection.incomplete.insert(1);
                if done.is_empty() {
                    connection.send(&[0x50, 2, 0, 1])?;
                }
                Ok(())
            }
            State::Released if done.contains(&kind::PUBCOMP) => {
                connection.incomplete.clear();
                Ok(())
            }
            State::Released if done.is_empty() => {
                connection.incomplete.clear();
                connection.send(&[0x70, 2, 0, 1])
            }
            // A repeated PUBREC is answered with PUBREL, and that with PUBCOMP.
            _ => Ok(()),
        }
    }

    /// A subscriber prints and acknowledges a message that it is sent now, and sends these
    /// acknowledgements as well.
    fn expect_later_line(&mut self, mut missing: BTreeSet<(u8, u16)>) -> Result<()> {
        missing.insert((kind::PUBACK, LATER));
        let later = packet::publish(self.case.level, LATER, "t", b"later");
        self.connection.send(&later)?;
        while !missing.is_empty() {
            let packet = self.connection.read();
            let packet = packet.with_context(|| format!("not acknowledged: {missing:?}"))?;
            match packet.kind() {
                kind::DISCONNECT => bail!("DISCONNECT with 0x{:02x}", disconnect_code(&packet)),
                kind @ (kind::PUBACK | kind::PUBCOMP) => {
                    missing.remove(&(kind, packet.body().number()));
                }
                _ => (),
            }
            self.connection.answer(&packet)?;
        }
        let printed = self.running.stdout.wait(SOON, |line| line == "later");
        printed.context("not printed")?;
        Ok(())
    }

    /// The program ends, served well on this connection and on others.
    fn end(mut self) -> Result<(), String> {
        if self.case.publisher {
            self.running.close_stdin();
        } else {
            self.running.signal(Signal::SIGTERM);
        }
        let level = self.case.level;
        let (connection, others) = (self.connection, self.later_connections);
        thread::spawn(move || {
            // An error is the end of a connection, which a broker closes then.
            let _ = connection.serve();
            for stream in others {
                let _ = Connection::new(stream, level).and_then(Connection::serve);
            }
        });
        let outcome = self.running.finish(SOON);
        match (outcome.code, self.case.right) {
            // 65 and 77: the row's broker has refused the first message.
            (Some(0 | 65 | 77), _) | (Some(_), Right::Refused | Right::Ended) => Ok(()),
            // What is no packet of MQTT in the place of CONNACK ends a run that has an end.
            (Some(76), _) if self.case.state == State::Connack && self.case.publisher => Ok(()),
            _ => Err(format!("not the exit code expected\n{outcome}")),
        }
    }
}

impl Connection {
    fn new(stream: TcpStream, level: u8) -> Result<Self> {
        stream.set_read_timeout(Some(SOON))?;
        Ok(Self {
            stream,
            level,
            incomplete: BTreeSet::new(),
        })
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("it no longer reads")
    }

    fn read(&mut self) -> Result<Packet> {
        Ok(read_packet(&mut self.stream)?)
    }

    /// The next packet, which is of this kind.
    fn read_kind(&mut self, wanted: u8) -> Result<Packet> {
        let packet = self.read();
        let packet = packet.with_context(|| format!("no packet of type {wanted}"))?;
        let found = packet.kind();
        ensure!(found == wanted, "packet type {found} instead of {wanted}");
        Ok(packet)
    }

    /// The code of the DISCONNECT that the connection ends with, if there is one.
    fn read_to_end(&mut self) -> Result<Option<u8>> {
        let mut code = None;
        loop {
            match read_packet(&mut self.stream) {
                Ok(_) if code.is_some() => bail!("a packet after DISCONNECT"),
                Ok(packet) if packet.kind() == kind::DISCONNECT => {
                    code = Some(disconnect_code(&packet));
                }
                Ok(_) => (),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    bail!("it stays connected");
                }
                Err(_) => return Ok(code),
            }
        }
    }

    /// As a good broker does.
    fn answer(&mut self, packet: &Packet) -> Result<()> {
        let version_5 = self.level == 5;
        let id = |packet: &Packet| packet.body().number().to_be_bytes();
        match packet.kind() {
            kind::CONNECT if version_5 => self.send(&[0x20, 3, 0, 0, 0]),
            kind::CONNECT => self.send(&[0x20, 2, 0, 0]),
            kind::SUBSCRIBE => {
                let [high, low] = id(packet);
                if version_5 {
                    return self.send(&[0x90, 4, high, low, 0, 1]);
                }
                self.send(&[0x90, 3, high, low, 1])
            }
            kind::PUBLISH => {
                let publish = packet.publish(0, self.level);
                let [high, low] = publish.packet_id.to_be_bytes();
                if publish.qos == 2 {
                    self.incomplete.insert(publish.packet_id);
                    return self.send(&[0x50, 2, high, low]);
                }
                self.send(&[0x40, 2, high, low])
            }
            kind::PUBREL if self.incomplete.remove(&packet.body().number()) => {
                let [high, low] = id(packet);
                self.send(&[0x70, 2, high, low])
            }
            kind::PUBREC => {
                let [high, low] = id(packet);
                self.send(&[0x62, 2, high, low])
            }
            kind::PINGREQ => self.send(&[0xd0, 0]),
            _ => Ok(()),
        }
    }

    fn serve(mut self) -> Result<()> {
        loop {
            let packet = self.read()?;
            self.answer(&packet)?;
        }
    }
}

fn disconnect_code(packet: &Packet) -> u8 {
    let mut body = packet.body();
    if body.is_empty() { 0 } else { body.byte() }
}

/// Whether a line of the log is about a packet that ended a connection of MQTT 3.1.1.
fn names_a_fault(line: &str) -> bool {
    let line = line.to_lowercase();
    let words = ["protocol error", "malformed", "invalid", "too large"];
    words.iter().any(|words| line.contains(words))
}
