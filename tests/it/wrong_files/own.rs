//! Our certificate, key and CA files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkcs12::Pkcs12;
use openssl::pkey::PKey;
use openssl::x509::X509Req;

use super::{Files, block, expect_files, on_curve, openssl, rsa, shortened, text, utf16};
use crate::harness::certs::{encrypted_key, key_with_mode, stray_key};
use crate::harness::odd_certs::{Purpose, Recipe, file};
use crate::harness::{certs, temp_dir};

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn certificate_files() {
    let dir = temp_dir();
    let device = text(&certs().device.cert);
    let ca = text(&certs().ca);
    let key = text(&certs().device.key);
    let own = PKey::private_key_from_pem(key.as_bytes()).unwrap();
    let der = openssl::x509::X509::from_pem(device.as_bytes()).unwrap();
    let pkcs12 = Pkcs12::builder().cert(&der).pkey(&own).build2("x").unwrap();
    let der = der.to_der().unwrap();
    let mut request = X509Req::builder().unwrap();
    request.set_pubkey(&own).unwrap();
    request.sign(&own, MessageDigest::sha256()).unwrap();
    let request = request.build().to_pem().unwrap();
    let begin = "-----BEGIN CERTIFICATE-----";
    let end = "-----END CERTIFICATE-----";
    let base64: String = device.lines().filter(|l| !l.starts_with('-')).collect();
    let middle = device.lines().nth(3).unwrap();
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        (
            "glued",
            format!("{}{ca}", device.trim_end()).into(),
            &["certificate 2 (line ", "does not begin on a separate line"],
        ),
        ("empty", Vec::new(), &["PEM form", "it is empty"]),
        ("white", b"\n \n\t\n".to_vec(), &["nothing but white space"]),
        ("UTF-16", utf16(&device), &["UTF-16", "plain text"]),
        (
            "DER",
            der.clone(),
            &["certificate in DER form", "openssl x509"],
        ),
        ("half a DER", der[..300].into(), &["DER, cut short: 300 of"]),
        (
            "PKCS#12",
            pkcs12.to_der().unwrap(),
            &["PKCS#12", "openssl pkcs12"],
        ),
        (
            "request",
            request,
            &["certificate request", "that a CA has made"],
        ),
        (
            "public key",
            own.public_key_to_pem().unwrap(),
            &["public key"],
        ),
        (
            "key",
            key.clone().into(),
            &["private key, not a certificate", "swapped?"],
        ),
        (
            "CRL",
            block("X509 CRL", &[0x30, 0]).into(),
            &["revocation list"],
        ),
        (
            "PKCS#7",
            block("PKCS7", &[0x30, 0]).into(),
            &["PKCS#7", "-print_certs"],
        ),
        ("HTML", b"<html>403</html>".to_vec(), &["HTML", "download"]),
        ("JSON", b"{\"certificatePem\": 1}".to_vec(), &["JSON"]),
        ("base64", base64.into(), &["without -----BEGIN"]),
        (
            "other blocks",
            block("PGP MESSAGE", b"x").into(),
            &["it holds: PGP MESSAGE"],
        ),
        (
            "cut in block 2",
            (device.clone() + &shortened(&ca)).into(),
            &["block 2 (CERTIFICATE, line ", "is damaged", "cut short"],
        ),
        (
            "no base64",
            device
                .replacen(middle, &middle.replace(&middle[..1], "?"), 1)
                .into(),
            &["block 1 (CERTIFICATE, line 1)", "line 4 is not base64"],
        ),
        (
            "END of another",
            device.replace(end, "-----END X-----").into(),
            &["ends with END X"],
        ),
        (
            "no END",
            device.replace(end, "").into(),
            &["-----END line is missing"],
        ),
        (
            "no BEGIN",
            device.replace(begin, "").into(),
            &["-----BEGIN line is missing"],
        ),
        (
            "four hyphens",
            device.replace(begin, &begin[1..]).into(),
            &["five hyphens"],
        ),
        (
            "one line",
            device.replace('\n', " ").into(),
            &["on separate lines"],
        ),
        (
            "\\n",
            device.replace('\n', "\\n").into(),
            &["\\n written out"],
        ),
        (
            "wrong order",
            (ca.clone() + &device).into(),
            &[
                "certificate of the key only as its certificate 2",
                "must come first",
            ],
        ),
        (
            "of the CA",
            ca.clone().into(),
            &["is not the key of", "that of the CA throw-away CA"],
        ),
        (
            "no certificate in it",
            block("CERTIFICATE", &[0x30, 3, 1, 1, 0]).into(),
            &["block 1 (CERTIFICATE, line 1)", "is no X.509 certificate"],
        ),
        (
            "trusted",
            device.replace(" CERT", " TRUSTED CERT").into(),
            &["TRUSTED CERTIFICATE", "openssl x509"],
        ),
    ];
    for (name, content, parts) in cases {
        let mut files = Files::usual();
        files.pair.cert = file(dir.path(), "cert.pem", content);
        let flag = if name == "of the CA" {
            "--key "
        } else {
            "--cert "
        };
        expect_files(name, &files, 78, &[&[flag], parts].concat(), &[]);
    }
}

