//! Certificates: the usual set that everybody trusts, and awkward ones that nobody should.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use openssl::{
    asn1::{Asn1Integer, Asn1Time},
    bn::{BigNum, MsbOption},
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkey::{HasPublic, PKey, Private},
    symm::Cipher,
    x509::{
        X509, X509Builder, X509Extension, X509Name, X509NameBuilder,
        extension::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName},
    },
};

use super::{SOON, odd_certs::Issued, process_dir, wait_until};

/// A certificate and its private key, both PEM files.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// What `scripts/make-certs` makes.
pub(crate) struct Certs {
    pub(crate) ca: PathBuf,
    pub(crate) server: Pair,
    pub(crate) device: Pair,
    pub(crate) authority: Authority,
}

/// The set that all tests of this process share.
pub(crate) fn certs() -> &'static Certs {
    static CERTS: OnceLock<Certs> = OnceLock::new();
    CERTS.get_or_init(|| {
        let dir = process_dir().join("certs");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/make-certs");
        let made = Command::new(script).arg(&dir).status();
        assert!(made.expect("scripts/make-certs").success());
        // In its first second the programs take a certificate for not yet valid, and warn.
        let made = SystemTime::now();
        let usable = || made.elapsed().is_ok_and(|age| age > Duration::from_secs(1));
        assert!(wait_until(SOON, usable), "the clock stands still");
        Certs {
            ca: dir.join("ca.pem"),
            server: Pair {
                cert: dir.join("server.pem.crt"),
                key: dir.join("server.pem.key"),
            },
            device: Pair {
                cert: dir.join("device.pem.crt"),
                key: dir.join("private.pem.key"),
            },
            authority: Authority::load(&dir.join("ca.pem"), &dir.join("ca.key")),
        }
    })
}

/// A CA that signs what a test asks for.
pub(crate) struct Authority {
    cert: X509,
    key: PKey<Private>,
}

/// When a certificate is valid.
#[derive(Clone, Copy)]
pub(crate) enum Validity {
    Now,
    Expired,
    NotYet,
    /// It has less than thirty days left.
    EndsSoon,
}

impl Authority {
    /// A CA that no broker of ours trusts, and its certificate as `foreign-ca.pem`.
    pub(crate) fn foreign(dir: &Path) -> (Self, PathBuf) {
        let key = new_key();
        let mut cert = builder("foreign CA", &key, Validity::Now);
        let ca = BasicConstraints::new().critical().ca().build().unwrap();
        let usage = KeyUsage::new().critical().key_cert_sign().build().unwrap();
        cert.append_extension(ca).unwrap();
        cert.append_extension(usage).unwrap();
        cert.set_issuer_name(&common_name("foreign CA")).unwrap();
        cert.sign(&key, MessageDigest::sha256()).unwrap();
        let cert = cert.build();
        let path = dir.join("foreign-ca.pem");
        fs::write(&path, cert.to_pem().unwrap()).unwrap();
        (Self { cert, key }, path)
    }

    /// Its certificate and key, to sign by hand with.
    pub(crate) fn issued(&self) -> Issued {
        Issued {
            cert: self.cert.clone(),
            key: self.key.clone(),
        }
    }

    fn load(cert: &Path, key: &Path) -> Self {
        Self {
            cert: X509::from_pem(&fs::read(cert).unwrap()).unwrap(),
            key: PKey::private_key_from_pem(&fs::read(key).unwrap()).unwrap(),
        }
    }

    /// A server certificate for the host name `host`.
    pub(crate) fn server(&self, dir: &Path, host: &str, validity: Validity) -> Pair {
        let usage = ExtendedKeyUsage::new().server_auth().build().unwrap();
        self.issue(dir, host, validity, usage)
    }

    /// A client certificate with the common name `name`.
    pub(crate) fn client(&self, dir: &Path, name: &str, validity: Validity) -> Pair {
        let usage = ExtendedKeyUsage::new().client_auth().build().unwrap();
        self.issue(dir, name, validity, usage)
    }

