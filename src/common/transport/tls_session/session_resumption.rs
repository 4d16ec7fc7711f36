//! Sessions in one connection: offers the kept one, and keeps what the server gives once CONNACK has come.

use std::sync::Arc;

use log::{debug, warn};
use openssl::error::ErrorStack;
use openssl::ssl::{Ssl, SslContextRef, SslRef, SslSession, SslSessionRef, SslVersion};
use parking_lot::Mutex;

use super::session_binding::SessionBinding;
use super::session_cache::SessionCache;
use super::session_record::SessionRecord;
use crate::common::runtime::clock::wall_clock;
use crate::common::transport::new_session_handler;

#[derive(Clone, Debug)]
pub(crate) struct SessionResumption {
    shared: Arc<Shared>,
}

struct Shared {
    cache: Arc<SessionCache>,
    binding: SessionBinding,
    offered: Option<SessionRecord>,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    is_resumed: bool,
    is_accepted: bool,
    /// The latest session that came before CONNACK.
    waiting: Option<SessionRecord>,
    writes_at_once: bool,
}

impl std::fmt::Debug for Shared {
    /// Shows no secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl SessionResumption {
    /// Offers the kept session, if it is still good, in the handshake that follows.
    pub(crate) fn begin(
        cache: &Arc<SessionCache>,
        binding: SessionBinding,
        context: &SslContextRef,
        ssl: &mut SslRef,
    ) -> Result<Self, ErrorStack> {
        let offered = cache.find(&binding, wall_clock()).filter(|record| {
            let why = match offer_if_trusted(record, context, ssl) {
                Ok(true) => return true,
                Ok(false) => "the server's certificate is not accepted any more".into(),
                Err(cause) => cause.to_string(),
            };
            debug!("the TLS session is not used: {why}");
            cache.forget(record);
            false
        });
        let shared = Arc::new(Shared {
            cache: Arc::clone(cache),
            binding,
            offered,
            progress: Mutex::default(),
        });
        let of_handler = Arc::clone(&shared);
        let handle = move |ssl: &SslRef, session: &SslSession| of_handler.handle_new(ssl, session);
        new_session_handler::attach(ssl, Box::new(handle))?;
        Ok(Self { shared })
    }

    pub(crate) fn has_offered(&self) -> bool {
        self.shared.offered.is_some()
    }

    pub(crate) fn is_resumed(&self) -> bool {
        self.shared.progress.lock().is_resumed
    }

    /// The handshake is complete.
    pub(crate) fn handle_handshake(&self, ssl: &SslRef) {
        let Shared { cache, offered, .. } = &*self.shared;
        let version = ssl.version_str();
        if !ssl.session_reused() {
            debug!("{version}: full handshake");
            if let Some(record) = offered {
                // Otherwise one that the server does not know would be offered for ever.
                cache.forget(record);
            }
            return;
        }
        debug!("{version}: session resumed");
        self.shared.progress.lock().is_resumed = true;
        // OpenSSL calls no handler for a ticket that the server has renewed in TLS 1.2.
        let renewed = ssl.session().filter(|session| {
            let is_older = session.protocol_version() != SslVersion::TLS1_3;
            is_older
                && offered
                    .as_ref()
                    .is_some_and(|record| !record.has_session(session))
        });
        if let Some(session) = renewed {
            self.shared.handle_new(ssl, session);
        }
    }

    pub(crate) fn handle_connack(&self) {
        let Shared { cache, binding, .. } = &*self.shared;
        let progress = &mut *self.shared.progress.lock();
        progress.is_accepted = true;
        if progress.is_resumed {
            cache.handle_resumed();
        }
        if let Some(record) = progress.waiting.take() {
            cache.keep(binding, record);
        }
    }

    /// The connection waits for the broker, and can spare the time that a disk takes.
    pub(crate) fn handle_pause(&self) {
        self.shared.progress.lock().writes_at_once = true;
        self.shared.cache.write_file();
    }

    /// The connection has ended. One that was not accepted may have failed because of the session that it resumed.
    pub(crate) fn handle_end(&self) {
        let Shared { cache, offered, .. } = &*self.shared;
        if self.shared.progress.lock().is_accepted {
            cache.write_file();
        } else if let Some(record) = offered {
            cache.forget(record);
        }
    }
}

impl Shared {
    fn handle_new(&self, ssl: &SslRef, session: &SslSessionRef) {
        // After a resumption there is no chain, but that of the session.
        let record = match (ssl.verified_chain(), &self.offered) {
            (Some(chain), _) if !chain.is_empty() => {
                SessionRecord::new(session, wall_clock(), chain)
            }
            (_, Some(offered)) => offered.renewed(session),
            _ => return,
        };
        let record = match record {
            Ok(record) => record,
            Err(cause) => return warn!("a TLS session cannot be kept: {cause}"),
        };
        let progress = &mut *self.progress.lock();
        if !progress.is_accepted {
            progress.waiting = Some(record);
            return;
        }
        self.cache.keep(&self.binding, record);
        if progress.writes_at_once {
            self.cache.write_file();
        }
    }
}

fn offer_if_trusted(
    record: &SessionRecord,
    context: &SslContextRef,
    ssl: &mut SslRef,
) -> Result<bool, ErrorStack> {
    let session = record.session()?;
    // To decode the certificate once more would take a good part of the time that a resumption saves.
    let mut reader = Ssl::new(context)?;
    offer(&mut reader, &session)?;
    let Some(server) = reader.peer_certificate() else {
        return Ok(false);
    };
    if !record.is_trusted(&server, context.cert_store())? {
        return Ok(false);
    }
    if session.protocol_version() == SslVersion::TLS1_3 {
        // What TLS 1.2 needs besides is 68 bytes. A server that has lost TLS 1.3 refuses the session.
        ssl.set_min_proto_version(Some(SslVersion::TLS1_3))?;
    }
    offer(ssl, &session)?;
    Ok(true)
}

#[allow(
    unsafe_code,
    reason = "the crate openssl has no other way to resume a session"
)]
fn offer(ssl: &mut SslRef, session: &SslSession) -> Result<(), ErrorStack> {
    // SAFETY: the session belongs to no other context: it was decoded for this connection.
    unsafe { ssl.set_session(session) }
}
