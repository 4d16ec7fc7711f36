//! TLS sessions: resumed in a run always, between runs with `--tls-session`, and never where a full handshake would fail.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::Path,
};

use nix::sys::signal::Signal;
use openssl::{
    pkey::PKey,
    ssl::{SslAcceptor, SslVersion},
};

use crate::harness::{
    Broker, Program, Reply, SOON, ScriptedBroker,
    certs::{Authority, Pair, Validity, certs},
    free_port, odd_certs,
    running::Outcome,
    server, temp_dir,
};

const FULL: &str = ": full handshake";
const RESUMED: &str = ": session resumed";

/// Nothing newer is offered.
const TLS_1_2: [&str; 2] = ["--ciphers", "ECDHE-ECDSA-AES256-GCM-SHA384"];

fn send(to: impl Fn(Program) -> Program, file: &Path) -> Outcome {
    let program = to(Program::one_message()).arg("-d");
    let outcome = program.arg("--tls-session").arg(file).run(SOON);
    outcome.expect_code(0)
}

fn count(outcome: &Outcome, what: &str) -> usize {
    outcome.stderr.text().matches(what).count()
}

fn expect(outcome: &Outcome, full: usize, resumed: usize) {
    let found = (count(outcome, FULL), count(outcome, RESUMED));
    assert_eq!(found, (full, resumed), "{outcome}");
}

fn mode(file: &Path) -> u32 {
    fs::metadata(file).unwrap().permissions().mode() & 0o777
}

#[test]
fn each_run_resumes_the_session_of_the_last_one_with_either_version_of_tls() {
    let broker = Broker::start();
    // A run that waits for no acknowledgement keeps its session too.
    for (version, flags) in [
        ("TLSv1.3", &[][..]),
        ("TLSv1.3", &["--qos", "0"]),
        ("TLSv1.2", &TLS_1_2[..]),
    ] {
        let dir = temp_dir();
        let file = dir.path().join("session");
        let to = |program: Program| program.to(&broker).args(flags);
        expect(&send(to, &file), 1, 0);
        for _ in 0..3 {
            let outcome = send(to, &file);
            expect(&outcome, 0, 1);
            assert_eq!(
                count(&outcome, &format!("{version}{RESUMED}")),
                1,
                "{outcome}"
            );
            assert_eq!(mode(&file), 0o600);
        }
        let names = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(names, 1, "nothing is left beside the file");
    }
}

#[test]
fn a_subscriber_resumes_what_a_publisher_has_left_and_a_reconnect_needs_no_file() {
    let mut broker = Broker::start();
    let dir = temp_dir();
    let file = dir.path().join("session");
    expect(&send(|program| program.to(&broker), &file), 1, 0);
    let subscriber = Program::subscriber().to(&broker);
    let subscriber = subscriber.arg("--tls-session").arg(&file);
    let flags = ["-t", "t", "-d", "--base-backoff", "0.05"];
    let running = subscriber.args(flags).start();
    running.wait_subscribed();
    // The broker's keys are new after a restart, so the first reconnect makes a full handshake.
    let seen = running.stderr.count();
    broker.restart();
    let full = running
        .stderr
        .wait_from(seen, SOON, |line| line.contains(FULL));
    assert!(full.is_some(), "{running}");
    let outcome = running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    expect(&outcome, 1, 1);

    let broker = ScriptedBroker::script().close_after_connack(2);
    let broker = broker.resuming_tls();
    let program = Program::one_message().at_port(broker.port()).arg("-d");
    let program = program.args(["--base-backoff", "0.05", "--max-backoff", "0.1"]);
    let outcome = program.run(SOON).expect_code(0);
    expect(&outcome, 1, 2);
}

#[test]
fn a_run_that_is_killed_has_written_its_session_before_the_first_answer() {
    let broker = Broker::start();
    let dir = temp_dir();
    let file = dir.path().join("session");
    let subscriber = Program::subscriber().to(&broker).args(["-t", "t", "-d"]);
    let running = subscriber.arg("--tls-session").arg(&file).start();
    running.wait_subscribed();
    running.finish_by(Signal::SIGKILL, SOON);
    expect(&send(|program| program.to(&broker), &file), 0, 1);
}

