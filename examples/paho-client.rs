//! Drives the client library alone, without what the programs put in front of it, for
//! `tests/it/client_library.rs`: `paho-client PORT VERSION STEP…`, VERSION being 4 (MQTT 3.1.1) or 5.
//!
//! The steps are done in turn and each prints a line on standard output. See [`Step`].

use std::{
    env, error::Error, fs, io, net::TcpStream, os::fd::IntoRawFd, os::unix::net::UnixStream,
    process::Command, sync::mpsc, thread, time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use paho_mqtt::{
    AsyncClient, ConnectOptionsBuilder, CreateOptionsBuilder, DisconnectOptionsBuilder, Message,
    PersistenceType, Properties, PropertyCode,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Longer than any answer takes; a test has its own deadline.
const LONG: Duration = Duration::from_secs(20);

/// A word of the command line, with what follows `=` in it.
enum Step {
    /// `connect` over TCP, or `connect=pair` over a pair of sockets, as the programs do it;
    /// `connect=narrow` with so small a buffer between these that a few kilobytes are written in pieces.
    Connect { pair: bool, narrow: bool },
    /// `attempts=N`: as often, connect with another client and wait until the connection has ended.
    Attempts(usize),
    /// `severed=N`: as often, connect over a pair of sockets whose other end is closed.
    Severed(usize),
    /// `publish=QOS,SIZE` and wait for the result.
    Publish { qos: i32, size: usize },
    /// `send=QOS,SIZE`: publish, without waiting.
    Send { qos: i32, size: usize },
    /// `reply=SIZE`: publish at QoS 1 as soon as a message arrives, and wait for the result.
    Reply { size: usize },
    /// `subscribe=N` filters at once.
    Subscribe(usize),
    /// `unsubscribe=N` filters at once.
    Unsubscribe(usize),
    /// `lost`: wait for the end of the connection.
    Lost,
    /// `disconnect`: with a session expiry of one minute, a second after it was asked for.
    Disconnect,
    /// `clients=N`: create and destroy as many, one after the other.
    Clients(usize),
    /// `command`: what a child process finds among its descriptors.
    Command,
    /// `descriptors`: how many are open.
    Descriptors,
    /// `resident`: the memory in use, in KiB.
    Resident,
    /// `line`: wait for a line on standard input.
    Line,
}

impl Step {
    fn parse(word: &str) -> Result<Self> {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let (first, second) = value.split_once(',').unwrap_or((value, ""));
        let number = || first.parse::<usize>();
        Ok(match name {
            "connect" => Self::Connect {
                pair: first == "pair" || first == "narrow",
                narrow: first == "narrow",
            },
            "attempts" => Self::Attempts(number()?),
            "severed" => Self::Severed(number()?),
            "publish" => Self::Publish {
                qos: first.parse()?,
                size: second.parse()?,
            },
            "send" => Self::Send {
                qos: first.parse()?,
                size: second.parse()?,
            },
            "reply" => Self::Reply { size: number()? },
            "subscribe" => Self::Subscribe(number()?),
            "unsubscribe" => Self::Unsubscribe(number()?),
            "lost" => Self::Lost,
            "disconnect" => Self::Disconnect,
            "clients" => Self::Clients(number()?),
            "command" => Self::Command,
            "descriptors" => Self::Descriptors,
            "resident" => Self::Resident,
            "line" => Self::Line,
            _ => return Err(format!("no such step: {word}").into()),
        })
    }
}

/// What the callbacks of a client report.
enum Event {
    Message,
    Lost,
}

struct Connection {
    client: AsyncClient,
    events: mpsc::Receiver<Event>,
}

struct Driver {
    port: u16,
    version: u32,
}

impl Driver {
    fn client(&self, uri: &str) -> paho_mqtt::Result<Connection> {
        let options = CreateOptionsBuilder::new()
            .server_uri(uri)
            .client_id("paho-client")
            .mqtt_version(self.version)
            .persistence(PersistenceType::None)
            .max_buffered_messages(10_000);
        let client = options.create_client()?;
        let (sender, events) = mpsc::channel();
        // Nobody may be interested any more.
        let lost = sender.clone();
        client.set_connection_lost_callback(move |_| drop(lost.send(Event::Lost)));
        client.set_message_callback(move |_, _| drop(sender.send(Event::Message)));
        Ok(Connection { client, events })
    }

    fn tcp(&self) -> paho_mqtt::Result<Connection> {
        self.client(&format!("tcp://127.0.0.1:{}", self.port))
    }

    /// A client that has one end of a pair of sockets, and the other end.
    fn pair(&self, narrow: bool) -> Result<(Connection, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        if narrow {
            // The kernel makes it as small as it allows.
            setsockopt(&ours, sockopt::SndBuf, &1)?;
        }
        let uri = format!("unix://@{}", ours.into_raw_fd());
        Ok((self.client(&uri)?, theirs))
    }

    /// As [`pair`](Self::pair), with the other end carried to the port and back.
    fn carried(&self, narrow: bool) -> Result<Connection> {
        let (connection, theirs) = self.pair(narrow)?;
        let server = TcpStream::connect(("127.0.0.1", self.port))?;
        let (mut to, mut from) = (server.try_clone()?, theirs.try_clone()?);
        thread::spawn(move || {
            // However it ends, the other direction ends with it.
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
        let (mut to, mut from) = (theirs, server);
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
        Ok(connection)
    }

    fn connect(&self, connection: &Connection) -> paho_mqtt::Result<()> {
        let mut options = match self.version {
            5 => ConnectOptionsBuilder::new_v5(),
            _ => ConnectOptionsBuilder::new_v3(),
        };
        let options = options.keep_alive_interval(Duration::from_secs(60));
        let token = connection.client.connect(options.finalize());
        token.wait_for(LONG).map(drop)
    }
}

/// `ok`, or what went wrong.
fn result<T>(result: paho_mqtt::Result<T>) -> String {
    match result {
        Ok(_) => "ok".into(),
        Err(error) => error.to_string().replace('\n', " "),
    }
}

fn wait(connection: &Connection, wanted: fn(&Event) -> bool) -> &'static str {
    while let Ok(event) = connection.events.recv_timeout(LONG) {
        if wanted(&event) {
            return "ok";
        }
    }
    "never"
}

fn message(qos: i32, size: usize) -> Message {
    let payload: Vec<u8> = (0..=250).cycle().take(size).collect();
    Message::new("t", payload, qos)
}

fn filters(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("filter/{n}")).collect()
}

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [port, version, steps @ ..] = args.as_slice() else {
        return Err("usage: paho-client PORT VERSION STEP…".into());
    };
    let driver = Driver {
        port: port.parse()?,
        version: version.parse()?,
    };
    let mut connection = None;
    for word in steps {
        let outcome = run(&driver, &mut connection, &Step::parse(word)?)?;
        println!("{}: {outcome}", word.split('=').next().unwrap_or(word));
    }
    // The library's threads may be at work: leave without waiting for them.
    std::process::exit(0)
}

fn run(driver: &Driver, slot: &mut Option<Connection>, step: &Step) -> Result<String> {
    if let Step::Clients(count) = *step {
        // Without any client left, the library gives up all that it has.
        *slot = None;
        for _ in 0..count {
            drop(driver.tcp()?);
        }
        return Ok(count.to_string());
    }
    if let Step::Connect { pair: true, narrow } = *step {
        *slot = Some(driver.carried(narrow)?);
    }
    let connection = match slot {
        Some(connection) => connection,
        None => slot.insert(driver.tcp()?),
    };
    let client = &connection.client;
    Ok(match *step {
        Step::Connect { .. } => result(driver.connect(connection)),
        Step::Attempts(count) => {
            // A client must not be destroyed while it still calls back, so each stays until the next
            // one has had its answer.
            let mut last = None;
            for _ in 0..count {
                let other = driver.tcp()?;
                if driver.connect(&other).is_ok() {
                    wait(&other, |event| matches!(event, Event::Lost));
                }
                last = Some(other);
            }
            drop(last);
            count.to_string()
        }
        Step::Severed(count) => {
            let mut all = Vec::new();
            for _ in 0..count {
                let (other, theirs) = driver.pair(false)?;
                drop(theirs);
                if driver.connect(&other).is_ok() {
                    return Err("connected to nobody".into());
                }
                all.push(other);
            }
            count.to_string()
        }
        Step::Publish { qos, size } => result(client.publish(message(qos, size)).wait_for(LONG)),
        Step::Send { qos, size } => {
            drop(client.publish(message(qos, size)));
            "ok".into()
        }
        Step::Reply { size } => {
            let (sender, tokens) = mpsc::channel();
            client.set_message_callback(move |client, _| {
                drop(sender.send(client.publish(message(1, size))));
            });
            println!("ready");
            result(tokens.recv_timeout(LONG)?.wait_for(LONG))
        }
        Step::Subscribe(1) => result(client.subscribe("filter", 1).wait_for(LONG)),
        Step::Subscribe(count) => {
            let token = client.subscribe_many_same_qos(&filters(count), 1);
            result(token.wait_for(LONG))
        }
        Step::Unsubscribe(1) => result(client.unsubscribe("filter").wait_for(LONG)),
        Step::Unsubscribe(count) => {
            let token = client.unsubscribe_many(&filters(count));
            result(token.wait_for(LONG))
        }
        Step::Lost => wait(connection, |event| matches!(event, Event::Lost)).into(),
        Step::Disconnect => {
            let mut properties = Properties::new();
            properties.push_u32(PropertyCode::SessionExpiryInterval, 60)?;
            let options = DisconnectOptionsBuilder::new()
                .timeout(Duration::from_secs(1))
                .properties(properties)
                .finalize();
            result(client.disconnect(options).wait_for(LONG))
        }
        Step::Command => {
            let output = Command::new("ls").args(["-l", "/proc/self/fd"]).output()?;
            String::from_utf8_lossy(&output.stdout).replace('\n', " ")
        }
        Step::Clients(_) => unreachable!("done above"),
        Step::Descriptors => fs::read_dir("/proc/self/fd")?.count().to_string(),
        Step::Resident => {
            let status = fs::read_to_string("/proc/self/status")?;
            let line = status.lines().find(|line| line.starts_with("VmRSS:"));
            let number = line.and_then(|line| line.split_whitespace().nth(1));
            number.ok_or("no VmRSS")?.to_owned()
        }
        Step::Line => {
            io::stdin().read_line(&mut String::new())?;
            "ok".into()
        }
    })
}
