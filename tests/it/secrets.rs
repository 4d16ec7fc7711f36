//! Secrets: in no error and no log, in files that only their owner can read, and read when they are needed.
//! And files without an end, which hang nothing.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
    time::Instant,
};

use nix::{sys::signal::Signal, sys::stat::Mode, unistd::mkfifo};

use crate::harness::certs::{encrypted_key, give_to_foreign_group};
use crate::harness::odd_certs::file;
use crate::harness::{Broker, Program, SOON, certs, free_port, temp_dir, wait_until};

const SECRET: &str = "s3cret";

#[test]
fn no_error_shows_a_secret() {
    let dir = temp_dir();
    let long = "http://me:s3cret@proxy".to_owned();
    let typed = |args: &[&str]| Program::one_message().args(["-e", "localhost"]).args(args);
    let set = |name: &str, value: &str| typed(&[]).env(name, value);
    let configured = |number: usize, text: &str| {
        let path = file(dir.path(), &format!("{number}.toml"), text);
        typed(&["--config"]).arg(path)
    };
    let mut programs = vec![
        typed(&["--proxy", "http://me:s3cret@"]),
        typed(&["--proxy", "http://me:s3cret"]),
        typed(&["--proxy", "http://me:s3cret@proxy:x"]),
        typed(&["--proxy", "http://me:s3cret@proxy:1/path"]),
        typed(&["--proxy", "http://me:s3cret@pro xy"]),
        typed(&["--proxy", "https://me:s3cret@proxy"]),
        typed(&["--proxy", "me:s3cret@proxy://"]),
        typed(&["--proxy", "s3cret://proxy"]),
        typed(&["--proxy", &long, "--proxy", &long]),
        typed(&["--proxyy", &long]),
        typed(&[&format!("--proxyy={long}")]),
        typed(&["--port", &long]),
        typed(&["--quiet", &long]),
        typed(&[&format!("--quiet={long}")]),
        typed(&["--port=me:s3cret@proxy"]),
        typed(&["http://me:s3 cret s3cret@proxy"]),
        typed(&["--qos", &long]),
        typed(&["--endpoint", "mqtts://me:s3cret@host"]),
        typed(&["--password", SECRET]),
        typed(&["--password=s3cret"]),
        typed(&["-P", SECRET]),
        typed(&["--pw", SECRET]),
        set("IOT_PROXY", "http://me:s3cret@"),
        set("IOT_PORT", &long),
        set("IOT_RETAIN", &long),
        set("IOT_PASSWORD", SECRET).args(["--port", "x"]),
        set("HTTPS_PROXY", "http://me:s3cret@proxy:x"),
        set("https_proxy", "socks5://me:s3cret@proxy"),
        typed(&["--port", "x"]).env_bytes("IOT_PROXY", b"http://me:s3cret\xff@proxy"),
        typed(&[]).env_bytes("HTTPS_PROXY", b"http://me:s3cret\xff@proxy"),
    ];
    for (number, text) in [
        "proxy = \"http://me:s3cret@proxy",
        "proxy = http://me:s3cret@proxy",
        "proxy = \"http://me:s3cret@proxy\" x",
        "proxy = \"http://me:\\s3cret@proxy\"",
        "proxy : \"s3cret\"",
        "proxy = \"a\"\nproxy = \"http://me:s3cret@proxy\"",
        "proxy = [\"http://me:s3cret@proxy\", 1]",
        "proxy = [\"http://me:s3cret@proxy\"",
        "proxy = { url = \"http://me:s3cret@proxy\" }",
        "proxy = '''http://me:s3cret@proxy''",
        "proxy = \"http://me:s3cret@proxy\\u0000\"\nport = \"x\"",
        "proxy = \"http://me:s3cret@\"",
        "password = \"s3cret\"",
        "username = \"me\\u0000s3cret\"",
        "port = \"http://me:s3cret@proxy\"",
    ]
    .into_iter()
    .enumerate()
    {
        programs.push(configured(number, text));
    }
    for program in programs {
        let outcome = program.run(SOON);
        assert!(matches!(outcome.code, Some(64 | 78)), "{outcome}");
        let said = outcome.stdout.text() + &outcome.stderr.text();
        assert!(!said.contains(SECRET) && !said.is_empty(), "{outcome}");
    }
}

#[test]
fn a_mistake_in_a_configuration_has_its_place() {
    let dir = temp_dir();
    let text = "topic = \"t\"\n# é\nproxy = \"http://me:s3cret@proxy\" x\n";
    let path = file(dir.path(), "iot.toml", text);
    let outcome = Program::one_message().arg("--config").arg(path).run(SOON);
    let parts = ["iot.toml: --config is not TOML: line 3, column 34: "];
    outcome.expect_fault(78, &parts);
}

