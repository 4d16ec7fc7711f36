//! Files that look odd, or are not good yet.

use std::fs;

use openssl::nid::Nid;
use openssl::pkey::PKey;

use super::{Files, on_curve, openssl, rsa, shortened, text};
use crate::harness::certs::Pair;
use crate::harness::odd_certs::{Purpose, Recipe, file};
use crate::harness::{Broker, Program, SOON, certs, temp_dir, wait_until};

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn files_that_look_odd_and_are_good() {
    let dir = temp_dir();
    let broker = Broker::start();
    let device = text(&certs().device.cert);
    let key = text(&certs().device.key);
    let ca = text(&certs().ca);
    let own = PKey::private_key_from_pem(key.as_bytes())
        .unwrap()
        .ec_key()
        .unwrap();
    let ec = String::from_utf8(own.private_key_to_pem().unwrap()).unwrap();
    let parameters = openssl(&["ecparam", "-name", "prime256v1"], "");
    let parameters = String::from_utf8(parameters).unwrap();
    let expired = Recipe::new("old root", Purpose::Ca).expired().root().pem();
    let cases: [(&str, String, String, String); 11] = [
        (
            "comment",
            ca.clone(),
            device.clone(),
            format!("# device key, UNENCRYPTED\n{key}"),
        ),
        (
            "parameters",
            ca.clone(),
            device.clone(),
            format!("{parameters}{ec}"),
        ),
        (
            "all in one",
            ca.clone(),
            format!("{key}{device}"),
            format!("{device}{key}"),
        ),
        (
            "text",
            format!("{ca}the end\n"),
            format!("x\n{device}y"),
            format!("{key}\n\nz"),
        ),
        (
            "twice",
            ca.repeat(2) + &expired,
            device.clone(),
            key.clone(),
        ),
        (
            "CRLF",
            ca.replace('\n', "\r\n"),
            device.replace('\n', "\r\n"),
            key.replace('\n', "\r\n"),
        ),
        (
            "CR",
            ca.replace('\n', "\r"),
            device.replace('\n', "\r"),
            key.replace('\n', "\r"),
        ),
        (
            "BOM",
            format!("\u{feff}{ca}"),
            format!("\u{feff}{device}"),
            format!("\u{feff}{key}"),
        ),
        (
            "indented",
            ca.replace('\n', "\n  "),
            device.replace('\n', "\n\t"),
            key.replace('\n', "\n "),
        ),
        (
            "no last line end",
            ca.trim_end().into(),
            device.trim_end().into(),
            key.trim_end().into(),
        ),
        (
            "chain",
            ca.clone(),
            format!("{device}{ca}"),
            format!("{key}{key}"),
        ),
    ];
    for (name, ca, cert, key) in cases {
        let files = Files {
            ca: file(dir.path(), "ca.pem", ca),
            pair: Pair {
                cert: file(dir.path(), "cert.pem", cert),
                key: file(dir.path(), "key.pem", key),
            },
        };
        let outcome = files
            .given(Program::one_message().endpoint(broker.port()))
            .run(SOON);
        assert_eq!(outcome.code, Some(0), "{name}\n{outcome}");
    }
    let root = certs().authority.issued();
    for (name, key) in [
        ("Ed25519", PKey::generate_ed25519().unwrap()),
        ("RSA", rsa(2048)),
        ("P-384", on_curve(Nid::SECP384R1)),
    ] {
        let pair = Recipe::new("device", Purpose::Client)
            .key(key)
            .by(&root)
            .write(dir.path(), &[]);
        let files = Files {
            pair,
            ..Files::usual()
        };
        let outcome = files
            .given(Program::one_message().endpoint(broker.port()))
            .run(SOON);
        assert_eq!(outcome.code, Some(0), "{name}\n{outcome}");
    }
    // A broker's own certificate, which nobody else has signed, and one with no more than a common name.
    for recipe in [
        Recipe::new("localhost", Purpose::Server),
        Recipe::new("localhost", Purpose::Any),
    ] {
        let own = recipe.root();
        let pair = own.write(dir.path(), &[]);
        let broker = Broker::builder().server(pair.clone()).start();
        let program = Program::one_message()
            .endpoint(broker.port())
            .ca(&pair.cert);
        program.identity(&certs().device).run(SOON).expect_code(0);
    }
}

