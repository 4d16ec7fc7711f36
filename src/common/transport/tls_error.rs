//! Turns the errors of OpenSSL's queue into faults, by their numbers.
//!
//! Sources: `openssl/err.h` (libraries), `openssl/sslerr.h` (reasons), RFC 8446 section 6 (alerts).

use std::io;

use openssl::error::{Error, ErrorStack};

use super::credentials::TlsCredentials;
use crate::common::broker::endpoint::Endpoint;
use crate::common::broker::profile::Profile;
use crate::common::fault::{Exit, Fault};
use crate::common::runtime::clock::wall_clock;

/// `ERR_LIB_SYS` and `ERR_LIB_SSL`.
const LIBRARY_SYSTEM: i32 = 2;
const LIBRARY_TLS: i32 = 20;

/// A received alert is a reason with this number added (`SSL_AD_REASON_OFFSET`).
const ALERTS: i32 = 1_000;

/// The connection ended without the alert `close_notify` (`SSL_R_UNEXPECTED_EOF_WHILE_READING`).
const UNEXPECTED_EOF: i32 = 294;
/// What was received is not TLS: an HTTP request, a record that is too long, another version number.
const NOT_TLS: [i32; 4] = [155, 156, 198, 267];
/// The server has chosen a version of TLS that we do not accept.
const OLD_VERSION: [i32; 3] = [116, 258, 259];
/// The server has chosen no application protocol (`SSL_R_NO_APPLICATION_PROTOCOL`).
const NO_PROTOCOL: i32 = 235;

/// The alert for a signature that does not fit, and that of TLS 1.3 for a missing certificate.
const DECRYPT_ERROR: i32 = ALERTS + 51;
const CERTIFICATE_REQUIRED: i32 = ALERTS + 116;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// The peer closed the connection without `close_notify`.
    Eof,
    NotTls,
    OldVersion,
    NoProtocol,
    Alert(u8),
    System,
    Other,
}

impl Cause {
    fn of(stack: &ErrorStack) -> Self {
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
            (LIBRARY_TLS, reason) if NOT_TLS.contains(&reason) => Self::NotTls,
            (LIBRARY_TLS, reason) if OLD_VERSION.contains(&reason) => Self::OldVersion,
            (LIBRARY_TLS, ALERTS..) => alert().map_or(Self::Other, Self::Alert),
            _ => Self::Other,
        }
    }
}

fn reasons(stack: &ErrorStack) -> String {
    let reasons: Vec<_> = stack.errors().iter().filter_map(Error::reason).collect();
    if reasons.is_empty() {
        "no reason given".into()
    } else {
        reasons.join(", ")
    }
}

/// The handshake could not begin. If the system refused something (no more descriptors), that may pass.
pub(super) fn setup_fault(endpoint: &Endpoint, stack: &ErrorStack) -> Fault {
    let message = format!("{endpoint}: TLS cannot be set up: {}", reasons(stack));
    if Cause::of(stack) == Cause::System {
        Fault::passing(Exit::Io, message)
    } else {
        Fault::permanent(Exit::Config, message)
    }
}

pub(super) fn timeout_fault(endpoint: &Endpoint) -> Fault {
    let what = "accepts connections but does not answer the TLS handshake";
    no_tls_port(endpoint, what)
}

pub(super) fn closed_fault(endpoint: &Endpoint) -> Fault {
    no_tls_port(endpoint, "closed the connection during the TLS handshake")
}

fn no_tls_port(endpoint: &Endpoint, what: &str) -> Fault {
    let remedy = match endpoint.profile {
        Profile::Aws => "is this the broker's TLS port?",
        Profile::Generic => {
            "is this the broker's TLS port? if it has no TLS there, use mqtt:// or ws:// in --endpoint"
        }
    };
    Fault::passing(Exit::Unavailable, format!("{endpoint}: the server {what}")).with_remedy(remedy)
}

/// What the server, or our TLS, reported in the handshake or after it, with what is known of the client certificate.
pub(super) fn fault(
    endpoint: &Endpoint,
    credentials: &TlsCredentials,
    stack: &ErrorStack,
) -> Fault {
    let fault = stack_fault(endpoint, credentials.has_certificate(), stack);
    let Some(path) = credentials.certificate_path() else {
        return fault;
    };
    let path = path.display();
    // To find it out takes as long as a part of the handshake: only if there is something to explain.
    let problem = credentials.certificate_problem(wall_clock());
    let has = |reason: i32| stack.errors().iter().any(|e| e.reason_code() == reason);
    let refused = |what: &str, why: &str| {
        let message = format!("{endpoint}: {what} that of --cert {path}: {why}");
        Fault::permanent(Exit::Refused, message)
    };
    if has(CERTIFICATE_REQUIRED) {
        let what = "the server wants a client certificate, and TLS could not use";
        let unknown = "its key fits none of the signature algorithms that the server takes";
        return refused(what, problem.as_deref().unwrap_or(unknown));
    }
    match problem {
        Some(problem) if has(DECRYPT_ERROR) => {
            refused("the server cannot verify a client certificate,", &problem)
        }
        Some(problem) if fault.exit == Exit::Refused => {
            let known = format!("of --cert {path} it is known: {problem}");
            let remedy = fault.remedy.iter().map(|remedy| format!("{remedy}; "));
            let remedy = remedy.collect::<String>() + &known;
            fault.with_remedy(remedy)
        }
        _ => fault,
    }
}

