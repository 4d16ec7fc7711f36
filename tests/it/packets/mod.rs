//! What the programs make of every packet of `tests/data/packets.tsv`, each played to the real
//! program by a server that follows the row.

mod scene;
mod table;

use std::{
    collections::BTreeSet,
    panic::{self, AssertUnwindSafe},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use table::{Case, Right, cases};

/// Rows that are played at the same time. Most of their time is spent waiting.
const AT_ONCE: usize = 8;

#[test]
fn every_packet_of_the_table_is_answered_as_the_specification_says() {
    let cases = cases();
    let next = AtomicUsize::new(0);
    let faults = Mutex::new(Vec::new());
    let work = || {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(fault) = play(case) {
                faults.lock().unwrap().push(format!("{case}: {fault}"));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(work);
        }
    });
    let mut faults = faults.into_inner().unwrap();
    faults.sort();
    let (count, of) = (faults.len(), cases.len());
    let text = faults.join("\n\n");
    assert!(faults.is_empty(), "{count} of {of}:\n{text}");
}

#[test]
fn the_table_has_300_packets_that_end_the_connection_and_80_that_do_not() {
    let numbers = |fits: fn(&Right) -> bool| {
        let cases = cases().into_iter().filter(|case| fits(&case.right));
        cases.map(|case| case.number).collect::<BTreeSet<_>>().len()
    };
    assert!(numbers(|right| matches!(right, Right::Disconnect(_))) >= 300);
    assert!(numbers(|right| matches!(right, Right::Borne)) >= 80);
}

/// A failed expectation of the harness, which is a panic, is a fault of this row only.
fn play(case: &Case) -> Result<(), String> {
    let played = panic::catch_unwind(AssertUnwindSafe(|| scene::play(case)));
    played.unwrap_or_else(|panic| match panic.downcast::<String>() {
        Ok(text) => Err(*text),
        Err(_) => Err("a panic without a text".to_owned()),
    })
}
