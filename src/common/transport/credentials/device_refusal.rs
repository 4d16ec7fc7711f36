//! Describes why a TPM or a token does not open a key, or does not sign with it.

use std::path::Path;

use openssl::error::ErrorStack;

use super::certificates::{device_reason, is_of_provider, openssl_reason};
use super::key_device::{self, KeyDevice};
use super::token_uri::TokenUri;
use crate::common::fault::{Exit, Fault};
use crate::common::runtime::small_file::invalid_file;

const FLAG: &str = "--key";

/// One attempt to open the key in the file `path`.
pub(super) struct DeviceRefusal<'a> {
    pub(super) device: KeyDevice,
    pub(super) path: &'a Path,
    pub(super) passphrase: Option<&'a str>,
    /// The provider asked for the passphrase, so it knows the device.
    pub(super) is_asked: bool,
}

impl DeviceRefusal<'_> {
    fn invalid(&self, cause: &str, remedy: &str) -> Fault {
        let cause = format!("{}, and {cause}", self.device.key_description());
        invalid_file(FLAG, self.path, cause).with_remedy(remedy)
    }

    /// The device may be there at the next start, so no supervisor should give up.
    fn unavailable(&self, cause: &str, remedy: &str) -> Fault {
        Fault {
            exit: Exit::Unavailable,
            ..self.invalid(cause, remedy)
        }
    }

    pub(super) fn without_passphrase(&self) -> Fault {
        match self.device {
            KeyDevice::Tpm => {
                self.invalid("it has a password", "give it with --key-passphrase-file")
            }
            KeyDevice::Token => self.invalid(
                "the PIN of the token is missing",
                "give it with --key-passphrase-file, or as pin-source in the key's URI",
            ),
        }
    }

    /// `pem` could not be decoded.
    pub(super) fn of_loading(&self, pem: &str, stack: &ErrorStack) -> Fault {
        if !self.device.is_active() {
            return self.device.inactive_fault(self.path);
        }
        match self.device {
            KeyDevice::Tpm if has_provider_error(stack) => self.of_tpm(stack),
            KeyDevice::Tpm => self.invalid("what it holds is no TPM key", "copy the file again"),
            KeyDevice::Token => self.of_token(pem),
        }
    }

    /// The key was loaded, and a signature with it failed.
    pub(super) fn of_signing(&self, stack: &ErrorStack) -> Fault {
        if has_provider_error(stack) {
            return match self.device {
                KeyDevice::Tpm => self.of_tpm(stack),
                KeyDevice::Token => {
                    let cause =
                        format!("the token does not sign with it ({})", device_reason(stack));
                    self.invalid(&cause, "check that the key may sign, and the PIN")
                }
            };
        }
        let why = openssl_reason(stack);
        match self.device {
            KeyDevice::Tpm => self.invalid(
                &format!("OpenSSL does not ask the TPM to sign ({why})"),
                "tpm2-openssl before 1.2 needs default_properties = ?tpm2.signature in the file of OPENSSL_CONF",
            ),
            KeyDevice::Token => self.invalid(
                &format!("OpenSSL does not ask the token to sign ({why})"),
                "check the version of pkcs11-provider",
            ),
        }
    }

    fn of_tpm(&self, stack: &ErrorStack) -> Fault {
        let why = device_reason(stack);
        match TpmResponse::of(&why) {
            TpmResponse::WrongPassword => self.invalid(
                "it does not open with what --key-passphrase-file holds",
                "check the passphrase; a TPM refuses all for a while after some wrong ones",
            ),
            TpmResponse::Lockout => self.unavailable(
                "the TPM refuses passwords for a while, after wrong ones",
                "wait, or see tpm2_dictionarylockout",
            ),
            TpmResponse::OtherTpm => self.invalid(
                "this TPM does not know it",
                "take the machine whose TPM made it; if the TPM was cleared, make a new key",
            ),
            TpmResponse::Full => self.unavailable(
                "the TPM has no free place for it",
                "use a resource manager: /dev/tpmrm0 or tpm2-abrmd, in TPM2OPENSSL_TCTI",
            ),
            TpmResponse::Other => {
                let cause = format!("the TPM cannot use it ({why})");
                self.unavailable(&cause, "check TPM2OPENSSL_TCTI and the TPM")
            }
        }
    }

    fn of_token(&self, pem: &str) -> Fault {
        if let Some(why) = self.device.module_error() {
            let cause = format!("the module of the token does not start ({why})");
            return self.unavailable(
                &cause,
                "check pkcs11-module-path in the file of OPENSSL_CONF",
            );
        }
        let Some(uri) = TokenUri::in_pem(pem) else {
            return self.invalid("it has no URI", "write it again, with uri2pem");
        };
        if self.is_asked && self.passphrase.is_none() && !uri.has_pin() {
            return self.without_passphrase();
        }
        // Another key of the same token: with the same PIN, which is not sent again if it was wrong.
        let (other, is_asked) = key_device::decode(&uri.any_key().to_pem(), self.passphrase);
        let shown = uri.without_pin();
        if other.is_ok() {
            let cause = format!("the token has no such key ({shown})");
            return self.invalid(&cause, "list its keys: pkcs11-tool --list-objects --login");
        }
        if self.is_asked || is_asked {
            let cause = format!("the token does not accept the PIN ({shown})");
            let place = match self.passphrase {
                Some(_) => "--key-passphrase-file",
                None => "the URI",
            };
            let remedy = format!("check the PIN in {place}; a few wrong ones block the token");
            return self.invalid(&cause, &remedy);
        }
        let cause = format!("no token that has it is within reach, or its PIN is wrong ({shown})");
        let remedy =
            "check that it is plugged in, the URI, and pin-source or pkcs11-module-token-pin";
        self.unavailable(&cause, remedy)
    }
}

