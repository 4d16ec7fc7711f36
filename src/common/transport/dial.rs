//! Dials the broker: takes the steps of a route, and tries the next endpoint if one does not answer.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::debug;

use super::connection_handle::ConnectionHandle;
use super::credentials::TlsCredentials;
use super::deadline_stream::DeadlineStream;
use super::local_binding::LocalBinding;
use super::mqtt_stream::MqttStream;
use super::plain_or_tls::{CountedSocket, PlainOrTls};
use super::proxy::{self, ProxyUrl};
use super::socket::Socket;
use super::tcp::TcpTarget;
use super::tls_handshake::{self, Handshake, TlsInfo};
use super::tls_limits::TlsLimits;
use super::tls_session::{SessionCache, SessionResumption};
use super::unix_socket;
use super::websocket::WebSocket;
use crate::common::broker::endpoint::Endpoint;
use crate::common::fault::{Exit, Fault, FaultCause};
use crate::common::runtime::clock::instant_now;

#[derive(Clone, Debug)]
pub struct Route {
    pub endpoint: Endpoint,
    pub proxy: Option<ProxyUrl>,
    pub binding: Option<LocalBinding>,
    pub tls_limits: TlsLimits,
    /// None for a full TLS handshake with each connection.
    pub tls_sessions: Option<Arc<SessionCache>>,
    /// Of a received packet, in bytes.
    pub max_packet: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialStep {
    Dns,
    Tcp,
    UnixSocket,
    Proxy,
    Tls,
    WebSocket,
}

#[derive(Clone, Debug)]
pub enum DialEvent {
    Resolved(Vec<SocketAddr>),
    /// The proxy's addresses. The broker's host name, if it is a name, is resolved by the proxy.
    ProxyResolved {
        addresses: Vec<SocketAddr>,
        left_to_proxy: Option<String>,
    },
    Connected(SocketAddr),
    UnixSocketConnected,
    TunnelOpened,
    TlsEstablished(Box<TlsInfo>),
    WebSocketOpened,
    EndpointFailed(Fault),
}

#[derive(Clone, Debug)]
pub struct DialError {
    pub step: DialStep,
    pub endpoint: Endpoint,
    pub fault: Fault,
}

#[derive(Debug)]
pub struct DialedConnection {
    pub endpoint: Endpoint,
    /// None without TLS, and if no session is resumed nor kept.
    pub(crate) resumption: Option<SessionResumption>,
    pub(super) wire: MqttStream,
    pub(super) credentials: TlsCredentials,
}

/// Connects to one of the route's endpoints, which are tried in turn, beginning with the one on port `first`. One that
/// does not answer leaves time for the next. Blocks until the deadline at most, and for as long as the name look-up
/// takes. The error is that of the first endpoint, with what the others met.
pub fn dial(
    route: &Route,
    credentials: &TlsCredentials,
    first: Option<u16>,
    deadline: Instant,
    handle: &ConnectionHandle,
    report: &mut dyn FnMut(DialEvent),
) -> Result<DialedConnection, DialError> {
    let mut endpoints = route.endpoint.endpoints_to_try();
    if let Some(at) = endpoints.iter().position(|e| Some(e.port) == first) {
        endpoints.rotate_left(at);
    }
    let mut failed: Option<DialError> = None;
    let count = endpoints.len();
    for (index, endpoint) in endpoints.into_iter().enumerate() {
        let left = deadline.saturating_duration_since(instant_now());
        let share = left / u32::try_from(count - index).unwrap_or(1);
        let deadline = instant_now() + share;
        let dialer = EndpointDialer {
            route,
            credentials,
            endpoint: &endpoint,
            deadline,
            handle,
        };
        let (step, fault) = match dialer.dial(report) {
            Ok((wire, resumption)) => {
                let credentials = credentials.clone();
                return Ok(DialedConnection {
                    endpoint,
                    resumption,
                    wire,
                    credentials,
                });
            }
            Err(error) => error,
        };
        // Name and date are the same for every endpoint.
        let is_common = step == DialStep::Dns || fault.kind == FaultCause::NotYetValid;
        let ends = is_common || fault.permanent || handle.is_cancelled() || index + 1 == count;
        failed = Some(match failed.take() {
            Some(first) => first.followed_by(&fault),
            None => DialError {
                step,
                endpoint,
                fault: fault.clone(),
            },
        });
        if ends {
            break;
        }
        report(DialEvent::EndpointFailed(fault));
    }
    // There is at least one endpoint.
    Err(failed.unwrap_or_else(|| {
        let fault = Fault::passing(Exit::Unavailable, "no way to the broker");
        DialError {
            step: DialStep::Dns,
            endpoint: route.endpoint.clone(),
            fault,
        }
    }))
}

impl DialError {
    /// Adds the fault of the next endpoint. If that is permanent, it is the one to mend.
    fn followed_by(self, next: &Fault) -> Self {
        let first = &self.fault;
        let fault = Fault {
            exit: first.exit.or_worse(next.exit),
            permanent: next.permanent,
            message: format!(
                "{}; nor does the other way work: {}",
                first.message, next.message
            ),
            remedy: next.remedy.clone().or_else(|| first.remedy.clone()),
            kind: next.kind,
        };
        Self { fault, ..self }
    }
}

struct EndpointDialer<'a> {
    route: &'a Route,
    credentials: &'a TlsCredentials,
    endpoint: &'a Endpoint,
    deadline: Instant,
    handle: &'a ConnectionHandle,
}

