//! CA, certificate and key: where the files are, whether they are good, and what they hold.

pub(super) mod certificates;
mod credential_contents;
pub(super) mod der;
mod device_key;
mod device_refusal;
mod discover;
mod foreign_formats;
mod key;
mod key_device;
mod pem;
mod tls_credentials;
mod tls_file_check;
mod token_uri;

pub use credential_contents::CredentialContents;
pub use tls_credentials::{CertKeyPaths, TlsCredentials};
pub(super) use tls_credentials::{ContextError, not_yet_valid_fault};
pub use tls_file_check::{FileCheckResult, TlsFiles};

/// Waits, for a moment at most, until keys that a TPM or a token has loaded have been freed.
pub(super) fn wait_until_device_keys_are_freed() {
    device_key::DeviceKey::wait_until_freed();
}
