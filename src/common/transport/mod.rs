//! The way to the broker: name look-up, TCP, proxy, TLS, WebSocket, one after the other,
//! and what was met at each. The only room that names `openssl` and `tungstenite`.
//!
//! What comes out is a stream of bytes to somebody who speaks MQTT; what they say is the
//! client library's business, which is given the other end of a local socket ([`bridge`]).
//! Because the steps are ours, each failure has its cause at hand, and one deadline covers
//! them all.
//!
//! * `tcp` looks the name up and connects;
//! * `proxy` goes through an HTTP proxy, `websocket` through a web server;
//! * `tls` shakes hands, `alert` turns its failures into faults; `trust` says why a server's certificate does not pass,
//!   `presented` what it may have against ours;
//! * `files` loads certificate, key and CA: `found` finds them in a directory, `certificates` and `key` read one,
//!   by means of `pem` and `der`, and `alien` says what a file is that is neither;
//! * `bridge` carries bytes between the broker and the client library;
//! * `counted` is a TCP connection that counts them, `send_queue` how many have not arrived.

mod alert;
pub mod bridge;
mod counted;
pub mod credentials;
pub mod proxy;
mod send_queue;
mod tcp;
mod tls;
mod websocket;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use openssl::ssl::SslStream;

use super::broker::endpoint::Endpoint;
use super::fault::{Exit, Fault, Kind};
use super::runtime::clock::clock;
use counted::Counted;
use credentials::files::Loaded;
use credentials::presented::Presented;
use proxy::Proxy;
pub use tls::Facts;
use websocket::WebSocket;

/// Prepares OpenSSL so that leaving the process does not race its clean-up against other
/// threads. Call it once, before anything else touches OpenSSL.
pub fn init() {
    openssl::init();
}

/// Prepares TLS, for as long as there is only one thread. What goes wrong is met again, and told, when a
/// connection is made.
pub fn prepare(loaded: &Loaded) {
    drop(tls::context(loaded));
}

/// The TLS library in use, as `--version` names it.
pub fn library_version() -> &'static str {
    openssl::version::version()
}

/// What is needed to get to the broker.
#[derive(Clone, Debug)]
pub struct Route {
    pub endpoint: Endpoint,
    /// The proxy to go through.
    pub proxy: Option<Proxy>,
    /// The largest packet that is received, in bytes.
    pub max_packet: u32,
}

/// The steps of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The name look-up.
    Dns,
    /// The TCP connection, to the broker or to the proxy.
    Tcp,
    /// The tunnel through the proxy.
    Proxy,
    /// The TLS handshake.
    Tls,
    /// The WebSocket handshake.
    WebSocket,
}

/// A step that went well, for whoever wants to follow.
#[derive(Clone, Debug)]
pub enum Passed {
    /// The host has these addresses.
    Resolved(Vec<SocketAddr>),
    /// This one answered.
    Connected(SocketAddr),
    /// The proxy has made the tunnel.
    Tunnelled,
    /// TLS is up.
    Secured(Box<Facts>),
    /// The WebSocket is open.
    Upgraded,
    /// This way does not work; the next one follows.
    WentOn(Fault),
}

/// A step that went wrong.
#[derive(Clone, Debug)]
pub struct Failed {
    pub step: Step,
    pub way: Endpoint,
    /// Why.
    pub fault: Fault,
}

/// The byte stream below a WebSocket, or below MQTT itself.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(Counted),
    Tls(Box<SslStream<Counted>>),
}

/// A stream of bytes to the broker.
#[derive(Debug)]
pub(crate) enum Wire {
    Bytes(Stream),
    WebSocket(Box<WebSocket>),
}

/// A connection to something that should be an MQTT broker.
#[derive(Debug)]
pub struct Connected {
    pub way: Endpoint,
    pub(crate) wire: Wire,
    presented: Presented,
}

/// A hold on a dial, or on the connection that came of it, from another thread.
#[derive(Debug, Default)]
pub struct Handle {
    inner: Mutex<Held>,
    /// SUBSCRIBEs that the broker has refused with MQTT 3.1.1.
    refused_subscriptions: AtomicUsize,
}

#[derive(Debug, Default)]
struct Held {
    cancelled: bool,
    stream: Option<TcpStream>,
}

impl Handle {
    /// Closes what there is, and whatever may still come of the dial.
    pub fn cancel(&self) {
        let mut held = self.held();
        held.cancelled = true;
        if let Some(stream) = held.stream.take() {
            // One that is closed already is as it should be.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn is_cancelled(&self) -> bool {
        self.held().cancelled
    }

    /// Whether a SUBSCRIBE was refused that has not been asked about before. The client library reports
    /// a refusal of MQTT 3.1.1 and a SUBSCRIBE that could not be sent alike.
    pub fn take_refused_subscription(&self) -> bool {
        self.refused_subscriptions
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |refused| {
                refused.checked_sub(1)
            })
            .is_ok()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, stream: &TcpStream) -> io::Result<()> {
        let handle = stream.try_clone()?;
        let mut held = self.held();
        if held.cancelled {
            let _ = handle.shutdown(Shutdown::Both);
        } else {
            held.stream = Some(handle);
        }
        Ok(())
    }
}

