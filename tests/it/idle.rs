//! How often a program wakes while nothing happens.

use std::time::Duration;

use crate::harness::running::Running;
use crate::harness::scripted::Event;
use crate::harness::server::hang_up;
use crate::harness::{Program, QueueFile, SOON, ScriptedBroker, Server};

/// Between two pings, which are this many seconds apart.
const KEEP_ALIVE: u64 = 5;

/// With a ping, its answer, and what a busy machine adds. A thread that looks for something every second would exceed
/// it, with those that are needed.
const MOST: u64 = 9;

#[test]
fn a_connected_program_wakes_for_its_pings_only() {
    let queue = QueueFile::new();
    let programs = [
        Program::subscriber().args(["--topic", "t"]),
        Program::publisher()
            .args(["--topic", "t", "-l"])
            .stdin_pipe(),
        queue.publisher().arg("-l").stdin_pipe(),
    ];
    let connected: Vec<_> = programs
        .map(|program| {
            let broker = ScriptedBroker::script().plain();
            let program = program.at_plain_port(broker.port());
            let program = program.args(["--keep-alive", &KEEP_ALIVE.to_string()]);
            (program.start(), broker)
        })
        .into();
    let mut before = Vec::new();
    for count in [1, 2] {
        for (index, (running, broker)) in connected.iter().enumerate() {
            let within = SOON + Duration::from_secs(KEEP_ALIVE);
            let is_ping = |event: &&Event| matches!(event, Event::Ping(_));
            let pings = |events: &[Event]| events.iter().filter(is_ping).count();
            broker.wait(within, |events| pings(events) >= count);
            match before.get(index) {
                None => before.push(running.waits()),
                Some(before) => check(running, running.waits_since(before)),
            }
        }
    }
}

#[test]
fn a_publisher_with_a_queue_and_no_broker_wakes_for_its_attempts_only() {
    let queue = QueueFile::new();
    let server = Server::plain(hang_up);
    let publisher = queue.publisher().at_plain_port(server.port()).arg("-l");
    let delays = ["--base-backoff", "3", "--max-backoff", "3", "--jitter", "0"];
    let running = publisher.args(delays).stdin_pipe().start();
    server.wait_accepted(2, SOON);
    let before = running.waits();
    server.wait_accepted(3, SOON);
    // Those of threads that have ended meanwhile are gone.
    let switches = running.waits_since(&before);
    // An attempt takes several threads.
    assert!(switches <= 30, "{switches} wake-ups\n{running}");
}

fn check(running: &Running, switches: u64) {
    assert!(switches <= MOST, "{switches} wake-ups\n{running}");
}
