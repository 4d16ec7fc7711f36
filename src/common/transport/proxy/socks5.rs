//! A tunnel through a SOCKS5 proxy, which also resolves the broker's host name (`socks5h`).
//!
//! Sources: RFC 1928 (SOCKS Protocol Version 5), RFC 1929 (user name and password).

use std::io::{self, ErrorKind, Read, Write};
use std::net::IpAddr;

use super::proxy_url::{ProxyCredentials, ProxyUrl};
use crate::common::broker::endpoint::Endpoint;
use crate::common::fault::{Exit, Fault};

const VERSION: u8 = 5;
const LOGIN_VERSION: u8 = 1;

const NO_AUTHENTICATION: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;
const NO_ACCEPTABLE_METHOD: u8 = 0xFF;

const CONNECT: u8 = 1;

const ADDRESS_IPV4: u8 = 1;
const ADDRESS_NAME: u8 = 3;
const ADDRESS_IPV6: u8 = 4;

enum SocksError {
    Io(io::Error),
    NotSocks,
    /// No method of authentication that it was offered.
    NoMethod,
    LoginRefused,
    /// The reply code of CONNECT.
    Refused(u8),
    NameTooLong,
}

impl From<io::Error> for SocksError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads not a byte further than the reply: what follows is the broker's.
pub(super) fn open_tunnel(
    stream: &mut (impl Read + Write),
    proxy: &ProxyUrl,
    endpoint: &Endpoint,
) -> Result<(), Fault> {
    authenticate(stream, proxy.credentials.as_ref())
        .and_then(|()| request_connection(stream, endpoint))
        .map_err(|error| error.fault(proxy, endpoint))
}

fn authenticate(
    stream: &mut (impl Read + Write),
    credentials: Option<&ProxyCredentials>,
) -> Result<(), SocksError> {
    let greeting: &[u8] = match credentials {
        Some(_) => &[VERSION, 2, NO_AUTHENTICATION, USER_AND_PASSWORD],
        None => &[VERSION, 1, NO_AUTHENTICATION],
    };
    stream.write_all(greeting)?;
    let [version] = read_bytes(stream)?;
    if version != VERSION {
        return Err(SocksError::NotSocks);
    }
    let [method] = read_bytes(stream)?;
    match (method, credentials) {
        (NO_AUTHENTICATION, _) => Ok(()),
        (USER_AND_PASSWORD, Some(credentials)) => {
            let mut login = vec![LOGIN_VERSION];
            for text in [&credentials.user, &credentials.password] {
                // The lengths are checked where the URL is parsed.
                login.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
                login.extend_from_slice(text);
            }
            stream.write_all(&login)?;
            match read_bytes(stream)? {
                [_, 0] => Ok(()),
                _ => Err(SocksError::LoginRefused),
            }
        }
        (NO_ACCEPTABLE_METHOD, _) => Err(SocksError::NoMethod),
        _ => Err(SocksError::NotSocks),
    }
}

fn request_connection(
    stream: &mut (impl Read + Write),
    endpoint: &Endpoint,
) -> Result<(), SocksError> {
    let mut request = vec![VERSION, CONNECT, 0];
    match endpoint.host.parse() {
        Ok(IpAddr::V4(address)) => {
            request.push(ADDRESS_IPV4);
            request.extend(address.octets());
        }
        Ok(IpAddr::V6(address)) => {
            request.push(ADDRESS_IPV6);
            request.extend(address.octets());
        }
        Err(_) => {
            let length = u8::try_from(endpoint.host.len()).map_err(|_| SocksError::NameTooLong)?;
            request.extend([ADDRESS_NAME, length]);
            request.extend(endpoint.host.as_bytes());
        }
    }
    request.extend(endpoint.port.to_be_bytes());
    stream.write_all(&request)?;
    let [version, reply] = read_bytes(stream)?;
    if version != VERSION {
        return Err(SocksError::NotSocks);
    }
    // After a refusal the proxy closes the connection, and need not send the rest.
    if reply != 0 {
        return Err(SocksError::Refused(reply));
    }
    let [_, kind] = read_bytes(stream)?;
    let length = match kind {
        ADDRESS_IPV4 => 4,
        ADDRESS_IPV6 => 16,
        ADDRESS_NAME => {
            let [length] = read_bytes(stream)?;
            usize::from(length)
        }
        _ => return Err(SocksError::NotSocks),
    };
    // The address and the port from which the proxy has connected.
    let mut bound = vec![0; length + 2];
    stream.read_exact(&mut bound)?;
    Ok(())
}

