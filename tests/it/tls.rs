//! TLS from the outside: which servers are trusted, what they ask of us, and that every
//! fault is named before any CONNECT.

use std::{
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use openssl::ssl::{NameType, SslOptions, SslVersion};

use crate::harness::{
    Broker, Program, QUICKLY, SOON, Server, certs,
    certs::{Authority, Pair, Validity},
    packet::read_packet,
    peer::{self, Witness},
    server, temp_dir,
};

/// Runs a publisher against a server with this certificate, which must not receive anything.
fn expect_untrusted(server: &Pair, ca: &Path, parts: &[&str]) {
    let received = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&received);
    let server = Server::tls_by(server::acceptor(server), move |stream| {
        if read_packet(stream).is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let program = Program::one_message().endpoint(server.port()).ca(ca);
    let outcome = program.identity(&certs().device).run(SOON);
    outcome.expect_fault(78, parts);
    assert_eq!(received.load(Ordering::SeqCst), 0, "something was said");
}

#[test]
fn a_foreign_ca_is_named() {
    let dir = temp_dir();
    let (_, ca) = Authority::foreign(dir.path());
    let parts = ["localhost:", "not trusted", "--cafile"];
    expect_untrusted(&certs().server, &ca, &parts);
}

#[test]
fn a_certificate_for_another_host_is_named_with_both_names() {
    let dir = temp_dir();
    let server = certs()
        .authority
        .server(dir.path(), "elsewhere.example", Validity::Now);
    let parts = ["for elsewhere.example", "not for localhost"];
    expect_untrusted(&server, &certs().ca, &parts);
}

#[test]
fn a_server_certificate_out_of_date_is_named() {
    let dir = temp_dir();
    let server = certs()
        .authority
        .server(dir.path(), "localhost", Validity::Expired);
    let parts = ["the server's certificate", "expired on"];
    expect_untrusted(&server, &certs().ca, &parts);
}

#[test]
fn an_address_is_checked_against_the_addresses_of_the_certificate() {
    let broker = Broker::start();
    let at = |port: u16| {
        Program::one_message()
            .args(["--endpoint", &format!("127.0.0.1:{port}")])
            .ca(&certs().ca)
            .identity(&certs().device)
    };
    at(broker.port()).run(SOON).expect_code(0);

    let dir = temp_dir();
    let nameless = certs()
        .authority
        .server(dir.path(), "localhost", Validity::Now);
    let server = Server::tls_by(server::acceptor(&nameless), server::stay_silent);
    let outcome = at(server.port()).run(SOON);
    outcome.expect_fault(78, &["for localhost", "not for 127.0.0.1"]);
}

#[test]
fn a_server_that_speaks_no_tls_is_a_protocol_error() {
    for banner in [
        &b"220 mail.example ESMTP\r\n"[..],
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ] {
        let server = Server::plain(move |stream| {
            let _ = stream.write_all(banner);
            server::stay_silent(stream);
        });
        let outcome = Program::one_message().at_port(server.port()).run(SOON);
        outcome.expect_fault(76, &["does not speak TLS"]);
    }
}

#[test]
fn tls_below_1_2_is_refused_whatever_the_system_allows() {
    let dir = temp_dir();
    let lax = dir.path().join("openssl.cnf");
    let section = "openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\n\
                   MinProtocol = TLSv1\nCipherString = ALL:@SECLEVEL=0\n";
    fs::write(&lax, section).unwrap();
    let received = Arc::new(AtomicUsize::new(0));
    let server = |newest: SslVersion| {
        let mut tls = server::acceptor(&certs().server);
        tls.clear_options(SslOptions::NO_TLSV1_1 | SslOptions::NO_TLSV1);
        tls.set_min_proto_version(Some(SslVersion::TLS1)).unwrap();
        tls.set_max_proto_version(Some(newest)).unwrap();
        tls.set_cipher_list("ALL:@SECLEVEL=0").unwrap();
        let counted = Arc::clone(&received);
        Server::tls_by(tls, move |stream| {
            counted.fetch_add(1, Ordering::SeqCst);
            server::stay_silent(stream);
        })
    };
    // The set-up is right: another client of the same OpenSSL does speak TLS 1.1 with it.
    let old = server(SslVersion::TLS1_1);
    let output = crate::harness::process::command("openssl")
        .env("OPENSSL_CONF", &lax)
        .args(["s_client", "-brief", "-connect"])
        .arg(format!("localhost:{}", old.port()))
        .arg("-cert")
        .arg(&certs().device.cert)
        .arg("-key")
        .arg(&certs().device.key)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("TLSv1.1"), "{said}");
    received.store(0, Ordering::SeqCst);

    let lax = lax.to_str().unwrap();
    let publisher = || Program::one_message().env("OPENSSL_CONF", lax);
    let outcome = publisher().at_port(old.port()).run(SOON);
    outcome.expect_fault(78, &["TLS 1.2"]);
    assert_eq!(
        received.load(Ordering::SeqCst),
        0,
        "a handshake was completed"
    );
}

#[test]
fn a_server_that_wants_a_certificate_and_gets_none_is_named() {
    for newest in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let mut tls = server::acceptor(&certs().server);
        tls.set_max_proto_version(Some(newest)).unwrap();
        let server = Server::tls_by(tls, server::stay_silent);
        let nobody = Program::one_message()
            .endpoint(server.port())
            .ca(&certs().ca);
        let outcome = nobody.run(SOON).expect_code(77);
        outcome.expect_stderr("give --cert and --key");
    }
    let broker = Broker::start();
    let nobody = Program::one_message()
        .endpoint(broker.port())
        .ca(&certs().ca);
    let outcome = nobody.run(SOON).expect_code(77);
    outcome.expect_stderr("give --cert and --key");
    assert!(!broker.log().text().contains("New client connected"));
}

