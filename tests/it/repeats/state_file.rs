//! The state file: who may read it, who may use it, and what is refused.

use super::*;

#[test]
fn a_state_file_of_version_1_is_brought_to_the_present_one() {
    let broker = Broker::start();
    let state = StateFile::new();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/state-1.db");
    fs::copy(data, state.path()).unwrap();
    let flags = ["--dedup", "--gaps", "--state", state.text()];
    // It has no fingerprints: what came before comes once more, and no number is missing.
    let outcome = run(&broker, &flags, &[7, 8, 2, 8]).expect_code(0);
    outcome.expect_stdout("s/7\ns/8\ns/2\n");
    let outcome = run(&broker, &flags, &[2, 7, 9]).expect_code(0);
    outcome.expect_stdout("s/9\n");
}

#[test]
fn a_state_file_is_its_owner_s_alone_whatever_the_umask() {
    let broker = Broker::start();
    for umask in ["000", "022", "277", "777"] {
        let state = StateFile::new();
        let program = subscriber(&broker, &["--state", state.text()]);
        let shell = format!("umask {umask}; exec \"$@\"");
        let running = start(program.under(["sh", "-c", &shell, "sh"]));
        send(&broker, &running, 1, 1);
        let modes = |ending: &str| {
            let file = format!("{}{ending}", state.text());
            fs::metadata(file).unwrap().permissions().mode() & 0o7777
        };
        assert_eq!((modes(""), modes("-wal")), (0o600, 0o600), "{umask}");
        running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    }
}

#[test]
fn a_state_file_that_others_may_read_is_closed_to_them() {
    let broker = Broker::start();
    let state = StateFile::used(&broker);
    fs::set_permissions(state.path(), Permissions::from_mode(0o644)).unwrap();
    let outcome = run(&broker, &["--state", state.text()], &[9]).expect_code(0);
    let printed = complaints(&outcome);
    assert!(
        printed.len() == 1 && printed[0].contains("0644"),
        "{outcome}"
    );
    let mode = fs::metadata(state.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    for (flags, part) in [
        (&["-t", "$share/g/t", "--gaps"][..], "--gaps"),
        (&["-t", "t", "--persistent"], "--client-id"),
        (&["-t", "t", "--session-expiry", "1h"], "--persistent"),
        (&["-t", "t", "--rotate-size", "1MiB"], "--output"),
    ] {
        let program = Program::subscriber().endpoint(1).args(flags);
        program.run(SOON).expect_code(64).expect_stderr(part);
    }
}

#[test]
fn a_state_file_that_is_somebody_else_s_is_left_as_it_is() {
    let state = StateFile::new();
    let text = "not a database at all\n".repeat(100);
    fs::write(state.path(), &text).unwrap();
    state.expect_refused(&["not a state file of subscriber", "another name"]);
    assert_eq!(fs::read_to_string(state.path()).unwrap(), text);

    let state = StateFile::new();
    let other = Connection::open(state.path()).unwrap();
    other.execute_batch("CREATE TABLE theirs (x)").unwrap();
    drop(other);
    let before = fs::read(state.path()).unwrap();
    state.expect_refused(&["not a state file of subscriber", "another name"]);
    assert!(fs::read(state.path()).unwrap() == before, "it was changed");
    let files = state.0.path().read_dir().unwrap().count();
    assert_eq!(files, 1, "something was left beside it");
}

#[test]
fn a_state_file_that_cannot_be_opened_is_told_why() {
    let dir = temp_dir();
    refused(&dir.path().join("missing/state.db"), &["cannot be opened"]);
    refused(dir.path(), &["cannot be opened"]);
}

#[test]
fn a_state_file_of_a_newer_version_is_refused() {
    let broker = Broker::start();
    let state = StateFile::used(&broker);
    let newer = Connection::open(state.path()).unwrap();
    newer.pragma_update(None, "user_version", 3).unwrap();
    drop(newer);
    state.expect_refused(&["newer version", "another file"]);
}

#[test]
fn a_damaged_state_file_is_refused() {
    let broker = Broker::start();
    let state = StateFile::used(&broker);
    let mut bytes = fs::read(state.path()).unwrap();
    assert!(bytes.len() >= 3 * 4096);
    // The root of a table.
    bytes[4096..8192].fill(0x55);
    fs::write(state.path(), &bytes).unwrap();
    state.expect_refused(&["is damaged", "move it aside"]);
    fs::write(state.path(), &bytes[..5_000]).unwrap();
    state.expect_refused(&["is damaged", "move it aside"]);
}

#[test]
fn a_state_file_belongs_to_one_subscriber_at_a_time() {
    let broker = Broker::start();
    let state = StateFile::new();
    let running = start(subscriber(&broker, &["--state", state.text()]));
    state.expect_refused(&["in use by another subscriber", "its own"]);
    send(&broker, &running, 1, 1);
    running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
}

#[test]
fn a_state_that_cannot_be_written_ends_the_run_and_nothing_is_acknowledged() {
    let dir = temp_dir();
    let Some(disk) = MountNamespace::with_tmpfs(dir.path(), "size=128k") else {
        return skipped("a_state_that_cannot", "no file system can be mounted here");
    };
    let broker = Broker::start();
    let file = dir.path().join("state.db");
    let flags = ["--persistent", "--client-id", "keeper", "--state"];
    let program = |broker| subscriber(broker, &flags).arg(&file).under(disk.enter());
    let running = start(program(&broker));
    let ballast = disk.seen_from_here(&dir.path().join("ballast"));
    assert!(fs::write(&ballast, vec![0; 128 << 10]).is_err(), "full");
    for number in 1..100 {
        // It ends at some number.
        send(&broker, &running, number, None);
    }
    let outcome = running.finish(SOON).expect_code(74);
    let lines = complaints(&outcome);
    assert_eq!(lines.len(), 1, "{outcome}");
    let name = file.display().to_string();
    assert!(lines[0].starts_with(&name), "{outcome}");
    assert!(lines[0].contains("full"), "{outcome}");

    // What was not noted comes again.
    fs::remove_file(ballast).unwrap();
    let shown = outcome.stdout.texts().pop().unwrap();
    let running = program(&broker).start();
    running.stdout_line(SOON, |line| line == shown);
    running.stdout_line(SOON, |line| line == "s/99");
    running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
}
