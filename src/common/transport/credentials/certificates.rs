//! Reads the certificates of a PEM file, and describes what is wrong with one that cannot be used.

use std::fmt::Display;
use std::net::IpAddr;
use std::path::Path;

use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::x509::{X509, X509NameRef, X509Ref, X509VerifyResult};

use super::der;
use super::foreign_formats;
use super::pem::{self, Block, Flaw};
use crate::common::fault::Fault;
use crate::common::runtime::small_file::{invalid_file, read_for};

/// The signatures of this number of roots are verified, at each connect; for those of a system's
/// store it would take 20 ms.
const MAX_VERIFIED: usize = 8;

/// OpenSSL's number of its library EVP (`openssl/err.h`).
const LIB_EVP: i32 = 6;
/// Its reason for an algorithm that no active provider has (`ERR_R_UNSUPPORTED`, `openssl/err.h`).
const UNSUPPORTED: i32 = 0x8_010c;

/// Reads the certificates of a file, at least one. A fault names file, flag, block and cause.
pub(super) fn read(flag: &str, path: &Path) -> Result<Vec<X509>, Fault> {
    let bytes = read_for(flag, path)?.bytes;
    let blocks = pem::blocks(&bytes);
    if blocks.iter().any(|b| b.label == "TRUSTED CERTIFICATE") {
        let cause = "holds a TRUSTED CERTIFICATE, which is OpenSSL's own form";
        return Err(invalid_file(flag, path, cause).with_remedy("convert it with openssl x509"));
    }
    let is_certificate =
        |block: &&Block| matches!(block.label.as_str(), "CERTIFICATE" | "X509 CERTIFICATE");
    let verifies = blocks.iter().filter(is_certificate).count() <= MAX_VERIFIED;
    let mut certificates = Vec::new();
    for (number, block) in (1..).zip(blocks.iter().filter(is_certificate)) {
        let certificate = decode_block(flag, path, number, block)?;
        if verifies && is_self_issued(&certificate) && is_not_signed_by(&certificate, &certificate)
        {
            return Err(damaged(flag, path, block, "its signature does not fit"));
        }
        certificates.push(certificate);
    }
    if !certificates.is_empty() {
        return Ok(certificates);
    }
    if blocks.iter().any(|b| b.label.ends_with("PRIVATE KEY")) {
        let remedy = match flag {
            "--cafile" => "give the file of the CA",
            _ => "are --cert and --key swapped?",
        };
        let cause = "is a private key, not a certificate";
        return Err(invalid_file(flag, path, cause).with_remedy(remedy));
    }
    let cause = "holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)";
    Err(missing_block_fault(flag, path, cause, &bytes, &blocks))
}

fn decode_block(flag: &str, path: &Path, number: usize, block: &Block) -> Result<X509, Fault> {
    let content = match &block.content {
        Ok(content) => content,
        Err(Flaw::NotAlone) => {
            let line = block.line;
            let cause =
                format!("certificate {number} (line {line}) does not begin on a separate line");
            return Err(invalid_file(flag, path, cause)
                .with_remedy("put a line end in front of its -----BEGIN"));
        }
        Err(other) => return Err(damaged(flag, path, block, other)),
    };
    let certificate = X509::from_der(content).map_err(|e| {
        let reason = openssl_reason(&e);
        let cause = format!("what it holds is no X.509 certificate ({reason})");
        damaged(flag, path, block, cause)
    })?;
    if certificate.public_key().is_err() {
        let position = block.describe();
        let cause = format!("{position}: this OpenSSL does not know the type of its key");
        return Err(
            invalid_file(flag, path, cause).with_remedy("get a certificate for an RSA or EC key")
        );
    }
    Ok(certificate)
}

pub(super) fn damaged(flag: &str, path: &Path, block: &Block, cause: impl Display) -> Fault {
    let cause = format!("{} is damaged: {cause}", block.describe());
    invalid_file(flag, path, cause).with_remedy("copy the file again")
}

/// The fault of a file without the block that was asked for: this cause, and what the file is.
pub(super) fn missing_block_fault(
    flag: &str,
    path: &Path,
    cause: &str,
    bytes: &[u8],
    blocks: &[Block],
) -> Fault {
    let format = if blocks.is_empty() {
        foreign_formats::without_blocks(bytes)
    } else {
        Some(foreign_formats::describe_blocks(blocks))
    };
    match format {
        Some(format) => {
            // A label may contain a semicolon, a remedy does not.
            let (what, remedy) = format.rsplit_once("; ").unwrap_or((&format, ""));
            invalid_file(flag, path, format!("{cause}: {what}")).with_remedy(remedy)
        }
        None => invalid_file(flag, path, cause).with_remedy("give another file"),
    }
}

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

