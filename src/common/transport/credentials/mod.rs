//! CA, certificate and key: where the files are, whether they are good, and what they hold.

pub(super) mod certificates;
mod der;
mod discover;
mod foreign_formats;
mod key;
mod pem;
mod tls_credentials;
mod tls_file_check;

pub use tls_credentials::{CertKeyPaths, TlsCredentials};
pub(super) use tls_credentials::{ContextError, not_yet_valid_fault};
pub use tls_file_check::{FileCheckResult, TlsFiles};