#[test]
fn a_client_certificate_of_an_unknown_ca_is_named() {
    let dir = temp_dir();
    let (foreign, _) = Authority::foreign(dir.path());
    let stranger = foreign.client(dir.path(), "stranger", Validity::Now);
    let broker = Broker::start();
    let program = Program::one_message()
        .endpoint(broker.port())
        .ca(&certs().ca);
    let outcome = program.identity(&stranger).run(SOON).expect_code(77);
    outcome.expect_stderr("does not know the CA of --cert");
    assert!(!broker.log().text().contains("New client connected"));
}

#[test]
fn a_server_that_asks_for_no_certificate_needs_none() {
    let broker = Broker::builder().line("require_certificate false").start();
    let nobody = Program::one_message()
        .endpoint(broker.port())
        .ca(&certs().ca);
    nobody.run(SOON).expect_code(0).expect_stdout("");
}

#[test]
fn the_cafile_replaces_the_system_store() {
    let dir = temp_dir();
    let (_, foreign) = Authority::foreign(dir.path());
    let broker = Broker::start();
    let publisher = |system: &Path| {
        Program::one_message()
            .endpoint(broker.port())
            .identity(&certs().device)
            .env("SSL_CERT_FILE", system.to_str().unwrap())
            .env("SSL_CERT_DIR", dir.path().to_str().unwrap())
    };
    publisher(&certs().ca).run(SOON).expect_code(0);
    let only_foreign = publisher(&certs().ca).ca(&foreign).run(SOON);
    only_foreign.expect_fault(78, &["not trusted"]);
    let outcome = publisher(&foreign).run(SOON);
    outcome.expect_fault(78, &["not trusted"]);
    publisher(&foreign).ca(&certs().ca).run(SOON).expect_code(0);
}

#[test]
fn the_server_is_told_which_host_is_wanted() {
    let names = Arc::new(Mutex::new(Vec::new()));
    let received = Arc::clone(&names);
    let mut tls = server::acceptor(&certs().server);
    tls.set_servername_callback(move |ssl, _| {
        let name = ssl.servername(NameType::HOST_NAME).map(str::to_owned);
        received.lock().unwrap().push(name);
        Ok(())
    });
    let server = Server::tls_by(tls, server::answer(&[0x20, 3, 0, 0x87, 0]));
    Program::one_message()
        .at_port(server.port())
        .run(SOON)
        .expect_code(77);
    assert_eq!(*names.lock().unwrap(), [Some("localhost".to_owned())]);
}

#[test]
fn a_replaced_certificate_is_used_at_the_next_connect() {
    let dir = temp_dir();
    let authority = &certs().authority;
    let first = authority.client(dir.path(), "first", Validity::Now);
    let second = authority.client(dir.path(), "second", Validity::Now);
    let used = "use_identity_as_username true";
    let mut broker = Broker::builder().line(used).persistent().start();
    let witness = Witness::start(&broker, "t");
    let publisher = Program::publisher()
        .endpoint(broker.port())
        .ca(&certs().ca)
        .identity(&first)
        .args(["-i", "it", "-t", "t", "--interval", "0.1"])
        .args(["--base-backoff", "0.1", "--max-backoff", "0.2"])
        .start();
    witness.messages(1, SOON);
    broker.stop();
    fs::copy(&second.cert, &first.cert).unwrap();
    fs::copy(&second.key, &first.key).unwrap();
    broker.start_again();
    let replaced = |line: &str| line.contains(" as it ") && line.contains("u'second'");
    let seen = broker.log().wait(SOON, replaced);
    assert!(seen.is_some(), "{publisher}");
    let before = |line: &str| line.contains(" as it ") && line.contains("u'first'");
    assert!(broker.log().wait(SOON, before).is_some(), "{publisher}");
    publisher.finish_by(Signal::SIGTERM, SOON).expect_code(0);
}

#[test]
fn an_endless_run_names_the_cause_at_every_attempt_until_it_is_stopped() {
    let dir = temp_dir();
    let (_, foreign) = Authority::foreign(dir.path());
    let broker = Broker::start();
    let publisher = Program::publisher()
        .endpoint(broker.port())
        .ca(&foreign)
        .identity(&certs().device)
        .args(["-t", "t", "--interval", "5", "--stop-timeout", "0.2"])
        .args(QUICKLY)
        .log_each_attempt()
        .start();
    // The first line says that it simulates. The others are the same, so most are for the debug log.
    assert!(publisher.stderr.wait_count(5, SOON), "{publisher}");
    let stopped = Instant::now();
    let outcome = publisher.finish_by(Signal::SIGTERM, SOON);
    assert!(stopped.elapsed() < Duration::from_secs(1), "{outcome}");
    for line in &outcome.stderr.all()[1..5] {
        assert!(line.text.contains("not trusted"), "{outcome}");
        assert!(line.text.contains("trying again in 0.2 s"), "{outcome}");
    }
    assert!(peer::publish(&broker, "t", "works").status.success());
}

#[test]
fn the_cause_of_a_lost_message_is_said_once() {
    let server = Server::plain(|stream| {
        let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
        server::stay_silent(stream);
    });
    let outcome = Program::one_message().at_port(server.port()).run(SOON);
    let said = outcome.stderr.text().matches("does not speak TLS").count();
    assert_eq!(said, 1, "{outcome}");
}