#[test]
fn another_certificate_key_ca_name_or_limit_means_a_full_handshake() {
    let broker = Broker::start();
    let dir = temp_dir();
    let file = dir.path().join("session");
    let other = certs().authority.client(dir.path(), "other", Validity::Now);
    let key = fs::read(&certs().device.key).unwrap();
    let key = PKey::private_key_from_pem(&key).unwrap();
    let renewed = certs().authority.client_certificate("device", &key);
    let renewed = Pair {
        cert: odd_certs::file(dir.path(), "renewed.crt", renewed.to_pem().unwrap()),
        key: certs().device.key.clone(),
    };
    let (_, foreign_ca) = Authority::foreign(dir.path());
    let both = dir.path().join("both.pem");
    let text = [&certs().ca, &foreign_ca].map(|path| fs::read_to_string(path).unwrap());
    fs::write(&both, text.concat()).unwrap();
    let port = broker.port().to_string();
    let at = |program: Program, host: &str, ca: &Path, pair: &Pair| {
        let program = program.args(["--endpoint", host, "--port", &port]);
        program.ca(ca).identity(pair)
    };
    let (ca, device) = (&certs().ca, &certs().device);
    let usual = |program: Program| at(program, "localhost", ca, device);
    let changes: [&dyn Fn(Program) -> Program; 6] = [
        &|program| at(program, "localhost", ca, &other),
        &|program| at(program, "localhost", ca, &renewed),
        &|program| at(program, "localhost", &both, device),
        &|program| at(program, "127.0.0.1", ca, device),
        &|program| usual(program).args(["--tls-min", "1.3"]),
        &|program| usual(program).args(["--ciphers", "TLS_AES_128_GCM_SHA256"]),
    ];
    for change in changes {
        let _ = fs::remove_file(&file);
        expect(&send(usual, &file), 1, 0);
        expect(&send(usual, &file), 0, 1);
        expect(&send(change, &file), 1, 0);
        // What is in the file now belongs to the other connection.
        expect(&send(change, &file), 0, 1);
        expect(&send(usual, &file), 1, 0);
    }
}

#[test]
fn a_ca_that_is_not_trusted_any_more_resumes_nothing() {
    let broker = Broker::start();
    let dir = temp_dir();
    let file = dir.path().join("session");
    let (_, foreign) = Authority::foreign(dir.path());
    // The system's store: its content is not in the binding.
    let by_store = |ca: &Path| {
        let program = Program::one_message().args(["-d", "--flush-timeout", "1"]);
        let program = program.endpoint(broker.port()).identity(&certs().device);
        let program = program.env("SSL_CERT_FILE", ca.to_str().unwrap());
        program.env("SSL_CERT_DIR", "/nonexistent")
    };
    let run = |ca: &Path| by_store(ca).arg("--tls-session").arg(&file).run(SOON);
    expect(&run(&certs().ca).expect_code(0), 1, 0);
    expect(&run(&certs().ca).expect_code(0), 0, 1);
    let outcome = run(&foreign).expect_code(78);
    expect(&outcome, 0, 0);
    let text = outcome.stderr.text();
    assert!(text.contains("not accepted any more"), "{outcome}");
}

