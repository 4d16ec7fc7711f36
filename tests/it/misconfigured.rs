//! The twenty mistakes that people make: each is found by `check` and by a plain run, and each
//! has its own cause and remedy.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::harness::{
    AwsLike, Broker, Program, SOON, Server, certs,
    certs::{Authority, Pair, Validity, encrypted_key, key_with_mode, stray_key},
    free_port, odd_certs, server, temp_dir,
};

/// Attempts in quick succession, for a short time.
const QUICKLY: [&str; 6] = [
    "--base-backoff",
    "0.1",
    "--max-backoff",
    "0.2",
    "--connect-timeout",
    "1",
];

/// Expects a plain run and a check to end with this code, and to name these parts on one line.
fn expect(code: i32, parts: &[&str], setup: impl Fn(Program) -> Program) {
    let run = Program::one_message()
        .args(QUICKLY)
        .args(["--flush-timeout", "1"]);
    let run = setup(run).run(SOON).expect_code(code);
    let printed = run
        .stderr
        .all()
        .into_iter()
        .any(|line| has(&line.text, parts));
    assert!(printed, "a plain run must name {parts:?}\n{run}");
    expect_check(code, parts, setup);
}

/// Expects only a check to do so.
fn expect_check(code: i32, parts: &[&str], setup: impl Fn(Program) -> Program) {
    for program in [Program::publisher(), Program::subscriber()] {
        let check = program.arg("check").args(QUICKLY).args(["-t", "t"]);
        let check = setup(check).run(SOON).expect_code(code);
        let printed = check.stdout.all().into_iter();
        let failures: Vec<String> = printed
            .map(|line| line.text)
            .filter(|line| line.starts_with("FAILED"))
            .collect();
        assert!(!failures.is_empty(), "no step failed\n{check}");
        assert!(
            failures.iter().any(|line| has(line, parts)),
            "a check must name {parts:?}\n{check}"
        );
    }
}

fn has(line: &str, parts: &[&str]) -> bool {
    parts.iter().all(|part| line.contains(part))
}

/// With the usual CA and this pair, at a broker that would take everything.
fn expect_pair(code: i32, parts: &[&str], pair: &Pair) {
    let broker = Broker::start();
    let port = broker.port();
    expect(code, parts, |p| {
        p.endpoint(port).ca(&certs().ca).identity(pair)
    });
}

fn pair(cert: &Path, key: &Path) -> Pair {
    Pair {
        cert: cert.to_owned(),
        key: key.to_owned(),
    }
}

#[test]
fn no_such_file() {
    let device = &certs().device;
    let parts = ["nosuch.pem", "--cert cannot be read", "check the path"];
    expect_pair(66, &parts, &pair(Path::new("/nosuch.pem"), &device.key));
}

#[test]
fn not_pem() {
    let dir = temp_dir();
    let der = dir.path().join("cert.der");
    fs::write(&der, [0x30, 0x82, 1, 2]).unwrap();
    let parts = ["cert.der", "holds no certificate in PEM form"];
    expect_pair(78, &parts, &pair(&der, &certs().device.key));
}

#[test]
fn certificate_and_key_swapped() {
    let Pair { cert, key } = certs().device.clone();
    expect_pair(78, &["--cert", "--key", "swapped?"], &pair(&key, &cert));
}

#[test]
fn key_of_another_certificate() {
    let dir = temp_dir();
    let parts = ["stray.pem.key", "is not the key of", "take the pair"];
    expect_pair(
        78,
        &parts,
        &pair(&certs().device.cert, &stray_key(dir.path())),
    );
}

#[test]
fn key_that_is_encrypted() {
    let dir = temp_dir();
    let key = encrypted_key(dir.path(), "open sesame");
    let parts = ["is encrypted", "--key-passphrase-file"];
    expect_pair(78, &parts, &pair(&certs().device.cert, &key));
}

#[test]
fn key_that_others_can_read() {
    let dir = temp_dir();
    let key = key_with_mode(dir.path(), 0o644);
    let parts = ["mode 0644", "chmod 600"];
    expect_pair(78, &parts, &pair(&certs().device.cert, &key));
}

#[test]
fn expired_certificate() {
    let dir = temp_dir();
    let expired = certs()
        .authority
        .client(dir.path(), "old", Validity::Expired);
    expect_pair(78, &["old.pem.crt", "expired on", "get a new"], &expired);
}

#[test]
fn certificate_that_is_not_valid_yet() {
    let dir = temp_dir();
    let early = certs()
        .authority
        .client(dir.path(), "early", Validity::NotYet);
    let parts = ["early.pem.crt", "not valid before", "set the clock"];
    expect_pair(78, &parts, &early);
}

#[test]
fn ca_file_of_somebody_else() {
    let dir = temp_dir();
    let (_, foreign) = Authority::foreign(dir.path());
    let broker = Broker::start();
    let parts = [
        "not trusted",
        "signed by throw-away CA",
        "--cafile must hold",
    ];
    expect(78, &parts, |p| {
        let p = p.endpoint(broker.port()).ca(&foreign);
        p.identity(&certs().device)
    });
}

