//! A tunnel through an HTTP proxy: CONNECT.
//!
//! Sources: RFC 9110 section 9.3.6 (CONNECT), RFC 7617 (Basic authentication).

use std::io::{self, ErrorKind, Read, Write};

use data_encoding::BASE64;

use super::proxy_url::ProxyUrl;
use crate::common::broker::endpoint::Endpoint;
use crate::common::fault::{Exit, Fault};

/// The largest header of an answer, in bytes.
const MAX_ANSWER: usize = 16 << 10;

/// Asks the proxy for a tunnel to the broker, and reads its answer.
pub(super) fn open_tunnel(
    stream: &mut (impl Read + Write),
    proxy: &ProxyUrl,
    endpoint: &Endpoint,
) -> Result<(), Fault> {
    let target = endpoint.authority();
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(credentials) = &proxy.credentials {
        let both = [&*credentials.user, b":", &*credentials.password].concat();
        let both = BASE64.encode(&both);
        request = format!("{request}Proxy-Authorization: Basic {both}\r\n");
    }
    request.push_str("\r\n");
    let answer = stream
        .write_all(request.as_bytes())
        .and_then(|()| read_answer(stream));
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
fn read_answer(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") && answer.len() < MAX_ANSWER {
        stream.read_exact(&mut byte)?;
        answer.push(byte[0]);
        if answer.len() == 5 && answer != b"HTTP/" {
            break;
        }
    }
    Ok(answer)
}

fn check_answer(answer: &[u8], proxy: &ProxyUrl, target: &str) -> Result<(), Fault> {
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
    fn open_tunnel_reads_no_byte_after_the_header() {
        let endpoint = Endpoint::parse("[2001:db8::1]:8883", None).unwrap();
        let proxy = ProxyUrl::parse("u:p@proxy", "--proxy").unwrap();
        let ask = |answer: &str| {
            let (mut ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(answer.as_bytes()).unwrap();
            theirs.shutdown(Shutdown::Write).unwrap();
            let result = open_tunnel(&mut ours, &proxy, &endpoint);
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
