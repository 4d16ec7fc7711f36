//! The address of a broker. PURE.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use super::host_port::{HostParts, HostPort};
use super::profile::Profile;
use crate::common::fault::Fault;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host name or IP address, an IPv6 address without brackets; empty for a Unix socket.
    pub host: String,
    /// The network interface of a link-local address.
    pub zone: Option<String>,
    /// 0 for a Unix socket.
    pub port: u16,
    /// Used instead of host and port.
    pub unix_socket: Option<PathBuf>,
    pub tls: bool,
    pub websocket: Option<String>,
    pub alpn: Option<&'static str>,
    /// The port to try next, with [`ALPN_AWS`], if this one does not answer.
    pub fallback: Option<u16>,
    pub profile: Profile,
}

const MQTT_TLS_PORT: u16 = 8883;
const MQTT_PORT: u16 = 1883;
const HTTPS_PORT: u16 = 443;
const HTTP_PORT: u16 = 80;

/// The protocol name that AWS IoT Core requires on port 443 for MQTT with a client certificate (AWS
/// IoT Developer Guide, "Protocols, port mappings, and authentication").
pub const ALPN_AWS: &str = "x-amzn-mqtt-ca";

/// The usual path of MQTT over WebSocket, and the only one of AWS IoT Core.
const WEBSOCKET_PATH: &str = "/mqtt";

/// The longest path of a Unix socket in Linux (unix(7)), without the final zero byte.
const MAX_SOCKET_PATH: usize = 107;

const NOT_A_HOST: &str = "is not a host name; give the bare name or mqtts://HOST:PORT";

impl Endpoint {
    /// Parses `--endpoint`: a host name, or a URL `mqtts://HOST[:PORT]`, `mqtt://HOST[:PORT]` (no
    /// TLS), `wss://HOST[:PORT][/PATH]`, `ws://…` or `unix:///PATH`. `port` is `--port`, `None` for `auto`.
    pub fn parse(text: &str, port: Option<u16>) -> Result<Self, Fault> {
        let shown = match text.rsplit_once('@') {
            // There may be a password before the @.
            Some((_, host)) => format!("…@{host}"),
            None => text.to_owned(),
        };
        let wrong = |why: &str| Fault::usage(format!("--endpoint {shown:?}: {why}"));
        let (scheme, rest) = text.split_once("://").unwrap_or(("mqtts", text));
        let (tls, websocket) = match scheme {
            "mqtts" | "ssl" | "tls" => (true, false),
            "mqtt" | "tcp" => (false, false),
            "wss" => (true, true),
            "ws" => (false, true),
            "unix" => return Self::parse_unix_socket(rest, port).map_err(|why| wrong(&why)),
            other => {
                // The rest, which may contain a password, is not shown.
                return Err(Fault::usage(format!(
                    "--endpoint {other}://…: the scheme {other} is not supported; use mqtts:// or wss://, or \
                     without TLS mqtt://, ws:// or unix://"
                )));
            }
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let websocket = match (websocket, path) {
            (true, "" | "/") => Some(WEBSOCKET_PATH.to_owned()),
            (true, path) if path.contains(is_space_or_control) => {
                return Err(wrong("the path has white space in it"));
            }
            (true, path) => Some(path.to_owned()),
            (false, "" | "/") => None,
            (false, _) => return Err(wrong(NOT_A_HOST)),
        };
        let parts = HostParts::split(authority).map_err(|why| wrong(&why))?;
        let HostParts {
            host,
            zone,
            port: url_port,
        } = parts;
        if host.is_empty() {
            return Err(wrong("names no host"));
        }
        if host.contains(|c| is_space_or_control(c) || "@?#[]%".contains(c)) {
            return Err(wrong(NOT_A_HOST));
        }
        let port = match (url_port, port) {
            (Some(url), Some(flag)) if url != flag => {
                let why = format!("names port {url}, --port says {flag}; keep one");
                return Err(wrong(&why));
            }
            (Some(port), _) | (None, Some(port)) => port,
            (None, None) => match (tls, &websocket) {
                (true, None) => MQTT_TLS_PORT,
                (false, None) => MQTT_PORT,
                (true, Some(_)) => HTTPS_PORT,
                (false, Some(_)) => HTTP_PORT,
            },
        };
        Ok(Self {
            host: host.to_owned(),
            zone: zone.map(str::to_owned),
            port,
            unix_socket: None,
            tls,
            websocket,
            alpn: None,
            fallback: None,
            profile: Profile::Generic,
        })
    }

    fn parse_unix_socket(path: &str, port: Option<u16>) -> Result<Self, String> {
        if !path.starts_with('/') || path.ends_with('/') {
            return Err(
                "give the absolute path of the socket, as in unix:///run/mosquitto/broker.sock"
                    .into(),
            );
        }
        if path.len() > MAX_SOCKET_PATH || path.contains('\0') {
            return Err(format!(
                "the path of a Unix socket has at most {MAX_SOCKET_PATH} bytes"
            ));
        }
        if port.is_some() {
            return Err("a Unix socket has no port; leave --port out".into());
        }
        Ok(Self {
            host: String::new(),
            zone: None,
            port: 0,
            unix_socket: Some(path.into()),
            tls: false,
            websocket: None,
            alpn: None,
            fallback: None,
            profile: Profile::Generic,
        })
    }

    /// The endpoint as one of AWS IoT Core, which takes MQTT with ALPN on port 443. That port is the
    /// fallback if no port was given (`auto`), because some networks block 8883.
    pub fn into_aws(mut self, auto: bool) -> Self {
        self.profile = Profile::Aws;
        if self.tls && self.websocket.is_none() {
            if self.port == HTTPS_PORT {
                self.alpn = Some(ALPN_AWS);
            } else if auto && self.port == MQTT_TLS_PORT {
                self.fallback = Some(HTTPS_PORT);
            }
        }
        self
    }

    pub fn endpoints_to_try(&self) -> Vec<Endpoint> {
        let first = Endpoint {
            fallback: None,
            ..self.clone()
        };
        let second = self.fallback.map(|port| Endpoint {
            port,
            alpn: Some(ALPN_AWS),
            ..first.clone()
        });
        [first].into_iter().chain(second).collect()
    }

    /// None for an IP address or a Unix socket.
    pub fn host_name(&self) -> Option<&str> {
        let is_name = self.unix_socket.is_none() && self.host.parse::<IpAddr>().is_err();
        is_name.then_some(self.host.as_str())
    }

    pub fn host_port(&self) -> HostPort {
        HostPort {
            host: self.host.clone(),
            zone: self.zone.clone(),
            port: self.port,
        }
    }

    /// `HOST:PORT` without a zone, as other machines understand it.
    pub fn authority(&self) -> String {
        self.host_port().authority()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.unix_socket {
            Some(path) => write!(f, "unix://{}", path.display()),
            None => self.host_port().fmt(f),
        }
    }
}

fn is_space_or_control(c: char) -> bool {
    c.is_whitespace() || c.is_control()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str, port: Option<u16>) -> Result<String, String> {
        Endpoint::parse(text, port)
            .map(|e| {
                let path = e.websocket.as_deref().unwrap_or("");
                format!("{e}{path} {}", if e.tls { "tls" } else { "plain" })
            })
            .map_err(|fault| fault.to_string())
    }

