//! What a failure of TLS means, by the numbers of OpenSSL's error queue.
//!
//! Sources: `openssl/err.h` (libraries), `openssl/sslerr.h` (reasons), RFC 8446 section 6 (alerts).

use std::io;

use openssl::error::ErrorStack;

use super::credentials::presented::Presented;
use crate::common::broker::endpoint::Endpoint;
use crate::common::broker::profile::Profile;
use crate::common::fault::{Exit, Fault};

/// The operating system's errors (`ERR_LIB_SYS`).
const LIBRARY_SYSTEM: i32 = 2;
/// The library of TLS (`ERR_LIB_SSL`).
const LIBRARY_TLS: i32 = 20;

/// An alert that was received is a reason with this number added (`SSL_AD_REASON_OFFSET`).
const ALERTS: i32 = 1_000;

/// The connection ended without the alert `close_notify` (`SSL_R_UNEXPECTED_EOF_WHILE_READING`).
const UNEXPECTED_EOF: i32 = 294;
/// What came is no TLS: an HTTP request, a record that is too long, another version number.
const NO_TLS: [i32; 4] = [155, 156, 198, 267];
/// The server has chosen a version of TLS that we do not take.
const OLD_VERSION: [i32; 3] = [116, 258, 259];
/// The server has chosen no application protocol (`SSL_R_NO_APPLICATION_PROTOCOL`).
const NO_PROTOCOL: i32 = 235;

/// What an error of OpenSSL is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The peer closed the connection without `close_notify`.
    Eof,
    /// What the peer sent is no TLS.
    NoTls,
    /// The peer offers no version that we take.
    OldVersion,
    /// The peer does not know the application protocol.
    NoProtocol,
    /// The peer sent this alert.
    Alert(u8),
    /// The operating system refused something.
    System,
    /// Anything else.
    Other,
}

impl Cause {
    /// The first cause in the queue that has a name.
    pub(super) fn of(stack: &ErrorStack) -> Self {
        let errors = stack.errors().iter();
        let mut causes = errors.map(|e| Self::of_codes(e.library_code(), e.reason_code()));
        causes
            .find(|cause| *cause != Self::Other)
            .unwrap_or(Self::Other)
    }

    fn of_codes(library: i32, reason: i32) -> Self {
        let alert = || u8::try_from(reason - ALERTS).ok();
        match (library, reason) {
            (LIBRARY_SYSTEM, _) => Self::System,
            (LIBRARY_TLS, UNEXPECTED_EOF) => Self::Eof,
            (LIBRARY_TLS, NO_PROTOCOL) => Self::NoProtocol,
            (LIBRARY_TLS, reason) if NO_TLS.contains(&reason) => Self::NoTls,
            (LIBRARY_TLS, reason) if OLD_VERSION.contains(&reason) => Self::OldVersion,
            (LIBRARY_TLS, ALERTS..) => alert().map_or(Self::Other, Self::Alert),
            _ => Self::Other,
        }
    }
}

/// The texts of an error queue, for the person who reads the fault.
pub(super) fn reasons(stack: &ErrorStack) -> String {
    let reasons: Vec<_> = stack
        .errors()
        .iter()
        .filter_map(openssl::error::Error::reason)
        .collect();
    if reasons.is_empty() {
        "no reason given".into()
    } else {
        reasons.join(", ")
    }
}

/// TLS could not even begin. What the system refused (no more descriptors) may pass.
pub(super) fn setup_fault(way: &Endpoint, stack: &ErrorStack) -> Fault {
    let message = format!("{way}: TLS cannot be set up: {}", reasons(stack));
    if Cause::of(stack) == Cause::System {
        Fault::passing(Exit::Io, message)
    } else {
        Fault::permanent(Exit::Config, message)
    }
}

/// The server keeps silent in the handshake.
pub(super) fn silent(way: &Endpoint) -> Fault {
    let message =
        format!("{way}: the server accepts connections but does not answer the TLS handshake");
    Fault::passing(Exit::Unavailable, message).with_remedy("is this the broker's TLS port?")
}

/// The server hung up in the handshake.
pub(super) fn closed(way: &Endpoint) -> Fault {
    let message = format!("{way}: the server closed the connection during the TLS handshake");
    Fault::passing(Exit::Unavailable, message).with_remedy("is this the broker's TLS port?")
}

/// What the server, or our own TLS, reported in the handshake or right after it, with what is known of
/// the certificate that it was shown.
pub(super) fn failed(way: &Endpoint, presented: &Presented, stack: &ErrorStack) -> Fault {
    presented.explain(way, reported(way, presented.is_some(), stack), stack)
}