/// Goes to the broker, by the ways of the route in turn; `first` is the port of the way to
/// begin with. A way that does not answer leaves time for the next one. Blocks until the
/// deadline at most, and for as long as the name look-up takes.
///
/// # Errors
///
/// Where it failed; if there was more than one way, on the first, and what the others met.
pub fn dial(
    route: &Route,
    loaded: &Loaded,
    first: Option<u16>,
    deadline: Instant,
    handle: &Handle,
    report: &mut dyn FnMut(Passed),
) -> Result<Connected, Failed> {
    let mut ways = route.endpoint.with_fallback();
    if let Some(at) = ways.iter().position(|way| Some(way.port) == first) {
        ways.rotate_left(at);
    }
    let mut failed: Option<Failed> = None;
    let count = ways.len();
    for (index, way) in ways.into_iter().enumerate() {
        let left = deadline.saturating_duration_since(clock());
        let share = left / u32::try_from(count - index).unwrap_or(1);
        let dial = Dial {
            route,
            loaded,
            way: &way,
            deadline: clock() + share,
            handle,
        };
        match dial.go(report) {
            Ok(wire) => {
                return Ok(Connected {
                    way,
                    wire,
                    presented: Presented::of(loaded),
                });
            }
            Err((step, fault)) => {
                let is_last = index + 1 == count;
                // The date is the same on every way.
                let is_of_this_way = step != Step::Dns && fault.kind != Kind::NotYetValid;
                let goes_on = is_of_this_way && !fault.permanent && !handle.is_cancelled();
                failed = Some(match failed.take() {
                    None => Failed {
                        step,
                        way,
                        fault: fault.clone(),
                    },
                    Some(first) => first.and_then(&fault),
                });
                if !goes_on || is_last {
                    break;
                }
                report(Passed::WentOn(fault));
            }
        }
    }
    // There is always one way at least.
    Err(failed.unwrap_or_else(|| Failed {
        step: Step::Dns,
        way: route.endpoint.clone(),
        fault: Fault::passing(Exit::Unavailable, "no way to the broker"),
    }))
}

impl Failed {
    /// The same, with what the next way met. A fault that no retry can cure is the one to
    /// mend, whichever way it was met on.
    fn and_then(self, next: &Fault) -> Self {
        let (first, then) = (&self.fault, next);
        let message = format!(
            "{}; nor does the other way work: {}",
            first.message, then.message
        );
        let fault = Fault {
            exit: first.exit.or_worse(then.exit),
            permanent: then.permanent,
            message,
            remedy: then.remedy.clone().or_else(|| first.remedy.clone()),
            kind: then.kind,
        };
        Self { fault, ..self }
    }
}

/// One way, once.
struct Dial<'a> {
    route: &'a Route,
    loaded: &'a Loaded,
    way: &'a Endpoint,
    deadline: Instant,
    handle: &'a Handle,
}

type Progress<'a> = &'a mut dyn FnMut(Passed);

impl Dial<'_> {
    fn go(&self, report: Progress<'_>) -> Result<Wire, (Step, Fault)> {
        let way = self.way;
        let proxy = self.route.proxy.as_ref();
        let (host, port) = match proxy {
            Some(proxy) => (proxy.host.as_str(), proxy.port),
            None => (way.host.as_str(), way.port),
        };
        let addresses = tcp::resolve(host, port, proxy).map_err(at(Step::Dns))?;
        report(Passed::Resolved(addresses.clone()));
        let (mut stream, address) =
            tcp::connect(&addresses, host, port, self.deadline, proxy).map_err(at(Step::Tcp))?;
        self.handle
            .watch(&stream)
            .map_err(|e| (Step::Tcp, tcp::fault(host, port, &e, proxy)))?;
        report(Passed::Connected(address));
        if let Some(proxy) = proxy {
            self.limit(&stream);
            proxy::tunnel(&mut stream, proxy, way, || clock() >= self.deadline)
                .map_err(at(Step::Proxy))?;
            report(Passed::Tunnelled);
        }
        let stream = if way.tls {
            self.limit(&stream);
            let (tls, facts) = tls::handshake(way, self.loaded, stream).map_err(at(Step::Tls))?;
            report(Passed::Secured(Box::new(facts)));
            Stream::Tls(Box::new(tls))
        } else {
            Stream::Plain(stream.into())
        };
        let wire = match &way.websocket {
            None => Wire::Bytes(stream),
            Some(path) => {
                self.limit(stream.tcp());
                let presented = Presented::of(self.loaded);
                let socket = WebSocket::open(way, &presented, path, self.route.max_packet, stream)
                    .map_err(at(Step::WebSocket))?;
                report(Passed::Upgraded);
                Wire::WebSocket(Box::new(socket))
            }
        };
        Ok(wire)
    }

    /// No read or write of the steps to come blocks beyond the deadline. Each of them is one
    /// or two; a peer that sends a byte at a time is the event loop's to give up.
    fn limit(&self, stream: &TcpStream) {
        let left = self.deadline.saturating_duration_since(clock());
        let left = Some(left.max(Duration::from_millis(1)));
        // Only a limit of zero is refused.
        let _ = stream.set_read_timeout(left);
        let _ = stream.set_write_timeout(left);
    }
}

fn at(step: Step) -> impl Fn(Fault) -> (Step, Fault) {
    move |fault| (step, fault)
}

impl Stream {
    fn counted(&self) -> &Counted {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.get_ref(),
        }
    }

    fn tcp(&self) -> &TcpStream {
        self.counted().tcp()
    }

    /// Says goodbye, as far as that is possible at once.
    fn close(&mut self) {
        if let Stream::Tls(stream) = self {
            // The peer may be gone, and need not answer.
            let _ = stream.shutdown();
        }
        let _ = self.tcp().shutdown(Shutdown::Write);
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp().as_fd()
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