fn read_bytes<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

impl SocksError {
    fn fault(self, proxy: &ProxyUrl, endpoint: &Endpoint) -> Fault {
        let origin = proxy.origin;
        let passing =
            |exit, cause: String| Fault::passing(exit, format!("{proxy}: the proxy {cause}"));
        let permanent =
            |exit, cause: String| Fault::permanent(exit, format!("{proxy}: the proxy {cause}"));
        match self {
            Self::Io(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                let cause = "has not answered the SOCKS5 request in time".into();
                passing(Exit::Unavailable, cause)
                    .with_remedy(format!("is {origin} a SOCKS5 proxy, and is it overloaded?"))
            }
            Self::Io(e) => passing(Exit::Unavailable, format!("closed the connection ({e})"))
                .with_remedy(format!("is {origin} a SOCKS5 proxy? see its log")),
            Self::NotSocks => permanent(Exit::Protocol, "does not speak SOCKS5".into())
                .with_remedy(format!(
                    "is {origin} a SOCKS5 proxy? an HTTP proxy is http://HOST:PORT"
                )),
            Self::NoMethod if proxy.credentials.is_some() => permanent(
                Exit::Refused,
                "accepts no user name and password, nor a connection without".into(),
            )
            .with_remedy("ask its operator how to authenticate; GSSAPI is not supported"),
            Self::NoMethod => permanent(Exit::Refused, "wants a user name and a password".into())
                .with_remedy(format!(
                    "write socks5h://USER:PASSWORD@{} in {origin}",
                    proxy.address
                )),
            Self::LoginRefused => permanent(
                Exit::Refused,
                format!("refuses user name and password of {origin}"),
            )
            .with_remedy("check them"),
            Self::NameTooLong => permanent(
                Exit::Usage,
                format!("cannot be asked for {endpoint}: a host name has at most 255 bytes"),
            )
            .with_remedy("check --endpoint"),
            Self::Refused(reply) => refusal_fault(reply, proxy, endpoint),
        }
    }
}