#[test]
fn a_file_that_is_damaged_or_open_to_others_is_replaced() {
    let broker = Broker::start();
    let dir = temp_dir();
    let file = dir.path().join("session");
    let to = |program: Program| program.to(&broker);
    send(to, &file);
    let good = fs::read(&file).unwrap();
    let damaged = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let magic = good.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let mut contents = vec![
        Vec::new(),
        good[..5].to_vec(),
        good[..magic].to_vec(),
        good[..good.len() - 1].to_vec(),
        [&good[..], b"x"].concat(),
        [&good[..magic], &vec![0; 300_000]].concat(),
        // As after a power cut.
        vec![0; good.len()],
    ];
    contents.extend([magic, magic + 15, good.len() / 2, good.len() - 1].map(damaged));
    for content in contents {
        fs::write(&file, &content).unwrap();
        expect(&send(to, &file), 1, 0);
        expect(&send(to, &file), 0, 1);
    }
    chown(&file, Some(1), None).unwrap();
    let outcome = send(to, &file);
    expect(&outcome, 1, 0);
    let why = "--tls-session is not used: it belongs to another user";
    assert_eq!(count(&outcome, why), 1, "{outcome}");
    expect(&send(to, &file), 0, 1);
    for open in [0o644, 0o640, 0o602] {
        fs::set_permissions(&file, fs::Permissions::from_mode(open)).unwrap();
        let outcome = send(to, &file);
        expect(&outcome, 1, 0);
        let why = "--tls-session is not used: others can read or write it";
        assert_eq!(count(&outcome, why), 1, "{outcome}");
        assert_eq!(mode(&file), 0o600);
    }
}

#[test]
fn what_cannot_be_replaced_is_refused_and_what_cannot_be_written_is_a_warning() {
    let broker = Broker::start();
    let dir = temp_dir();
    let key = dir.path().join("key");
    fs::copy(&certs().device.key, &key).unwrap();
    for path in [Path::new("/dev/null"), dir.path(), &key] {
        let program = Program::one_message().to(&broker);
        let outcome = program.arg("--tls-session").arg(path).run(SOON);
        outcome.expect_fault(64, &["--tls-session is another file"]);
    }
    let before = fs::read(&certs().device.key).unwrap();
    assert_eq!(fs::read(&key).unwrap(), before);
    let program = Program::one_message().endpoint(broker.port());
    let program = program.ca(&certs().ca);
    let outcome = program
        .arg("--tls-session")
        .arg(dir.path().join("x"))
        .run(SOON);
    outcome.expect_fault(64, &["--tls-session needs --key"]);
    let outcome = send(|program| program.to(&broker), &dir.path().join("no/such"));
    expect(&outcome, 1, 0);
    // It is tried again when the connection ends.
    let outcome =
        outcome.expect_stderr("--tls-session cannot be written: No such file or directory");
    assert_eq!(count(&outcome, "WARN"), 1, "{outcome}");
    // A symbolic link stays one.
    let (file, link) = (dir.path().join("session"), dir.path().join("link"));
    fs::write(&file, "").unwrap();
    symlink(&file, &link).unwrap();
    expect(&send(|program| program.to(&broker), &link), 1, 0);
    expect(&send(|program| program.to(&broker), &file), 0, 1);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    let plain = Program::one_message().at_plain_port(1);
    let outcome = plain.arg("--tls-session").arg(&file).run(SOON);
    outcome.expect_fault(64, &["--tls-session has no use without TLS"]);
}

#[test]
fn a_session_is_not_used_after_its_time() {
    // In TLS 1.3 OpenSSL itself offers no ticket beyond its time.
    let broker = Broker::start();
    let dir = temp_dir();
    let file = dir.path().join("session");
    // Mosquitto's tickets are valid for two hours.
    for (offset, full, resumed) in [("+0", 1, 0), ("+1h", 0, 1), ("+4h", 1, 0), ("+2h", 1, 0)] {
        let at = |program: Program| {
            let program = program.to(&broker).args(TLS_1_2);
            program.under(["faketime", "-f", offset])
        };
        expect(&send(at, &file), full, resumed);
    }
}

