//! Where connections begin (`--bind`): a source address, or a network interface.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::BindToDevice;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket,
};

use super::network_interface;
use crate::common::broker::host_port::{is_interface_name, split_zone};
use crate::common::fault::{Exit, Fault};
use crate::common::runtime::clock::instant_now;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalBinding {
    Ipv4(Ipv4Addr),
    /// An address, and the network interface if it is link-local.
    Ipv6(Ipv6Addr, Option<String>),
    Interface(String),
}

#[derive(Debug)]
pub(super) enum BoundConnectError {
    /// Another destination does not help.
    Bind(Fault),
    Connect(io::Error),
}

impl From<io::Error> for BoundConnectError {
    fn from(error: io::Error) -> Self {
        Self::Connect(error)
    }
}

impl From<Errno> for BoundConnectError {
    fn from(errno: Errno) -> Self {
        Self::Connect(errno.into())
    }
}

impl fmt::Display for LocalBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LocalBinding::Ipv4(address) => write!(f, "{address}"),
            LocalBinding::Ipv6(address, None) => write!(f, "{address}"),
            LocalBinding::Ipv6(address, Some(zone)) => write!(f, "{address}%{zone}"),
            LocalBinding::Interface(name) => f.write_str(name),
        }
    }
}

impl LocalBinding {
    /// Parses `--bind`. Whether address and interface exist is seen when a connection is made: they may come later.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Ipv4(address));
        }
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        if let Some((address, zone)) = split_zone(bare.unwrap_or(text)) {
            let address: Ipv6Addr = address.parse().map_err(|_| "is no IPv6 address")?;
            return match zone {
                Some(zone) if !is_interface_name(zone) => {
                    Err("has no name of a network interface after %".into())
                }
                None if address.is_unicast_link_local() => Err(format!(
                    "{address} is link-local; write its network interface after %, as in {address}%eth0"
                )),
                zone => Ok(Self::Ipv6(address, zone.map(str::to_owned))),
            };
        }
        if is_interface_name(text) {
            return Ok(Self::Interface(text.to_owned()));
        }
        Err("is neither an IP address nor the name of a network interface".into())
    }

    /// Whether a connection can go from here to this address.
    pub(super) fn fits(&self, destination: IpAddr) -> bool {
        match self {
            LocalBinding::Ipv4(_) => destination.is_ipv4(),
            LocalBinding::Ipv6(..) => destination.is_ipv6(),
            LocalBinding::Interface(_) => true,
        }
    }

    pub(super) fn connect(
        &self,
        destination: SocketAddr,
        timeout: Duration,
    ) -> Result<TcpStream, BoundConnectError> {
        let until = instant_now() + timeout;
        let family = match destination {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(family, SockType::Stream, flags, None)?;
        self.bind(&socket)?;
        let begun = connect(socket.as_raw_fd(), &SockaddrStorage::from(destination));
        let stream = TcpStream::from(socket);
        match begun {
            Ok(()) => {}
            Err(Errno::EINPROGRESS | Errno::EINTR) => {
                await_writable(&stream, until)?;
                if let Some(error) = stream.take_error()? {
                    return Err(error.into());
                }
            }
            Err(errno) => return Err(errno.into()),
        }
        stream.set_nonblocking(false)?;
        Ok(stream)
    }

    fn bind(&self, socket: &OwnedFd) -> Result<(), BoundConnectError> {
        let source = match self {
            LocalBinding::Interface(name) => {
                return setsockopt(socket, BindToDevice, &OsString::from(name))
                    .map_err(|errno| BoundConnectError::Bind(self.fault(errno)));
            }
            LocalBinding::Ipv4(address) => SocketAddr::from((*address, 0)),
            LocalBinding::Ipv6(address, zone) => {
                let index = zone.as_deref().map(network_interface::index).transpose();
                let index =
                    index.map_err(|_| BoundConnectError::Bind(self.fault(Errno::ENODEV)))?;
                SocketAddrV6::new(*address, 0, 0, index.unwrap_or(0)).into()
            }
        };
        bind(socket.as_raw_fd(), &SockaddrStorage::from(source))
            .map_err(|errno| BoundConnectError::Bind(self.fault(errno)))
    }

    fn fault(&self, errno: Errno) -> Fault {
        match errno {
            Errno::EPERM | Errno::EACCES => {
                let message = format!(
                    "--bind {self}: this process may not bind to a network interface ({errno})"
                );
                Fault::permanent(Exit::Config, message).with_remedy(
                    "give it the capability CAP_NET_RAW, or give --bind the address of the interface",
                )
            }
            Errno::ENODEV => {
                let message = format!("--bind {self}: there is no such network interface now");
                Fault::passing(Exit::Unavailable, message)
                    .with_remedy("see the output of: ip address")
            }
            Errno::EADDRNOTAVAIL => {
                let message = format!("--bind {self}: this machine does not have this address now");
                Fault::passing(Exit::Unavailable, message)
                    .with_remedy("see the output of: ip address")
            }
            _ => {
                let message = format!("--bind {self}: cannot be bound to: {errno}");
                Fault::passing(Exit::Unavailable, message)
            }
        }
    }
}

fn await_writable(stream: &TcpStream, until: Instant) -> io::Result<()> {
    loop {
        let left = until.saturating_duration_since(instant_now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        let left = left + Duration::from_micros(999);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(
            &mut [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)],
            timeout,
        ) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_of_interfaces_are_distinguished() {
        for (text, expected) in [
            ("10.0.0.1", LocalBinding::Ipv4(Ipv4Addr::new(10, 0, 0, 1))),
            ("::1", LocalBinding::Ipv6(Ipv6Addr::LOCALHOST, None)),
            ("[::1]", LocalBinding::Ipv6(Ipv6Addr::LOCALHOST, None)),
            ("wwan0", LocalBinding::Interface("wwan0".into())),
            ("eth0.7", LocalBinding::Interface("eth0.7".into())),
        ] {
            assert_eq!(LocalBinding::parse(text), Ok(expected), "{text}");
        }
        let zoned = LocalBinding::parse("fe80::1%eth0").unwrap();
        assert_eq!(zoned.to_string(), "fe80::1%eth0");
        for text in [
            "",
            "a b",
            "10.0.0.1:5",
            "sixteen-letters-",
            "fe80::1",
            "fe80::1%",
            "a/b",
        ] {
            assert!(LocalBinding::parse(text).is_err(), "{text}");
        }
    }
}
