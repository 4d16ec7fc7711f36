//! `--tls-min` and `--ciphers`: what is offered, refused, and how a server is named that has none of it.

use std::sync::{Arc, Mutex};

use openssl::ssl::SslVersion;

use crate::harness::{Broker, Program, SOON, Server, certs, server};

fn check(broker: &Broker, args: &[&str]) -> String {
    let check = Program::publisher().arg("check").to(broker).args(args);
    check.run(SOON).expect_code(0).stdout.text()
}

#[test]
fn the_cipher_suite_of_the_list_is_used_with_tls_1_3() {
    let broker = Broker::start();
    for suite in ["TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"] {
        let text = check(&broker, &["--tls-min", "1.3", "--ciphers", suite]);
        assert!(text.contains(&format!("TLSv1.3, {suite}")), "{text}");
    }
    let program = Program::one_message().to(&broker);
    let program = program.env("IOT_TLS_MIN", "1.3");
    program.run(SOON).expect_code(0);
}

#[test]
fn the_file_and_the_environment_limit_tls_too() {
    let broker = Broker::start();
    let suite = "TLS_AES_128_GCM_SHA256";
    let text = format!("topic = \"t\"\ntls-min = \"1.3\"\nciphers = \"{suite}\"\n");
    let check = || Program::publisher().arg("check").to(&broker);
    let by_file = check().config(&text);
    let by_variable = check().args(["-t", "t"]).env("IOT_CIPHERS", suite);
    for program in [by_file, by_variable] {
        let outcome = program.run(SOON).expect_code(0);
        let is_used = outcome.stdout.text().contains(&format!("TLSv1.3, {suite}"));
        assert!(is_used, "{outcome}");
    }
    // Of the file, too, the older version is refused.
    let older = check().config(&text);
    let older = older.env("IOT_CIPHERS", "ECDHE-RSA-AES256-GCM-SHA384");
    let parts = ["--tls-min 1.3 needs a cipher suite of TLS 1.3"];
    older.run(SOON).expect_fault(64, &parts);
}

#[test]
fn a_list_with_suites_of_tls_1_2_alone_offers_no_other_version() {
    let broker = Broker::start();
    let text = check(
        &broker,
        &[
            "--ciphers",
            "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384",
        ],
    );
    assert!(text.contains("TLSv1.2, TLS_ECDHE_"), "{text}");
    assert!(text.contains("_AES_256_GCM_SHA384"), "{text}");
    let both = "ECDHE-RSA-AES256-GCM-SHA384,TLS_AES_256_GCM_SHA384";
    let text = check(&broker, &["--ciphers", both]);
    assert!(text.contains("TLSv1.3, TLS_AES_256_GCM_SHA384"), "{text}");
}

#[test]
fn a_server_that_supports_nothing_of_what_is_allowed_is_named() {
    let mut old = server::acceptor(&certs().server);
    old.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
    let old = Server::tls_by(old, server::stay_silent);
    let at = |port| Program::one_message().at_port(port);
    at(old.port())
        .args(["--tls-min", "1.3"])
        .run(SOON)
        .expect_fault(78, &["no TLS version that --tls-min and --ciphers allow"]);
    at(old.port())
        .args(["--ciphers", "TLS_AES_256_GCM_SHA384"])
        .run(SOON)
        .expect_fault(78, &["no TLS version that --tls-min and --ciphers allow"]);
    let mut narrow = server::acceptor(&certs().server);
    narrow.set_ciphersuites("TLS_AES_256_GCM_SHA384").unwrap();
    let narrow = Server::tls_by(narrow, server::stay_silent);
    at(narrow.port())
        .args(["--ciphers", "TLS_AES_128_GCM_SHA256"])
        .run(SOON)
        .expect_fault(78, &["no suite of --ciphers"]);
}

#[test]
fn only_what_is_listed_is_offered() {
    let offered = Arc::new(Mutex::new(String::new()));
    let seen = Arc::clone(&offered);
    let mut tls = server::acceptor(&certs().server);
    tls.set_client_hello_callback(move |ssl, _| {
        let suites = ssl.client_hello_ciphers().unwrap_or_default();
        let hex: Vec<String> = suites
            .chunks(2)
            .map(|id| format!("{:02x}{:02x}", id[0], id[1]))
            .collect();
        *seen.lock().unwrap() = hex.join(" ");
        Ok(openssl::ssl::ClientHelloResponse::SUCCESS)
    });
    let server = Server::tls_by(tls, server::hang_up);
    Program::one_message()
        .at_port(server.port())
        .args([
            "--ciphers",
            "ECDHE-RSA-AES128-GCM-SHA256:TLS_AES_256_GCM_SHA384",
        ])
        .args(["--flush-timeout", "0.2"])
        .run(SOON);
    // The last one says that renegotiation is secure (RFC 5746).
    assert_eq!(*offered.lock().unwrap(), "1302 c02f 00ff");
}

#[test]
fn a_wrong_list_is_refused_with_the_name_in_it() {
    for (args, parts) in [
        (
            &["--ciphers", "HIGH:AES256-NONE"][..],
            &["--ciphers", "AES256-NONE", "openssl ciphers"][..],
        ),
        (
            &["--ciphers", "ADH-AES256-GCM-SHA384"],
            &["--ciphers", "no cipher suite is left"],
        ),
        (
            &["--ciphers", "HIGH:@SECLEVEL=0"],
            &["--ciphers", "SECLEVEL"],
        ),
        (&["--ciphers", ""], &["--ciphers"]),
        (&["--tls-min", "1.1"], &["--tls-min"]),
        (
            &["--tls-min", "1.3", "--ciphers", "HIGH"],
            &["--tls-min 1.3 needs a cipher suite"],
        ),
    ] {
        let program = Program::one_message().args(["--endpoint", "localhost"]);
        program.args(args).run(SOON).expect_fault(64, parts);
    }
    for args in [["--tls-min", "1.3"], ["--ciphers", "HIGH"]] {
        let program = Program::one_message().args(["--endpoint", "mqtt://localhost"]);
        let outcome = program.args(args).run(SOON);
        outcome.expect_fault(64, &[args[0], "has no use without TLS"]);
    }
}
