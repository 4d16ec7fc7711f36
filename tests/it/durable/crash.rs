//! The publisher killed at random moments, over and over, over one queue that keeps filling.
//! `scripts/crash-test` does it more often.

use std::{io::Cursor, time::Duration};

use nix::sys::signal::Signal;

use super::{Listener, accepted};
use crate::harness::{Broker, QueueFile, SOON, free_port, queue_file::checked_totals, times};

/// The window: this many messages may be sent twice for each kill.
const WINDOW: usize = 100;

#[test]
fn killed_at_random_it_loses_nothing_that_was_accepted() {
    let kills = times("IOT_TEST_KILLS", 100);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let broker = Broker::start();
    let listener = Listener::start(&broker);
    let queue = QueueFile::new();
    let nobody = free_port();
    let mut all = Vec::new();
    for kill in 0..kills {
        let payload = |n: usize| format!("{kill:04}.{n:05}");
        // Enough that a run is in the middle of them when it dies.
        let lines: String = (0..2_000).map(|n| payload(n) + "\n").collect();
        let publisher = queue.publisher().arg("-l");
        // The broker is away for every third one: the queue gets longer.
        let publisher = if random.u8(..3) == 0 {
            publisher.at_port(nobody)
        } else {
            publisher.to(&broker)
        };
        let running = publisher.stdin(Cursor::new(lines)).start();
        // From before its first step to the middle of its work.
        if random.bool() {
            running.stdout.wait_count(1, SOON);
        }
        let some = Duration::from_millis(random.u64(..40));
        running.stdout.wait_end(some);
        running.signal(Signal::SIGKILL);
        let outcome = running.finish(SOON);
        all.extend((0..accepted(&outcome.stdout.texts())).map(payload));
        // Each message in the file is counted once, whatever the run was doing.
        if queue.path().exists() {
            let status = queue.status();
            checked_totals(&status);
            let list = queue.command(&["list"]).expect_code(0);
            assert_eq!(status["waiting"], list.stdout.count(), "kill {kill}");
        }
    }
    assert!(all.len() > 20 * kills, "only {} accepted", all.len());
    queue.drain(&broker);
    let totals = queue.totals();
    assert_eq!(totals["accepted"], totals["delivered"], "{totals}");
    let arrived = listener.wait_for(&all);
    let most = kills * WINDOW;
    assert!(arrived.repeats > 0, "no run died in the middle of its work");
    assert!(arrived.repeats <= most, "{} repeats", arrived.repeats);
    assert!(
        arrived.first.is_sorted(),
        "earlier runs first: {:?}",
        arrived.first
    );
    println!(
        "{kills} kills: {} accepted, all arrived; {} more arrived, {} came twice",
        all.len(),
        arrived.first.len() - all.len(),
        arrived.repeats
    );
}
