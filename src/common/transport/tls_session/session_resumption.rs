//! Sessions in one connection: offers the kept one, and keeps what the server gives.

use std::sync::Arc;

use log::{debug, warn};
use openssl::error::ErrorStack;
use openssl::ssl::{SslContextRef, SslRef, SslSession, SslSessionRef, SslVersion};
use parking_lot::Mutex;

use super::session_binding::SessionBinding;
use super::session_cache::SessionCache;
use super::session_record::SessionRecord;
use crate::common::runtime::clock::wall_clock;
use crate::common::transport::new_session_handler;

/// A server may give a session as often as it likes. The file is written again after this many seconds.
const WRITE_INTERVAL_S: u64 = 60;

pub(crate) struct SessionResumption {
    shared: Arc<Shared>,
}

struct Shared {
    cache: Arc<SessionCache>,
    binding: SessionBinding,
    offered: Option<SessionRecord>,
    /// When the session in the file was made, if this connection has written one: in seconds of Unix time.
    written_s: Mutex<Option<u64>>,
}

impl SessionResumption {
    /// Offers the kept session, if it is still good, in the handshake that follows.
    pub(crate) fn begin(
        cache: &Arc<SessionCache>,
        binding: SessionBinding,
        context: &SslContextRef,
        ssl: &mut SslRef,
    ) -> Result<Self, ErrorStack> {
        let mut offered = None;
        if let Some(record) = cache.find(&binding, wall_clock()) {
            if record.is_trusted(context.cert_store())? {
                offer(ssl, &record.session()?)?;
                offered = Some(record);
            } else {
                debug!(
                    "the TLS session is not used: the server's certificate is not accepted any more"
                );
                cache.forget(&record);
            }
        }
        let shared = Arc::new(Shared {
            cache: Arc::clone(cache),
            binding,
            offered,
            written_s: Mutex::new(None),
        });
        let of_handler = Arc::clone(&shared);
        let keep = move |ssl: &SslRef, session: &SslSession| of_handler.keep(ssl, session);
        new_session_handler::attach(ssl, Box::new(keep))?;
        Ok(Self { shared })
    }

    pub(crate) fn handle_success(&self, ssl: &SslRef) {
        let Shared { cache, offered, .. } = &*self.shared;
        let version = ssl.version_str();
        if !ssl.session_reused() {
            debug!("{version}: full handshake");
            // Otherwise a session that the server does not know would be offered for ever.
            if let Some(record) = offered {
                cache.forget(record);
            }
            return;
        }
        debug!("{version}: session resumed");
        cache.handle_resumed();
        // OpenSSL calls no handler for a ticket that the server has renewed in TLS 1.2.
        let renewed = ssl.session().filter(|session| {
            let is_older = session.protocol_version() != SslVersion::TLS1_3;
            is_older
                && offered
                    .as_ref()
                    .is_some_and(|record| !record.has_session(session))
        });
        if let Some(session) = renewed {
            self.shared.keep(ssl, session);
        }
    }

    /// The server has ended the handshake. Returns whether a session may be the cause.
    pub(crate) fn handle_failure(&self) -> bool {
        let Shared { cache, offered, .. } = &*self.shared;
        let Some(record) = offered else {
            return false;
        };
        cache.handle_refused(record);
        true
    }
}

impl Shared {
    fn keep(&self, ssl: &SslRef, session: &SslSessionRef) {
        // After a resumption there is no chain, but that of the session.
        let record = match (ssl.verified_chain(), &self.offered) {
            (Some(chain), _) if !chain.is_empty() => SessionRecord::new(session, chain.iter()),
            (_, Some(offered)) => offered.renewed(session),
            _ => return,
        };
        let record = match record {
            Ok(record) => record,
            Err(cause) => return warn!("a TLS session cannot be kept: {cause}"),
        };
        let made_s = record.made_s();
        let mut written_s = self.written_s.lock();
        let is_due = written_s.is_none_or(|last| made_s >= Some(last + WRITE_INTERVAL_S));
        if is_due {
            *written_s = made_s;
        }
        drop(written_s);
        self.cache.keep(&self.binding, record, is_due);
    }
}

#[allow(
    unsafe_code,
    reason = "the crate openssl has no other way to resume a session"
)]
fn offer(ssl: &mut SslRef, session: &SslSession) -> Result<(), ErrorStack> {
    // SAFETY: the session belongs to no other context: it was decoded for this connection.
    unsafe { ssl.set_session(session) }
}
