//! Name look-up and TCP.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Instant;

use super::proxy::Proxy;
use crate::common::fault::{Exit, Fault};
use crate::common::runtime::clock::clock;

/// The host's addresses. Blocks for as long as the resolver does.
pub(super) fn resolve(
    host: &str,
    port: u16,
    proxy: Option<&Proxy>,
) -> Result<Vec<SocketAddr>, Fault> {
    let what = if proxy.is_some() {
        "the proxy's host name"
    } else {
        "the host name"
    };
    let flag = proxy.map_or("--endpoint", |proxy| proxy.origin);
    let fault = |why: &str| {
        Fault::passing(
            Exit::Unavailable,
            format!("{host}: {what} does not resolve ({why})"),
        )
        .with_remedy(format!("check {flag} and the name server"))
    };
    let addresses: Vec<_> = (host, port)
        .to_socket_addrs()
        .map_err(|e| fault(&e.to_string()))?
        .collect();
    if addresses.is_empty() {
        return Err(fault("it has no address"));
    }
    Ok(addresses)
}

/// Connects to the first address that answers; each has its share of the time, so that one
/// that swallows packets does not use up the others'.
pub(super) fn connect(
    addresses: &[SocketAddr],
    host: &str,
    port: u16,
    deadline: Instant,
    proxy: Option<&Proxy>,
) -> Result<(TcpStream, SocketAddr), Fault> {
    let mut last = None;
    for (index, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(clock());
        let share = left / u32::try_from(addresses.len() - index).unwrap_or(1);
        if share.is_zero() {
            break;
        }
        let connected = TcpStream::connect_timeout(address, share).and_then(|stream| {
            // A PUBLISH must not wait for the acknowledgement of the one before.
            stream.set_nodelay(true)?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => return Ok((stream, *address)),
            Err(error) => last = Some(error),
        }
    }
    let error = last.unwrap_or_else(|| io::ErrorKind::TimedOut.into());
    Err(fault(host, port, &error, proxy))
}

/// What a failure of TCP means.
pub(super) fn fault(host: &str, port: u16, error: &io::Error, proxy: Option<&Proxy>) -> Fault {
    let whose = match proxy {
        Some(_) => "the proxy's port",
        None => "the port",
    };
    let (why, remedy) = match (error.kind(), proxy) {
        (io::ErrorKind::ConnectionRefused, None) => (
            "the port is closed (connection refused)".into(),
            Some("is the broker running, and --port right?".into()),
        ),
        (io::ErrorKind::ConnectionRefused, Some(proxy)) => (
            "the proxy's port is closed (connection refused)".into(),
            Some(format!("is {} right?", proxy.origin)),
        ),
        (io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock, _) => (
            "no answer".into(),
            Some(format!("is the network up, does a firewall block {whose}?")),
        ),
        (io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable, _) => (
            format!("there is no way to this host ({error})"),
            Some("is the network up?".into()),
        ),
        _ => (format!("cannot connect: {error}"), None),
    };
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    // What the system refused (no more descriptors) is not the network's fault.
    let exit = match error.raw_os_error() {
        Some(code) if code == nix::libc::EMFILE || code == nix::libc::ENFILE => Exit::Io,
        _ => Exit::Unavailable,
    };
    Fault {
        remedy: remedy.map(String::into_boxed_str),
        ..Fault::passing(exit, format!("{host}:{port}: {why}"))
    }
}