#[test]
fn server_of_another_name() {
    let dir = temp_dir();
    let other = certs()
        .authority
        .server(dir.path(), "elsewhere.example", Validity::Now);
    let broker = Broker::builder().server(other).start();
    let parts = [
        "for elsewhere.example, not for localhost",
        "use that name as --endpoint",
    ];
    expect(78, &parts, |p| p.at_port(broker.port()));
}

#[test]
fn name_that_does_not_resolve() {
    let parts = ["nosuch.invalid", "does not resolve", "check --endpoint"];
    expect(69, &parts, |p| p.args(["--endpoint", "nosuch.invalid"]));
}

#[test]
fn closed_port() {
    let port = free_port();
    let parts = ["the port is closed", "--port right?"];
    expect(69, &parts, |p| p.at_port(port));
}

/// A port that swallows what comes, as a firewall does: its backlog is full, so that the kernel
/// drops what knocks.
pub(crate) struct SilentPort {
    listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl SilentPort {
    pub(crate) fn open(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let fill = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
        let waiting = std::iter::from_fn(fill).take(64).collect();
        Self {
            listener,
            _waiting: waiting,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }
}

#[test]
fn silent_port() {
    let silent = SilentPort::open(0);
    let parts = ["no answer", "does a firewall block the port?"];
    expect(69, &parts, |p| p.at_port(silent.port()));
    let accepts = Server::plain(server::stay_silent);
    let parts = ["does not answer the TLS handshake", "TLS port?"];
    expect(69, &parts, |p| p.at_port(accepts.port()));
}

#[test]
fn server_without_tls() {
    let broker = Broker::builder().plain().start();
    let http = Server::plain(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        server::stay_silent(stream);
    });
    let parts = ["does not speak TLS on this port", "for no TLS"];
    expect(76, &parts, |p| p.at_port(http.port()));
    // Mosquitto hangs up, and says nothing that distinguishes it from a network failure.
    let parts = [
        "closed the connection during the TLS handshake",
        "TLS port?",
    ];
    expect(69, &parts, |p| p.at_port(broker.port()));
}

#[test]
fn server_that_wants_a_certificate_and_gets_none() {
    let broker = Broker::start();
    let parts = ["wants a client certificate", "give --cert and --key"];
    expect(77, &parts, |p| p.endpoint(broker.port()).ca(&certs().ca));
}

#[test]
fn certificate_that_is_not_accepted() {
    let dir = temp_dir();
    let (foreign, _) = Authority::foreign(dir.path());
    let stranger = foreign.client(dir.path(), "stranger", Validity::Now);
    let parts = ["does not know the CA of --cert", "register the certificate"];
    expect_pair(77, &parts, &stranger);
}

#[test]
fn client_id_that_is_not_allowed() {
    let broker = AwsLike::builder()
        .allow_client_ids(|id| id == "thing")
        .start();
    let at = |p: Program| p.at_port(broker.port()).args(["-i", "other"]);
    let at_aws = |p| at(p).args(["--profile", "aws"]);
    let parts = ["not authorized (0x87)", "policy", "client id"];
    expect(77, &parts, at_aws);
    expect(77, &["not authorized (0x87)", "(ACL)", "client id"], at);
    // Without reason codes only a hang-up is to be seen.
    let parts = [
        "before CONNACK",
        "iot:Connect for the client id \"other-check\"",
        "give --takeover",
    ];
    expect_check(69, &parts, |p| at_aws(p).args(["--mqtt-version", "3.1.1"]));
    let parts = ["before CONNACK", "the client id \"other", "see its log"];
    expect(69, &parts, |p| at(p).args(["--mqtt-version", "3.1.1"]));
    Program::one_message()
        .at_port(broker.port())
        .args(["-i", "thing"])
        .run(SOON)
        .expect_code(0);
}

#[test]
fn publish_that_is_denied() {
    let broker = AwsLike::builder()
        .allow_publish(|topic| topic == "allowed")
        .start();
    let at = |p: Program| p.at_port(broker.port());
    let at_aws = |p| at(p).args(["--profile", "aws"]);
    expect(77, &["not authorized (0x87)"], at);
    expect_check(77, &["publish", "\"t\"", "(ACL)"], at);
    expect_check(77, &["publish", "\"t\"", "iot:Publish"], at_aws);
    // Without reason codes only a hang-up is to be seen.
    let mute = |p| at(p).args(["--mqtt-version", "3.1.1"]);
    expect_check(77, &["publish", "\"t\"", "(ACL)"], mute);
    let run = Program::one_message().args(QUICKLY);
    let run = mute(run).run(SOON).expect_code(65);
    let hints: Vec<_> = run
        .stderr
        .all()
        .into_iter()
        .filter(|line| {
            has(
                &line.text,
                &["right after a message for \"t\" (5 bytes)", "(ACL)"],
            )
        })
        .collect();
    assert_eq!(hints.len(), 1, "once\n{run}");
    run.expect_stderr("5 connections were lost with it at the head")
        .expect_stderr("(ACL)");
}

#[test]
fn subscribe_that_is_denied() {
    let broker = AwsLike::builder()
        .allow_subscribe(|filter| filter == "allowed")
        .start();
    for version in ["5", "3.1.1"] {
        let at = |p: Program| {
            let p = p.at_port(broker.port()).args(["--profile", "aws"]);
            p.args(["--mqtt-version", version])
        };
        expect_check(77, &["subscribe", "\"t\"", "iot:Subscribe"], at);
        let subscriber = Program::subscriber().args(["-t", "t", "-C", "1"]);
        let outcome = at(subscriber).run(SOON).expect_code(77);
        outcome
            .expect_stderr("refused the subscription to \"t\"")
            .expect_stderr("policy");
    }
}

#[test]
fn client_id_of_somebody_else() {
    for (version, parts) in [
        ("5", ["session taken over (0x8E)", "give each its own"]),
        (
            "3.1.1",
            [
                "another client connected with the client id \"twin\"",
                "give each its own",
            ],
        ),
    ] {
        let broker = AwsLike::builder().start();
        let twin = || {
            Program::subscriber()
                .at_port(broker.port())
                .args(["-t", "t", "-i", "twin", "--mqtt-version", version])
                .args(QUICKLY)
                .start()
        };
        let first = twin();
        let line = |line: &str| has(line, &parts);
        // Two runs throw each other out until somebody reads the log.
        let second = twin();
        first.stderr_line(SOON, line);
        drop(second);
        expect_check(77, &parts, |p| {
            let p = p.at_port(broker.port()).args(["-i", "twin", "--takeover"]);
            p.args(["--mqtt-version", version])
        });
        first.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    }
}

#[test]
fn the_clock_is_a_step_of_the_check() {
    let broker = Broker::start();
    let check = Program::publisher().arg("check").to(&broker).run(SOON);
    let clock = |line: &str| line.starts_with("ok") && line.contains("clock: 20");
    assert!(
        check.stdout.all().iter().any(|line| clock(&line.text)),
        "{check}"
    );
    check.expect_code(0);
}

#[test]
fn a_key_with_the_right_mode_in_a_good_set_up_passes_every_step() {
    let broker = Broker::start();
    for program in [Program::publisher(), Program::subscriber()] {
        let check = program.arg("check").to(&broker);
        let check = check
            .args(["-t", "t", "-i", "me", "--takeover", "--json"])
            .run(SOON);
        let check = check.expect_code(0);
        let report: serde_json::Value = serde_json::from_str(&check.stdout.text()).unwrap();
        assert_eq!(report["ok"], true, "{check}");
        let steps = report["steps"].as_array().unwrap();
        let names: Vec<&str> = steps.iter().map(|s| s["step"].as_str().unwrap()).collect();
        assert_eq!(
            names,
            [
                "endpoint",
                "clock",
                "CA file",
                "certificate file",
                "key file",
                "key and certificate",
                "dates",
                "DNS",
                "TCP",
                "TLS",
                "server",
                "CONNECT",
                "client id",
                "publish",
                "subscribe"
            ]
        );
        assert!(steps.iter().all(|step| step["status"] == "ok"), "{check}");
    }
    let mode = fs::metadata(&certs().device.key)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn what_cannot_be_tried_is_named_all_the_same() {
    let port = free_port();
    let check = Program::publisher().arg("check").at_port(port);
    let check = check
        .args(["-t", "t", "-i", "me", "--takeover", "--json"])
        .run(SOON);
    let check = check.expect_code(69);
    let report: serde_json::Value = serde_json::from_str(&check.stdout.text()).unwrap();
    assert_eq!(
        (&report["ok"], &report["exit"]),
        (&false.into(), &69.into())
    );
    let status = |name: &str| {
        let steps = report["steps"].as_array().unwrap().iter();
        let step = steps.clone().find(|step| step["step"] == name);
        step.map_or("none", |step| step["status"].as_str().unwrap())
            .to_owned()
    };
    assert_eq!(status("TCP"), "failed", "{check}");
    for step in ["CONNECT", "client id", "publish", "subscribe"] {
        assert_eq!(status(step), "skipped", "{step}\n{check}");
    }
}

/// The encrypted key opens, so that its fault is the missing passphrase and nothing else.
#[test]
fn an_encrypted_key_with_its_passphrase_passes() {
    let dir = temp_dir();
    let key = encrypted_key(dir.path(), "open sesame");
    let passphrase = odd_certs::file(dir.path(), "passphrase", "open sesame\n");
    let broker = Broker::start();
    let check = Program::publisher().arg("check").endpoint(broker.port());
    let check = check
        .ca(&certs().ca)
        .identity(&pair(&certs().device.cert, &key));
    let check = check.arg("--key-passphrase-file").arg(&passphrase);
    check.run(SOON).expect_code(0);
}
