//! What the state file holds, and how much.

use super::*;
use crate::common::mqtt::message::SeqProperty;
use tempfile::TempDir;

/// A state in a directory that goes with it.
fn state() -> (TempDir, State) {
    let dir = tempfile::tempdir().unwrap();
    let state = State::open(&dir.path().join("state")).unwrap();
    (dir, state)
}

/// A message of a stream. Its fingerprint is its number and the stream's.
fn noted(stream: u64, seq: u64) -> Noted {
    Noted {
        seq: SeqProperty {
            stream: stream.to_string(),
            seq,
            accepted_ms: 0,
        },
        retained: false,
        fingerprint: Some(Fingerprint(stream << 32 | seq)),
    }
}

fn count(state: &State, sql: &str) -> i64 {
    let one = |row: &Row<'_>| row.get(0);
    state.connection.query_row(sql, [], one).unwrap()
}

#[test]
fn what_was_recorded_is_known_again() {
    let (dir, mut state) = state();
    let mut retained = noted(7, 9);
    retained.retained = true;
    let messages = [noted(7, 1), noted(7, 4), retained, noted(8, 2)];
    state.record(&messages, &[]).unwrap();
    let key = state.key();
    drop(state);
    let state = State::open(&dir.path().join("state")).unwrap();
    assert_eq!(state.key(), key);
    let mut streams = state.streams().unwrap();
    let stream = streams.get("7").unwrap();
    assert_eq!((&*stream.text(), stream.last()), ("1-1,4-4,9-9", Some(4)));
    for known in [noted(7, 4), noted(7, 9), noted(8, 2)] {
        assert!(streams.meet(&known.seq.stream, known.fingerprint.unwrap()));
    }
    assert!(!streams.meet("7", Fingerprint(7 << 32 | 2)));
}

#[test]
fn it_is_bounded_while_it_is_used() {
    let (_dir, mut state) = state();
    state.record(&[noted(0, 1), noted(0, 2)], &[]).unwrap();
    // Ever new streams, and one that never ends.
    let most = (MAX_STREAMS + SURPLUS + 1) as u64;
    for hundred in 0..600 {
        let mut messages: Vec<_> = (1..=100).map(|n| noted(1 + hundred * 100 + n, 1)).collect();
        messages.extend((1..=1_000).map(|n| noted(0, 2 + hundred * 1_000 + n)));
        state.record(&messages, &[]).unwrap();
        let streams = count(&state, "SELECT count(*) FROM streams");
        assert!(streams.unsigned_abs() <= most, "{streams} streams");
        let sql = "SELECT coalesce(sum(length(latest)), 0) / 8 FROM fingerprints";
        let fingerprints = count(&state, sql);
        assert!(fingerprints.unsigned_abs() <= MAX_KNOWN as u64);
        assert_eq!(fingerprints.unsigned_abs(), state.fingerprints as u64);
    }
    let mut streams = state.streams().unwrap();
    for n in 600_002 - 65_535..600_002 {
        assert!(streams.meet("0", Fingerprint(n)), "{n}");
    }
    assert_eq!(streams.get("0").unwrap().text(), "1-600002");
}

#[test]
fn only_the_latest_sessions_are_kept() {
    let (_dir, state) = state();
    for client in 0..MAX_SESSIONS + 10 {
        let name = client.to_string();
        state.begin_session(&name, &["a/#".to_owned()]).unwrap();
        state.begin_session("0", &["a/#".to_owned()]).unwrap();
    }
    assert_eq!(count(&state, "SELECT count(*) FROM sessions"), MAX_SESSIONS);
    let kept = |client: &str| state.session(client).unwrap().is_some();
    assert!(kept("0") && kept("109") && !kept("1"));
}

#[test]
fn a_new_file_has_the_form_of_one_that_was_brought_to_it() {
    let form = |file: &Path| {
        let connection = Connection::open(file).unwrap();
        let sql = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name";
        let mut statement = connection.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get::<_, String>(0));
        rows.unwrap().map(Result::unwrap).collect::<Vec<_>>()
    };
    let (dir, new) = state();
    drop(new);
    let old = dir.path().join("old");
    fs::write(&old, include_bytes!("../../../../tests/data/state-1.db")).unwrap();
    let state = State::open(&old).unwrap();
    let streams = state.streams().unwrap();
    let stream = streams.get("s").unwrap();
    assert_eq!((&*stream.text(), stream.last()), ("1-3,7-7", Some(7)));
    drop(state);
    assert_eq!(form(&old), form(&dir.path().join("state")));
}

#[test]
fn a_file_is_its_owner_s_alone() {
    let mode = |file: &Path| fs::metadata(file).unwrap().permissions().mode() & 0o777;
    let (dir, state) = state();
    let file = dir.path().join("state");
    assert_eq!(mode(&file), 0o600);
    drop(state);
    fs::set_permissions(&file, Permissions::from_mode(0o664)).unwrap();
    drop(State::open(&file).unwrap());
    assert_eq!(mode(&file), 0o600);
    // What is somebody else's stays as it is.
    let other = dir.path().join("other");
    fs::write(&other, "not a database at all\n".repeat(100)).unwrap();
    fs::set_permissions(&other, Permissions::from_mode(0o644)).unwrap();
    assert!(State::open(&other).is_err());
    assert_eq!(mode(&other), 0o644);
}
