//! What a file is that holds no PEM block of the kind that was asked for.

use openssl::pkcs7::Pkcs7;
use openssl::pkcs12::Pkcs12;
use openssl::pkey::PKey;
use openssl::x509::{X509, X509Req};

use super::der;
use super::pem::Block;

/// What it is, and what to do about it.
pub(crate) struct Alien {
    pub(crate) what: String,
    pub(crate) remedy: String,
}

fn alien(what: &str, remedy: &str) -> Alien {
    Alien {
        what: what.into(),
        remedy: remedy.into(),
    }
}

/// A file without any PEM block; none if there is nothing to say of it.
pub(crate) fn without_blocks(bytes: &[u8]) -> Option<Alien> {
    let is = |begin: &str| bytes.trim_ascii_start().starts_with(begin.as_bytes());
    if bytes.is_empty() {
        return Some(alien("it is empty", "copy the file again"));
    }
    if bytes.trim_ascii().is_empty() {
        return Some(alien(
            "it holds nothing but white space",
            "copy the file again",
        ));
    }
    let marks = [&b"\xff\xfe"[..], b"\xfe\xff", b"-\0-\0", b"\0-\0-"];
    if marks.iter().any(|mark| bytes.starts_with(mark)) {
        return Some(alien(
            "it is UTF-16 text",
            "save it as plain text (ASCII or UTF-8)",
        ));
    }
    if is("PuTTY-User-Key-File") {
        return Some(alien(
            "it is a PuTTY key",
            "make a key with openssl genpkey, and have it certified",
        ));
    }
    if ["ssh-", "ecdsa-sha2-", "---- BEGIN SSH2"]
        .iter()
        .any(|begin| is(begin))
    {
        return Some(alien(
            "it is an SSH public key",
            "give the certificate's own files",
        ));
    }
    if is("<") {
        return Some(alien(
            "it is HTML or XML, perhaps an error page that was downloaded",
            "download the file again",
        ));
    }
    if is("{") {
        return Some(alien(
            "it is JSON",
            "write the PEM text in it to a file of its own",
        ));
    }
    if is("MII") {
        return Some(alien(
            "it is base64 without -----BEGIN and -----END lines",
            "add these lines, or copy the file again",
        ));
    }
    let size = der::sequence_size(bytes)?;
    if size > bytes.len() {
        let have = bytes.len();
        let what = format!("it seems to be DER, cut short: {have} of {size} bytes are there");
        return Some(alien(&what, "copy the file again, in PEM form"));
    }
    Some(encoded(bytes))
}

/// What a whole DER structure is.
fn encoded(bytes: &[u8]) -> Alien {
    if X509::from_der(bytes).is_ok() {
        alien(
            "it is a certificate in DER form",
            "convert it: openssl x509 -inform DER -in FILE -out FILE.pem",
        )
    } else if PKey::private_key_from_der(bytes).is_ok() {
        alien(
            "it is a private key in DER form",
            "convert it: openssl pkey -inform DER -in FILE -out FILE.pem",
        )
    } else if Pkcs12::from_der(bytes).is_ok() {
        alien(
            "it is a PKCS#12 store (.p12, .pfx)",
            "take it apart: openssl pkcs12 -in FILE -out FILE.pem, with -nodes for a key without a passphrase",
        )
    } else if Pkcs7::from_der(bytes).is_ok() {
        alien(
            "it is a PKCS#7 bundle in DER form",
            "convert it: openssl pkcs7 -inform DER -print_certs -in FILE -out FILE.pem",
        )
    } else if X509Req::from_der(bytes).is_ok() {
        alien(
            "it is a certificate request in DER form",
            "give the certificate that a CA has made of it",
        )
    } else if PKey::public_key_from_der(bytes).is_ok() {
        alien(
            "it is a public key in DER form",
            "give the private key, or the certificate",
        )
    } else {
        alien("it is DER of another kind", "give a PEM file")
    }
}

/// A file whose blocks are none that was asked for.
pub(crate) fn with_blocks(blocks: &[Block]) -> Alien {
    let has = |fits: &dyn Fn(&str) -> bool| blocks.iter().any(|block| fits(&block.label));
    if has(&|label| label.ends_with("CERTIFICATE REQUEST")) {
        alien(
            "it is a certificate request",
            "give the certificate that a CA has made of it, or the key that it was made with",
        )
    } else if has(&|label| label.ends_with("PUBLIC KEY")) {
        alien(
            "it is a public key",
            "give the private key, or the certificate (at AWS *-private.pem.key and *-certificate.pem.crt)",
        )
    } else if has(&|label| label == "PKCS7" || label == "CMS") {
        alien(
            "it is a PKCS#7 bundle",
            "convert it: openssl pkcs7 -print_certs -in FILE -out FILE.pem",
        )
    } else if has(&|label| label == "X509 CRL") {
        alien("it is a revocation list", "give the certificate's own file")
    } else if has(&|label| label == "EC PARAMETERS") {
        alien(
            "it has the parameters of a key, and not the key",
            "copy the file again, to its end",
        )
    } else {
        let labels: Vec<&str> = blocks.iter().take(3).map(|b| b.label.as_str()).collect();
        let what = format!("it holds: {}", labels.join(", "));
        alien(&what, "give another file")
    }
}