/// The reply codes of RFC 1928, section 6.
fn refusal_fault(reply: u8, proxy: &ProxyUrl, endpoint: &Endpoint) -> Fault {
    let target = endpoint.authority();
    let (exit, is_permanent, cause, remedy) = match reply {
        // It may allow another port.
        2 => (
            Exit::Refused,
            false,
            format!("does not allow connections to {target}"),
            "ask its operator to allow this host and port",
        ),
        3 => (
            Exit::Unavailable,
            false,
            format!("cannot reach {target}: network unreachable"),
            "is the proxy connected to the broker's network?",
        ),
        4 => (
            Exit::Unavailable,
            false,
            format!("cannot reach {target}: host unreachable"),
            "is --endpoint right, and can the proxy resolve this name?",
        ),
        5 => (
            Exit::Unavailable,
            false,
            format!("cannot reach {target}: connection refused"),
            "is the broker running, and --port right?",
        ),
        6 => (
            Exit::Unavailable,
            false,
            format!("cannot reach {target}: no answer (TTL expired)"),
            "is the broker running, and does a firewall block the port?",
        ),
        7 => (
            Exit::Protocol,
            true,
            "does not support CONNECT".into(),
            "use a SOCKS5 proxy that does",
        ),
        8 => (
            Exit::Protocol,
            true,
            format!("does not support this kind of address: {target}"),
            "give another --endpoint: a host name, an IPv4 or an IPv6 address",
        ),
        1 => (
            Exit::Unavailable,
            false,
            format!("cannot reach {target}: general failure"),
            "see the log of the proxy",
        ),
        _ => (
            Exit::Unavailable,
            false,
            format!("cannot reach {target}: unknown reason"),
            "see the log of the proxy",
        ),
    };
    let message = format!("{proxy}: the proxy {cause} (SOCKS5 reply {reply})");
    Fault {
        permanent: is_permanent,
        ..Fault::passing(exit, message)
    }
    .with_remedy(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    /// What came of it, what was left unread, and what the proxy was sent.
    fn ask(url: &str, host: &str, answer: &[u8]) -> (Result<(), Fault>, Vec<u8>, Vec<u8>) {
        let endpoint = Endpoint::parse(host, Some(8883)).unwrap();
        let proxy = ProxyUrl::parse(url, "--proxy").unwrap();
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(answer).unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        let result = open_tunnel(&mut ours, &proxy, &endpoint);
        let (mut rest, mut asked) = (Vec::new(), Vec::new());
        ours.read_to_end(&mut rest).unwrap();
        drop(ours);
        theirs.read_to_end(&mut asked).unwrap();
        (result, rest, asked)
    }

    #[test]
    fn names_and_addresses_are_asked_for_and_no_byte_after_the_reply_is_read() {
        let with_v4 = b"\x05\x00\x05\x00\x00\x01\x01\x02\x03\x04\x00\x05rest";
        let with_v6 = b"\x05\x00\x05\x00\x00\x04................\x00\x05rest";
        let with_name = b"\x05\x00\x05\x00\x00\x03\x02ab\x00\x05rest";
        for (host, answer, request) in [
            ("a.b", &with_v4[..], &b"\x03\x03a.b"[..]),
            ("10.1.2.3", with_v6, b"\x01\x0a\x01\x02\x03"),
            ("::1", with_name, b"\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01"),
        ] {
            let (result, rest, asked) = ask("socks5h://p", host, answer);
            assert_eq!((result, &*rest), (Ok(()), &b"rest"[..]), "{host}");
            let expected = [b"\x05\x01\x00\x05\x01\x00", request, b"\x22\xb3"].concat();
            assert_eq!(asked, expected, "{host}");
        }
    }

    #[test]
    fn a_password_is_sent_only_if_the_proxy_wants_it() {
        let url = "socks5h://me:pw@p";
        let reply = b"\x05\x00\x00\x01....\x00\x05";
        let (result, _, asked) = ask(url, "a", &[b"\x05\x02\x01\x00", &reply[..]].concat());
        assert_eq!(result, Ok(()));
        assert_eq!(
            asked,
            b"\x05\x02\x00\x02\x01\x02me\x02pw\x05\x01\x00\x03\x01a\x22\xb3"
        );
        let (result, _, asked) = ask(url, "a", &[b"\x05\x00", &reply[..]].concat());
        assert_eq!(result, Ok(()));
        assert!(!asked.windows(2).any(|bytes| bytes == b"pw"));
    }

    #[test]
    fn every_reply_code_has_its_own_text() {
        let mut seen = std::collections::HashSet::new();
        for code in 1..=9_u8 {
            let (result, ..) = ask("socks5h://p", "a", &[5, 0, 5, code, 0, 1]);
            let fault = result.unwrap_err();
            assert!(
                fault.message.contains(&format!("SOCKS5 reply {code}")),
                "{fault}"
            );
            assert_eq!(fault.permanent, matches!(code, 7 | 8), "{fault}");
            assert!(fault.remedy.is_some(), "{fault}");
            seen.insert(fault.message.replace(char::is_numeric, ""));
        }
        assert_eq!(seen.len(), 9);
    }

    #[test]
    fn a_proxy_that_breaks_off_or_speaks_otherwise_is_named() {
        let fault = |url, answer| ask(url, "a", answer).0.unwrap_err();
        for (answer, exit) in [
            (&b"HTTP/1.1 400 Bad Request"[..], Exit::Protocol),
            (b"\x04\x5a", Exit::Protocol),
            (b"\x05\x01", Exit::Protocol),
            (b"\x05\x02", Exit::Protocol),
            (b"\x05\x00\x04", Exit::Unavailable),
            (b"\x05\x00\x04\x00", Exit::Protocol),
            (b"\x05\x00\x05\x00\x00\x02", Exit::Protocol),
            (b"", Exit::Unavailable),
            (b"\x05", Exit::Unavailable),
            (b"\x05\x00\x05", Exit::Unavailable),
            (b"\x05\x00\x05\x00\x00\x03\xff", Exit::Unavailable),
            (b"\x05\xff", Exit::Refused),
        ] {
            let fault = fault("socks5h://p", answer);
            assert_eq!(fault.exit, exit, "{answer:?}: {fault}");
        }
        let fault = fault("socks5h://me:secret@p", b"\x05\x02\x01\x01");
        assert_eq!((fault.exit, fault.permanent), (Exit::Refused, true));
        assert!(!fault.to_string().contains("secret"));
        let long = "x".repeat(256);
        assert_eq!(
            ask("socks5h://p", &long, b"\x05\x00").0.unwrap_err().exit,
            Exit::Usage
        );
    }
}
