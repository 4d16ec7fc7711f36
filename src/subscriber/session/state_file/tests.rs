//! What the state file remembers, and how much.

use super::*;
use crate::common::mqtt::seq_property::SeqProperty;
use tempfile::TempDir;

fn state() -> (TempDir, StateFile) {
    let dir = tempfile::tempdir().unwrap();
    let state = StateFile::open(&dir.path().join("state")).unwrap();
    (dir, state)
}

fn record(stream: u64, seq: u64) -> SavedSeqRecord {
    SavedSeqRecord {
        seq: SeqProperty {
            stream: stream.to_string(),
            seq,
            accepted_ms: 0,
        },
        retained: false,
        fingerprint: Some(Fingerprint(stream << 32 | seq)),
    }
}

fn count(state: &StateFile, sql: &str) -> i64 {
    let one = |row: &Row<'_>| row.get(0);
    state.connection.query_row(sql, [], one).unwrap()
}

#[test]
fn what_was_recorded_is_known_to_the_next_run() {
    let (dir, mut state) = state();
    let mut retained = record(7, 9);
    retained.retained = true;
    let messages = [record(7, 1), record(7, 4), retained, record(8, 2)];
    state.record_messages(&messages, &[]).unwrap();
    let key = state.fingerprint_key();
    drop(state);
    let state = StateFile::open(&dir.path().join("state")).unwrap();
    assert_eq!(state.fingerprint_key(), key);
    let mut streams = state.load_streams().unwrap();
    let numbers = streams.received_numbers("7").unwrap();
    assert_eq!((&*numbers.text(), numbers.last()), ("1-1,4-4,9-9", Some(4)));
    for known in [record(7, 4), record(7, 9), record(8, 2)] {
        assert!(!streams.insert_fingerprint(&known.seq.stream, known.fingerprint.unwrap()));
    }
    assert!(streams.insert_fingerprint("7", Fingerprint(7 << 32 | 2)));
}

#[test]
fn the_file_is_bounded_during_a_run() {
    let (_dir, mut state) = state();
    state
        .record_messages(&[record(0, 1), record(0, 2)], &[])
        .unwrap();
    // New streams all the time, and one with many messages.
    let most = (MAX_STREAMS + SURPLUS + 1) as u64;
    for hundred in 0..600 {
        let mut messages: Vec<_> = (1..=100)
            .map(|n| record(1 + hundred * 100 + n, 1))
            .collect();
        messages.extend((1..=1_000).map(|n| record(0, 2 + hundred * 1_000 + n)));
        state.record_messages(&messages, &[]).unwrap();
        let streams = count(&state, "SELECT count(*) FROM streams");
        assert!(streams.unsigned_abs() <= most, "{streams} streams");
        let sql = "SELECT coalesce(sum(length(latest)), 0) / 8 FROM fingerprints";
        let fingerprints = count(&state, sql);
        assert!(fingerprints.unsigned_abs() <= MAX_FINGERPRINTS as u64);
        assert_eq!(fingerprints.unsigned_abs(), state.fingerprints as u64);
    }
    let mut streams = state.load_streams().unwrap();
    for n in 600_002 - 65_535..600_002 {
        assert!(!streams.insert_fingerprint("0", Fingerprint(n)), "{n}");
    }
    assert_eq!(streams.received_numbers("0").unwrap().text(), "1-600002");
}

#[test]
fn only_the_latest_sessions_are_kept() {
    let (_dir, state) = state();
    for client in 0..MAX_SESSIONS + 10 {
        let name = client.to_string();
        state.save_filters(&name, &["a/#".to_owned()]).unwrap();
        state.save_filters("0", &["a/#".to_owned()]).unwrap();
    }
    assert_eq!(count(&state, "SELECT count(*) FROM sessions"), MAX_SESSIONS);
    let kept = |client: &str| state.session_filters(client).unwrap().is_some();
    assert!(kept("0") && kept("109") && !kept("1"));
}

#[test]
fn a_new_file_has_the_schema_of_a_migrated_one() {
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
    let state = StateFile::open(&old).unwrap();
    let streams = state.load_streams().unwrap();
    let numbers = streams.received_numbers("s").unwrap();
    assert_eq!((&*numbers.text(), numbers.last()), ("1-3,7-7", Some(7)));
    drop(state);
    assert_eq!(form(&old), form(&dir.path().join("state")));
}

#[test]
fn only_the_owner_may_read_the_file() {
    let mode = |file: &Path| fs::metadata(file).unwrap().permissions().mode() & 0o777;
    let (dir, state) = state();
    let file = dir.path().join("state");
    assert_eq!(mode(&file), 0o600);
    drop(state);
    fs::set_permissions(&file, Permissions::from_mode(0o664)).unwrap();
    drop(StateFile::open(&file).unwrap());
    assert_eq!(mode(&file), 0o600);
    // A file of another program stays unchanged.
    let other = dir.path().join("other");
    fs::write(&other, "not a database at all\n".repeat(100)).unwrap();
    fs::set_permissions(&other, Permissions::from_mode(0o644)).unwrap();
    assert!(StateFile::open(&other).is_err());
    assert_eq!(mode(&other), 0o644);
}