#[test]
fn no_log_shows_what_goes_through_a_websocket() {
    let dir = temp_dir();
    let port = free_port();
    let _broker = Broker::builder()
        .line(&format!("listener {port} 127.0.0.1\nprotocol websockets"))
        .plain()
        .user("ann", SECRET)
        .start();
    let program = Program::one_message()
        .args(["--endpoint", &format!("ws://localhost:{port}"), "-u", "ann"])
        .arg("--password-file")
        .arg(file(dir.path(), "password", SECRET))
        .env("RUST_LOG", "trace");
    let outcome = program.run(SOON).expect_code(0);
    let said = outcome.stdout.text() + &outcome.stderr.text();
    // As text, in hexadecimal, as a list of bytes.
    for shown in [SECRET, "733363726574", "73 33 63 72", "115, 51, 99, 114"] {
        assert!(!said.contains(shown), "{shown}\n{outcome}");
    }
}

#[test]
fn a_proxy_variable_that_cannot_be_read_is_named() {
    let proxy = format!("http://localhost:{}", free_port());
    let program = || Program::one_message().args(["-e", "localhost"]);
    for name in ["HTTPS_PROXY", "https_proxy"] {
        let outcome = program().env_bytes(name, b"http://h\xe9:1").run(SOON);
        outcome.expect_fault(64, &[name, "is not UTF-8 text", "--proxy"]);
        let outcome = program().env(name, "http://:1").run(SOON);
        outcome.expect_fault(64, &[name, "names no host"]);
    }
    for name in ["NO_PROXY", "no_proxy"] {
        let set = || program().env("HTTPS_PROXY", &proxy);
        let outcome = set().env_bytes(name, b"h\xe9").run(SOON);
        outcome.expect_fault(64, &[name, "is not UTF-8 text"]);
        let outcome = set().env(name, "a,10.0.0.0/33").run(SOON);
        outcome.expect_fault(64, &[name, "10.0.0.0/33", "write it as"]);
    }
    let outcome = program()
        .env_bytes("IOT_PROXY", b"http://h\xe9:1")
        .run(SOON);
    outcome.expect_fault(64, &["IOT_PROXY is not UTF-8 text"]);
    // What is not needed is not read.
    let broker = Broker::start();
    let program = || Program::one_message().to(&broker);
    program()
        .env_bytes("NO_PROXY", b"\xff")
        .run(SOON)
        .expect_code(0);
    let exempt = program()
        .env_bytes("HTTPS_PROXY", b"\xff")
        .args(["--proxy", ""]);
    exempt.run(SOON).expect_code(0);
}

#[test]
fn a_password_is_read_at_each_connect() {
    let dir = temp_dir();
    let password = file(dir.path(), "password", "first\n");
    let mut broker = Broker::builder().plain().user("ann", "first").start();
    let publisher = Program::publisher()
        .to(&broker)
        .args(["-t", "t", "-u", "ann", "--interval", "0.1", "--receipts"])
        .args(["--base-backoff", "0.1", "--max-backoff", "0.2"])
        .arg("--password-file")
        .arg(&password)
        .start();
    publisher.stdout_line(SOON, |line| line.starts_with("delivered"));
    broker.stop();
    broker.set_password("ann", "second");
    // Not there for a moment, and then another.
    fs::remove_file(&password).unwrap();
    broker.start_again();
    publisher.stderr_line(SOON, |line| line.contains("--password-file cannot be read"));
    let before = publisher.stdout.count();
    file(dir.path(), "password", "second\n");
    let goes_on = || publisher.stdout.count() > before + 4;
    assert!(wait_until(SOON, goes_on), "{publisher}");
    publisher.finish_by(Signal::SIGTERM, SOON).expect_code(0);
}

#[test]
fn a_password_from_a_pipe_is_kept() {
    let mut broker = Broker::builder().plain().user("ann", "first").start();
    let program = Program::publisher()
        .to(&broker)
        .args(["-t", "t", "-u", "ann", "--interval", "0.1", "--receipts"])
        .args(["--base-backoff", "0.1", "--max-backoff", "0.2"])
        .args(["--password-file", "/dev/stdin"])
        .args(["--exec", "echo", "21"]);
    let mut publisher = program.stdin_pipe().start();
    publisher.send("first\n");
    publisher.close_stdin();
    publisher.stdout_line(SOON, |line| line.starts_with("delivered"));
    broker.restart();
    let before = publisher.stdout.count();
    let goes_on = || publisher.stdout.count() > before + 4;
    assert!(wait_until(SOON, goes_on), "{publisher}");
    publisher.finish_by(Signal::SIGTERM, SOON).expect_code(0);
}