#[test]
fn a_broker_with_other_keys_or_another_certificate_gets_a_full_handshake() {
    let dir = temp_dir();
    let file = dir.path().join("session");
    let port = free_port();
    let authority = &certs().authority;
    let other = authority.server(dir.path(), "localhost", Validity::Now);
    let at = |program: Program| program.at_port(port);
    {
        let _broker = Broker::builder().port(port).start();
        expect(&send(at, &file), 1, 0);
        expect(&send(at, &file), 0, 1);
    }
    {
        let _broker = Broker::builder().port(port).server(other).start();
        expect(&send(at, &file), 1, 0);
        expect(&send(at, &file), 0, 1);
    }
    // A server that is not trusted gets no message, whatever the file holds.
    let (foreign, _) = Authority::foreign(dir.path());
    let untrusted = foreign.server(dir.path(), "localhost", Validity::Now);
    let _broker = Broker::builder().port(port).server(untrusted).start();
    let program = at(Program::one_message()).args(["--flush-timeout", "1"]);
    let outcome = program.arg("--tls-session").arg(&file).run(SOON);
    outcome.expect_code(78).expect_stderr("certificate");
}

#[test]
fn a_broker_that_ends_the_handshake_because_of_a_session_gets_one_without() {
    // This one has no session identifier context, so OpenSSL ends each handshake that resumes.
    let broker = ScriptedBroker::script().tls();
    let dir = temp_dir();
    let file = dir.path().join("session");
    let at = |program: Program| program.at_port(broker.port());
    expect(&send(at, &file), 1, 0);
    let outcome = send(at, &file);
    expect(&outcome, 1, 0);
    assert_eq!(
        count(&outcome, "the TLS session was refused"),
        1,
        "{outcome}"
    );
    assert_eq!(broker.publishes().len(), 2);

    // Within a run that is tried twice.
    let broker = ScriptedBroker::script().close_after_connack(6).tls();
    let program = Program::one_message().at_port(broker.port()).arg("-d");
    let program = program.args(["--base-backoff", "0.05", "--max-backoff", "0.1"]);
    let outcome = program.run(SOON).expect_code(0);
    expect(&outcome, 7, 0);
    assert_eq!(
        count(&outcome, "the TLS session was refused"),
        2,
        "{outcome}"
    );
}

#[test]
fn a_resumed_connection_that_the_broker_does_not_accept_is_followed_by_a_full_handshake() {
    // Without an answer, and as bad user name or password: a broker may not know the certificate any more.
    for answer in [&[][..], &[0x20, 3, 0, 0x86, 0]] {
        // Of three connections the second one.
        let broker = ScriptedBroker::script().cut_connack_of(1..2, answer);
        let broker = broker.resuming_tls();
        let dir = temp_dir();
        let file = dir.path().join("session");
        let at = |program: Program| {
            let program = program.at_port(broker.port());
            let program = program.args(["--mqtt-version", "5"]);
            program.args(["--base-backoff", "0.05", "--max-backoff", "0.1"])
        };
        expect(&send(at, &file), 1, 0);
        expect(&send(at, &file), 1, 1);
        assert_eq!(broker.publishes().len(), 2);
        expect(&send(at, &file), 0, 1);
    }
}

#[test]
fn a_server_that_never_answers_a_session_gets_a_full_handshake_from_the_next_attempt() {
    let tls = resuming(&[]);
    // Of the connections of the second run the first one.
    let broker = ScriptedBroker::script();
    let broker = broker.tls_of_connection(move |number| (number != 1).then(|| tls.clone()));
    let dir = temp_dir();
    let file = dir.path().join("session");
    let at = |program: Program| {
        let program = program.at_port(broker.port());
        program.args(["--connect-timeout", "1", "--base-backoff", "0.05"])
    };
    expect(&send(at, &file), 1, 0);
    expect(&send(at, &file), 1, 0);
    assert_eq!(broker.publishes().len(), 2);
    expect(&send(at, &file), 0, 1);
}

