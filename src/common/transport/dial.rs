//! Dials the broker: takes the steps of a route, and tries the next endpoint if one does not answer.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::connection_handle::ConnectionHandle;
use super::credentials::TlsCredentials;
use super::mqtt_stream::MqttStream;
use super::proxy::{self, Proxy};
use super::tcp;
use super::tcp_or_tls::{CountedTcp, TcpOrTls};
use super::tls_handshake::{self, TlsInfo};
use super::websocket::WebSocket;
use crate::common::broker::endpoint::Endpoint;
use crate::common::fault::{Exit, Fault, FaultCause};
use crate::common::runtime::clock::instant_now;

#[derive(Clone, Debug)]
pub struct Route {
    pub endpoint: Endpoint,
    pub proxy: Option<Proxy>,
    /// Of a received packet, in bytes.
    pub max_packet: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialStep {
    Dns,
    Tcp,
    Proxy,
    Tls,
    WebSocket,
}

#[derive(Clone, Debug)]
pub enum DialEvent {
    Resolved(Vec<SocketAddr>),
    Connected(SocketAddr),
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
            Ok(wire) => {
                let credentials = credentials.clone();
                return Ok(DialedConnection {
                    endpoint,
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
    fn dial(&self, report: &mut dyn FnMut(DialEvent)) -> Result<MqttStream, (DialStep, Fault)> {
        let at = |step| move |fault| (step, fault);
        let endpoint = self.endpoint;
        let proxy = self.route.proxy.as_ref();
        let (host, port) = match proxy {
            Some(proxy) => (proxy.host.as_str(), proxy.port),
            None => (endpoint.host.as_str(), endpoint.port),
        };
        let addresses = tcp::resolve(host, port, proxy).map_err(at(DialStep::Dns))?;
        report(DialEvent::Resolved(addresses.clone()));
        let (mut stream, address) = tcp::connect(&addresses, host, port, self.deadline, proxy)
            .map_err(at(DialStep::Tcp))?;
        self.handle
            .attach(&stream)
            .map_err(|e| (DialStep::Tcp, tcp::fault(host, port, &e, proxy)))?;
        report(DialEvent::Connected(address));
        if let Some(proxy) = proxy {
            self.set_timeouts(&stream);
            proxy::open_tunnel(&mut stream, proxy, endpoint, || {
                instant_now() >= self.deadline
            })
            .map_err(at(DialStep::Proxy))?;
            report(DialEvent::TunnelOpened);
        }
        let stream = if endpoint.tls {
            self.set_timeouts(&stream);
            let (stream, info) = tls_handshake::handshake(endpoint, self.credentials, stream)
                .map_err(at(DialStep::Tls))?;
            report(DialEvent::TlsEstablished(Box::new(info)));
            TcpOrTls::Tls(Box::new(stream))
        } else {
            TcpOrTls::Plain(CountedTcp::new(stream))
        };
        let Some(path) = &endpoint.websocket else {
            return Ok(MqttStream::Bytes(stream));
        };
        self.set_timeouts(stream.tcp());
        let max_packet = self.route.max_packet;
        let socket = WebSocket::open(endpoint, self.credentials, path, max_packet, stream)
            .map_err(at(DialStep::WebSocket))?;
        report(DialEvent::WebSocketOpened);
        Ok(MqttStream::WebSocket(Box::new(socket)))
    }

    /// No read or write of the next step blocks beyond the deadline. A step has one or two of them;
    /// a peer that sends a byte at a time is given up by the event loop.
    fn set_timeouts(&self, stream: &TcpStream) {
        let left = self.deadline.saturating_duration_since(instant_now());
        let left = Some(left.max(Duration::from_millis(1)));
        // Only a timeout of zero is refused.
        let _ = stream.set_read_timeout(left);
        let _ = stream.set_write_timeout(left);
    }
}
