//! Describes a file that holds no PEM block of the kind that was asked for.

use openssl::pkcs7::Pkcs7;
use openssl::pkcs12::Pkcs12;
use openssl::pkey::PKey;
use openssl::x509::{X509, X509Req};

use super::der;
use super::pem::Block;

/// What the file is, and the remedy.
pub(super) struct ForeignFormat {
    pub(super) what: String,
    pub(super) remedy: &'static str,
}

const COPY: &str = "copy the file again";
const UTF_16: [&[u8]; 4] = [b"\xff\xfe", b"\xfe\xff", b"-\0-\0", b"\0-\0-"];

/// How text begins, what it is then, and the remedy.
const TEXTS: [(&[&str], &str, &str); 5] = [
    (
        &["PuTTY-User-Key-File"],
        "a PuTTY key",
        "make a key with openssl genpkey, and have it certified",
    ),
    (
        &["ssh-", "ecdsa-sha2-", "---- BEGIN SSH2"],
        "an SSH public key",
        "give the certificate's own files",
    ),
    (
        &["<"],
        "HTML or XML, perhaps an error message that was downloaded",
        "download the file again",
    ),
    (
        &["{"],
        "JSON",
        "write the PEM text in it to a separate file",
    ),
    (
        &["MII"],
        "base64 without -----BEGIN and -----END lines",
        "add these lines, or copy the file again",
    ),
];

/// Labels of blocks, `*` for any beginning; what the file is then, and the remedy.
const LABELS: [(&[&str], &str, &str); 5] = [
    (
        &["*CERTIFICATE REQUEST"],
        "is a certificate request",
        "give the certificate that a CA has made of it, or the key that it was made with",
    ),
    (
        &["*PUBLIC KEY"],
        "is a public key",
        "give the private key, or the certificate (at AWS *-private.pem.key and *-certificate.pem.crt)",
    ),
    (
        &["PKCS7", "CMS"],
        "is a PKCS#7 bundle",
        "convert it: openssl pkcs7 -print_certs -in FILE -out FILE.pem",
    ),
    (
        &["X509 CRL"],
        "is a revocation list",
        "give the certificate's own file",
    ),
    (
        &["EC PARAMETERS"],
        "has the parameters of a key, and not the key",
        "copy the file again, to its end",
    ),
];

/// A file without any PEM block; none if it is not known.
pub(super) fn without_blocks(bytes: &[u8]) -> Option<ForeignFormat> {
    let text = bytes.trim_ascii_start();
    let begins = |starts: &[&str]| {
        starts
            .iter()
            .any(|start| text.starts_with(start.as_bytes()))
    };
    let (what, remedy) = if bytes.is_empty() {
        ("it is empty".into(), COPY)
    } else if text.is_empty() {
        ("it holds nothing but white space".into(), COPY)
    } else if UTF_16.iter().any(|mark| bytes.starts_with(mark)) {
        let remedy = "save it as plain text (ASCII or UTF-8)";
        ("it is UTF-16 text".into(), remedy)
    } else if let Some((_, what, remedy)) = TEXTS.iter().find(|(starts, ..)| begins(starts)) {
        (format!("it is {what}"), *remedy)
    } else {
        let (have, size) = (bytes.len(), der::sequence_size(bytes)?);
        if size > have {
            let what = format!("it seems to be DER, cut short: {have} of {size} bytes are there");
            (what, "copy the file again, in PEM form")
        } else {
            let (what, remedy) = der_format(bytes);
            (format!("it is {what}"), remedy)
        }
    };
    Some(ForeignFormat { what, remedy })
}

/// What a whole DER structure is.
fn der_format(bytes: &[u8]) -> (&'static str, &'static str) {
    if X509::from_der(bytes).is_ok() {
        (
            "a certificate in DER form",
            "convert it: openssl x509 -inform DER -in FILE -out FILE.pem",
        )
    } else if PKey::private_key_from_der(bytes).is_ok() {
        (
            "a private key in DER form",
            "convert it: openssl pkey -inform DER -in FILE -out FILE.pem",
        )
    } else if Pkcs12::from_der(bytes).is_ok() {
        (
            "a PKCS#12 store (.p12, .pfx)",
            "take it apart: openssl pkcs12 -in FILE -out FILE.pem, with -nodes for a key without a passphrase",
        )
    } else if Pkcs7::from_der(bytes).is_ok() {
        (
            "a PKCS#7 bundle in DER form",
            "convert it: openssl pkcs7 -inform DER -print_certs -in FILE -out FILE.pem",
        )
    } else if X509Req::from_der(bytes).is_ok() {
        (
            "a certificate request in DER form",
            "give the certificate that a CA has made of it",
        )
    } else if PKey::public_key_from_der(bytes).is_ok() {
        (
            "a public key in DER form",
            "give the private key, or the certificate",
        )
    } else {
        ("DER of another kind", "give a PEM file")
    }
}

/// A file without a block of the kind that was asked for.
pub(super) fn with_blocks(blocks: &[Block]) -> ForeignFormat {
    let is = |known: &str, label: &str| match known.strip_prefix('*') {
        Some(end) => label.ends_with(end),
        None => label == known,
    };
    let has = |labels: &[&str]| {
        let mut all = blocks.iter();
        all.any(|block| labels.iter().any(|known| is(known, &block.label)))
    };
    if let Some((_, what, remedy)) = LABELS.iter().find(|(labels, ..)| has(labels)) {
        let what = format!("it {what}");
        return ForeignFormat { what, remedy };
    }
    let labels: Vec<&str> = blocks.iter().take(3).map(|b| b.label.as_str()).collect();
    ForeignFormat {
        what: format!("it holds: {}", labels.join(", ")),
        remedy: "give another file",
    }
}
