//! The certificates of a PEM file, and what is wrong with one that cannot be used.

use std::path::Path;

use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::x509::{X509, X509NameRef, X509Ref, X509VerifyResult};

use super::der;
use super::foreign_formats::{self, Alien};
use super::pem::{self, Block, Flaw};
use crate::common::fault::Fault;
use crate::common::runtime::small_file::{read_for, wrong};

/// The signatures of so many roots are verified, at each connect; those of a system's store would take 20 ms.
const FEW: usize = 8;

/// Reads the certificates of a file, one at least.
///
/// # Errors
///
/// A fault that names file, flag, block and cause.
pub(crate) fn read(flag: &str, path: &Path) -> Result<Vec<X509>, Fault> {
    let bytes = read_for(flag, path)?.bytes;
    let blocks = pem::blocks(&bytes);
    if blocks
        .iter()
        .any(|block| block.label == "TRUSTED CERTIFICATE")
    {
        let why = "holds a TRUSTED CERTIFICATE, which is OpenSSL's own form";
        return Err(wrong(flag, path, why).with_remedy("write it anew with openssl x509"));
    }
    let is_certificate =
        |block: &&Block| matches!(block.label.as_str(), "CERTIFICATE" | "X509 CERTIFICATE");
    let is_short = blocks.iter().filter(is_certificate).count() <= FEW;
    let mut certificates = Vec::new();
    for (number, block) in (1..).zip(blocks.iter().filter(is_certificate)) {
        let certificate = certificate(flag, path, number, block)?;
        if is_short
            && is_self_signed(&certificate)
            && is_signed_by_another(&certificate, &certificate)
        {
            return Err(damaged(flag, path, block, "its signature does not fit"));
        }
        certificates.push(certificate);
    }
    if certificates.is_empty() {
        return Err(none(flag, path, &bytes, &blocks));
    }
    Ok(certificates)
}

/// Decodes one block, the certificate of this number in the file.
fn certificate(flag: &str, path: &Path, number: usize, block: &Block) -> Result<X509, Fault> {
    match &block.content {
        Ok(content) => {
            let decoded = X509::from_der(content).map_err(|e| {
                damaged(
                    flag,
                    path,
                    block,
                    &format!("what it holds is no X.509 certificate ({})", reason(&e)),
                )
            })?;
            if decoded.public_key().is_err() {
                let cause = format!(
                    "{}: this OpenSSL does not know the type of its key",
                    block.place()
                );
                return Err(
                    wrong(flag, path, &cause).with_remedy("get a certificate for an RSA or EC key")
                );
            }
            Ok(decoded)
        }
        Err(Flaw::NotAlone) => {
            let line = block.line;
            let cause =
                format!("certificate {number} (line {line}) does not begin on a line of its own");
            Err(wrong(flag, path, &cause).with_remedy("put a line end in front of its -----BEGIN"))
        }
        Err(other) => Err(damaged(flag, path, block, &other.to_string())),
    }
}

fn damaged(flag: &str, path: &Path, block: &Block, why: &str) -> Fault {
    let cause = format!("{} is damaged: {why}", block.place());
    wrong(flag, path, &cause).with_remedy("copy the file again")
}

/// What to say of a file without a certificate.
fn none(flag: &str, path: &Path, bytes: &[u8], blocks: &[Block]) -> Fault {
    if blocks
        .iter()
        .any(|block| block.label.ends_with("PRIVATE KEY"))
    {
        let remedy = match flag {
            "--cafile" => "give the file of the CA",
            _ => "are --cert and --key swapped?",
        };
        return wrong(flag, path, "is a private key, not a certificate").with_remedy(remedy);
    }
    let cause = "holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)";
    told(flag, path, cause, bytes, blocks)
}

/// A fault with this cause, and with what the file is in truth.
pub(crate) fn told(flag: &str, path: &Path, cause: &str, bytes: &[u8], blocks: &[Block]) -> Fault {
    let alien = if blocks.is_empty() {
        foreign_formats::without_blocks(bytes)
    } else {
        Some(foreign_formats::with_blocks(blocks))
    };
    match alien {
        Some(Alien { what, remedy }) => {
            wrong(flag, path, &format!("{cause}: {what}")).with_remedy(remedy)
        }
        None => wrong(flag, path, cause).with_remedy("give another file"),
    }
}

/// A name's common name, or whatever else it has.
pub(crate) fn common_name(name: &X509NameRef) -> String {
    let entry = name
        .entries_by_nid(Nid::COMMONNAME)
        .chain(name.entries())
        .find_map(|entry| entry.data().to_string().ok());
    entry.map_or_else(|| "no name".into(), |text| String::from(&*text))
}

pub(crate) fn subject(certificate: &X509Ref) -> String {
    common_name(certificate.subject_name())
}

/// Who has signed it.
pub(crate) fn issuer(certificate: &X509Ref) -> String {
    common_name(certificate.issuer_name())
}

/// Whether two names are the same.
pub(crate) fn is_same(one: &X509NameRef, other: &X509NameRef) -> bool {
    one.try_cmp(other).is_ok_and(std::cmp::Ordering::is_eq)
}

/// Whether a certificate says that it has signed itself, as roots do.
pub(crate) fn is_self_signed(certificate: &X509Ref) -> bool {
    let ids = certificate
        .authority_key_id()
        .zip(certificate.subject_key_id());
    is_same(certificate.subject_name(), certificate.issuer_name())
        && ids.is_none_or(|(theirs, own)| theirs.as_slice() == own.as_slice())
}

/// Whether a certificate says that it is a CA's.
pub(crate) fn is_ca(certificate: &X509Ref) -> bool {
    certificate.to_der().is_ok_and(|der| der::is_ca(&der))
}

/// Whether the other certificate is for certain the one that this one was signed with, by name and by key identifier,
/// and the signature is not its.
pub(crate) fn has_bad_signature(certificate: &X509Ref, issuer: &X509Ref) -> bool {
    let ids = certificate.authority_key_id().zip(issuer.subject_key_id());
    let is_issuer = issuer.issued(certificate) == X509VerifyResult::OK
        && ids.is_some_and(|(theirs, own)| theirs.as_slice() == own.as_slice());
    is_issuer && is_signed_by_another(certificate, issuer)
}

/// Whether the signature was not made with the key of this issuer. What cannot be verified may have been.
fn is_signed_by_another(certificate: &X509Ref, issuer: &X509Ref) -> bool {
    let key = issuer.public_key();
    key.is_ok_and(|key| certificate.verify(&key).is_ok_and(|fits| !fits))
}

/// How it is signed.
pub(crate) fn signature(certificate: &X509Ref) -> &'static str {
    let algorithm = certificate.signature_algorithm().object().nid();
    algorithm.long_name().unwrap_or("an unknown algorithm")
}

/// What OpenSSL says of a failure, in short.
pub(crate) fn reason(stack: &ErrorStack) -> &'static str {
    let mut errors = stack.errors().iter();
    errors
        .find_map(openssl::error::Error::reason)
        .unwrap_or("no reason given")
}