fn stack_fault(endpoint: &Endpoint, has_certificate: bool, stack: &ErrorStack) -> Fault {
    let cause = Cause::of(stack);
    let reasons = reasons(stack);
    let failed = format!("{endpoint}: TLS failed: {reasons}");
    // The alerts by their names in RFC 8446.
    let text = match cause {
        Cause::Eof => return closed_fault(endpoint),
        Cause::System => return Fault::passing(Exit::Io, failed),
        Cause::NotTls => {
            "does not speak TLS on this port; \
             use its TLS port, or mqtt:// (ws:// for a WebSocket) for no TLS"
        }
        // protocol_version
        Cause::OldVersion | Cause::Alert(70) => {
            "offers no TLS 1.2 or 1.3; it must be brought up to date"
        }
        // no_application_protocol
        Cause::NoProtocol | Cause::Alert(120) => {
            "does not know the protocol that it was asked for by name (ALPN); \
             is this an AWS IoT endpoint?"
        }
        // unrecognized_name
        Cause::Alert(112) => "knows no host of this name; check --endpoint",
        // certificate_required, handshake_failure
        Cause::Alert(alert) if alert == 116 || alert == 40 && !has_certificate => {
            "wants a client certificate; give --cert and --key, or --certs DIR"
        }
        // unknown_ca
        Cause::Alert(48) => {
            "does not know the CA of --cert; register the certificate with the broker"
        }
        // certificate_expired
        Cause::Alert(45) => {
            "says that the certificate of --cert has expired; get a new one, or is its clock wrong?"
        }
        // certificate_revoked
        Cause::Alert(44) => "says that the certificate of --cert is revoked; get a new one",
        // no_certificate, bad_certificate, unsupported_certificate, certificate_unknown,
        // access_denied, and those about extensions of certificates
        Cause::Alert(41..=43 | 46 | 49 | 111 | 113 | 114) => match endpoint.profile {
            Profile::Aws => {
                "refuses the certificate of --cert; is it active, in date and registered?"
            }
            Profile::Generic => {
                "refuses the certificate of --cert; does the broker know it? see its log"
            }
        },
        Cause::Alert(_) | Cause::Other => {
            return Fault::passing(Exit::Unavailable, failed).with_remedy("see the broker's log");
        }
    };
    let exit = match cause {
        Cause::NotTls | Cause::NoProtocol | Cause::Alert(120) => Exit::Protocol,
        Cause::OldVersion | Cause::Alert(70 | 112) => Exit::Config,
        _ => Exit::Refused,
    };
    let (what, remedy) = text.split_once("; ").unwrap_or((text, ""));
    let message = format!("{endpoint}: the server {what} (TLS: {reasons})");
    Fault::permanent(exit, message).with_remedy(remedy)
}

fn stack_of(error: &io::Error) -> Option<&ErrorStack> {
    let error = error.get_ref()?.downcast_ref::<openssl::ssl::Error>()?;
    error.ssl_error()
}

/// Whether the peer has closed the connection without `close_notify`. MQTT packets have their own
/// ends, so this is a close like any other.
pub(super) fn is_eof(error: &io::Error) -> bool {
    stack_of(error).is_some_and(|stack| Cause::of(stack) == Cause::Eof)
}

/// What the server reported in TLS when it ended the connection, if this error is about that.
pub(super) fn closing_fault(
    endpoint: &Endpoint,
    credentials: &TlsCredentials,
    error: &io::Error,
) -> Option<Fault> {
    let stack = stack_of(error)?;
    (Cause::of(stack) != Cause::Eof).then(|| fault(endpoint, credentials, stack))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_recognised_by_library_and_reason() {
        for (library, reason, cause) in [
            (20, 294, Cause::Eof),
            (20, 267, Cause::NotTls),
            (20, 156, Cause::NotTls),
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
            let found = Cause::of_codes(library, reason);
            assert_eq!(found, cause, "{library} {reason}");
        }
    }
}
