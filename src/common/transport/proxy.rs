//! An HTTP proxy: how it is written, for which hosts it is used, and CONNECT.
//!
//! Sources: RFC 9110 section 9.3.6 (CONNECT), RFC 7617 (Basic authentication). `NO_PROXY` has no
//! standard; it is read as curl does.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::IpAddr;

use data_encoding::BASE64;
use percent_encoding::percent_decode_str;

use crate::common::broker::endpoint::{Endpoint, authority, split_port};
use crate::common::fault::{Exit, Fault};

/// The port if a proxy's URL has none, as curl has it.
const DEFAULT_PORT: u16 = 1080;

const UNSUPPORTED_SCHEMES: [&str; 6] = ["https", "socks", "socks4", "socks4a", "socks5", "socks5h"];

/// The largest header of an answer, in bytes.
const MAX_ANSWER: usize = 16 << 10;

#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    pub host: String,
    pub port: u16,
    /// The flag or variable that named it.
    pub origin: &'static str,
    /// `USER:PASSWORD` in Base64.
    credentials: Option<String>,
}

impl fmt::Debug for Proxy {
    /// Shows no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&authority(&self.host, self.port))
    }
}

impl Proxy {
    /// Parses `[http://][USER:PASSWORD@]HOST[:PORT]` from `origin`; user and password may contain
    /// `%XX`. The error does not show the password.
    pub fn parse(text: &str, origin: &'static str) -> Result<Self, String> {
        let rest = match text.split_once("://") {
            None => text,
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) if UNSUPPORTED_SCHEMES.contains(&&*scheme.to_ascii_lowercase()) => {
                return Err(format!(
                    "the scheme {scheme} is not supported; give http://HOST:PORT"
                ));
            }
            // Any other text may be a part of a password.
            Some(_) => return Err("is no URL; give http://USER:PASSWORD@HOST:PORT".into()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (credentials, address) = match rest.rsplit_once('@') {
            Some((credentials, address)) => (Some(credentials), address),
            None => (None, rest),
        };
        let (host, port) = split_port(address)?;
        if host.is_empty() || host.contains(|c: char| !c.is_alphanumeric() && !"-._:".contains(c)) {
            return Err("names no host; give http://HOST:PORT".into());
        }
        let credentials = credentials.map(|credentials| {
            let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
            let mut plain: Vec<u8> = percent_decode_str(user).collect();
            plain.push(b':');
            plain.extend(percent_decode_str(password));
            plain
        });
        // RFC 7617, section 2.
        if credentials.iter().flatten().any(u8::is_ascii_control) {
            return Err("has a control character in user name or password".into());
        }
        Ok(Self {
            host: host.to_owned(),
            port: port.unwrap_or(DEFAULT_PORT),
            origin,
            credentials: credentials.map(|plain| BASE64.encode(&plain)),
        })
    }
}

/// Whether `NO_PROXY` names this host, a domain above it, or `*`. The error is an entry that begins
/// like a network and is none.
pub fn is_exempt(no_proxy: &str, host: &str) -> Result<bool, String> {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    let entries = no_proxy
        .split([',', ' '])
        .map(|entry| entry.trim().trim_end_matches('.').to_ascii_lowercase())
        .filter(|entry| !entry.is_empty());
    let mut exempt = false;
    for entry in entries {
        let network = IpNetwork::parse(&entry)?;
        exempt |= match (entry.as_str(), address) {
            ("*", _) => true,
            (_, Some(address)) => network.is_some_and(|network| network.contains(address)),
            (entry, None) => {
                let domain = entry.trim_start_matches("*.").trim_start_matches('.');
                let above = host.strip_suffix(domain);
                above.is_some_and(|below| below.is_empty() || below.ends_with('.'))
            }
        };
    }
    Ok(exempt)
}

/// Addresses with the same prefix: `10.0.0.0/8`, or a single one.
struct IpNetwork {
    address: IpAddr,
    /// Of the prefix, in bits.
    length: u32,
}

impl IpNetwork {
    fn parse(entry: &str) -> Result<Option<Self>, String> {
        let (address, length) = entry.split_once('/').unwrap_or((entry, ""));
        let Ok(address) = address.trim_matches(['[', ']']).parse::<IpAddr>() else {
            return Ok(None);
        };
        let width = if address.is_ipv4() { 32 } else { 128 };
        let length = match (entry.contains('/'), length.parse()) {
            (false, _) => width,
            (true, Ok(length)) if length <= width => length,
            (true, _) => return Err(entry.to_owned()),
        };
        Ok(Some(Self { address, length }))
    }

