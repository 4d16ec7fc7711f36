//! Makes certificates with RSA keys of 2,048 bits, for `examples/bench` to count bytes with: `rsa-certs DIR`. It prints how
//! many bytes the server's certificates in `DIR/chain` have together.
//!
//! `DIR/single` is what `scripts/make-certs` makes, with RSA: one CA, which has signed the server's certificate and the
//! device's. In `DIR/chain` the server has a chain as AWS IoT Core has, and devices are of another CA, as they are there.
//!
//! OpenSSL takes a few megabytes, and so it is a program of its own: `examples/bench` has to be small.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use openssl::asn1::{Asn1Integer, Asn1Object, Asn1OctetString, Asn1Time};
use openssl::bn::{BigNum, MsbOption};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509Extension, X509Name, X509NameBuilder};

fn main() -> anyhow::Result<()> {
    let dir = env::args_os().nth(1).context("usage: rsa-certs DIR")?;
    let dir = Path::new(&dir);
    let certs = RsaCerts::generate()?;
    certs.write_single(&dir.join("single"))?;
    println!("{}", certs.write_chain(&dir.join("chain"))?);
    Ok(())
}

/// The keys from which certificates of both kinds are made.
struct RsaCerts {
    root: Holder,
    intermediate: Holder,
    server: Holder,
    /// Older CAs, that have signed the newer ones for those who know only them.
    older: Holder,
    oldest: Holder,
    device_ca: Holder,
    device: Holder,
}

/// A name and its key.
struct Holder {
    name: X509Name,
    key: PKey<Private>,
}

impl Holder {
    fn new(name: &str) -> Result<Self, ErrorStack> {
        let mut subject = X509NameBuilder::new()?;
        subject.append_entry_by_text("O", "iot-pubsub")?;
        subject.append_entry_by_text("CN", name)?;
        Ok(Self {
            name: subject.build(),
            key: PKey::from_rsa(Rsa::generate(2048)?)?,
        })
    }

    /// Signs a certificate for `subject`. A CA's has no `host`.
    fn issue(
        &self,
        subject: &Self,
        host: Option<&str>,
        padding: usize,
    ) -> Result<X509, ErrorStack> {
        let mut cert = X509Builder::new()?;
        cert.set_version(2)?;
        let mut serial = BigNum::new()?;
        serial.rand(127, MsbOption::MAYBE_ZERO, false)?;
        cert.set_serial_number(&*Asn1Integer::from_bn(&serial)?)?;
        cert.set_subject_name(&subject.name)?;
        cert.set_issuer_name(&self.name)?;
        let (from, until) = (Asn1Time::from_unix(0)?, Asn1Time::days_from_now(365)?);
        cert.set_not_before(&from)?;
        cert.set_not_after(&until)?;
        cert.set_pubkey(&subject.key)?;
        if let Some(host) = host {
            let names = SubjectAlternativeName::new()
                .dns(host)
                .build(&cert.x509v3_context(None, None))?;
            cert.append_extension(names)?;
        } else {
            cert.append_extension(BasicConstraints::new().critical().ca().build()?)?;
        }
        if padding > 0 {
            // Policies, addresses and time stamps of logs in a real one; here an extension that nobody knows.
            let content = Asn1OctetString::new_from_bytes(&vec![0; padding])?;
            let number = Asn1Object::from_str("1.3.6.1.4.1.55555.1")?;
            cert.append_extension(X509Extension::new_from_der(&number, false, &content)?)?;
        }
        cert.sign(&self.key, MessageDigest::sha256())?;
        Ok(cert.build())
    }

    /// The same with a size of about this many bytes.
    fn issue_sized(
        &self,
        subject: &Self,
        host: Option<&str>,
        size: usize,
    ) -> Result<X509, ErrorStack> {
        let padded = self.issue(subject, host, 256)?.to_der()?.len();
        self.issue(subject, host, (size + 256).saturating_sub(padded))
    }
}

impl RsaCerts {
    fn generate() -> Result<Self, ErrorStack> {
        Ok(Self {
            root: Holder::new("Root CA 1")?,
            intermediate: Holder::new("RSA 2048 M01")?,
            server: Holder::new("*.iot.example")?,
            older: Holder::new("Services Root Certificate Authority - G2")?,
            oldest: Holder::new("Class 2 Certification Authority")?,
            device_ca: Holder::new("Devices")?,
            device: Holder::new("device")?,
        })
    }

    fn write_single(&self, dir: &Path) -> anyhow::Result<()> {
        let server = self.root.issue(&self.server, Some("localhost"), 0)?;
        self.write(dir, &[server], &self.root).map(drop)
    }

    /// Its own certificate, the intermediate CA's, and two of CAs that older ones have signed.
    fn write_chain(&self, dir: &Path) -> anyhow::Result<usize> {
        let chain = [
            self.intermediate
                .issue_sized(&self.server, Some("localhost"), 1450)?,
            self.root.issue_sized(&self.intermediate, None, 1120)?,
            self.older.issue_sized(&self.root, None, 1170)?,
            self.oldest.issue_sized(&self.older, None, 1145)?,
        ];
        self.write(dir, &chain, &self.device_ca)
    }

    /// Returns the bytes of the chain.
    fn write(&self, dir: &Path, chain: &[X509], device_ca: &Holder) -> anyhow::Result<usize> {
        fs::create_dir_all(dir)?;
        let certificate = |name: &str, certs: &[X509]| -> anyhow::Result<usize> {
            let pems: Result<Vec<_>, _> = certs.iter().map(|cert| cert.to_pem()).collect();
            fs::write(dir.join(name), pems?.concat())?;
            let sizes: Result<Vec<_>, _> = certs.iter().map(|cert| cert.to_der()).collect();
            Ok(sizes?.iter().map(Vec::len).sum())
        };
        let key = |name: &str, holder: &Holder| -> anyhow::Result<()> {
            let file = dir.join(name);
            fs::write(&file, holder.key.private_key_to_pem_pkcs8()?)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
            Ok(())
        };
        certificate("ca.pem", &[self.root.issue(&self.root, None, 0)?])?;
        certificate("client-ca.pem", &[device_ca.issue(device_ca, None, 0)?])?;
        let device = device_ca.issue(&self.device, Some("device"), 0)?;
        certificate("device.pem.crt", &[device])?;
        key("private.pem.key", &self.device)?;
        key("server.pem.key", &self.server)?;
        certificate("server.pem.crt", chain)
    }
}
