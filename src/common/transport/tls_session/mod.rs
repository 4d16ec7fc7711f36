//! TLS session resumption: the server recognises a client by data that it gave the client in an earlier connection, so
//! that neither certificates nor signatures are exchanged. It saves half of the bytes and most of the computing of a
//! connection.
//!
//! * `session_cache` keeps the latest session, for the next connection, and in the file of `--tls-session` for the next run;
//! * `session_record` is what is kept: the session and the server's certificates, which are verified again before it is used;
//! * `session_binding` is what a session belongs to, and encrypts it;
//! * `session_file` is the file;
//! * `session_resumption` is one connection's use of all this.
//!
//! Early data (RFC 8446, section 2.3) is never sent: it could be replayed.

mod session_binding;
mod session_cache;
mod session_file;
mod session_record;
mod session_resumption;

pub(super) use session_binding::SessionBinding;
pub use session_cache::SessionCache;
pub use session_file::is_foreign;
pub(crate) use session_resumption::SessionResumption;