#[test]
fn a_server_that_has_lost_tls_1_3_gets_a_full_handshake_of_tls_1_2_at_once() {
    let (new, old) = (resuming(&[]), resuming(&[SslVersion::TLS1_2]));
    let broker = ScriptedBroker::script();
    let broker = broker.tls_of_connection(move |number| Some([&new, &old][number.min(1)].clone()));
    let dir = temp_dir();
    let file = dir.path().join("session");
    let at = |program: Program| program.at_port(broker.port());
    expect(&send(at, &file), 1, 0);
    let outcome = send(at, &file);
    expect(&outcome, 1, 0);
    let refused = "the TLS session was refused";
    assert_eq!(count(&outcome, refused), 1, "{outcome}");
    assert_eq!(count(&outcome, "TLSv1.2: full"), 1, "{outcome}");
    let outcome = send(at, &file);
    expect(&outcome, 0, 1);
    assert_eq!(count(&outcome, "TLSv1.2: session"), 1, "{outcome}");
}

/// A server side that resumes sessions, of this version of TLS at most.
fn resuming(most: &[SslVersion]) -> SslAcceptor {
    let mut tls = server::acceptor(&certs().server);
    tls.set_session_id_context(b"test").unwrap();
    tls.set_max_proto_version(most.first().copied()).unwrap();
    tls.build()
}

#[test]
fn a_session_with_which_a_websocket_is_not_opened_is_not_used_again() {
    let broker = ScriptedBroker::script().resuming_wss(1..2);
    let dir = temp_dir();
    let file = dir.path().join("session");
    let url = format!("wss://localhost:{}", broker.port());
    let at = |program: Program| {
        let program = program.args(["--endpoint", &url, "--base-backoff", "0.05"]);
        program.ca(&certs().ca).identity(&certs().device)
    };
    expect(&send(at, &file), 1, 0);
    expect(&send(at, &file), 1, 1);
    assert_eq!(broker.publishes().len(), 2);
    expect(&send(at, &file), 0, 1);
}

#[test]
fn a_certificate_that_is_replaced_during_a_run_resumes_nothing() {
    let broker = ScriptedBroker::script().on_publish(|publish| match publish.payload.as_slice() {
        b"hang up" if publish.connection < 2 => Reply::HangUp,
        _ => Reply::Ack,
    });
    let broker = broker.resuming_tls();
    let dir = temp_dir();
    let [first, second] = ["first", "second"].map(|name| {
        let made = certs().authority.client(dir.path(), name, Validity::Now);
        (fs::read(made.cert).unwrap(), fs::read(made.key).unwrap())
    });
    let used = Pair {
        cert: dir.path().join("used.crt"),
        key: dir.path().join("used.key"),
    };
    let put = |(cert, key): &(Vec<u8>, Vec<u8>)| {
        fs::write(&used.cert, cert).unwrap();
        fs::write(&used.key, key).unwrap();
        fs::set_permissions(&used.key, fs::Permissions::from_mode(0o600)).unwrap();
    };
    put(&first);
    let program = Program::publisher().endpoint(broker.port()).ca(&certs().ca);
    let program =
        program
            .identity(&used)
            .args(["-t", "t", "-d", "--stdin-line", "--base-backoff", "0.05"]);
    let mut running = program.stdin_pipe().start();
    running.stderr_line(SOON, |line| line.contains(FULL));
    put(&second);
    running.send("hang up\n");
    // The second connection ends in the same way, and the third one resumes its session.
    broker.wait_publishes(3, SOON);
    running.close_stdin();
    expect(&running.finish(SOON).expect_code(0), 2, 1);
}

#[test]
fn a_check_verifies_the_certificates_anew_and_changes_no_file() {
    let broker = Broker::start();
    let dir = temp_dir();
    let file = dir.path().join("session");
    send(|program| program.to(&broker), &file);
    let before = fs::read(&file).unwrap();
    let check = Program::publisher().arg("check").to(&broker);
    let check = check
        .args(["-t", "t", "-d"])
        .arg("--tls-session")
        .arg(&file);
    let outcome = check.run(SOON).expect_code(0);
    expect(&outcome, 0, 0);
    assert_eq!(fs::read(&file).unwrap(), before);
    assert!(outcome.stdout.text().contains("TLSv1.3"), "{outcome}");
}