    fn contains(&self, address: IpAddr) -> bool {
        // Aligned at the most significant bit.
        let bits = |address: IpAddr| match address {
            IpAddr::V4(ip) => u128::from(ip.to_bits()) << 96,
            IpAddr::V6(ip) => ip.to_bits(),
        };
        let differ = bits(self.address) ^ bits(address);
        let differ = differ.checked_shr(128 - self.length).unwrap_or(0);
        self.address.is_ipv4() == address.is_ipv4() && differ == 0
    }
}

/// Asks the proxy for a tunnel to the broker, and reads its answer. `is_late` after the deadline.
pub(super) fn open_tunnel(
    stream: &mut (impl Read + Write),
    proxy: &Proxy,
    endpoint: &Endpoint,
    is_late: impl Fn() -> bool,
) -> Result<(), Fault> {
    let target = endpoint.authority();
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(credentials) = &proxy.credentials {
        request = format!("{request}Proxy-Authorization: Basic {credentials}\r\n");
    }
    request.push_str("\r\n");
    let answer = stream
        .write_all(request.as_bytes())
        .and_then(|()| read_answer(stream, is_late));
    let unavailable =
        |cause: String| Fault::passing(Exit::Unavailable, format!("{proxy}: the proxy {cause}"));
    match answer {
        Ok(answer) => check_answer(&answer, proxy, &target),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Err(
            unavailable(format!("has not answered CONNECT {target} in time")),
        ),
        Err(e) => Err(unavailable(format!("closed the connection ({e})"))
            .with_remedy(format!("is {} an HTTP proxy?", proxy.origin))),
    }
}

/// Reads the header, up to the empty line after it and not a byte further: what follows is the broker's.
fn read_answer(stream: &mut impl Read, is_late: impl Fn() -> bool) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") && answer.len() < MAX_ANSWER {
        stream.read_exact(&mut byte)?;
        if is_late() {
            return Err(ErrorKind::TimedOut.into());
        }
        answer.push(byte[0]);
        if answer.len() == 5 && answer != b"HTTP/" {
            break;
        }
    }
    Ok(answer)
}

