//! Describes a file that holds no PEM block of the kind that was asked for.

use openssl::pkcs7::Pkcs7;
use openssl::pkcs12::Pkcs12;
use openssl::pkey::PKey;
use openssl::x509::{X509, X509Req};

use super::der;
use super::pem::Block;

const UTF_16: [&[u8]; 4] = [b"\xff\xfe", b"\xfe\xff", b"-\0-\0", b"\0-\0-"];

/// What a file without any PEM block is, and the remedy; none if it is not known.
pub(super) fn without_blocks(bytes: &[u8]) -> Option<String> {
    let text = bytes.trim_ascii_start();
    let begins = |start: &str| text.starts_with(start.as_bytes());
    let known = if bytes.is_empty() {
        "it is empty; copy the file again"
    } else if text.is_empty() {
        "it holds nothing but white space; copy the file again"
    } else if UTF_16.iter().any(|mark| bytes.starts_with(mark)) {
        "it is UTF-16 text; save it as plain text (ASCII or UTF-8)"
    } else if begins("PuTTY-User-Key-File") {
        "it is a PuTTY key; make a key with openssl genpkey, and have it certified"
    } else if begins("ssh-") || begins("ecdsa-sha2-") || begins("---- BEGIN SSH2") {
        "it is an SSH public key; give the certificate's own files"
    } else if begins("<") {
        "it is HTML or XML, perhaps an error message that was downloaded; download the file again"
    } else if begins("{") {
        "it is JSON; write the PEM text in it to a separate file"
    } else if begins("MII") {
        "it is base64 without -----BEGIN and -----END lines; add these lines, or copy the file again"
    } else {
        let (have, size) = (bytes.len(), der::sequence_size(bytes)?);
        if size > have {
            return Some(format!(
                "it seems to be DER, cut short: {have} of {size} bytes are there; \
                 copy the file again, in PEM form"
            ));
        }
        describe_der(bytes)
    };
    Some(known.into())
}

fn describe_der(bytes: &[u8]) -> &'static str {
    if X509::from_der(bytes).is_ok() {
        "it is a certificate in DER form; convert it: openssl x509 -inform DER -in FILE -out FILE.pem"
    } else if PKey::private_key_from_der(bytes).is_ok() {
        "it is a private key in DER form; convert it: openssl pkey -inform DER -in FILE -out FILE.pem"
    } else if Pkcs12::from_der(bytes).is_ok() {
        "it is a PKCS#12 store (.p12, .pfx); take it apart: openssl pkcs12 -in FILE -out FILE.pem, \
         with -nodes for a key without a passphrase"
    } else if Pkcs7::from_der(bytes).is_ok() {
        "it is a PKCS#7 bundle in DER form; \
         convert it: openssl pkcs7 -inform DER -print_certs -in FILE -out FILE.pem"
    } else if X509Req::from_der(bytes).is_ok() {
        "it is a certificate request in DER form; give the certificate that a CA has made of it"
    } else if PKey::public_key_from_der(bytes).is_ok() {
        "it is a public key in DER form; give the private key, or the certificate"
    } else {
        "it is DER of another kind; give a PEM file"
    }
}

/// What a file without a block of the kind that was asked for is, and the remedy.
pub(super) fn describe_blocks(blocks: &[Block]) -> String {
    let mut labels = blocks.iter().map(|block| block.label.as_str());
    let ends = |end| labels.clone().any(|label| label.ends_with(end));
    let has = |wanted| labels.clone().any(|label| label == wanted);
    let known = if ends("CERTIFICATE REQUEST") {
        "it is a certificate request; \
         give the certificate that a CA has made of it, or the key that it was made with"
    } else if ends("PUBLIC KEY") {
        "it is a public key; give the private key, or the certificate \
         (at AWS *-private.pem.key and *-certificate.pem.crt)"
    } else if has("PKCS7") || has("CMS") {
        "it is a PKCS#7 bundle; convert it: openssl pkcs7 -print_certs -in FILE -out FILE.pem"
    } else if has("X509 CRL") {
        "it is a revocation list; give the certificate's own file"
    } else if has("EC PARAMETERS") {
        "it has the parameters of a key, and not the key; copy the file again, to its end"
    } else {
        let labels: Vec<&str> = labels.by_ref().take(3).collect();
        return format!("it holds: {}; give another file", labels.join(", "));
    };
    known.into()
}
