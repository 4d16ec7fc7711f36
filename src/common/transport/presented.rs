//! The client certificate that the server was shown, and what it may have against it.

use std::path::Path;
use std::sync::Arc;

use openssl::error::ErrorStack;

use super::files::Loaded;
use crate::common::endpoint::Endpoint;
use crate::common::event_loop::wall_clock;
use crate::common::fault::{Exit, Fault};

/// OpenSSL's number for the alert `certificate_required` of TLS 1.3 (`openssl/sslerr.h`, RFC 8446 section 6).
const CERTIFICATE_REQUIRED: i32 = 1116;

/// For the alert `decrypt_error`: a signature that does not fit.
const DECRYPT_ERROR: i32 = 1051;

/// The client certificate, if there is one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Presented(Option<Certificate>);

#[derive(Clone, Debug)]
struct Certificate {
    file: Arc<Path>,
    doubt: Option<Arc<str>>,
}

impl Presented {
    pub(super) fn of(loaded: &Loaded) -> Self {
        Self(loaded.pair.as_ref().map(|pair| Certificate {
            file: pair.cert.as_path().into(),
            doubt: loaded.doubt(wall_clock()).map(Into::into),
        }))
    }

    /// Whether there is one.
    pub(super) fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// The fault of a server that has said this, with what is known of the certificate.
    pub(super) fn explain(&self, way: &Endpoint, fault: Fault, said: Option<&ErrorStack>) -> Fault {
        let Some(Certificate { file, doubt }) = &self.0 else {
            return fault;
        };
        let file = file.display();
        let has_said = |wanted: i32| {
            let mut codes = said.into_iter().flat_map(|stack| {
                stack
                    .errors()
                    .iter()
                    .map(openssl::error::Error::reason_code)
            });
            codes.any(|code| code == wanted)
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
                refused("the server cannot verify a client certificate,", doubt)
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
