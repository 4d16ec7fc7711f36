//! Many messages wait: what that takes in memory. How fast they drain is measured by
//! `scripts/bench`.

use std::io::Cursor;

use crate::harness::running::Running;
use crate::harness::{Broker, QueueFile, SOON, wait_until};

/// The most memory a process has had resident so far, in KiB.
fn peak(running: &Running) -> Option<u64> {
    running.status("VmHWM:")
}

#[test]
fn a_long_backlog_takes_no_more_memory_than_a_short_one() {
    const COUNT: usize = 200_000;
    let broker = Broker::builder().line("max_inflight_messages 0").start();
    let queue = QueueFile::new();
    let lines: Vec<_> = (1..=COUNT).map(|n| format!("{n:0100}")).collect();
    let offline = queue
        .publisher()
        .at_port(crate::harness::free_port())
        .args(["-l", "--flush-timeout", "0.1", "--quiet"])
        .stdin(Cursor::new(lines.join("\n")))
        .start();
    let mut most = 0;
    let ended = wait_until(SOON * 6, || {
        peak(&offline).map(|now| most = now).is_none() || offline.stdout.count() == COUNT
    });
    assert!(
        ended && offline.stdout.count() == COUNT,
        "{} accepted",
        offline.stdout.count()
    );
    offline.finish(SOON).expect_code(75);
    assert!(most < 24 << 10, "filling it: {most} KiB");

    let online = queue.publisher().to(&broker).arg("-l").start();
    let mut most = 0;
    let ended = wait_until(SOON * 6, || {
        peak(&online).map(|now| most = now).is_none() || online.stdout.count() == COUNT
    });
    assert!(ended, "{} delivered", online.stdout.count());
    let outcome = online.finish(SOON).expect_code(0);
    assert_eq!(outcome.stdout.count(), COUNT);
    assert!(most < 24 << 10, "draining it: {most} KiB");
}