pub(crate) fn issuer(certificate: &X509Ref) -> String {
    common_name(certificate.issuer_name())
}

pub(crate) fn is_same_name(one: &X509NameRef, other: &X509NameRef) -> bool {
    one.try_cmp(other).is_ok_and(std::cmp::Ordering::is_eq)
}

pub(crate) fn is_self_issued(certificate: &X509Ref) -> bool {
    let ids = certificate
        .authority_key_id()
        .zip(certificate.subject_key_id());
    is_same_name(certificate.subject_name(), certificate.issuer_name())
        && ids.is_none_or(|(issuer, own)| issuer.as_slice() == own.as_slice())
}

pub(crate) fn is_ca(certificate: &X509Ref) -> bool {
    certificate.to_der().is_ok_and(|der| der::is_ca(&der))
}

/// Whether `issuer` is certainly the issuer, by name and key identifier, and the signature is not its.
pub(super) fn has_bad_signature(certificate: &X509Ref, issuer: &X509Ref) -> bool {
    let ids = certificate.authority_key_id().zip(issuer.subject_key_id());
    let is_issuer = issuer.issued(certificate) == X509VerifyResult::OK
        && ids.is_some_and(|(wanted, own)| wanted.as_slice() == own.as_slice());
    is_issuer && is_not_signed_by(certificate, issuer)
}

/// Whether the signature is certainly not this issuer's; `false` if it cannot be verified.
fn is_not_signed_by(certificate: &X509Ref, issuer: &X509Ref) -> bool {
    let key = issuer.public_key();
    let fails = key.is_ok_and(|key| certificate.verify(&key).is_ok_and(|fits| !fits));
    // OpenSSL leaves the errors behind. A TPM that was asked to verify, and cannot, says nothing about the signature.
    fails && !ErrorStack::get().errors().iter().any(is_of_provider)
}

pub(crate) fn dns_names(certificate: &X509Ref) -> Vec<String> {
    let names = certificate.subject_alt_names().into_iter().flatten();
    names
        .filter_map(|name| name.dnsname().map(str::to_owned))
        .collect()
}

/// The first host names of a certificate. Without any, the common name is used.
pub(crate) fn describe_host_names(certificate: &X509Ref) -> String {
    const SHOWN: usize = 4;
    let mut names = dns_names(certificate);
    for name in certificate.subject_alt_names().into_iter().flatten() {
        if let Some(ip) = name.ipaddress() {
            let four = <[u8; 4]>::try_from(ip).map(IpAddr::from);
            let address = four.or_else(|_| <[u8; 16]>::try_from(ip).map(IpAddr::from));
            names.extend(address.ok().map(|ip| ip.to_string()));
        }
    }
    names.truncate(SHOWN);
    if names.is_empty() {
        subject(certificate)
    } else {
        names.join(", ")
    }
}

pub(crate) fn signature_algorithm(certificate: &X509Ref) -> &'static str {
    let algorithm = certificate.signature_algorithm().object().nid();
    algorithm.long_name().unwrap_or("an unknown algorithm")
}

/// Whether no active provider has the algorithm.
pub(super) fn is_unsupported(error: &openssl::error::Error) -> bool {
    error.library_code() == LIB_EVP && error.reason_code() == UNSUPPORTED
}

pub(super) fn openssl_reason(stack: &ErrorStack) -> &'static str {
    let mut errors = stack.errors().iter();
    errors
        .find_map(openssl::error::Error::reason)
        .unwrap_or("no reason given")
}

/// What the device or its library said, else OpenSSL's reason.
pub(super) fn device_reason(stack: &ErrorStack) -> String {
    let mut errors = stack.errors().iter();
    let said = errors.find_map(|error| error.data().filter(|_| is_of_provider(error)));
    said.map_or_else(|| openssl_reason(stack).to_owned(), str::to_owned)
}

/// Whether a provider reported it. Libraries of OpenSSL have smaller numbers (`ERR_LIB_USER`, `openssl/err.h`).
pub(super) fn is_of_provider(error: &openssl::error::Error) -> bool {
    error.library_code() > 128
}