#[test]
fn certificates_that_tls_does_not_take() {
    let dir = temp_dir();
    let authority = certs().authority.issued();
    // MD5 goes with RSA only.
    let rsa_root = Recipe::new("RSA root", Purpose::Ca).key(rsa(2048)).root();
    let client = || Recipe::new("weak", Purpose::Client);
    for (name, issuer, recipe, parts) in [
        (
            "RSA 1024",
            &authority,
            client().key(rsa(1024)),
            &["(weak)", "key of 1024 bits, too weak"][..],
        ),
        (
            "P-192",
            &authority,
            client().key(on_curve(Nid::X9_62_PRIME192V1)),
            &["key of 192 bits, too weak"],
        ),
        (
            "SHA-1",
            &authority,
            client().digest(MessageDigest::sha1()),
            &["SHA1", "too weak", "SHA-256"],
        ),
        (
            "MD5",
            &rsa_root,
            client().digest(MessageDigest::md5()),
            &["md5WithRSAEncryption", "too weak"],
        ),
        (
            "expired",
            &authority,
            client().expired(),
            &["expired on", "new certificate"],
        ),
        (
            "not yet",
            &authority,
            client().not_yet(),
            &["is not valid before", "set the clock"],
        ),
    ] {
        let mut files = Files::usual();
        files.pair = recipe.by(issuer).write(dir.path(), &[]);
        expect_files(name, &files, 78, &[&["--cert "], parts].concat(), &[]);
    }
}

