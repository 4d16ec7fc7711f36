//! A private key that a TPM or a token holds, opened by a provider of OpenSSL.
//!
//! A TPM holds about three keys, so one that is still loaded is used again, by whichever connection needs it,
//! and the end of the program waits until it has been freed. A signature is made at once: only that shows whether the
//! device accepts the passphrase, and whether OpenSSL asks the provider to sign, before a broker is contacted.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::{KeyType, PKey, Private};
use openssl::rsa::Padding;
use openssl::sign::{RsaPssSaltlen, Signer};
use parking_lot::{Condvar, Mutex};

use super::certificates::is_of_provider;
use super::device_refusal::DeviceRefusal;
use super::key_device::{self, KeyDevice};
use crate::common::fault::Fault;

/// How long the end of the program waits for connections that still end.
const FREE_TIMEOUT: Duration = Duration::from_millis(500);

static LOADED: Mutex<LoadedKeys> = Mutex::new(LoadedKeys {
    latest: Weak::new(),
    count: 0,
    refused: None,
});
static ONE_FREED: Condvar = Condvar::new();
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

struct LoadedKeys {
    latest: Weak<DeviceKey>,
    /// Of all, also those that were replaced and are still in use.
    count: usize,
    /// What the device refused for good: not asked again with the same passphrase.
    refused: Option<(u64, Fault)>,
}

/// Its fields are freed in this order.
pub(super) struct DeviceKey {
    key: PKey<Private>,
    device: KeyDevice,
    /// Of the file's block and the passphrase.
    fingerprint: u64,
    _counted: Counted,
}

struct Counted;

impl Counted {
    fn new() -> Self {
        LOADED.lock().count += 1;
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        LOADED.lock().count -= 1;
        ONE_FREED.notify_all();
    }
}

impl DeviceKey {
    /// The key of a PEM block. It is loaded unless it is already, and works.
    pub(super) fn open(
        device: KeyDevice,
        path: &Path,
        pem: &str,
        passphrase: Option<&str>,
    ) -> Result<Arc<Self>, Fault> {
        let fingerprint = HASHER.hash_one((pem, passphrase));
        let latest = {
            let loaded = LOADED.lock();
            // A wrong passphrase counts each time: a TPM refuses all after a few.
            if let Some((_, fault)) = loaded.refused.as_ref().filter(|(of, _)| *of == fingerprint) {
                return Err(fault.clone());
            }
            loaded.latest.upgrade()
        };
        // A device that was reset does not know the key any more.
        if let Some(key) = latest.filter(|key| key.fingerprint == fingerprint)
            && sign_something(&key.key).is_ok()
        {
            return Ok(key);
        }
        let loaded = Self::load(device, path, pem, passphrase, fingerprint);
        let mut all = LOADED.lock();
        match &loaded {
            Ok(key) => all.latest = Arc::downgrade(key),
            Err(fault) if fault.permanent => all.refused = Some((fingerprint, fault.clone())),
            Err(_) => {}
        }
        drop(all);
        loaded
    }

    fn load(
        device: KeyDevice,
        path: &Path,
        pem: &str,
        passphrase: Option<&str>,
        fingerprint: u64,
    ) -> Result<Arc<Self>, Fault> {
        let (key, is_asked) = key_device::decode(pem, passphrase);
        let refusal = DeviceRefusal {
            device,
            path,
            passphrase,
            is_asked,
        };
        let key = key.map_err(|stack| refusal.of_loading(pem, &stack))?;
        if is_asked && passphrase.is_none() {
            return Err(refusal.without_passphrase());
        }
        let counted = Counted::new();
        sign_something(&key).map_err(|stack| refusal.of_signing(&stack))?;
        Ok(Arc::new(Self {
            key,
            device,
            fingerprint,
            _counted: counted,
        }))
    }

    pub(super) fn key(&self) -> &PKey<Private> {
        &self.key
    }

    pub(super) fn device(&self) -> KeyDevice {
        self.device
    }

    /// Waits until every key has been freed, or the time is up. Returns at once if there is none.
    pub(super) fn wait_until_freed() {
        let mut loaded = LOADED.lock();
        ONE_FREED.wait_while_for(&mut loaded, |loaded| loaded.count > 0, FREE_TIMEOUT);
    }
}

fn sign_something(key: &PKey<Private>) -> Result<(), ErrorStack> {
    const DATA: &[u8] = b"iot-pubsub";
    if key.is_a(KeyType::ED25519) {
        return Signer::new_without_digest(key)?
            .sign_oneshot_to_vec(DATA)
            .map(drop);
    }
    let mut signer = Signer::new(MessageDigest::sha256(), key)?;
    match signer.sign_oneshot_to_vec(DATA) {
        // It may be one for the padding of TLS 1.3 only.
        Err(stack) if key.is_a(KeyType::RSA) && stack.errors().iter().any(is_of_provider) => {
            let mut signer = Signer::new(MessageDigest::sha256(), key)?;
            signer.set_rsa_padding(Padding::PKCS1_PSS)?;
            signer.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH)?;
            // A wrong passphrase fails again: the first error names it as well.
            let again = signer.sign_oneshot_to_vec(DATA);
            again.map(drop).map_err(|_| stack)
        }
        result => result.map(drop),
    }
}
