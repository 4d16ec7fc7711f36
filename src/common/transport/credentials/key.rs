//! Reads the private key, and describes why it cannot be used.

use std::path::Path;
use std::sync::Arc;

use openssl::asn1::Asn1Object;
use openssl::ec::EcKey;
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{KeyType, PKey, PKeyRef, Private};
use openssl::rsa::Rsa;
use openssl::x509::X509Ref;
use zeroize::Zeroizing;

use super::certificates::{damaged, is_unsupported, missing_block_fault, openssl_reason};
use super::der::{self, PrivateKeyForm};
use super::device_key::DeviceKey;
use super::key_device::KeyDevice;
use super::pem::{self, Block};
use crate::common::fault::Fault;
use crate::common::runtime::secret_source::{SecretSource, check_private};
use crate::common::runtime::small_file::{invalid_file, read_for};

const FLAG: &str = "--key";

/// A private key, and what keeps it loaded if it is not in memory but in a device.
#[derive(Clone)]
pub(super) struct LoadedKey {
    pub(super) key: PKey<Private>,
    /// Freed last: until then the key counts as loaded.
    held: Option<Arc<DeviceKey>>,
    /// Of a key that the file holds without encryption. OpenSSL takes as long to encode a key as to decode it.
    file_digest: Option<Zeroizing<[u8; 32]>>,
}

impl LoadedKey {
    /// Where the key is, unless it is in memory.
    pub(super) fn device(&self) -> Option<KeyDevice> {
        self.held.as_ref().map(|held| held.device())
    }

    /// A secret that only who has the key can compute. None if it is in a device.
    pub(super) fn digest(&self) -> Option<[u8; 32]> {
        if self.held.is_some() || self.file_digest.is_some() {
            return self.file_digest.as_deref().copied();
        }
        let der = Zeroizing::new(self.key.private_key_to_der().ok()?);
        Some(openssl::sha::sha256(&der))
    }
}

pub(super) fn read(
    path: &Path,
    passphrase: Option<&SecretSource>,
    allow_readable: bool,
) -> Result<LoadedKey, Fault> {
    let invalid = |cause: &str, remedy: &str| invalid_file(FLAG, path, cause).with_remedy(remedy);
    let file = read_for(FLAG, path)?;
    let blocks = pem::blocks(&file.bytes);
    let Some(block) = blocks.iter().find(|block| is_key(block)) else {
        if blocks.iter().any(|block| block.label == "CERTIFICATE") {
            let cause = "is a certificate, not a private key";
            return Err(invalid(cause, "are --cert and --key swapped?"));
        }
        let cause = "holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)";
        return Err(missing_block_fault(FLAG, path, cause, &file.bytes, &blocks));
    };
    check_private(FLAG, path, &file.metadata, allow_readable)?;
    if block.label == "OPENSSH PRIVATE KEY" {
        let remedy = format!("ssh-keygen -p -m PEM -f {} converts it", path.display());
        return Err(invalid("is an OpenSSH key", &remedy));
    }
    let content = block
        .content
        .as_ref()
        .map_err(|flaw| damaged(FLAG, path, block, flaw))?;
    let passphrase = match passphrase {
        Some(file) => Some(file.read()?),
        None if block.is_encrypted() => {
            let remedy = "give --key-passphrase-file, or decrypt it with openssl pkey";
            return Err(invalid("is encrypted", remedy));
        }
        None => None,
    };
    if let Some(device) = KeyDevice::of_label(&block.label) {
        let pem = block.to_pem(content);
        let held = DeviceKey::open(device, path, &pem, passphrase.as_deref())?;
        return Ok(LoadedKey {
            key: held.key().clone(),
            held: Some(held),
            file_digest: None,
        });
    }
    decode(block, content, passphrase.as_deref())
        .map(|key| LoadedKey {
            key,
            held: None,
            file_digest: (!block.is_encrypted()).then(|| openssl::sha::sha256(content).into()),
        })
        .map_err(|stack| undecodable(path, block, content, &stack))
}

/// Which key of the file, from 1, is that of the certificate. Keys that cannot be decoded are skipped.
pub(super) fn number_of_matching_key(
    path: &Path,
    passphrase: Option<&SecretSource>,
    certificate: &X509Ref,
) -> Option<usize> {
    let public = certificate.public_key().ok()?;
    let file = read_for(FLAG, path).ok()?;
    let passphrase = passphrase.and_then(|file| file.read().ok());
    let is_wanted = |block: &Block| {
        let content = block.content.as_ref().ok()?;
        let key = decode(block, content, passphrase.as_deref()).ok()?;
        Some(public.public_eq(&key))
    };
    let blocks = pem::blocks(&file.bytes);
    let mut keys = blocks.iter().filter(|block| is_key(block));
    let at = keys.position(|block| is_wanted(block) == Some(true));
    at.map(|at| at + 1)
}

fn is_key(block: &Block) -> bool {
    block.label.ends_with("PRIVATE KEY") || KeyDevice::of_label(&block.label).is_some()
}

