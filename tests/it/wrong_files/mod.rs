//! Files and certificates that are wrong: `check` and a plain run say on the same line which file, which
//! block of it, why, and what to do. And those that look odd and are good.
//!
//! * `own` has our own files, `servers` what a server shows us, `good` what is no fault.

mod good;
mod own;
mod servers;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use data_encoding::BASE64;
use openssl::ec::EcGroup;
use openssl::ec::EcKey;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::pkey::Private;
use openssl::rsa::Rsa;

use crate::harness::certs::Pair;
use crate::harness::process::command;
use crate::harness::{Program, SOON, certs, free_port, temp_dir};

/// Attempts in quick succession, for a short time.
const QUICKLY: [&str; 8] = [
    "--base-backoff",
    "0.1",
    "--max-backoff",
    "0.2",
    "--connect-timeout",
    "2",
    "--operation-timeout",
    "2",
];

/// Expects a plain run and a check to end with this code, and to say these parts on the same line.
fn expect(name: &str, code: i32, parts: &[&str], setup: impl Fn(Program) -> Program) {
    let check = Program::publisher().arg("check").args(QUICKLY);
    let check = setup(check).run(SOON);
    let has = |line: &str| parts.iter().all(|part| line.contains(part));
    let lines = check.stdout.all();
    let failed = lines.iter().filter(|l| l.text.starts_with("FAILED"));
    let printed = failed
        .map(|line| {
            line.text
                .split_once(": ")
                .map_or("", |(_, printed)| printed)
        })
        .find(|printed| has(printed));
    let printed = printed.unwrap_or_else(|| panic!("{name}: a check must name {parts:?}\n{check}"));
    assert!(
        printed.contains("; "),
        "{name}: without a remedy: {printed}"
    );
    assert_eq!(check.code, Some(code), "{name}\n{check}");
    let run = Program::one_message().args(QUICKLY);
    let run = setup(run.args(["--flush-timeout", "0.5"])).run(SOON);
    let said = run.stderr.all();
    let same = said.iter().any(|line| line.text.contains(printed));
    assert!(same, "{name}: a run must say as well: {printed}\n{run}");
    assert_eq!(run.code, Some(code), "{name}\n{run}");
}

/// The three files.
struct Files {
    ca: PathBuf,
    pair: Pair,
}

impl Files {
    fn usual() -> Self {
        Self {
            ca: certs().ca.clone(),
            pair: certs().device.clone(),
        }
    }

    fn given(&self, program: Program) -> Program {
        program.ca(&self.ca).identity(&self.pair)
    }
}

/// As [`expect`] without a broker, the files named one by one and found in a directory.
fn expect_files(name: &str, files: &Files, code: i32, parts: &[&str], flags: &[&str]) {
    let port = free_port();
    expect(name, code, parts, |p| {
        files.given(p.endpoint(port)).args(flags)
    });
    let dir = temp_dir();
    for (from, to) in [
        (&files.ca, "ca.pem"),
        (&files.pair.cert, "device.pem.crt"),
        (&files.pair.key, "private.pem.key"),
    ] {
        // A symbolic link is read as the file it leads to.
        symlink(from, dir.path().join(to)).unwrap();
    }
    expect(name, code, parts, |p| {
        let p = p.endpoint(port).arg("--certs").arg(dir.path());
        p.args(flags)
    });
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn utf16(text: &str) -> Vec<u8> {
    let units = std::iter::once(0xfeff).chain(text.encode_utf16());
    units.flat_map(u16::to_le_bytes).collect()
}

fn block(label: &str, content: &[u8]) -> String {
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        BASE64.encode(content)
    )
}

/// The text without its last line of base64 but one.
fn shortened(pem: &str) -> String {
    let mut lines: Vec<&str> = pem.lines().collect();
    let at = lines.len() - 3;
    lines.remove(at);
    lines.join("\n") + "\n"
}

fn rsa(bits: u32) -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap()
}

fn on_curve(curve: Nid) -> PKey<Private> {
    let curve = EcGroup::from_curve_name(curve).unwrap();
    PKey::from_ec_key(EcKey::generate(&curve).unwrap()).unwrap()
}

/// What OpenSSL's own command makes of this input.
fn openssl(args: &[&str], input: &str) -> Vec<u8> {
    let mut child = command("openssl")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {args:?}");
    output.stdout
}
