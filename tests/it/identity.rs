//! Our own files: certificate, key and CA are checked before the network is touched.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
};

use crate::harness::{
    Broker, Program, SOON, Server, certs,
    certs::{
        Authority, Pair, Validity, encrypted_key, give_to_foreign_group, key_with_mode, stray_key,
    },
    namespace::skipped,
    running::Outcome,
    server, temp_dir,
};

const PASSPHRASE: &str = "correct horse";

/// A fault that is found before any connection: named at once, and the server sees nothing.
fn expect_unconnected(setup: impl Fn(Program) -> Program, code: i32, parts: &[&str]) {
    let server = Server::plain(server::stay_silent);
    let receiver = Program::subscriber().args(["-t", "t", "-C", "1"]);
    for program in [Program::one_message(), receiver] {
        let program = setup(program.endpoint(server.port()));
        program.run(SOON).expect_fault(code, parts);
    }
    assert_eq!(server.accepted().len(), 0, "it connected");
}

fn expect_pair(pair: &Pair, code: i32, parts: &[&str]) {
    expect_unconnected(|p| p.ca(&certs().ca).identity(pair), code, parts);
}

fn with_key(key: &Path) -> Pair {
    let cert = certs().device.cert.clone();
    let key = key.to_owned();
    Pair { cert, key }
}

/// What becomes of this pair with these further flags at a broker that would take it.
fn connected(pair: &Pair, flags: &[&str]) -> Outcome {
    let broker = Broker::start();
    let program = Program::one_message().endpoint(broker.port());
    let program = program.ca(&certs().ca).identity(pair).args(flags);
    program.run(SOON)
}

