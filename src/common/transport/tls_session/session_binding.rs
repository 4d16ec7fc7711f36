//! What a TLS session belongs to. It is used again only with the same endpoint, CAs, certificate, key and TLS limits; the
//! key of the certificate also encrypts the file of a session, so that the file alone is of no use to anybody.

use openssl::error::ErrorStack;
use openssl::rand::rand_bytes;
use openssl::sha::Sha256;
use openssl::symm::{Cipher, decrypt_aead, encrypt_aead};
use zeroize::Zeroizing;

use crate::common::broker::endpoint::Endpoint;
use crate::common::transport::credentials::{CredentialContents, TlsCredentials};
use crate::common::transport::tls_limits::TlsLimits;

/// The sizes of AES-GCM (NIST SP 800-38D), in bytes.
const NONCE: usize = 12;
const TAG: usize = 16;

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SessionBinding {
    digest: [u8; 32],
    /// None without a file, or without a private key in memory.
    file_key: Option<Zeroizing<[u8; 32]>>,
}

impl SessionBinding {
    pub(crate) fn new(
        endpoint: &Endpoint,
        credentials: &TlsCredentials,
        limits: &TlsLimits,
        for_file: bool,
    ) -> Self {
        let contents = CredentialContents::of(credentials);
        let mut hash = Sha256::new();
        update(&mut hash, format!("{endpoint:?} {limits:?}").as_bytes());
        for part in [&contents.chain, &contents.authorities] {
            update(&mut hash, &part.len().to_be_bytes());
            for certificate in part {
                update(&mut hash, certificate);
            }
        }
        let digest = hash.finish();
        let key_digest = for_file.then(|| credentials.private_key_digest()).flatten();
        let file_key = key_digest.map(|secret| {
            let mut hash = Sha256::new();
            update(&mut hash, b"key of a TLS session file");
            update(&mut hash, &secret);
            Zeroizing::new(hash.finish())
        });
        Self { digest, file_key }
    }

    /// Encrypts for a file. None without a private key in memory.
    pub(super) fn seal(&self, plain: &[u8]) -> Option<Result<Vec<u8>, ErrorStack>> {
        let key = self.file_key.as_deref()?;
        let seal = || {
            let mut sealed = vec![0; NONCE];
            rand_bytes(&mut sealed)?;
            let (cipher, mut tag) = (Cipher::aes_256_gcm(), [0; TAG]);
            let data = encrypt_aead(cipher, key, Some(&sealed), &self.digest, plain, &mut tag)?;
            sealed.extend(data);
            sealed.extend(tag);
            Ok(sealed)
        };
        Some(seal())
    }

    /// Decrypts what was sealed with an equal binding; anything else is none.
    pub(super) fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_at_checked(NONCE)?;
        let (data, tag) = rest.split_at_checked(rest.len().checked_sub(TAG)?)?;
        let cipher = Cipher::aes_256_gcm();
        decrypt_aead(
            cipher,
            self.file_key.as_deref()?,
            Some(nonce),
            &self.digest,
            data,
            tag,
        )
        .ok()
    }
}

#[cfg(test)]
impl SessionBinding {
    pub(super) fn of(digest: u8, file_key: Option<u8>) -> Self {
        Self {
            digest: [digest; 32],
            file_key: file_key.map(|byte| Zeroizing::new([byte; 32])),
        }
    }
}

/// With its length first, so that no two lists have the same bytes.
fn update(hash: &mut Sha256, part: &[u8]) {
    hash.update(&part.len().to_be_bytes());
    hash.update(part);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_equal_binding_opens_and_any_changed_byte_is_found() {
        let ours = SessionBinding::of(1, Some(2));
        let sealed = ours.seal(b"session").unwrap().unwrap();
        assert_eq!(ours.open(&sealed).as_deref(), Some(&b"session"[..]));
        assert_ne!(
            ours.seal(b"session").unwrap().unwrap(),
            sealed,
            "no nonce comes twice"
        );
        assert!(!sealed.windows(7).any(|part| part == b"session"));
        for (digest, key) in [(3, Some(2)), (1, Some(3)), (1, None)] {
            assert_eq!(SessionBinding::of(digest, key).open(&sealed), None);
        }
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 0x10;
            assert_eq!(ours.open(&changed), None, "byte {at}");
            assert_eq!(ours.open(&sealed[..at]), None);
        }
    }

    #[test]
    fn a_key_that_is_not_in_memory_seals_nothing() {
        assert!(SessionBinding::of(1, None).seal(b"session").is_none());
    }
}
