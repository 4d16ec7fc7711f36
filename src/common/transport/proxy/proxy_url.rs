//! The URL of a proxy. PURE.

use std::fmt;

use percent_encoding::percent_decode_str;

use crate::common::broker::host_port::HostPort;

/// The port if a proxy's URL has none, as curl has it; and that of SOCKS (RFC 1928, section 3).
const DEFAULT_PORT: u16 = 1080;

const UNSUPPORTED_SCHEMES: [&str; 4] = ["https", "socks", "socks4", "socks4a"];

/// The longest user name and password (RFC 1929, section 2).
const MAX_SOCKS_CREDENTIAL: usize = 255;

const EXAMPLES: &str = "give http://HOST:PORT or socks5h://HOST:PORT";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProxyProtocol {
    Http,
    Socks5,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct ProxyCredentials {
    pub(super) user: Vec<u8>,
    pub(super) password: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl {
    pub(super) protocol: ProxyProtocol,
    pub(crate) address: HostPort,
    /// The flag or variable that named it.
    pub origin: &'static str,
    pub(super) credentials: Option<ProxyCredentials>,
}

impl fmt::Debug for ProxyUrl {
    /// Shows no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for ProxyUrl {
    /// Shows no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.protocol {
            ProxyProtocol::Http => "",
            ProxyProtocol::Socks5 => "socks5h://",
        };
        write!(f, "{scheme}{}", self.address)
    }
}

impl ProxyUrl {
    /// Parses `[http://][USER:PASSWORD@]HOST[:PORT]` or `socks5h://…` from `origin`; user and password may contain
    /// `%XX`. The error does not show the password.
    pub fn parse(text: &str, origin: &'static str) -> Result<Self, String> {
        let (protocol, rest) = split_scheme(text)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (credentials, address) = match rest.rsplit_once('@') {
            Some((credentials, address)) => (Some(credentials), address),
            None => (None, rest),
        };
        let address = HostPort::parse(address, DEFAULT_PORT)?;
        let is_foreign = |c: char| !c.is_alphanumeric() && !"-._:".contains(c);
        if address.host.is_empty() || address.host.contains(is_foreign) {
            return Err(format!("names no host; {EXAMPLES}"));
        }
        let credentials = credentials.map(ProxyCredentials::parse);
        if let Some(credentials) = &credentials {
            credentials.check(protocol)?;
        }
        Ok(Self {
            protocol,
            address,
            origin,
            credentials,
        })
    }
}

impl ProxyCredentials {
    fn parse(text: &str) -> Self {
        let (user, password) = text.split_once(':').unwrap_or((text, ""));
        Self {
            user: percent_decode_str(user).collect(),
            password: percent_decode_str(password).collect(),
        }
    }

    fn check(&self, protocol: ProxyProtocol) -> Result<(), String> {
        let mut both = self.user.iter().chain(&self.password);
        // RFC 7617, section 2.
        if both.any(u8::is_ascii_control) {
            return Err("has a control character in user name or password".into());
        }
        let fits = |text: &[u8]| (1..=MAX_SOCKS_CREDENTIAL).contains(&text.len());
        if protocol == ProxyProtocol::Socks5 && !(fits(&self.user) && fits(&self.password)) {
            return Err(format!(
                "needs a user name and a password of 1 to {MAX_SOCKS_CREDENTIAL} bytes each; \
                 give socks5h://USER:PASSWORD@HOST:PORT"
            ));
        }
        Ok(())
    }
}

fn split_scheme(text: &str) -> Result<(ProxyProtocol, &str), String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Ok((ProxyProtocol::Http, text));
    };
    match scheme.to_ascii_lowercase().as_str() {
        "http" => Ok((ProxyProtocol::Http, rest)),
        "socks5h" => Ok((ProxyProtocol::Socks5, rest)),
        "socks5" => Err(
            "begins with socks5://, which means that host names are resolved here, not by the proxy; \
             that is not supported: write socks5h://"
                .into(),
        ),
        known if UNSUPPORTED_SCHEMES.contains(&known) => {
            Err(format!("the scheme {scheme} is not supported; {EXAMPLES}"))
        }
        // Any other text may be a part of a password.
        _ => Err(format!("is no URL; {EXAMPLES}, with USER:PASSWORD@ before HOST if it wants them")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type UserAndPassword = (Vec<u8>, Vec<u8>);

    fn parsed(text: &str) -> Result<(String, Option<UserAndPassword>), String> {
        let both = |c: ProxyCredentials| (c.user, c.password);
        ProxyUrl::parse(text, "--proxy").map(|p| (p.to_string(), p.credentials.map(both)))
    }

    #[test]
    fn a_proxy_url_is_parsed_and_its_password_never_shown() {
        for (text, shown) in [
            ("p:3128", "p:3128"),
            ("http://p/", "p:1080"),
            ("http://[::1]:8", "[::1]:8"),
            ("http://[fe80::1%25eth0]:8", "[fe80::1%eth0]:8"),
            ("socks5h://p", "socks5h://p:1080"),
            ("SOCKS5H://[::1]:8/", "socks5h://[::1]:8"),
        ] {
            assert_eq!(parsed(text), Ok((shown.into(), None)), "{text}");
        }
        for scheme in ["HTTP", "socks5h"] {
            let (shown, credentials) = parsed(&format!("{scheme}://me:s%40f%3ae@p:8080")).unwrap();
            assert!(
                shown.ends_with("p:8080") && !shown.contains("me"),
                "{shown}"
            );
            assert_eq!(credentials, Some((b"me".to_vec(), b"s@f:e".to_vec())));
        }
        for bad in [
            "",
            "https://p:1",
            "socks5://p",
            "socks4a://me:secret@p",
            "http://me:secret@",
            "p:x",
            "a b",
            "http://me:secret",
            "secret://p",
            "http://me:secret@p:1/x",
            "http://me%3asecret%40p",
            "//me:secret@p@",
            "http://me:secret%00@p",
            "socks5h://me:secret%00@p",
            "socks5h://secret@p",
            "socks5h://:secret@p",
        ] {
            let why = parsed(bad).unwrap_err();
            assert!(!why.contains("secret"), "{why}");
        }
        let proxy = ProxyUrl::parse("http://me:secret@p", "--proxy").unwrap();
        assert!(!format!("{proxy:?}").contains("secret"));
    }

    #[test]
    fn user_name_and_password_for_socks_have_at_most_255_bytes() {
        let with = |length| parsed(&format!("socks5h://u:{}@p", "x".repeat(length)));
        assert!(with(255).is_ok());
        assert!(with(256).unwrap_err().contains("1 to 255 bytes"));
        assert!(parsed(&format!("http://u:{}@p", "x".repeat(256))).is_ok());
    }

    #[test]
    fn names_that_would_be_resolved_here_get_the_scheme_that_is_supported() {
        let why = parsed("socks5://p:1").unwrap_err();
        assert!(why.ends_with("write socks5h://"), "{why}");
    }
}
