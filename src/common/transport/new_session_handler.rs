//! What a connection does with a TLS session that the server gives. OpenSSL knows one callback for all connections of a
//! context; the handler is attached to the connection.

use std::sync::OnceLock;

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{Ssl, SslRef, SslSession};

pub(super) type NewSessionHandler = Box<dyn Fn(&SslRef, &SslSession) + Send + Sync>;

static INDEX: OnceLock<Index<Ssl, NewSessionHandler>> = OnceLock::new();

pub(super) fn attach(ssl: &mut SslRef, handler: NewSessionHandler) -> Result<(), ErrorStack> {
    let index = if let Some(index) = INDEX.get() {
        *index
    } else {
        let new = Ssl::new_ex_index()?;
        *INDEX.get_or_init(|| new)
    };
    ssl.set_ex_data(index, handler);
    Ok(())
}

/// The callback of the context.
pub(super) fn call(ssl: &SslRef, session: &SslSession) {
    if let Some(handler) = INDEX.get().and_then(|index| ssl.ex_data(*index)) {
        handler(ssl, session);
    }
}
