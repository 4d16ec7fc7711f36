//! The address of a broker. PURE.

use std::fmt;
use std::net::Ipv6Addr;

use super::profile::Profile;
use crate::common::fault::Fault;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host name or IP address, an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
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

const NOT_A_HOST: &str = "is not a host name; give the bare name or mqtts://HOST:PORT";

impl Endpoint {
    /// Parses `--endpoint`: a host name, or a URL `mqtts://HOST[:PORT]`, `mqtt://HOST[:PORT]` (no
    /// TLS), `wss://HOST[:PORT][/PATH]` or `ws://…`. `port` is `--port`, `None` for `auto`.
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
            other => {
                // The rest, which may contain a password, is not shown.
                return Err(Fault::usage(format!(
                    "--endpoint {other}://…: the scheme {other} is not supported; use mqtts:// or wss://, or \
                     without TLS mqtt:// or ws://"
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
        let (host, url_port) = split_port(authority).map_err(|why| wrong(&why))?;
        if host.is_empty() {
            return Err(wrong("names no host"));
        }
        if host.contains(|c| is_space_or_control(c) || "@?#[]".contains(c)) {
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
            port,
            tls,
            websocket,
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

    pub fn authority(&self) -> String {
        authority(&self.host, self.port)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority())
    }
}

fn is_space_or_control(c: char) -> bool {
    c.is_whitespace() || c.is_control()
}

/// `HOST:PORT`, with an IPv6 address in brackets.
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Splits `HOST[:PORT]`, `[V6][:PORT]` or a bare IPv6 address.
pub fn split_port(text: &str) -> Result<(&str, Option<u16>), String> {
    if text.parse::<Ipv6Addr>().is_ok() {
        return Ok((text, None));
    }
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest
            .split_once(']')
            .ok_or("an opening bracket is not closed")?;
        host.parse::<Ipv6Addr>()
            .map_err(|_| "what is in brackets is not an IPv6 address")?;
        let after = (!after.is_empty()).then_some(after);
        (host, after.map(|a| a.strip_prefix(':').unwrap_or(a)))
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
            ("wss://a.example", None, "a.example:443/mqtt tls"),
            ("wss://a.example:9/", None, "a.example:9/mqtt tls"),
            ("ws://a.example/x/y?z=1", None, "a.example:80/x/y?z=1 plain"),
        ] {
            assert_eq!(parsed(text, port).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn an_invalid_address_is_refused_with_the_name_of_the_flag() {
        let invalid = "|mqtt://|a b|a:0|a:70000|a:x|ftp://a|wss://|[::1|u@a|a/b|ws://a/b c";
        for text in invalid.split('|') {
            let why = parsed(text, None).unwrap_err();
            assert!(why.starts_with("--endpoint"), "{text}: {why}");
        }
        let why = parsed("mqtt://a:1", Some(2)).unwrap_err();
        assert!(why.contains("keep one"), "{why}");
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