    #[test]
    fn host_names_and_urls_determine_host_port_and_tls() {
        for (text, port, expected) in [
            ("a.example", None, "a.example:8883 tls"),
            ("a.example", Some(443), "a.example:443 tls"),
            ("a.example:8884", None, "a.example:8884 tls"),
            ("mqtt://a.example", None, "a.example:1883 plain"),
            ("mqtts://a.example:99/", None, "a.example:99 tls"),
            ("mqtts://[::1]:5", None, "[::1]:5 tls"),
            ("::1", None, "[::1]:8883 tls"),
            ("mqtt://[::1]:1884", None, "[::1]:1884 plain"),
            ("mqtt://::1", Some(5), "[::1]:5 plain"),
            ("[fe80::1%eth0]", None, "[fe80::1%eth0]:8883 tls"),
            ("fe80::1%eth0", Some(5), "[fe80::1%eth0]:5 tls"),
            ("mqtt://[fe80::1%25eth0]:5", None, "[fe80::1%eth0]:5 plain"),
            ("ws://[fe80::1%eth0]", None, "[fe80::1%eth0]:80/mqtt plain"),
            ("unix:///run/a b.sock", None, "unix:///run/a b.sock plain"),
            ("wss://a.example", None, "a.example:443/mqtt tls"),
            ("wss://a.example:9/", None, "a.example:9/mqtt tls"),
            ("ws://a.example/x/y?z=1", None, "a.example:80/x/y?z=1 plain"),
        ] {
            assert_eq!(parsed(text, port).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn an_invalid_address_is_refused_with_the_name_of_the_flag() {
        let socket = format!("unix:///{}", "x".repeat(MAX_SOCKET_PATH));
        let invalid = format!(
            "{socket}|unix://a|unix:///|10.0.0.1%eth0|a%eth0|fe80::1%|mqtt://|a b|a:0|a:70000|a:x|ftp://a|wss://|[::1|u@a|a/b|ws://a/b c|"
        );
        for text in invalid.split('|') {
            let why = parsed(text, None).unwrap_err();
            assert!(why.starts_with("--endpoint"), "{text}: {why}");
        }
        let why = parsed("mqtt://a:1", Some(2)).unwrap_err();
        assert!(why.contains("keep one"), "{why}");
        let why = parsed("unix:///a", Some(2)).unwrap_err();
        assert!(why.contains("leave --port out"), "{why}");
    }

    #[test]
    fn aws_is_reached_at_port_8883_or_at_443_with_alpn() {
        let ports = |text: &str, port: Option<u16>| -> Vec<(u16, Option<&str>)> {
            let endpoint = Endpoint::parse(text, port)
                .unwrap()
                .into_aws(port.is_none());
            let endpoints = endpoint.endpoints_to_try();
            endpoints.iter().map(|e| (e.port, e.alpn)).collect()
        };
        let alpn = Some(ALPN_AWS);
        assert_eq!(ports("a", None), [(8883, None), (443, alpn)]);
        assert_eq!(ports("a", Some(8883)), [(8883, None)]);
        assert_eq!(ports("a", Some(443)), [(443, alpn)]);
        assert_eq!(ports("a:443", None), [(443, alpn)]);
        assert_eq!(ports("wss://a", None), [(443, None)]);
        assert_eq!(ports("mqtt://a", None), [(1883, None)]);
    }
}