#[test]
fn a_date_that_is_still_to_come_is_waited_for() {
    let dir = temp_dir();
    let root = certs().authority.issued();
    let broker = Broker::start();
    let quick = ["--base-backoff", "0.2", "--max-backoff", "0.2"];
    let client = Recipe::new("soon", Purpose::Client)
        .valid(2, 3_600)
        .by(&root);
    let pair = client.write(dir.path(), &[]);
    let program = Program::one_message().endpoint(broker.port());
    let outcome = program
        .ca(&certs().ca)
        .identity(&pair)
        .args(quick)
        .run(SOON)
        .expect_code(0);
    outcome
        .expect_stderr("is not valid before")
        .expect_stderr("; trying again");

    let server = Recipe::new("localhost", Purpose::Server)
        .valid(2, 3_600)
        .by(&root);
    let broker = Broker::builder()
        .server(server.write(dir.path(), &[]))
        .start();
    let program = Program::subscriber()
        .at_port(broker.port())
        .args(["-t", "t", "-C", "1", "-d"]);
    let subscriber = program.args(quick).start();
    subscriber.stderr_line(SOON, |line| line.contains("is not valid yet"));
    subscriber.wait_subscribed();
    Program::one_message().to(&broker).run(SOON).expect_code(0);
    subscriber.finish(SOON).expect_code(0);
}

#[test]
fn a_file_that_is_mended_is_used_at_the_next_attempt() {
    let dir = temp_dir();
    let broker = Broker::start();
    let new = Recipe::new("new", Purpose::Client).by(&certs().authority.issued());
    let good = new.write(dir.path(), &[]);
    let text = fs::read_to_string(&good.cert).unwrap();
    let pair = Pair {
        cert: file(dir.path(), "mended.pem", shortened(&text)),
        key: good.key,
    };
    let queue = dir.path().join("queue.db");
    let program = Program::publisher().endpoint(broker.port()).ca(&certs().ca);
    let program = program
        .identity(&pair)
        .args(["-t", "t", "--interval", "0.1"]);
    let program = program
        .arg("--queue")
        .arg(queue)
        .args(["--receipts", "--base-backoff", "0.2"]);
    let publisher = program.start();
    publisher.stderr_line(SOON, |line| {
        line.contains("block 1 (CERTIFICATE, line 1) is damaged")
    });
    fs::write(&pair.cert, text).unwrap();
    let delivered = || publisher.stdout.text().contains("delivered");
    assert!(wait_until(SOON, delivered), "{publisher}");
}

#[test]
fn a_pair_that_is_being_replaced_does_not_end_a_run() {
    let dir = temp_dir();
    let root = certs().authority.issued();
    let [first, second] = ["first", "second"].map(|name| {
        let issued = Recipe::new(name, Purpose::Client).by(&root);
        issued.write(dir.path(), &[])
    });
    let mut broker = Broker::start();
    let subscriber = Program::subscriber()
        .endpoint(broker.port())
        .ca(&certs().ca)
        .identity(&first)
        .args([
            "-t",
            "t",
            "-C",
            "1",
            "-d",
            "--base-backoff",
            "0.2",
            "--max-backoff",
            "0.2",
        ])
        .start();
    subscriber.wait_subscribed();
    broker.stop();
    fs::copy(&second.cert, &first.cert).unwrap();
    broker.start_again();
    subscriber.stderr_line(SOON, |line| {
        line.contains("is not the key of") && line.contains("trying again")
    });
    let before = subscriber.stderr.count();
    fs::copy(&second.key, &first.key).unwrap();
    let granted = |line: &str| line.contains(": subscribed with QoS");
    assert!(
        subscriber.stderr.wait_from(before, SOON, granted).is_some(),
        "{subscriber}"
    );
    Program::one_message().to(&broker).run(SOON).expect_code(0);
    subscriber.finish(SOON).expect_code(0);
}

/// A provider that the user's OpenSSL configuration activates is used: here that of old ciphers, as another for the
/// keys of a TPM or a token.
#[test]
fn a_key_may_need_a_provider_that_the_configuration_activates() {
    let dir = temp_dir();
    let broker = Broker::start();
    let conf =
        "openssl_conf = a\n[a]\nproviders = b\n[b]\ndefault = c\nlegacy = c\n[c]\nactivate = 1\n";
    let conf = file(dir.path(), "openssl.cnf", conf);
    let key = text(&certs().device.key);
    let old = [
        "pkcs8",
        "-topk8",
        "-v1",
        "PBE-MD5-DES",
        "-passout",
        "pass:x",
    ];
    let providers = ["-provider", "legacy", "-provider", "default"];
    let key = openssl(&[&old[..], &providers].concat(), &key);
    let pair = Pair {
        cert: certs().device.cert.clone(),
        key: file(dir.path(), "key.pem", key),
    };
    let program = Program::one_message().endpoint(broker.port());
    let program = program.ca(&certs().ca).identity(&pair);
    let program = program
        .arg("--key-passphrase-file")
        .arg(file(dir.path(), "x", "x"));
    let program = program.env("OPENSSL_CONF", conf.to_str().unwrap());
    program.run(SOON).expect_code(0);
}