    /// A client certificate for a key that somebody else has.
    pub(crate) fn client_certificate<T: HasPublic>(&self, name: &str, key: &PKey<T>) -> X509 {
        let mut cert = builder(name, key, Validity::Now);
        let usage = ExtendedKeyUsage::new().client_auth().build().unwrap();
        cert.set_issuer_name(self.cert.subject_name()).unwrap();
        cert.append_extension(usage).unwrap();
        cert.sign(&self.key, MessageDigest::sha256()).unwrap();
        cert.build()
    }

    fn issue(&self, dir: &Path, name: &str, validity: Validity, usage: X509Extension) -> Pair {
        let key = new_key();
        let mut cert = builder(name, &key, validity);
        cert.set_issuer_name(self.cert.subject_name()).unwrap();
        cert.append_extension(usage).unwrap();
        let names = SubjectAlternativeName::new()
            .dns(name)
            .build(&cert.x509v3_context(Some(&self.cert), None))
            .unwrap();
        cert.append_extension(names).unwrap();
        cert.sign(&self.key, MessageDigest::sha256()).unwrap();
        let pair = Pair {
            cert: dir.join(format!("{name}.pem.crt")),
            key: dir.join(format!("{name}.pem.key")),
        };
        fs::write(&pair.cert, cert.build().to_pem().unwrap()).unwrap();
        write_key(&pair.key, &key.private_key_to_pem_pkcs8().unwrap(), 0o600);
        pair
    }
}

/// The device's key, encrypted.
pub(crate) fn encrypted_key(dir: &Path, passphrase: &str) -> PathBuf {
    let key = PKey::private_key_from_pem(&fs::read(&certs().device.key).unwrap()).unwrap();
    let pem = key
        .private_key_to_pem_pkcs8_passphrase(Cipher::aes_256_cbc(), passphrase.as_bytes())
        .unwrap();
    let path = dir.join("encrypted.pem.key");
    write_key(&path, &pem, 0o600);
    path
}

/// A key that belongs to no certificate.
pub(crate) fn stray_key(dir: &Path) -> PathBuf {
    let path = dir.join("stray.pem.key");
    write_key(&path, &new_key().private_key_to_pem_pkcs8().unwrap(), 0o600);
    path
}

/// The device's key with other permissions than 0600.
pub(crate) fn key_with_mode(dir: &Path, mode: u32) -> PathBuf {
    let path = dir.join(format!("mode-{mode:o}.pem.key"));
    write_key(&path, &fs::read(&certs().device.key).unwrap(), mode);
    path
}

/// Makes the group of a file one that nobody here is in. Without root it stays, and the owner is not root.
pub(crate) fn give_to_foreign_group(path: &Path) {
    let _ = chown(path, None, Some(54_322));
}

pub(super) fn write_key(path: &Path, pem: &[u8], mode: u32) {
    fs::write(path, pem).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn new_key() -> PKey<Private> {
    let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&curve).unwrap()).unwrap()
}

/// An X.509 version 3 certificate for `key`, not signed yet.
fn builder<T: HasPublic>(name: &str, key: &PKey<T>, validity: Validity) -> X509Builder {
    let days = |days: i64| {
        let epoch = std::time::UNIX_EPOCH;
        let now = epoch.elapsed().expect("a clock after 1970").as_secs();
        // Half a day off, so that a count of whole days does not change during a test.
        Asn1Time::from_unix(i64::try_from(now).unwrap() + days * 86_400 + 43_200).unwrap()
    };
    let (from, until) = match validity {
        Validity::Now => (days(-1), days(60)),
        Validity::Expired => (days(-30), days(-1)),
        Validity::NotYet => (days(1), days(30)),
        Validity::EndsSoon => (days(-300), days(20)),
    };
    let mut serial = BigNum::new().unwrap();
    serial.rand(127, MsbOption::MAYBE_ZERO, false).unwrap();

    let mut cert = X509::builder().unwrap();
    cert.set_version(2).unwrap();
    cert.set_serial_number(&Asn1Integer::from_bn(&serial).unwrap())
        .unwrap();
    cert.set_subject_name(&common_name(name)).unwrap();
    cert.set_not_before(&from).unwrap();
    cert.set_not_after(&until).unwrap();
    cert.set_pubkey(key).unwrap();
    cert
}

pub(super) fn common_name(name: &str) -> X509Name {
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_text("CN", name).unwrap();
    subject.build()
}
