//! One cycle of a queue, killed before every single write, sync, rename and unlink of it: the
//! file is made, messages are written, the broker comes back, they are delivered and deleted,
//! the run ends and the log is emptied.

use std::{io::Cursor, time::Duration};

use super::{Listener, accepted};
use crate::harness::{
    Broker, Proxy, QueueFile, SOON, free_port,
    running::Outcome,
    strace::{CHANGES, Fault, Strace},
};

/// Where to kill.
fn kill(call: &'static str, nth: usize) -> Fault {
    Fault {
        call,
        what: "signal=KILL",
        nth,
    }
}

/// Runs at every point in turn. `run` is given the point and a queue, and gives what it has
/// accepted there, in order. Then another run sends what waits, and nothing may be missing.
/// Gives the number of points.
fn at_every_point(
    broker: &Broker,
    run: impl Fn(Fault, &QueueFile, &str) -> (Outcome, Vec<String>),
) -> usize {
    let listener = Listener::start(broker);
    let mut expected = Vec::new();
    let (mut points, mut rounds, mut repeats) = (0, 0, 0);
    for call in CHANGES {
        for nth in 1.. {
            let queue = QueueFile::new();
            let (outcome, all) = run(kill(call, nth), &queue, &format!("{rounds:03}"));
            rounds += 1;
            assert!(rounds < 1_000, "it never ends\n{outcome}");
            expected.extend(all);
            queue.drain(broker);
            assert_eq!(queue.status()["waiting"], 0, "{outcome}");
            let totals = queue.totals();
            assert_eq!(
                totals["accepted"], totals["delivered"],
                "{outcome}\n{totals}"
            );
            let arrived = listener.wait_for(&expected);
            assert!(
                arrived.repeats - repeats <= 6,
                "no more than were there\n{outcome}"
            );
            repeats = arrived.repeats;
            assert!(arrived.first.is_sorted(), "in order\n{outcome}");
            if outcome.code.is_some() {
                break;
            }
            points += 1;
        }
    }
    println!("{points} points");
    points
}

#[test]
fn killed_at_every_point_while_the_file_is_made_it_loses_nothing() {
    let broker = Broker::start();
    let points = at_every_point(&broker, |fault, queue, name| {
        let (_strace, words) = Strace::on_main_thread(fault);
        let lines: Vec<_> = (0..3).map(|n| format!("{name}.{n}")).collect();
        let outcome = queue
            .publisher()
            .at_port(free_port())
            .args(["-l", "--flush-timeout", "0.05"])
            .under(words)
            .stdin(Cursor::new(lines.join("\n")))
            .run(SOON);
        let count = accepted(&outcome.stdout.texts());
        (outcome, lines[..count].to_vec())
    });
    assert!(points > 40, "only {points} points");
}

#[test]
fn killed_at_every_point_of_its_work_it_loses_nothing() {
    let broker = Broker::start();
    let points = at_every_point(&broker, |fault, queue, name| {
        let mut all: Vec<_> = (0..3).map(|n| format!("{name}.{n}")).collect();
        queue.add(&all.join("\n"));
        let port = free_port();
        let mut running = queue
            .publisher()
            .at_port(port)
            .args(["-l", "--base-backoff", "0.1", "--max-backoff", "0.1"])
            .stdin_pipe()
            .start();
        let _strace = Strace::on_thread(&running, "store", fault);
        let new: Vec<_> = (3..6).map(|n| format!("{name}.{n}")).collect();
        running.send(new.join("\n") + "\n");
        // On disk, if it lives that long; then they can go out.
        running.stdout.wait_count(3, SOON);
        let _way = Proxy::listen(port, broker.port(), Duration::ZERO).expect("the port is free");
        running.stdout.wait_count(3 + 6, SOON);
        running.close_stdin();
        let outcome = running.finish(SOON);
        let count = accepted(&outcome.stdout.texts());
        all.extend_from_slice(&new[..count]);
        (outcome, all)
    });
    assert!(points > 15, "only {points} points");
}