fn decode(
    block: &Block,
    content: &[u8],
    passphrase: Option<&str>,
) -> Result<PKey<Private>, ErrorStack> {
    if passphrase.is_none()
        && let Some(key) = decode_by_label(&block.label, content)
    {
        return Ok(key);
    }
    let pem = block.to_pem(content);
    match passphrase {
        Some(text) => PKey::private_key_from_pem_passphrase(pem.as_bytes(), text.as_bytes()),
        // An empty passphrase: without one OpenSSL asks on the terminal.
        None => PKey::private_key_from_pem_callback(pem.as_bytes(), |_| Ok(0)),
    }
}

/// RSA and EC keys, the usual ones. For any key OpenSSL first sets up decoders for all types of keys, which takes an
/// eighth of the time of a run that sends one message. None for what only they can decode, if anything can.
fn decode_by_label(label: &str, content: &[u8]) -> Option<PKey<Private>> {
    let rsa = |der: &[u8]| Rsa::private_key_from_der(der).and_then(PKey::from_rsa);
    let ec = |der: &[u8]| EcKey::private_key_from_der(der).and_then(PKey::from_ec_key);
    let key = match label {
        "RSA PRIVATE KEY" => rsa(content),
        "EC PRIVATE KEY" => ec(content),
        "PRIVATE KEY" => match der::private_key_form(content)? {
            PrivateKeyForm::Rsa(der) => rsa(&der),
            PrivateKeyForm::Ec(der) => ec(&der),
        },
        _ => return None,
    };
    key.ok()
}

fn undecodable(path: &Path, block: &Block, content: &[u8], stack: &ErrorStack) -> Fault {
    let invalid = |cause: &str, remedy: &str| invalid_file(FLAG, path, cause).with_remedy(remedy);
    if !block.is_encrypted() {
        let reason = openssl_reason(stack);
        let cause = format!("what it holds is no private key ({reason})");
        return damaged(FLAG, path, block, cause);
    }
    if stack.errors().iter().any(is_unsupported) {
        let by_id = || {
            let id = Asn1Object::from_str(&der::encryption(content)?).ok()?;
            id.nid().short_name().ok()
        };
        let cipher = block.header_cipher().or_else(by_id).unwrap_or("unknown");
        let cause =
            format!("is encrypted with {cipher}, an old cipher that this OpenSSL does not have");
        return invalid(
            &cause,
            "re-encrypt it: openssl pkcs8 -topk8 -v2 aes-256-cbc -provider legacy -provider default -in FILE -out FILE.pem",
        );
    }
    let cause = "does not open with what --key-passphrase-file holds";
    invalid(cause, "check the passphrase")
}

/// Why TLS 1.3 cannot use a key of this type (RFC 8446, section 4.2.3); none if it can.
pub(super) fn unfit_for_tls_1_3(key: &PKeyRef<Private>) -> Option<String> {
    if key.is_a(KeyType::DSA) {
        return Some("its key is of the type DSA".into());
    }
    let curve = key.ec_key().ok()?.group().curve_name()?;
    let known = [Nid::X9_62_PRIME256V1, Nid::SECP384R1, Nid::SECP521R1];
    if known.contains(&curve) {
        return None;
    }
    let name = curve.short_name().unwrap_or("an unknown curve");
    Some(format!("its key is on the curve {name}"))
}

#[cfg(test)]
mod tests {
    use openssl::ec::EcGroup;

    use super::*;

    fn is_decoded(label: &str, der: &[u8], key: &PKeyRef<Private>) -> bool {
        decode_by_label(label, der).is_some_and(|decoded| {
            decoded.public_eq(key)
                && decoded.private_key_to_der().unwrap() == key.private_key_to_der().unwrap()
        })
    }

    #[test]
    fn rsa_and_ec_keys_need_no_other_decoder_in_either_form() {
        let rsa = Rsa::generate(2048).unwrap();
        let der = rsa.private_key_to_der().unwrap();
        let key = PKey::from_rsa(rsa).unwrap();
        assert!(is_decoded("RSA PRIVATE KEY", &der, &key));
        let pkcs8 = key.private_key_to_pkcs8().unwrap();
        assert!(is_decoded("PRIVATE KEY", &pkcs8, &key));
        for curve in [Nid::X9_62_PRIME256V1, Nid::SECP384R1, Nid::SECP521R1] {
            let group = EcGroup::from_curve_name(curve).unwrap();
            let ec = EcKey::generate(&group).unwrap();
            let der = ec.private_key_to_der().unwrap();
            let key = PKey::from_ec_key(ec).unwrap();
            assert!(is_decoded("EC PRIVATE KEY", &der, &key), "{curve:?}");
            let pkcs8 = key.private_key_to_pkcs8().unwrap();
            assert!(is_decoded("PRIVATE KEY", &pkcs8, &key), "{curve:?}");
        }
    }

    #[test]
    fn other_keys_are_left_to_openssl() {
        let key = PKey::generate_ed25519().unwrap();
        let pkcs8 = key.private_key_to_pkcs8().unwrap();
        assert!(decode_by_label("PRIVATE KEY", &pkcs8).is_none());
        assert!(decode_by_label("PRIVATE KEY", b"").is_none());
        assert!(decode_by_label("EC PRIVATE KEY", &pkcs8).is_none());
        assert!(decode_by_label("TSS2 PRIVATE KEY", &pkcs8).is_none());
    }
}