/// Its name, the key file, further flags, what is said.
type KeyCase = (&'static str, Vec<u8>, Vec<String>, &'static [&'static str]);

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn key_files() {
    let dir = temp_dir();
    let key = text(&certs().device.key);
    let own = PKey::private_key_from_pem(key.as_bytes()).unwrap();
    let ec = String::from_utf8(own.ec_key().unwrap().private_key_to_pem().unwrap()).unwrap();
    let legacy = [
        "-provider",
        "legacy",
        "-provider",
        "default",
        "-passout",
        "pass:x",
    ];
    let old = |args: &[&str], input: &str| openssl(&[args, &legacy].concat(), input);
    let pbe = old(&["pkcs8", "-topk8", "-v1", "PBE-MD5-DES"], &key);
    let des = old(&["ec", "-des"], &ec);
    let begun: Vec<&str> = key.lines().take(2).collect();
    let ssh = block("OPENSSH PRIVATE KEY", b"openssh-key-v1\0");
    let passphrase = file(dir.path(), "x", "x\n");
    let wrong = file(dir.path(), "y", "y");
    let empty = file(dir.path(), "empty", "\n");
    let several = file(dir.path(), "several", "a\nb\n");
    let with = |path: &Path| {
        vec![
            "--key-passphrase-file".to_owned(),
            path.to_str().unwrap().to_owned(),
        ]
    };
    let encrypted = || fs::read(encrypted_key(dir.path(), "x")).unwrap();
    let stray = text(&stray_key(dir.path()));
    let cases: Vec<KeyCase> = vec![
        (
            "OpenSSH",
            ssh.into(),
            vec![],
            &["is an OpenSSH key", "ssh-keygen -p -m PEM"],
        ),
        (
            "encrypted",
            encrypted(),
            vec![],
            &["is encrypted", "--key-passphrase-file"],
        ),
        (
            "wrong passphrase",
            encrypted(),
            with(&wrong),
            &["does not open", "passphrase"],
        ),
        (
            "PBE-MD5-DES",
            pbe,
            with(&passphrase),
            &["PBE-MD5-DES, an old cipher", "re-encrypt it"],
        ),
        (
            "DES",
            des,
            with(&passphrase),
            &["DES-CBC, an old cipher", "re-encrypt it"],
        ),
        (
            "public",
            own.public_key_to_pem().unwrap(),
            vec![],
            &["public key", "private.pem.key"],
        ),
        (
            "certificate",
            fs::read(&certs().device.cert).unwrap(),
            vec![],
            &["swapped?"],
        ),
        (
            "cut",
            begun.join("\n").into(),
            vec![],
            &["block 1 (PRIVATE KEY, line 1)", "END line is missing"],
        ),
        (
            "parameters",
            block("EC PARAMETERS", &[6, 0]).into(),
            vec![],
            &["the parameters of a key, and not the key"],
        ),
        (
            "DER",
            own.private_key_to_der().unwrap(),
            vec![],
            &["private key in DER", "openssl pkey"],
        ),
        (
            "PuTTY",
            b"PuTTY-User-Key-File-3: x\n".to_vec(),
            vec![],
            &["PuTTY"],
        ),
        (
            "SSH",
            b"ssh-ed25519 AAAA me@here\n".to_vec(),
            vec![],
            &["SSH public key"],
        ),
        ("empty", vec![], vec![], &["it is empty"]),
        (
            "noise",
            vec![7; 99],
            vec![],
            &["holds no private key in PEM form"],
        ),
        (
            "no key in it",
            block("PRIVATE KEY", &[0x30, 3, 1, 1, 0]).into(),
            vec![],
            &["is no private key"],
        ),
        (
            "short",
            block("PRIVATE KEY", &[0x30, 9, 1]).into(),
            vec![],
            &["3 of 11 bytes"],
        ),
        (
            "stray",
            fs::read(stray_key(dir.path())).unwrap(),
            vec![],
            &["is not the key of"],
        ),
        (
            "stray before the right one",
            format!("{stray}{key}").into(),
            vec![],
            &["its key 2 is the one; it must come first"],
        ),
        (
            "two strays before the right one, which is encrypted",
            [stray.as_bytes(), stray.as_bytes(), &encrypted()].concat(),
            with(&passphrase),
            &["its key 3 is the one; it must come first"],
        ),
        (
            "two strays",
            stray.repeat(2).into(),
            vec![],
            &["is not the key of"],
        ),
    ];
    for (name, content, flags, parts) in cases {
        let mut files = Files::usual();
        files.pair.key = file(dir.path(), "key.pem", content);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        expect_files(name, &files, 78, &[&["--key "], parts].concat(), &flags);
    }
    let mut files = Files::usual();
    files.pair.key = file(dir.path(), "key.pem", encrypted());
    for (path, part) in [(&empty, "is empty"), (&several, "more than one line")] {
        let flags = ["--key-passphrase-file", path.to_str().unwrap()];
        let parts = ["--key-passphrase-file", part];
        expect_files(part, &files, 78, &parts, &flags);
    }
    files.pair.key = key_with_mode(dir.path(), 0o644);
    let parts = ["--key can be read by others (mode 0644)", "chmod 600"];
    expect_files("open to others", &files, 78, &parts, &[]);
}

#[test]
fn ca_files() {
    let dir = temp_dir();
    let root = certs().authority.issued();
    let ca = root.pem();
    let between = Recipe::new("middle CA", Purpose::Ca).by(&root);
    let expired = Recipe::new("old root", Purpose::Ca).expired().root();
    let early = Recipe::new("new root", Purpose::Ca).not_yet().root();
    let mut damaged = root.cert.to_der().unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    let at = |name: &str| dir.path().join(name);
    symlink("loop", at("loop")).unwrap();
    fs::File::create(at("large"))
        .unwrap()
        .set_len(17 << 20)
        .unwrap();
    let cases: Vec<(i32, PathBuf, &[&str])> = vec![
        (
            78,
            file(dir.path(), "block2", ca.clone() + &shortened(&ca) + &ca),
            &["block 2 (CERTIFICATE, line ", "is damaged"],
        ),
        (
            78,
            certs().server.cert.clone(),
            &[
                "holds no CA",
                "localhost is one of a server or a device",
                "throw-away CA",
            ],
        ),
        (
            78,
            file(dir.path(), "between", between.pem()),
            &["holds no root CA", "middle CA was signed by throw-away CA"],
        ),
        (
            78,
            certs().device.key.clone(),
            &["is a private key", "file of the CA"],
        ),
        (
            78,
            file(dir.path(), "expired", expired.pem()),
            &["the CA \"old root\" in --cafile expired on", "operator"],
        ),
        (
            78,
            file(dir.path(), "early", early.pem()),
            &[
                "the CA \"new root\" in --cafile is not valid before",
                "clock",
            ],
        ),
        (
            78,
            file(dir.path(), "flipped", block("CERTIFICATE", &damaged)),
            &["block 1", "its signature does not fit"],
        ),
        (
            66,
            dir.path().to_owned(),
            &["cannot be read: it is a directory", "regular file"],
        ),
        (66, at("missing"), &["cannot be read", "check the path"]),
        (66, at("loop"), &["cannot be read", "check the path"]),
        (
            66,
            certs().ca.join("x"),
            &["cannot be read", "check the path"],
        ),
        (66, at("large"), &["larger than 16 MiB", "regular file"]),
    ];
    for (code, ca, parts) in cases {
        let name = ca.display().to_string();
        let files = Files {
            ca,
            ..Files::usual()
        };
        expect_files(&name, &files, code, &[&["--cafile "], parts].concat(), &[]);
    }
}
