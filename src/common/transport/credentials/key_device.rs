//! Where a key is kept that leaves it for no file: a TPM 2.0, or a PKCS#11 token. A provider of OpenSSL opens it, which
//! OpenSSL's configuration activates. Says what is missing if none is active.

use std::ffi::CStr;
use std::path::Path;

use openssl::error::{Error, ErrorStack};
use openssl::pkey::{KeyType, PKey, Private};
use openssl::provider::Provider;

use super::certificates::{device_reason, is_of_provider, is_unsupported};
use crate::common::fault::{Exit, Fault};
use crate::common::runtime::small_file::invalid_file;

const FLAG: &str = "--key";

/// OpenSSL's number of its library DSO, which loads shared libraries (`openssl/err.h`).
const LIB_DSO: i32 = 37;
/// PKCS#11's number of an error without a cause, which `pkcs11-provider` reports if its module does not start.
const CKR_GENERAL_ERROR: i32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyDevice {
    Tpm,
    Token,
}

impl KeyDevice {
    /// Of a PEM block with this label: what `tpm2-openssl` and `pkcs11-provider` write.
    pub(super) fn of_label(label: &str) -> Option<Self> {
        match label {
            "TSS2 PRIVATE KEY" => Some(KeyDevice::Tpm),
            "PKCS#11 PROVIDER URI" => Some(KeyDevice::Token),
            _ => None,
        }
    }

    /// What the block is, for an error.
    pub(super) fn key_description(self) -> &'static str {
        match self {
            KeyDevice::Tpm => "is a TPM key (TSS2 PRIVATE KEY)",
            KeyDevice::Token => "names a key in a PKCS#11 token",
        }
    }

    /// For `check`, behind the name of the file.
    pub(super) fn holds_key(self) -> &'static str {
        match self {
            KeyDevice::Tpm => ", the key is in the TPM",
            KeyDevice::Token => ", the key is in a PKCS#11 token",
        }
    }

    fn provider(self) -> &'static str {
        match self {
            KeyDevice::Tpm => "tpm2",
            KeyDevice::Token => "pkcs11",
        }
    }

    fn package(self) -> &'static str {
        match self {
            KeyDevice::Tpm => "tpm2-openssl",
            KeyDevice::Token => "pkcs11-provider",
        }
    }

    fn properties(self) -> &'static CStr {
        match self {
            KeyDevice::Tpm => c"provider=tpm2",
            KeyDevice::Token => c"provider=pkcs11",
        }
    }

    /// Whether its provider is active. A key that makes no sense is offered to it: without the
    /// provider nobody looks at that key.
    pub(super) fn is_active(self) -> bool {
        let offered =
            PKey::public_key_from_raw_bytes_ex(None, KeyType::RSA, Some(self.properties()), &[0]);
        !offered.is_err_and(|stack| stack.errors().iter().any(is_unsupported))
    }

    /// Why the provider, which is active, cannot use its PKCS#11 module; none if it can.
    pub(super) fn module_error(self) -> Option<String> {
        let offered =
            PKey::public_key_from_raw_bytes_ex(None, KeyType::RSA, Some(self.properties()), &[0]);
        let stack = offered.err()?;
        let is_failed =
            |error: &Error| is_of_provider(error) && error.reason_code() == CKR_GENERAL_ERROR;
        let failed = stack.errors().iter().any(is_failed);
        failed.then(|| device_reason(&stack))
    }

    /// Why its provider, which is not active, cannot open the key in this file.
    pub(super) fn inactive_fault(self, path: &Path) -> Fault {
        let (provider, package) = (self.provider(), self.package());
        let key = self.key_description();
        let activate = format!("activate {provider} beside default in the file of OPENSSL_CONF");
        // OpenSSL ignores what fails while it reads its configuration; loading again shows the error.
        match Provider::try_load(None, provider, true) {
            Ok(_) => {
                let cause =
                    format!("{key}, and OpenSSL's configuration does not activate {package}");
                invalid_file(FLAG, path, cause).with_remedy(activate)
            }
            Err(stack) if is_not_installed(&stack) => {
                let cause = format!("{key}, and OpenSSL has no provider {provider} to open it");
                let remedy = format!("install {package}, and {activate}");
                invalid_file(FLAG, path, cause).with_remedy(remedy)
            }
            Err(stack) => {
                let why = device_reason(&stack);
                let (what, remedy) = match self {
                    KeyDevice::Tpm => (
                        "the TPM cannot be reached",
                        "check TPM2OPENSSL_TCTI, and that this user is in the group of /dev/tpmrm0",
                    ),
                    KeyDevice::Token => ("its provider does not start", "check its settings"),
                };
                let remedy = format!("{remedy}; {activate}");
                let message = format!("{}: {FLAG} {key}, and {what} ({why})", path.display());
                Fault::permanent(Exit::Unavailable, message).with_remedy(remedy)
            }
        }
    }
}

fn is_not_installed(stack: &ErrorStack) -> bool {
    let mut errors = stack.errors().iter();
    errors.any(|error| error.library_code() == LIB_DSO)
}

/// The key of a PEM block, and whether its provider asked for a passphrase. It never asks on the
/// terminal: without a passphrase the answer is an empty one.
pub(super) fn decode(
    pem: &str,
    passphrase: Option<&str>,
) -> (Result<PKey<Private>, ErrorStack>, bool) {
    let mut is_asked = false;
    let key = PKey::private_key_from_pem_callback(pem.as_bytes(), |buffer| {
        is_asked = true;
        let text = passphrase.unwrap_or_default().as_bytes();
        // One that does not fit is not the right one.
        let target = buffer.get_mut(..text.len());
        Ok(target.map_or(0, |target| {
            target.copy_from_slice(text);
            text.len()
        }))
    });
    (key, is_asked)
}