#[test]
fn a_secret_that_others_can_read_is_an_error_unless_allowed() {
    let dir = temp_dir();
    let with_mode = |name: &str, mode: u32| {
        let path = file(dir.path(), name, SECRET);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        give_to_foreign_group(&path);
        path
    };
    let broker = Broker::builder().plain().user("ann", SECRET).start();
    let password = |mode: u32| {
        let path = with_mode("password", mode);
        let program = Program::one_message().to(&broker).args(["-u", "ann"]);
        program.arg("--password-file").arg(path)
    };
    let tls = Broker::start();
    let key = encrypted_key(dir.path(), SECRET);
    let passphrase = |mode: u32| {
        let program = Program::one_message().endpoint(tls.port()).ca(&certs().ca);
        let program = program
            .arg("--cert")
            .arg(&certs().device.cert)
            .arg("--key")
            .arg(&key);
        let path = with_mode("passphrase", mode);
        program.arg("--key-passphrase-file").arg(path)
    };
    let directory = dir.path().to_str().unwrap();
    let cases: [(&str, &dyn Fn(u32) -> Program); 2] = [
        ("--password-file", &password),
        ("--key-passphrase-file", &passphrase),
    ];
    for (flag, program) in cases {
        for mode in [0o644, 0o660, 0o604, 0o602] {
            let printed = format!("{flag} can be read by others (mode {mode:04o})");
            let outcome = program(mode).run(SOON);
            outcome.expect_fault(78, &[&printed, "chmod 600", "--allow-readable-key"]);
        }
        program(0o600).run(SOON).expect_code(0);
        program(0o400).run(SOON).expect_code(0);
        let allowed = program(0o644).arg("--allow-readable-key");
        allowed.run(SOON).expect_code(0);
        // Root's, and this process is in its group.
        let of_own_group = program(0o640);
        for path in ["password", "passphrase"].map(|name| dir.path().join(name)) {
            let owner = fs::metadata(dir.path()).unwrap();
            if owner.uid() == 0 && path.exists() {
                chown(&path, None, Some(owner.gid())).unwrap();
            }
        }
        let accepted = if fs::metadata(dir.path()).unwrap().uid() == 0 {
            0
        } else {
            78
        };
        of_own_group.run(SOON).expect_code(accepted);
        let from_systemd = |mode| program(mode).env("CREDENTIALS_DIRECTORY", directory);
        from_systemd(0o440).run(SOON).expect_code(0);
        from_systemd(0o444).run(SOON).expect_code(78);
    }
    // A check says so as well, and looks no further.
    let path = with_mode("password", 0o644);
    let check = Program::publisher()
        .arg("check")
        .to(&broker)
        .args(["-u", "ann"]);
    let check = check
        .arg("--password-file")
        .arg(path)
        .run(SOON)
        .expect_code(78);
    let printed = check.stdout.text();
    assert!(
        printed.contains("FAILED  password file: ") && printed.contains("mode 0644"),
        "{check}"
    );
}

/// The flags that name a file, and what else they need.
const FLAGS: [(&str, &[&str]); 7] = [
    ("--config", &[]),
    ("--certs", &[]),
    ("--cafile", &[]),
    ("--cert", &["--key", "/nosuch"]),
    ("--key", &["--cert"]),
    ("--password-file", &["-u", "ann"]),
    ("--key-passphrase-file", &["--certs", "/nosuch"]),
];

/// A run with this file in the place of each that it could read.
fn readers(path: &Path) -> Vec<Program> {
    let program = |flag: &str, more: &[&str]| {
        let program = Program::one_message();
        if flag == "--certs" {
            return program.arg(flag).arg(path.parent().unwrap());
        }
        let program = program.args(["-e", "localhost", flag]).arg(path).args(more);
        if more == ["--cert"] {
            program.arg(&certs().device.cert)
        } else {
            program
        }
    };
    FLAGS
        .iter()
        .map(|(flag, more)| program(flag, more))
        .collect()
}

#[test]
fn a_file_without_an_end_or_a_beginning_hangs_nothing() {
    let dir = temp_dir();
    let pipe = dir.path().join("endpoint");
    mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let zero = temp_dir();
    std::os::unix::fs::symlink("/dev/zero", zero.path().join("endpoint")).unwrap();
    let started = Instant::now();
    let mut running = Vec::new();
    for path in [pipe.clone(), zero.path().join("endpoint")] {
        running.extend(readers(&path).into_iter().map(Program::start));
    }
    // Standard input that stays open and silent; a check, which reads more than one of them.
    running.extend(
        readers(Path::new("/dev/stdin"))
            .into_iter()
            .map(|program| program.stdin_pipe().start())
            .filter(|running| !running.to_string().contains("--certs /dev\n")),
    );
    let check = Program::publisher().args(["check", "-e", "localhost", "--cafile"]);
    let check = check.arg(&pipe).start();
    for running in running {
        let outcome = running.finish(SOON).expect_code(66);
        let said = outcome.stderr.text();
        let known = ["larger than 16 MiB", "has not ended within 5 s"];
        assert!(known.iter().any(|part| said.contains(part)), "{outcome}");
        assert!(said.contains("cannot be read: "), "{outcome}");
    }
    check.finish(SOON).expect_code(66);
    assert!(started.elapsed() < SOON * 2);
}
