//! Name look-up and TCP.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, SocketAddrV6, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use nix::libc::{EINVAL, EMFILE, ENFILE};

use super::local_binding::{BoundConnectError, LocalBinding};
use super::network_interface;
use super::proxy::ProxyUrl;
use crate::common::broker::host_port::HostPort;
use crate::common::broker::profile::Profile;
use crate::common::fault::{Exit, Fault};
use crate::common::runtime::clock::instant_now;

/// What a TCP connection goes to: the broker, or the proxy in front of it.
pub(super) struct TcpTarget<'a> {
    pub(super) address: HostPort,
    pub(super) proxy: Option<&'a ProxyUrl>,
    pub(super) binding: Option<&'a LocalBinding>,
}

impl TcpTarget<'_> {
    pub(super) fn resolve(&self) -> Result<Vec<SocketAddr>, Fault> {
        let HostPort { host, zone, port } = &self.address;
        if let (Some(zone), Ok(address)) = (zone, host.parse()) {
            let index = network_interface::index(zone).map_err(|_| {
                let message = format!("{}: there is no network interface {zone} now", self.address);
                Fault::passing(Exit::Unavailable, message)
                    .with_remedy("see the output of: ip address")
            })?;
            return Ok(vec![SocketAddrV6::new(address, *port, 0, index).into()]);
        }
        let (what, flag) = match self.proxy {
            Some(proxy) => ("the proxy's host name", proxy.origin),
            None => ("the host name", "--endpoint"),
        };
        let fault = |cause: &str| {
            let message = format!("{host}: {what} does not resolve ({cause})");
            Fault::passing(Exit::Unavailable, message)
                .with_remedy(format!("check {flag} and the name server"))
        };
        let resolved = (host.as_str(), *port).to_socket_addrs();
        let addresses: Vec<_> = resolved.map_err(|e| fault(&e.to_string()))?.collect();
        if addresses.is_empty() {
            return Err(fault("it has no address"));
        }
        Ok(addresses)
    }

    /// Connects to the first address that answers. Each gets an equal share of the time left, so that
    /// one that drops packets leaves time for the others.
    pub(super) fn connect(
        &self,
        addresses: &[SocketAddr],
        deadline: Instant,
    ) -> Result<(TcpStream, SocketAddr), Fault> {
        let fits = |a: &&SocketAddr| self.binding.is_none_or(|binding| binding.fits(a.ip()));
        let count = addresses.iter().filter(fits).count();
        if let Some(binding) = self.binding.filter(|_| count == 0) {
            let address = &self.address;
            let message = format!(
                "--bind {binding}: {address} has no address of the same kind (IPv4 or IPv6)"
            );
            return Err(Fault::passing(Exit::Unavailable, message)
                .with_remedy("give --bind an address of the other kind, or a network interface"));
        }
        let mut last = None;
        for (index, address) in addresses.iter().filter(fits).enumerate() {
            let left = deadline.saturating_duration_since(instant_now());
            let share = left / u32::try_from(count - index).unwrap_or(1);
            if share.is_zero() {
                break;
            }
            match self.connect_to(address, share) {
                Ok(stream) => return Ok((stream, *address)),
                Err(BoundConnectError::Bind(fault)) => return Err(fault),
                Err(BoundConnectError::Connect(error)) => last = Some(error),
            }
        }
        let error = last.unwrap_or_else(|| ErrorKind::TimedOut.into());
        Err(self.fault(&error))
    }

    fn connect_to(
        &self,
        address: &SocketAddr,
        timeout: Duration,
    ) -> Result<TcpStream, BoundConnectError> {
        let stream = match self.binding {
            Some(binding) => binding.connect(*address, timeout)?,
            None => TcpStream::connect_timeout(address, timeout)?,
        };
        // A PUBLISH must not wait for the acknowledgement of the one before.
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    pub(super) fn fault(&self, error: &io::Error) -> Fault {
        let HostPort { host, zone, port } = &self.address;
        let whose = if self.proxy.is_some() {
            "the proxy's port"
        } else {
            "the port"
        };
        let is_link_local = host.starts_with("fe80:");
        let (cause, remedy) = match error.kind() {
            ErrorKind::ConnectionRefused => {
                let remedy = match self.proxy {
                    Some(proxy) => format!("is {} right?", proxy.origin),
                    None if *port == 8883 && Profile::of_host(host) == Profile::Generic => {
                        "is the broker running, and --port right? without TLS use --endpoint mqtt://HOST"
                            .into()
                    }
                    None => "is the broker running, and --port right?".into(),
                };
                (
                    format!("{whose} is closed (connection refused)"),
                    Some(remedy),
                )
            }
            ErrorKind::TimedOut | ErrorKind::WouldBlock => {
                let remedy = format!("is the network up, does a firewall block {whose}?");
                ("no answer".into(), Some(remedy))
            }
            ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => {
                let cause = format!("there is no way to this host ({error})");
                (cause, Some("is the network up?".into()))
            }
            _ if is_link_local && zone.is_none() && error.raw_os_error() == Some(EINVAL) => (
                "a link-local address needs its network interface".into(),
                Some(format!("write it after %, as in [{host}%eth0]")),
            ),
            _ => (format!("cannot connect: {error}"), None),
        };
        // Without a free descriptor it is not the network's fault.
        let exit = match error.raw_os_error() {
            Some(EMFILE | ENFILE) => Exit::Io,
            _ => Exit::Unavailable,
        };
        let message = format!("{}: {cause}", self.address);
        Fault {
            remedy: remedy.map(String::into_boxed_str),
            ..Fault::passing(exit, message)
        }
    }
}
