//! Name look-up and TCP.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Instant;

use nix::libc::{EMFILE, ENFILE};

use super::proxy::Proxy;
use crate::common::broker::endpoint::authority;
use crate::common::broker::profile::Profile;
use crate::common::fault::{Exit, Fault};
use crate::common::runtime::clock::instant_now;

pub(super) fn resolve(
    host: &str,
    port: u16,
    proxy: Option<&Proxy>,
) -> Result<Vec<SocketAddr>, Fault> {
    let (what, flag) = match proxy {
        Some(proxy) => ("the proxy's host name", proxy.origin),
        None => ("the host name", "--endpoint"),
    };
    let fault = |cause: &str| {
        let message = format!("{host}: {what} does not resolve ({cause})");
        Fault::passing(Exit::Unavailable, message)
            .with_remedy(format!("check {flag} and the name server"))
    };
    let resolved = (host, port).to_socket_addrs();
    let addresses: Vec<_> = resolved.map_err(|e| fault(&e.to_string()))?.collect();
    if addresses.is_empty() {
        return Err(fault("it has no address"));
    }
    Ok(addresses)
}

/// Connects to the first address that answers. Each gets an equal share of the time left, so that
/// one that drops packets leaves time for the others.
pub(super) fn connect(
    addresses: &[SocketAddr],
    host: &str,
    port: u16,
    deadline: Instant,
    proxy: Option<&Proxy>,
) -> Result<(TcpStream, SocketAddr), Fault> {
    let mut last = None;
    for (index, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(instant_now());
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
    let error = last.unwrap_or_else(|| ErrorKind::TimedOut.into());
    Err(fault(host, port, &error, proxy))
}

pub(super) fn fault(host: &str, port: u16, error: &io::Error, proxy: Option<&Proxy>) -> Fault {
    let whose = if proxy.is_some() {
        "the proxy's port"
    } else {
        "the port"
    };
    let (cause, remedy) = match error.kind() {
        ErrorKind::ConnectionRefused => {
            let remedy = match proxy {
                Some(proxy) => format!("is {} right?", proxy.origin),
                None if port == 8883 && Profile::of_host(host) == Profile::Generic => {
                    "is the broker running, and --port right? without TLS use --endpoint mqtt://HOST"
                        .into()
                }
                None => "is the broker running, and --port right?".into(),
            };
            let cause = format!("{whose} is closed (connection refused)");
            (cause, Some(remedy))
        }
        ErrorKind::TimedOut | ErrorKind::WouldBlock => {
            let remedy = format!("is the network up, does a firewall block {whose}?");
            ("no answer".into(), Some(remedy))
        }
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => {
            let cause = format!("there is no way to this host ({error})");
            (cause, Some("is the network up?".into()))
        }
        _ => (format!("cannot connect: {error}"), None),
    };
    // Without a free descriptor it is not the network's fault.
    let exit = match error.raw_os_error() {
        Some(EMFILE | ENFILE) => Exit::Io,
        _ => Exit::Unavailable,
    };
    let message = format!("{}: {cause}", authority(host, port));
    Fault {
        remedy: remedy.map(String::into_boxed_str),
        ..Fault::passing(exit, message)
    }
}
