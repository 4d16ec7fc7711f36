//! Where the broker is: host, port, and whether TLS is spoken. PURE.

use std::fmt;
use std::net::Ipv6Addr;

use super::fault::Fault;

/// A checked broker address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host name or IP address, an IPv6 address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether the connection is encrypted and the server verified.
    pub tls: bool,
}

/// The port of MQTT over TLS.
const TLS_PORT: u16 = 8883;
/// The port of MQTT without TLS.
const PLAIN_PORT: u16 = 1883;

impl Endpoint {
    /// Reads what `--endpoint` takes: a host name, or a URL `mqtts://HOST[:PORT]` or
    /// `mqtt://HOST[:PORT]` (no TLS). `port` is `--port`, `None` for `auto`.
    ///
    /// # Errors
    ///
    /// A usage fault that names the flag.
    pub fn parse(text: &str, port: Option<u16>) -> Result<Self, Fault> {
        let wrong = |why: &str| Fault::usage(format!("--endpoint {text:?}: {why}"));
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest.strip_suffix('/').unwrap_or(rest)),
            None => (None, text),
        };
        let tls = match scheme {
            None | Some("mqtts" | "ssl" | "tls") => true,
            Some("mqtt" | "tcp") => false,
            Some(other) => {
                return Err(wrong(&format!(
                    "the scheme {other} is not supported; use mqtts:// or, without TLS, mqtt://"
                )));
            }
        };
        let (host, url_port) = split_port(rest).map_err(|why| wrong(&why))?;
        if host.is_empty() {
            return Err(wrong("names no host"));
        }
        if host.contains(|c: char| c.is_whitespace() || c.is_control() || "/@?#[]".contains(c)) {
            return Err(wrong(
                "is not a host name; give the bare name or mqtts://HOST:PORT",
            ));
        }
        if tls && host.contains(':') {
            return Err(wrong(
                "the client library cannot verify a certificate for an IPv6 address; give a host \
                 name that leads to it",
            ));
        }
        let port = match (url_port, port) {
            (Some(url), Some(flag)) if url != flag => {
                return Err(wrong(&format!(
                    "names port {url}, --port says {flag}; keep one"
                )));
            }
            (Some(port), _) | (None, Some(port)) => port,
            (None, None) if tls => TLS_PORT,
            (None, None) => PLAIN_PORT,
        };
        Ok(Self {
            host: host.to_owned(),
            port,
            tls,
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Splits `HOST[:PORT]`, `[V6][:PORT]` or a bare IPv6 address.
fn split_port(text: &str) -> Result<(&str, Option<u16>), String> {
    if text.parse::<Ipv6Addr>().is_ok() {
        return Ok((text, None));
    }
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest
            .split_once(']')
            .ok_or("an opening bracket is not closed")?;
        host.parse::<Ipv6Addr>()
            .map_err(|_| "what is in brackets is not an IPv6 address")?;
        (
            host,
            after
                .strip_prefix(':')
                .or((!after.is_empty()).then_some(after)),
        )
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    match port.map(str::parse::<u16>) {
        None => Ok((host, None)),
        Some(Ok(port)) if port > 0 => Ok((host, Some(port))),
        Some(_) => Err("the port is not a number from 1 to 65535".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str, port: Option<u16>) -> Result<String, String> {
        Endpoint::parse(text, port)
            .map(|e| format!("{e} {}", if e.tls { "tls" } else { "plain" }))
            .map_err(|fault| fault.message)
    }

    #[test]
    fn host_names_and_urls_lead_to_host_port_and_tls() {
        for (text, port, expected) in [
            ("a.example", None, "a.example:8883 tls"),
            ("a.example", Some(443), "a.example:443 tls"),
            ("a.example:8884", None, "a.example:8884 tls"),
            ("mqtt://a.example", None, "a.example:1883 plain"),
            ("mqtts://a.example:99/", None, "a.example:99 tls"),
            ("mqtt://[::1]:1884", None, "[::1]:1884 plain"),
            ("mqtt://::1", Some(5), "[::1]:5 plain"),
        ] {
            assert_eq!(parsed(text, port).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_flag_named() {
        for text in [
            "",
            "mqtt://",
            "a b",
            "a:0",
            "a:70000",
            "a:x",
            "ftp://a",
            "wss://a",
            "[::1",
            "::1",
            "mqtts://[::1]:5",
            "u@a",
            "a/b",
        ] {
            let why = parsed(text, None).unwrap_err();
            assert!(why.starts_with("--endpoint"), "{text}: {why}");
        }
        assert!(
            parsed("mqtt://a:1", Some(2))
                .unwrap_err()
                .contains("keep one")
        );
    }
}