/// A file with the passphrase, as an editor leaves it.
fn passphrase_file(dir: &Path, passphrase: &str) -> String {
    let path = dir.join("passphrase");
    fs::write(&path, format!("{passphrase}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let dir = temp_dir();
    let missing = dir.path().join("missing.pem");
    let Pair { cert, key } = certs().device.clone();
    let parts = |flag: &'static str| [flag, "missing.pem", "cannot be read"];
    let pair = Pair {
        cert: missing.clone(),
        key,
    };
    expect_pair(&pair, 66, &parts("--cert"));
    let pair = Pair {
        cert,
        key: missing.clone(),
    };
    expect_pair(&pair, 66, &parts("--key"));
    expect_unconnected(|p| p.ca(&missing), 66, &parts("--cafile"));
}

#[test]
fn a_file_that_is_not_pem_is_named() {
    let dir = temp_dir();
    let noise = dir.path().join("noise.pem");
    fs::write(&noise, [0x30, 0x82, 0, 7]).unwrap();
    fs::set_permissions(&noise, fs::Permissions::from_mode(0o600)).unwrap();
    let Pair { cert, key } = certs().device.clone();
    let parts = |flag: &'static str| [flag, "noise.pem", "PEM"];
    let pair = Pair {
        cert: noise.clone(),
        key,
    };
    expect_pair(&pair, 78, &parts("--cert"));
    let pair = Pair {
        cert,
        key: noise.clone(),
    };
    expect_pair(&pair, 78, &parts("--key"));
    expect_unconnected(|p| p.ca(&noise), 78, &parts("--cafile"));
}

#[test]
fn a_damaged_pem_block_is_named() {
    let dir = temp_dir();
    let key = dir.path().join("damaged.pem");
    let text = fs::read_to_string(&certs().device.key).unwrap();
    fs::write(&key, text.replacen('M', "?", 2)).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    expect_pair(&with_key(&key), 78, &["--key", "damaged"]);
}

#[test]
fn swapped_certificate_and_key_are_seen_through() {
    let Pair { cert, key } = certs().device.clone();
    let swapped = Pair {
        cert: key,
        key: cert,
    };
    expect_pair(&swapped, 78, &["--cert", "--key", "swapped"]);
}

#[test]
fn the_key_of_another_certificate_is_named() {
    let dir = temp_dir();
    let pair = with_key(&stray_key(dir.path()));
    let parts = ["stray.pem.key", "not the key of", "device.pem.crt"];
    expect_pair(&pair, 78, &parts);
}

#[test]
fn an_encrypted_key_without_a_passphrase_is_an_error_and_never_a_prompt() {
    let dir = temp_dir();
    let pair = with_key(&encrypted_key(dir.path(), PASSPHRASE));
    let parts = ["encrypted.pem.key", "--key-passphrase-file"];
    expect_pair(&pair, 78, &parts);

    let server = Server::plain(server::stay_silent);
    let program = Program::one_message().endpoint(server.port());
    let program = program.ca(&certs().ca).identity(&pair);
    let outcome = program.start_on_terminal().finish(SOON).expect_code(78);
    let shown = outcome.stdout.text();
    assert_eq!(outcome.stdout.count(), 1, "one line\n{outcome}");
    assert!(shown.contains("--key-passphrase-file"), "{outcome}");
    assert!(!shown.to_lowercase().contains("enter"), "{outcome}");
    assert_eq!(server.accepted().len(), 0, "it connected");
}

#[test]
fn an_encrypted_key_opens_with_the_right_passphrase_only() {
    let dir = temp_dir();
    let pair = with_key(&encrypted_key(dir.path(), PASSPHRASE));
    let right = passphrase_file(dir.path(), PASSPHRASE);
    connected(&pair, &["--key-passphrase-file", &right]).expect_code(0);

    let wrong = passphrase_file(dir.path(), "wrong");
    let given = |p: Program| p.ca(&certs().ca).identity(&pair);
    let given = |p| given(p).args(["--key-passphrase-file", &wrong]);
    expect_unconnected(given, 78, &["--key", "does not open"]);
}

#[test]
fn a_key_that_others_can_read_is_an_error_unless_allowed() {
    let dir = temp_dir();
    for mode in [0o644, 0o640, 0o604] {
        let pair = with_key(&key_with_mode(dir.path(), mode));
        give_to_foreign_group(&pair.key);
        expect_pair(&pair, 78, &["--key", "read by others", "chmod 600"]);
    }
    let pair = with_key(&key_with_mode(dir.path(), 0o644));
    connected(&pair, &["--allow-readable-key"]).expect_code(0);
    let pair = with_key(&key_with_mode(dir.path(), 0o400));
    connected(&pair, &[]).expect_code(0);
}

/// As another user than root, whom a group lets read the key.
#[test]
fn a_key_of_root_may_be_readable_by_a_group_of_the_program_and_by_no_other() {
    const NAME: &str = "a_key_of_root_may_be_readable_by_a_group_of_the_program_and_by_no_other";
    const OURS: u32 = 54_321;
    const FOREIGN: u32 = 54_322;
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return skipped(NAME, "this needs root");
    }
    let dir = temp_dir();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let broker = Broker::start();
    let public = |from: &Path, name| {
        let to = dir.path().join(name);
        fs::copy(from, &to).unwrap();
        fs::set_permissions(&to, Permissions::from_mode(0o644)).unwrap();
        to
    };
    let ca = public(&certs().ca, "ca.pem");
    let cert = public(&certs().device.cert, "cert.pem");
    let run = |words: &[&str], user, group, mode| {
        let key = key_with_mode(dir.path(), 0o600);
        let pair = Pair {
            cert: cert.clone(),
            key,
        };
        chown(&pair.key, Some(user), Some(group)).unwrap();
        fs::set_permissions(&pair.key, Permissions::from_mode(mode)).unwrap();
        let program = Program::one_message().endpoint(broker.port());
        let program = program.ca(&ca).identity(&pair);
        let nobody = ["setpriv", "--reuid", "65534", "--regid"];
        program.under(nobody.iter().chain(words)).run(SOON)
    };
    let supplementary = ["65534", "--groups", "54321,54323"];
    let primary = ["54321", "--clear-groups"];
    for words in [&supplementary[..], &primary] {
        run(words, 0, OURS, 0o640).expect_code(0);
        run(words, 0, OURS, 0o440).expect_code(0);
        // The group may not write, others may nothing, and the owner is root.
        for mode in [0o660, 0o650, 0o644, 0o641] {
            run(words, 0, OURS, mode).expect_fault(78, &["read by others", "chmod 600"]);
        }
        run(words, 65534, OURS, 0o640).expect_fault(78, &["read by others"]);
        run(words, 65534, FOREIGN, 0o640).expect_fault(78, &["read by others"]);
        run(words, 0, FOREIGN, 0o644).expect_fault(78, &["read by others"]);
    }
}

#[test]
fn a_key_from_systemd_may_be_readable_by_its_access_control_list() {
    let dir = temp_dir();
    let broker = Broker::start();
    let at = |mode: u32, credentials: &str| {
        let pair = with_key(&key_with_mode(dir.path(), mode));
        give_to_foreign_group(&pair.key);
        let program = Program::one_message().endpoint(broker.port());
        let program = program.ca(&certs().ca).identity(&pair);
        program.env("CREDENTIALS_DIRECTORY", credentials).run(SOON)
    };
    let here = dir.path().to_str().unwrap();
    at(0o440, here).expect_code(0);
    at(0o444, here).expect_fault(78, &["read by others"]);
    at(0o440, "/nosuch").expect_fault(78, &["read by others"]);
}

#[test]
fn a_client_certificate_out_of_date_is_named() {
    let dir = temp_dir();
    let authority: &Authority = &certs().authority;
    let pair = authority.client(dir.path(), "late", Validity::Expired);
    expect_pair(&pair, 78, &["--cert", "late.pem.crt", "expired on"]);
}

#[test]
fn certificate_and_key_come_only_together() {
    let device = &certs().device;
    let alone = |flag: &'static str, missing, file: &'static Path| {
        expect_unconnected(move |p| p.arg(flag).arg(file), 64, &[missing]);
    };
    alone("--cert", "--key", &device.cert);
    alone("--key", "--cert", &device.key);
}