fn check_answer(answer: &[u8], proxy: &Proxy, target: &str) -> Result<(), Fault> {
    let origin = proxy.origin;
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let is_http = response.parse(answer).is_ok();
    let Some(code) = response.code.filter(|_| is_http) else {
        let message = format!("{proxy}: the proxy does not speak HTTP");
        return Err(Fault::permanent(Exit::Protocol, message)
            .with_remedy(format!("is {origin} an HTTP proxy?")));
    };
    let status = format!("{code} {}", response.reason.unwrap_or_default());
    let status = status.trim_end();
    // tinyproxy answers 401 for 407.
    let wants_credentials = matches!(code, 401 | 407);
    let remedy_for_none =
        format!("give --proxy http://USER:PASSWORD@{proxy}, or set it in HTTPS_PROXY");
    let (cause, remedy) = match code {
        200..=299 => return Ok(()),
        _ if wants_credentials && proxy.credentials.is_some() => {
            let cause = format!("refuses user name and password of {origin}");
            (cause, "check them")
        }
        _ if wants_credentials => {
            let cause = "wants a user name and a password".into();
            (cause, &*remedy_for_none)
        }
        400..=499 => {
            let cause = format!("refuses a tunnel to {target}");
            (cause, "ask its operator to allow this host and port")
        }
        _ => (format!("does not reach {target}"), "is the broker running?"),
    };
    let message = format!("{proxy}: the proxy {cause} ({status})");
    let fault = match code {
        _ if wants_credentials => Fault::permanent(Exit::Refused, message),
        // It may allow another port.
        400..=499 => Fault::passing(Exit::Refused, message),
        _ => Fault::passing(Exit::Unavailable, message),
    };
    Err(fault.with_remedy(remedy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_proxy_url_is_parsed_and_its_password_never_shown() {
        let parse =
            |text: &str| Proxy::parse(text, "--proxy").map(|p| (p.to_string(), p.credentials));
        assert_eq!(parse("p:3128").unwrap(), ("p:3128".into(), None));
        assert_eq!(parse("http://p/").unwrap(), ("p:1080".into(), None));
        assert_eq!(parse("http://[::1]:8").unwrap().0, "[::1]:8");
        let (shown, credentials) = parse("HTTP://me:s%40f%3ae@p:8080").unwrap();
        assert_eq!(shown, "p:8080");
        let plain = BASE64.decode(credentials.unwrap().as_bytes()).unwrap();
        assert_eq!(plain, b"me:s@f:e");
        for bad in [
            "",
            "https://p:1",
            "socks5://p",
            "http://me:secret@",
            "p:x",
            "a b",
            "http://me:secret",
            "secret://p",
            "http://me:secret@p:1/x",
            "http://me%3asecret%40p",
            "//me:secret@p@",
            "http://me:secret%00@p",
        ] {
            let why = parse(bad).unwrap_err();
            assert!(!why.contains("secret"), "{why}");
        }
        let proxy = Proxy::parse("http://me:secret@p", "--proxy").unwrap();
        assert!(!format!("{proxy:?}").contains("secret"));
    }

    #[test]
    fn no_proxy_names_hosts_domains_and_networks() {
        for (list, host, expected) in [
            ("*", "a.example", true),
            ("b,a.example", "A.example.", true),
            ("example", "a.example", true),
            (".example", "a.example", true),
            ("*.example", "a.example", true),
            ("10.0.0.0/8, ::1", "10.9.8.7", true),
            ("::1", "::1", true),
            ("192.0.2.1", "192.0.2.1", true),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("", "a.example", false),
            ("ample", "a.example", false),
            ("b.a.example", "a.example", false),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("::/0", "11.0.0.1", false),
            ("10.0.0.1", "10.0.0.10", false),
        ] {
            assert_eq!(is_exempt(list, host), Ok(expected), "{list} {host}");
        }
    }

    #[test]
    fn an_entry_that_is_nearly_a_network_is_an_error() {
        for list in ["a,10.0.0.0/33", "::/129", "10.0.0.0/x", "10.0.0.0/"] {
            assert!(is_exempt(list, "a").is_err(), "{list}");
        }
        assert_eq!(is_exempt("10.*,a/b,http://c/", "a"), Ok(false));
    }

    #[test]
    fn open_tunnel_reads_no_byte_after_the_header() {
        let endpoint = Endpoint::parse("[2001:db8::1]:8883", None).unwrap();
        let proxy = Proxy::parse("u:p@proxy", "--proxy").unwrap();
        let ask = |answer: &str| {
            let (mut ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(answer.as_bytes()).unwrap();
            theirs.shutdown(Shutdown::Write).unwrap();
            let result = open_tunnel(&mut ours, &proxy, &endpoint, || false);
            let (mut rest, mut asked) = (String::new(), String::new());
            ours.read_to_string(&mut rest).unwrap();
            drop(ours);
            theirs.read_to_string(&mut asked).unwrap();
            (result, rest, asked)
        };
        let (result, rest, asked) = ask("HTTP/1.0 200 OK\r\nVia: x\r\n\r\nrest");
        assert_eq!((result, rest.as_str()), (Ok(()), "rest"));
        assert_eq!(
            asked,
            "CONNECT [2001:db8::1]:8883 HTTP/1.1\r\nHost: [2001:db8::1]:8883\r\n\
             Proxy-Authorization: Basic dTpw\r\n\r\n"
        );
        let fault = |answer| ask(answer).0.unwrap_err();
        let refused = fault("HTTP/1.1 407 Proxy Auth\r\n\r\n").message;
        assert!(refused.contains("refuses user name"));
        assert!(!fault("HTTP/1.1 403 Filtered\r\n\r\n").permanent);
        assert_eq!(fault("SSH-2.0-x\r\n").exit, Exit::Protocol);
        assert_eq!(fault("HTTP/1.1 2").exit, Exit::Unavailable);
    }
}