impl EndpointDialer<'_> {
    fn dial(
        &self,
        report: &mut dyn FnMut(DialEvent),
    ) -> Result<(MqttStream, Option<SessionResumption>), (DialStep, Fault)> {
        let endpoint = self.endpoint;
        let (stream, resumption) = if endpoint.tls {
            let handshake = self.connect_tls(report)?;
            let stream = PlainOrTls::Tls(Box::new(handshake.stream));
            (stream, handshake.resumption)
        } else {
            let socket = CountedSocket::new(self.connect(report)?);
            (PlainOrTls::Plain(socket), None)
        };
        let Some(path) = &endpoint.websocket else {
            return Ok((MqttStream::Bytes(stream), resumption));
        };
        self.set_timeouts(stream.socket());
        let max_packet = self.route.max_packet;
        match WebSocket::open(endpoint, self.credentials, path, max_packet, stream) {
            Ok(socket) => {
                report(DialEvent::WebSocketOpened);
                Ok((MqttStream::WebSocket(Box::new(socket)), resumption))
            }
            Err(mut fault) => {
                if let Some(resumption) = resumption {
                    resumption.handle_end();
                    // The server may not know any more who this is: a full handshake may help.
                    fault.permanent &= !resumption.is_resumed();
                }
                Err((DialStep::WebSocket, fault))
            }
        }
    }

    /// A server that ends the handshake because of the session that was offered gets another one without.
    fn connect_tls(
        &self,
        report: &mut dyn FnMut(DialEvent),
    ) -> Result<Handshake, (DialStep, Fault)> {
        let sessions = self.route.tls_sessions.as_ref();
        let mut has_failed = false;
        loop {
            let socket = self.connect(report)?;
            self.set_timeouts(&socket);
            let limits = &self.route.tls_limits;
            match tls_handshake::handshake(
                self.endpoint,
                self.credentials,
                limits,
                sessions,
                socket,
            ) {
                Ok(handshake) => {
                    // Otherwise the session was not the cause.
                    if let Some(sessions) = sessions.filter(|_| has_failed) {
                        sessions.handle_refused();
                    }
                    report(DialEvent::TlsEstablished(Box::new(handshake.info.clone())));
                    return Ok(handshake);
                }
                Err(failed)
                    if failed.is_session_refused && !has_failed && !self.handle.is_cancelled() =>
                {
                    debug!(
                        "the TLS session was refused ({}); a full handshake follows",
                        failed.fault.message
                    );
                    has_failed = true;
                }
                Err(failed) => return Err((DialStep::Tls, failed.fault)),
            }
        }
    }

    fn connect(&self, report: &mut dyn FnMut(DialEvent)) -> Result<Socket, (DialStep, Fault)> {
        match &self.endpoint.unix_socket {
            Some(path) => self.connect_unix_socket(path, report),
            None => self.connect_tcp(report),
        }
    }

    fn connect_unix_socket(
        &self,
        path: &Path,
        report: &mut dyn FnMut(DialEvent),
    ) -> Result<Socket, (DialStep, Fault)> {
        let at = |fault| (DialStep::UnixSocket, fault);
        let socket = Socket::Unix(unix_socket::connect_before(path, self.deadline).map_err(at)?);
        self.handle
            .attach(&socket)
            .map_err(|e| at(unix_socket::fault(path, &e)))?;
        report(DialEvent::UnixSocketConnected);
        Ok(socket)
    }

    /// Connects to the broker, or to the proxy and through it.
    fn connect_tcp(&self, report: &mut dyn FnMut(DialEvent)) -> Result<Socket, (DialStep, Fault)> {
        let at = |step| move |fault| (step, fault);
        let proxy = self.route.proxy.as_ref();
        let target = TcpTarget {
            address: proxy.map_or_else(|| self.endpoint.host_port(), |p| p.address.clone()),
            proxy,
            binding: self.route.binding.as_ref(),
        };
        let addresses = target.resolve().map_err(at(DialStep::Dns))?;
        report(match proxy {
            Some(_) => DialEvent::ProxyResolved {
                addresses: addresses.clone(),
                left_to_proxy: self.endpoint.host_name().map(str::to_owned),
            },
            None => DialEvent::Resolved(addresses.clone()),
        });
        let (stream, address) = target
            .connect(&addresses, self.deadline)
            .map_err(at(DialStep::Tcp))?;
        let mut socket = Socket::Tcp(stream);
        self.handle
            .attach(&socket)
            .map_err(|e| (DialStep::Tcp, target.fault(&e)))?;
        report(DialEvent::Connected(address));
        if let Some(proxy) = proxy {
            let stream = &mut DeadlineStream {
                socket: &mut socket,
                deadline: self.deadline,
            };
            proxy::open_tunnel(stream, proxy, self.endpoint).map_err(at(DialStep::Proxy))?;
            report(DialEvent::TunnelOpened);
        }
        Ok(socket)
    }

    /// No read or write of the next step blocks beyond the deadline. A step has one or two of them;
    /// a peer that sends a byte at a time is given up by the event loop.
    fn set_timeouts(&self, socket: &Socket) {
        let left = self.deadline.saturating_duration_since(instant_now());
        let left = Some(left.max(Duration::from_millis(1)));
        // Only a timeout of zero is refused.
        let _ = socket.set_read_timeout(left);
        let _ = socket.set_write_timeout(left);
    }
}
