//! The directory that `--certs` names, and certificates that end soon.

use std::{fs, path::Path};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::harness::certs::Validity;
use crate::harness::{Broker, Program, SOON, certs, free_port, temp_dir, wait_until};

/// Copies the usual files into a directory, under these names.
fn directory(names: [&str; 3]) -> TempDir {
    let dir = temp_dir();
    let device = &certs().device;
    for (from, name) in [&certs().ca, &device.cert, &device.key]
        .into_iter()
        .zip(names)
    {
        // A copy keeps the mode.
        fs::copy(from, dir.path().join(name)).unwrap();
    }
    dir
}

fn with_certs(dir: &Path, port: u16) -> Program {
    Program::one_message()
        .endpoint(port)
        .arg("--certs")
        .arg(dir)
}

#[test]
fn the_files_are_found_under_the_names_of_the_console_and_under_plain_ones() {
    let broker = Broker::start();
    for names in [
        [
            "AmazonRootCA1.pem",
            "1a2b-certificate.pem.crt",
            "1a2b-private.pem.key",
        ],
        ["ca.pem", "device.pem.crt", "private.pem.key"],
    ] {
        let dir = directory(names);
        fs::write(dir.path().join("1a2b-public.pem.key"), "x").unwrap();
        with_certs(dir.path(), broker.port())
            .run(SOON)
            .expect_code(0);
        let endpoint = format!("localhost:{}\n", broker.port());
        fs::write(dir.path().join("endpoint"), endpoint).unwrap();
        let without = Program::one_message().arg("--certs").arg(dir.path());
        without.run(SOON).expect_code(0);
    }
}

#[test]
fn a_directory_that_does_not_have_each_file_once_says_what_it_has() {
    let port = free_port();
    let dir = directory(["ca.pem", "device.pem.crt", "x.key"]);
    let outcome = with_certs(dir.path(), port).run(SOON);
    let found = "found: ca.pem, device.pem.crt, x.key";
    outcome.expect_fault(
        78,
        &["--certs has no private key (*-private.pem.key", found],
    );
    let dir = directory(["ca.pem", "device.pem.crt", "private.pem.key"]);
    fs::copy(&certs().ca, dir.path().join("AmazonRootCA1.pem")).unwrap();
    let outcome = with_certs(dir.path(), port).run(SOON);
    outcome.expect_fault(
        78,
        &["has more than one CA file", "AmazonRootCA1.pem, ca.pem"],
    );
    let check = Program::publisher().args(["check", "-e", "localhost", "--certs"]);
    let check = check
        .arg(dir.path())
        .args(["--port", &port.to_string()])
        .run(SOON);
    let check = check.expect_code(78);
    assert!(
        check.stdout.text().contains("FAILED  directory: "),
        "{check}"
    );
    let outcome = with_certs(Path::new("/nosuch"), port).run(SOON);
    outcome.expect_fault(66, &["/nosuch: --certs cannot be read"]);
    // A flag names what is ambiguous in the directory.
    let broker = Broker::start();
    let program = with_certs(dir.path(), broker.port()).ca(&certs().ca);
    program.run(SOON).expect_code(0);
}

#[test]
fn a_certificate_that_ends_soon_is_warned_of_once() {
    let dir = temp_dir();
    let pair = certs()
        .authority
        .client(dir.path(), "soon", Validity::EndsSoon);
    let mut broker = Broker::start();
    let program = Program::publisher()
        .endpoint(broker.port())
        .ca(&certs().ca)
        .identity(&pair);
    let program = program.args(["-t", "t", "--interval", "0.1", "--base-backoff", "0.1"]);
    let publisher = program.args(["--receipts"]).start();
    let warned = |line: &str| line.contains("soon.pem.crt: --cert expires in ");
    publisher.stderr_line(SOON, warned);
    broker.restart();
    let before = publisher.stdout.count();
    let goes_on = || publisher.stdout.count() > before + 4;
    assert!(wait_until(SOON, goes_on), "{publisher}");
    let outcome = publisher.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    let count = outcome
        .stderr
        .all()
        .iter()
        .filter(|l| warned(&l.text))
        .count();
    assert_eq!(count, 1, "{outcome}");
    // The usual one is good for a year, and not worth a word.
    let quiet = Program::one_message().to(&broker).run(SOON).expect_code(0);
    assert_eq!(quiet.stderr.text(), "", "{quiet}");
}
