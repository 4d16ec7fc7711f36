//! Certificates that one side shows and the other does not take.

use openssl::dsa::Dsa;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::ssl::SslAcceptor;
use openssl::ssl::SslAcceptorBuilder;
use openssl::ssl::SslFiletype;
use openssl::ssl::SslMethod;

use super::{Files, block, expect, on_curve, rsa};
use crate::harness::certs::Pair;
use crate::harness::odd_certs::{Issued, Purpose, Recipe, file};
use crate::harness::{Broker, Server, certs, server, temp_dir};

/// The server side of TLS with these certificates, whatever OpenSSL thinks of them.
fn lax(pair: &Pair) -> SslAcceptorBuilder {
    let mut tls = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    tls.set_cipher_list("DEFAULT:@SECLEVEL=0").unwrap();
    tls.set_certificate_chain_file(&pair.cert).unwrap();
    tls.set_private_key_file(&pair.key, SslFiletype::PEM)
        .unwrap();
    tls
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn servers() {
    let dir = temp_dir();
    let root = certs().authority.issued();
    // The usual CA allows none below it.
    let own = Recipe::new("own root", Purpose::Ca).root();
    let same_name = Recipe::new("own root", Purpose::Ca).root();
    let expired = Recipe::new("old root", Purpose::Ca).expired().root();
    let server = || Recipe::new("localhost", Purpose::Server);
    let between = Recipe::new("middle CA", Purpose::Ca).by(&own);
    let over = Recipe::new("late CA", Purpose::Ca).expired().by(&own);
    let no_ca = Recipe::new("no CA", Purpose::Any).by(&own);
    let no_sign = Recipe::new("no signer", Purpose::Ca)
        .extension(Nid::KEY_USAGE, "digitalSignature")
        .by(&own);
    let narrow = Recipe::new("narrow CA", Purpose::Ca)
        .extension(Nid::NAME_CONSTRAINTS, "permitted;DNS:elsewhere.example")
        .by(&own);
    let below_usual = Recipe::new("below CA", Purpose::Ca).by(&root);
    let cases: Vec<(&str, Vec<Issued>, &Issued, &[&str])> = vec![
        (
            "expired",
            vec![server().expired().by(&own)],
            &own,
            &["the server's certificate expired on"],
        ),
        (
            "not yet",
            vec![server().not_yet().by(&own)],
            &own,
            &["the server's certificate is not valid yet", "clock"],
        ),
        (
            "expired root",
            vec![server().by(&expired)],
            &expired,
            &[
                "the CA \"old root\" in --cafile expired on",
                "certificate 2)",
            ],
        ),
        (
            "expired between",
            vec![server().by(&over), over.clone()],
            &own,
            &["the certificate of late CA in the server's chain expired on"],
        ),
        (
            "between is missing",
            vec![server().by(&between)],
            &own,
            &["signed by middle CA, which is not in --cafile", "must send"],
        ),
        (
            "another of the name",
            vec![server().by(&same_name)],
            &own,
            &["signed by own root", "is another, with another key"],
        ),
        (
            "self-signed",
            vec![server().root()],
            &own,
            &["not trusted", "it is self-signed", "as --cafile"],
        ),
        (
            "root sent along",
            vec![server().by(&same_name), same_name.clone()],
            &root,
            &["not trusted", "ends with the root own root"],
        ),
        (
            "for clients",
            vec![
                Recipe::new("localhost", Purpose::Client)
                    .dns(&["localhost"])
                    .by(&own),
            ],
            &own,
            &["not made for servers", "serverAuth", "the CA is right"],
        ),
        (
            "signed by no CA",
            vec![server().by(&no_ca), no_ca.clone()],
            &own,
            &["the certificate of no CA in the server's chain", "CA:TRUE"],
        ),
        (
            "signed without the right to",
            vec![server().by(&no_sign), no_sign.clone()],
            &own,
            &["no signer", "keyCertSign"],
        ),
        (
            "names that are not allowed",
            vec![server().by(&narrow), narrow.clone()],
            &own,
            &["name constraints"],
        ),
        (
            "too many between",
            vec![server().by(&below_usual), below_usual.clone()],
            &root,
            &["throw-away CA", "path length"],
        ),
        (
            "RSA 1024",
            vec![server().key(rsa(1024)).by(&own)],
            &own,
            &["key of 1024 bits, too weak"],
        ),
        (
            "SHA-1",
            vec![server().digest(MessageDigest::sha1()).by(&own)],
            &own,
            &["signed with ecdsa-with-SHA1, too weak"],
        ),
        (
            "wildcard",
            vec![server().dns(&["*.example", "*.localhost"]).by(&own)],
            &own,
            &["is for *.example, *.localhost, not for localhost"],
        ),
        (
            "common name",
            vec![Recipe::new("elsewhere", Purpose::Any).by(&own)],
            &own,
            &["is for elsewhere, not for localhost"],
        ),
    ];
    for (name, chain, ca, parts) in cases {
        let above: Vec<&Issued> = chain.iter().skip(1).collect();
        let pair = chain[0].write(dir.path(), &above);
        let server = Server::tls_by(lax(&pair), server::stay_silent);
        // One that has nothing to do with it makes the file one that is good for something.
        let ca = file(
            dir.path(),
            "ca.pem",
            certs().authority.issued().pem() + &ca.pem(),
        );
        let files = Files {
            ca,
            ..Files::usual()
        };
        let port = server.port();
        expect(name, 78, &[&["localhost:"], parts].concat(), |p| {
            files.given(p.endpoint(port))
        });
    }
}

#[test]
fn a_name_or_address_of_the_server_in_the_wrong_place_of_its_certificate() {
    let dir = temp_dir();
    let own = Recipe::new("own root", Purpose::Ca).root();
    let ca = file(dir.path(), "ca.pem", own.pem());
    let files = Files {
        ca,
        ..Files::usual()
    };
    let address = "is not for the address 127.0.0.1; it has the address as";
    let dns = format!("{address} a DNS name; it must be an IP entry");
    let common = format!("{address} its common name only; it must be an IP entry");
    let name = "is for elsewhere.example, not for localhost; it has the name as its common name only; it must be a DNS entry";
    for (subject, names, host, part) in [
        ("localhost", &["127.0.0.1"][..], "127.0.0.1", &*dns),
        ("127.0.0.1", &[], "127.0.0.1", &common),
        ("127.0.0.1", &["localhost"], "127.0.0.1", &common),
        ("localhost", &["elsewhere.example"], "localhost", name),
        (
            "elsewhere.example",
            &[],
            "127.0.0.1",
            "is for elsewhere.example, not for 127.0.0.1",
        ),
    ] {
        let recipe = Recipe::new(subject, Purpose::Server).dns(names);
        let pair = recipe.by(&own).write(dir.path(), &[]);
        let server = Server::tls_by(lax(&pair), server::stay_silent);
        let endpoint = format!("{host}:{}", server.port());
        expect(subject, 78, &[part], |p| {
            files.given(p.args(["--endpoint", &endpoint]))
        });
    }
}

#[test]
fn what_the_broker_has_against_our_certificate() {
    let dir = temp_dir();
    let root = certs().authority.issued();
    let own = Recipe::new("own root", Purpose::Ca).root();
    let late = Recipe::new("late CA", Purpose::Ca).expired().by(&own);
    let client = |purpose| Recipe::new("odd", purpose);
    let broker = Broker::start();
    let dsa = PKey::from_dsa(Dsa::generate(2048).unwrap()).unwrap();
    let good = client(Purpose::Client).by(&root);
    let mut flipped = good.cert.to_der().unwrap();
    *flipped.last_mut().unwrap() ^= 1;
    let damaged = Pair {
        cert: file(
            dir.path(),
            "flipped.pem.crt",
            block("CERTIFICATE", &flipped),
        ),
        key: good.write(dir.path(), &[]).key,
    };
    for (name, pair, parts) in [
        (
            "for servers",
            client(Purpose::Server).by(&root).write(dir.path(), &[]),
            &["odd", "lacks clientAuth"][..],
        ),
        (
            "DSA",
            client(Purpose::Client)
                .key(dsa)
                .by(&root)
                .write(dir.path(), &[]),
            &["DSA", "TLS 1.3"],
        ),
        (
            "curve",
            client(Purpose::Client)
                .key(on_curve(Nid::SECP256K1))
                .by(&root)
                .write(dir.path(), &[]),
            &["secp256k1", "TLS 1.3"],
        ),
        (
            "signature",
            damaged,
            &["flipped.pem.crt", "its signature does not fit"],
        ),
        (
            "chain",
            client(Purpose::Client)
                .by(&late)
                .write(dir.path(), &[&late]),
            &["certificate 2 of its file, of late CA, expired on"],
        ),
        (
            "usage",
            client(Purpose::Client)
                .extension(Nid::KEY_USAGE, "critical,keyEncipherment")
                .by(&root)
                .write(dir.path(), &[]),
            &["key usage does not allow signatures"],
        ),
    ] {
        let files = Files {
            pair,
            ..Files::usual()
        };
        expect(name, 77, &[&["--cert"], parts].concat(), |p| {
            files.given(p.endpoint(broker.port()))
        });
    }
}
