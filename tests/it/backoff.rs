//! When the programs connect again: the delays, what resets them, and that a server sees
//! one connection for each step.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::packet::read_packet;
use crate::harness::scripted::Event;
use crate::harness::{Broker, Program, Proxy, SOON, ScriptedBroker, Server, free_port, server};

/// What a busy machine may add to a delay.
const SLACK: Duration = Duration::from_millis(240);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A subscriber without an end, or jitter.
fn subscriber(backoff: [&str; 2]) -> Program {
    let [base, max] = backoff;
    Program::subscriber()
        .args(["-t", "t", "--jitter", "0"])
        .args(["--base-backoff", base, "--max-backoff", max])
}

fn expect_gaps(times: &[Instant], delays: &[u64]) {
    let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let fits = |(gap, delay): (&Duration, &u64)| (ms(*delay)..ms(*delay) + SLACK).contains(gap);
    assert!(gaps.iter().zip(delays).all(fits), "{gaps:?}");
    assert_eq!(gaps.len(), delays.len());
}

#[test]
fn a_server_that_hangs_up_sees_doubling_delays() {
    let server = Server::plain(server::hang_up);
    let _subscriber = subscriber(["0.25", "32"])
        .at_plain_port(server.port())
        .start();
    expect_gaps(&server.wait_accepted(5, SOON), &[250, 500, 1000, 2000]);
}

#[test]
fn the_delays_are_capped() {
    let server = Server::plain(server::hang_up);
    let _subscriber = subscriber(["0.25", "0.6"])
        .at_plain_port(server.port())
        .start();
    expect_gaps(&server.wait_accepted(5, SOON), &[250, 500, 600, 600]);
}

#[test]
fn a_server_that_reads_the_connect_and_hangs_up_sees_the_same() {
    let server = Server::plain(|stream| drop(read_packet(stream)));
    let _subscriber = subscriber(["0.25", "32"])
        .at_plain_port(server.port())
        .start();
    expect_gaps(&server.wait_accepted(4, SOON), &[250, 500, 1000]);
}

#[test]
fn a_server_that_hangs_up_before_tls_sees_one_connection_for_each_step() {
    let server = Server::plain(server::hang_up);
    let _subscriber = subscriber(["0.25", "32"]).at_port(server.port()).start();
    expect_gaps(&server.wait_accepted(5, SOON), &[250, 500, 1000, 2000]);
}

#[test]
fn a_server_that_hangs_up_after_tls_sees_one_connection_for_each_step() {
    let server = Server::tls(server::hang_up);
    let _subscriber = subscriber(["0.25", "32"]).at_port(server.port()).start();
    expect_gaps(&server.wait_accepted(5, SOON), &[250, 500, 1000, 2000]);
}

#[test]
fn a_server_that_reads_the_connect_over_tls_and_hangs_up_sees_the_same() {
    let server = Server::tls(|stream| drop(read_packet(stream)));
    let _subscriber = subscriber(["0.25", "32"]).at_port(server.port()).start();
    expect_gaps(&server.wait_accepted(5, SOON), &[250, 500, 1000, 2000]);
}

#[test]
fn only_a_connection_that_lasted_the_stable_time_resets_the_delay() {
    let broker = ScriptedBroker::script().plain();
    let proxy = Proxy::start(broker.port(), Duration::ZERO);
    let _subscriber = subscriber(["0.25", "32"])
        .at_plain_port(proxy.port())
        .args(["--stable-time", "0.9", "--keep-alive", "1"])
        .start();
    let count = |events: &[Event], wanted: fn(&Event) -> bool| {
        events.iter().filter(|event| wanted(event)).count()
    };
    let subscribed = |event: &Event| matches!(event, Event::Subscribe(_));
    let mut cuts = Vec::new();
    // Three that are cut at once, a stable one (a second passes before its first ping),
    // and two that are cut at once.
    for (connection, stable) in (1..).zip([false, false, false, true, false, false]) {
        broker.wait(SOON, |events| count(events, subscribed) == connection);
        if stable {
            broker.wait(SOON, |events| matches!(events.last(), Some(Event::Ping(_))));
        }
        cuts.push(Instant::now());
        proxy.cut();
        broker.wait(SOON, |events| {
            count(events, |event| matches!(event, Event::End)) == connection
        });
    }
    broker.wait(SOON, |events| count(events, subscribed) == 7);
    let connects: Vec<_> = broker
        .events()
        .into_iter()
        .filter_map(|event| match event {
            Event::Connect(connect) => Some(connect.at),
            _ => None,
        })
        .collect();
    let delays = cuts.iter().zip(&connects[1..]);
    let delays: Vec<_> = delays.map(|(cut, again)| *again - *cut).collect();
    let expected = [250, 500, 1000, 250, 500, 1000].map(ms);
    let fits =
        |(delay, expected): (&Duration, &Duration)| (*expected..*expected + SLACK).contains(delay);
    assert!(delays.iter().zip(&expected).all(fits), "{delays:?}");
    assert_eq!(delays.len(), expected.len());
}

#[test]
fn the_first_connect_is_retried() {
    let port = free_port();
    let publisher = Program::one_message()
        .at_port(port)
        .args(["--base-backoff", "0.1", "--max-backoff", "0.3"])
        .start();
    publisher.stderr_line(SOON, |line| line.contains("connection refused"));
    let _broker = Broker::builder().port(port).start();
    publisher.finish(SOON).expect_code(0);
}

#[test]
fn a_refused_connect_is_no_connection() {
    // The server would keep the refused connection open for longer than the stable time.
    let unavailable = server::answer_then_silence(&[0x20, 3, 0, 0x88, 0]);
    let server = Server::plain(unavailable);
    let subscriber = subscriber(["0.25", "32"])
        .at_plain_port(server.port())
        .args(["--stable-time", "0.3", "--summary"])
        .start();
    expect_gaps(&server.wait_accepted(4, SOON), &[250, 500, 1000]);
    let outcome = subscriber.finish_by(Signal::SIGTERM, SOON);
    let summary = outcome.stdout.text();
    assert!(summary.contains("\"reconnects\":0"), "{outcome}");
}

#[test]
fn jitter_only_ever_shortens_a_delay_and_never_below_its_share() {
    let server = Server::plain(server::hang_up);
    let _subscriber = Program::subscriber()
        .args(["-t", "t", "--jitter", "0.75"])
        .args(["--base-backoff", "0.4", "--max-backoff", "0.4"])
        .at_plain_port(server.port())
        .start();
    let times = server.wait_accepted(11, SOON);
    let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for gap in &gaps {
        assert!((ms(100)..ms(400) + SLACK).contains(gap), "{gaps:?}");
    }
    // Ten draws that are all in the upper third would be one chance in ten thousand.
    assert!(gaps.iter().any(|gap| *gap < ms(300)), "{gaps:?}");
}

#[test]
fn a_signal_ends_the_wait_at_once() {
    let server = Server::plain(server::hang_up);
    let subscriber = subscriber(["19", "32"])
        .at_plain_port(server.port())
        .start();
    subscriber.stderr_line(SOON, |line| line.contains("trying again in 19.0 s"));
    let stopped = Instant::now();
    subscriber.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    assert!(stopped.elapsed() < Duration::from_secs(1));
}
