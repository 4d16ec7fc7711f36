//! The client certificate that the server was shown, and what it may have against it.

use openssl::error::ErrorStack;

use super::files::Loaded;
use crate::common::broker::endpoint::Endpoint;
use crate::common::fault::{Exit, Fault};
use crate::common::runtime::clock::wall_clock;

/// OpenSSL's number for the alert `certificate_required` of TLS 1.3 (`openssl/sslerr.h`, RFC 8446 section 6).
const CERTIFICATE_REQUIRED: i32 = 1116;

/// For the alert `decrypt_error`: a signature that does not fit.
const DECRYPT_ERROR: i32 = 1051;

/// The files that were used for a connection, and with them the client certificate, if there is one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Presented(Loaded);

impl Presented {
    pub(crate) fn of(loaded: &Loaded) -> Self {
        Self(loaded.clone())
    }

    pub(crate) fn is_some(&self) -> bool {
        self.0.has_certificate()
    }

    /// The fault of a server that has said this, with what is known of the certificate.
    pub(crate) fn explain(&self, way: &Endpoint, fault: Fault, said: &ErrorStack) -> Fault {
        let Some(pair) = &self.0.pair else {
            return fault;
        };
        let file = pair.cert.display();
        // To find out takes as long as a part of the handshake: only if there is something to explain.
        let doubt = self.0.doubt(wall_clock());
        let has_said = |wanted: i32| {
            let errors = said.errors().iter();
            errors
                .map(openssl::error::Error::reason_code)
                .any(|code| code == wanted)
        };
        let refused = |what: &str, why: &str| {
            let message = format!("{way}: {what} that of --cert {file}: {why}");
            Fault::permanent(Exit::Refused, message)
        };
        if has_said(CERTIFICATE_REQUIRED) {
            let why = "its key fits none of the signature algorithms that the server takes";
            let why = doubt.as_deref().unwrap_or(why);
            return refused(
                "the server wants a client certificate, and TLS could not use",
                why,
            );
        }
        match doubt {
            Some(doubt) if has_said(DECRYPT_ERROR) => {
                refused("the server cannot verify a client certificate,", &doubt)
            }
            Some(doubt) if fault.exit == Exit::Refused => {
                let remedy = fault
                    .remedy
                    .as_deref()
                    .map_or_else(String::new, |r| format!("{r}; "));
                let remedy = format!("{remedy}of --cert {file} it is known: {doubt}");
                fault.with_remedy(remedy)
            }
            _ => fault,
        }
    }
}