/// The same. `certified` is whether we had a certificate to show.
fn reported(way: &Endpoint, certified: bool, stack: &ErrorStack) -> Fault {
    let (exit, what, remedy) = match Cause::of(stack) {
        Cause::Eof => return closed(way),
        Cause::NoTls => (
            Exit::Protocol,
            "the server does not speak TLS on this port",
            "use its TLS port, or mqtt:// (ws:// for a WebSocket) for no TLS",
        ),
        // protocol_version
        Cause::OldVersion | Cause::Alert(70) => (
            Exit::Config,
            "the server offers no TLS 1.2 or 1.3",
            "it must be brought up to date",
        ),
        // no_application_protocol
        Cause::NoProtocol | Cause::Alert(120) => (
            Exit::Protocol,
            "the server does not know the protocol that it was asked for by name (ALPN)",
            "is this an AWS IoT endpoint?",
        ),
        // unrecognized_name
        Cause::Alert(112) => (
            Exit::Config,
            "the server knows no host of this name",
            "check --endpoint",
        ),
        // certificate_required
        Cause::Alert(116) => (
            Exit::Refused,
            "the server wants a client certificate",
            "give --cert and --key",
        ),
        // handshake_failure
        Cause::Alert(40) if !certified => (
            Exit::Refused,
            "the server wants a client certificate",
            "give --cert and --key",
        ),
        // unknown_ca
        Cause::Alert(48) => (
            Exit::Refused,
            "the server does not know the CA of --cert",
            "register the certificate with the broker",
        ),
        // certificate_expired
        Cause::Alert(45) => (
            Exit::Refused,
            "the server takes the certificate of --cert for expired",
            "get a new one, or is its clock wrong?",
        ),
        // certificate_revoked
        Cause::Alert(44) => (
            Exit::Refused,
            "the server takes the certificate of --cert for revoked",
            "get a new one",
        ),
        // no_certificate, bad_certificate, unsupported_certificate, certificate_unknown,
        // access_denied, and what goes with extensions about certificates
        Cause::Alert(41..=43 | 46 | 49 | 111 | 113 | 114) => (
            Exit::Refused,
            "the server refuses the certificate of --cert",
            match way.profile {
                Profile::Aws => "is it active, in date and registered?",
                Profile::Generic => "does the broker know it? see its log",
            },
        ),
        Cause::System => {
            let message = format!("{way}: TLS failed: {}", reasons(stack));
            return Fault::passing(Exit::Io, message);
        }
        Cause::Alert(_) | Cause::Other => {
            let message = format!("{way}: TLS failed: {}", reasons(stack));
            return Fault::passing(Exit::Unavailable, message).with_remedy("see the broker's log");
        }
    };
    let message = format!("{way}: {what} (TLS: {})", reasons(stack));
    Fault::permanent(exit, message).with_remedy(remedy)
}

/// Whether the other end has closed the connection without TLS's `close_notify`. MQTT says itself where a packet
/// ends, so this is a close like any other.
pub(super) fn is_close(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    let stack = error.and_then(openssl::ssl::Error::ssl_error);
    stack.is_some_and(|stack| Cause::of(stack) == Cause::Eof)
}

/// What the server said in TLS about the end of a connection, if that is what this error is.
pub(super) fn last_words(
    way: &Endpoint,
    presented: &Presented,
    error: &io::Error,
) -> Option<Fault> {
    let error = error.get_ref()?.downcast_ref::<openssl::ssl::Error>()?;
    let stack = error.ssl_error()?;
    (Cause::of(stack) != Cause::Eof).then(|| failed(way, presented, stack))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_and_reasons_are_known_by_their_numbers() {
        for (library, reason, cause) in [
            (20, 294, Cause::Eof),
            (20, 267, Cause::NoTls),
            (20, 156, Cause::NoTls),
            (20, 258, Cause::OldVersion),
            (20, 1_000, Cause::Alert(0)),
            (20, 1_048, Cause::Alert(48)),
            (20, 1_116, Cause::Alert(116)),
            (20, 1_255, Cause::Alert(255)),
            (20, 1_256, Cause::Other),
            (20, 134, Cause::Other),
            (2, 24, Cause::System),
            (11, 1_048, Cause::Other),
        ] {
            assert_eq!(
                Cause::of_codes(library, reason),
                cause,
                "{library} {reason}"
            );
        }
    }
}
