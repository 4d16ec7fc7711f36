//! A host and a port, as `HOST:PORT`, `[IPV6]:PORT`, or with the zone of a link-local address `[fe80::1%eth0]:PORT`.
//! PURE.
//!
//! Sources: RFC 4007 section 11 (zones), RFC 6874 (`%25` before a zone in a URL).

use std::fmt;
use std::net::Ipv6Addr;

/// The longest name of a network interface in Linux.
pub const MAX_INTERFACE_NAME: usize = 15;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Host name or IP address, an IPv6 address without brackets.
    pub host: String,
    /// The network interface of a link-local address. Only this machine knows it: it is in no host name of TLS or HTTP.
    pub zone: Option<String>,
    pub port: u16,
}

impl HostPort {
    pub fn parse(text: &str, default_port: u16) -> Result<Self, String> {
        let HostParts { host, zone, port } = HostParts::split(text)?;
        Ok(Self {
            host: host.to_owned(),
            zone: zone.map(str::to_owned),
            port: port.unwrap_or(default_port),
        })
    }

    /// `HOST:PORT` without a zone, as other machines understand it.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.zone {
            Some(zone) => write!(f, "[{}%{zone}]:{}", self.host, self.port),
            None => f.write_str(&self.authority()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HostParts<'a> {
    pub(super) host: &'a str,
    pub(super) zone: Option<&'a str>,
    pub(super) port: Option<u16>,
}

impl<'a> HostParts<'a> {
    /// Splits `HOST[:PORT]`, `[V6][:PORT]` or a bare IPv6 address.
    pub(super) fn split(text: &'a str) -> Result<Self, String> {
        if let Some((host, zone)) = split_zone(text) {
            let zone = zone.map(check_zone).transpose()?;
            return Ok(Self {
                host,
                zone,
                port: None,
            });
        }
        let (host, zone, port) = if let Some(rest) = text.strip_prefix('[') {
            let (inside, after) = rest
                .split_once(']')
                .ok_or("an opening bracket is not closed")?;
            let (host, zone) =
                split_zone(inside).ok_or("what is in brackets is not an IPv6 address")?;
            let after = (!after.is_empty()).then_some(after);
            let zone = zone.map(check_zone).transpose()?;
            (host, zone, after.map(|a| a.strip_prefix(':').unwrap_or(a)))
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, None, Some(port)),
                None => (text, None, None),
            }
        };
        let port = match port.map(str::parse::<u16>) {
            None => None,
            Some(Ok(port)) if port > 0 => Some(port),
            Some(_) => return Err("the port is not a number from 1 to 65535".into()),
        };
        Ok(Self { host, zone, port })
    }
}

/// Splits an IPv6 address from its zone; none if it is no IPv6 address.
pub fn split_zone(text: &str) -> Option<(&str, Option<&str>)> {
    let (address, zone) = match text.split_once('%') {
        Some((address, zone)) => {
            let decoded = zone.strip_prefix("25").filter(|rest| !rest.is_empty());
            (address, Some(decoded.unwrap_or(zone)))
        }
        None => (text, None),
    };
    address.parse::<Ipv6Addr>().ok().map(|_| (address, zone))
}

/// Whether Linux could have a network interface of this name.
pub fn is_interface_name(name: &str) -> bool {
    let is_foreign = |c: char| c.is_whitespace() || c.is_control() || "/:%[]".contains(c);
    (1..=MAX_INTERFACE_NAME).contains(&name.len())
        && !name.contains(is_foreign)
        && ![".", ".."].contains(&name)
}

fn check_zone(zone: &str) -> Result<&str, String> {
    if is_interface_name(zone) {
        return Ok(zone);
    }
    let cause = "the zone after % is not the name of a network interface";
    Err(match zone.split_once(':') {
        Some((name, port)) => format!("{cause}; with a port write […%{name}]:{port}"),
        None => cause.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_split_from_an_ipv6_address_and_from_nothing_else() {
        for (text, shown, authority) in [
            ("[fe80::1%eth0]:5", "[fe80::1%eth0]:5", "[fe80::1]:5"),
            ("[fe80::1%25eth0]:5", "[fe80::1%eth0]:5", "[fe80::1]:5"),
            ("fe80::1%eth0.7", "[fe80::1%eth0.7]:9", "[fe80::1]:9"),
            ("fe80::1%25eth0", "[fe80::1%eth0]:9", "[fe80::1]:9"),
            ("fe80::1%25", "[fe80::1%25]:9", "[fe80::1]:9"),
            ("[fe80::1%2]", "[fe80::1%2]:9", "[fe80::1]:9"),
            ("::1", "[::1]:9", "[::1]:9"),
            ("a.example:7", "a.example:7", "a.example:7"),
        ] {
            let parsed = HostPort::parse(text, 9).unwrap();
            assert_eq!(parsed.to_string(), shown, "{text}");
            assert_eq!(parsed.authority(), authority, "{text}");
        }
        for text in [
            "fe80::1%",
            "[fe80::1%]:5",
            "fe80::1%a b",
            "fe80::1%sixteen-letters-",
            "[10.0.0.1%eth0]",
            "[a%eth0]",
        ] {
            assert!(HostPort::parse(text, 9).is_err(), "{text}");
        }
        let why = HostPort::parse("fe80::1%eth0:5", 9).unwrap_err();
        assert!(why.ends_with("write […%eth0]:5"), "{why}");
    }
}