fn has_provider_error(stack: &ErrorStack) -> bool {
    stack.errors().iter().any(is_of_provider)
}

/// What a TPM answers, by its response code (TPM 2.0 Library, part 2, section 6.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TpmResponse {
    WrongPassword,
    Lockout,
    OtherTpm,
    Full,
    Other,
}

impl TpmResponse {
    /// `tpm2-openssl` puts the number in front of its text.
    fn of(text: &str) -> Self {
        let digits = text.split(|c: char| !c.is_ascii_digit()).next();
        let Some(code) = digits.and_then(|digits| digits.parse::<u32>().ok()) else {
            return TpmResponse::Other;
        };
        // Such a code also says which parameter, handle or session it is about.
        let is_format_one = code & 0x80 != 0 && code < 0x1000;
        match if is_format_one { code & 0xbf } else { code } {
            // TPM_RC_AUTH_FAIL, TPM_RC_BAD_AUTH
            0x8e | 0xa2 => TpmResponse::WrongPassword,
            0x921 => TpmResponse::Lockout,
            // TPM_RC_INTEGRITY
            0x9f => TpmResponse::OtherTpm,
            // TPM_RC_OBJECT_MEMORY, TPM_RC_SESSION_MEMORY, TPM_RC_MEMORY
            0x902..=0x904 => TpmResponse::Full,
            _ => TpmResponse::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tpms_response_is_its_number_without_the_position() {
        for (text, response) in [
            (
                "2446 tpm:session(1):the authorization HMAC check failed",
                TpmResponse::WrongPassword,
            ),
            (
                "2466 tpm:session(1):authorization failure",
                TpmResponse::WrongPassword,
            ),
            (
                "479 tpm:parameter(1):integrity check failed",
                TpmResponse::OtherTpm,
            ),
            (
                "2306 tpm:warn(2.0): out of memory for object contexts",
                TpmResponse::Full,
            ),
            ("2337 tpm:warn(2.0): lockout", TpmResponse::Lockout),
            ("655370 tcti:IO failure", TpmResponse::Other),
            ("", TpmResponse::Other),
            ("99999999999999999999", TpmResponse::Other),
        ] {
            assert_eq!(TpmResponse::of(text), response, "{text}");
        }
    }
}
