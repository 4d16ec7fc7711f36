//! The window of unacknowledged messages: how many there may be, what happens when an
//! acknowledgement does not come, and when it is a no.

use std::{collections::BTreeSet, io::Cursor, time::Duration};

use crate::harness::{
    Broker, Program, QueueFile, Reply, SOON, ScriptedBroker,
    packet::Publish,
    peer::Witness,
    running::Running,
    scripted::{Event, Script},
    wait_until,
};

/// Lines 1 to `count` to the topic `t` of a scripted broker without TLS, with a backoff
/// that loses no time.
fn lines(broker: &ScriptedBroker, count: usize) -> Program {
    let input = (1..=count)
        .map(|n| n.to_string() + "\n")
        .collect::<String>();
    Program::publisher()
        .at_plain_port(broker.port())
        .args(["-t", "t", "-l", "--jitter", "0", "--base-backoff", "0.1"])
        .stdin(Cursor::new(input))
}

/// The lines that came on one connection, in order.
fn on_connection(publishes: &[Publish], connection: usize) -> Vec<u64> {
    let here = publishes.iter().filter(|p| p.connection == connection);
    here.map(|p| p.text().parse().unwrap()).collect()
}

/// Acknowledges the first `count` messages of the first connection and no others.
fn silent_after(count: u64) -> Script {
    ScriptedBroker::script().on_publish(move |publish| {
        let (_, number, _) = publish.seq().unwrap();
        if number <= count {
            Reply::Ack
        } else {
            Reply::Silence
        }
    })
}

/// That `count` messages come and no more; up to a quarter of a window fewer, as the window is
/// refilled in bursts.
fn expect_window(broker: &ScriptedBroker, count: usize, window: usize) {
    broker.wait_publishes(count - window / 4, SOON);
    let more = || broker.publishes().len() > count;
    let exceeded = wait_until(Duration::from_millis(1_500), more);
    assert!(!exceeded, "{} messages", broker.publishes().len());
}

#[test]
fn the_window_is_never_exceeded() {
    for (window, acknowledged) in [(1, 0), (7, 0), (7, 30)] {
        let broker = silent_after(acknowledged).plain();
        let publisher = lines(&broker, 200).args(["--max-inflight", &window.to_string()]);
        let _running = publisher.args(["--operation-timeout", "60"]).start();
        let count = window + usize::try_from(acknowledged).unwrap();
        expect_window(&broker, count, window);
    }
}

#[test]
fn the_window_is_100_by_default_and_for_qos_2_too() {
    for qos in ["1", "2"] {
        let script = ScriptedBroker::script().on_publish(|_| Reply::Silence);
        let broker = script.plain();
        let publisher = lines(&broker, 300).args(["--qos", qos, "--queue-size", "300"]);
        let _running = publisher.args(["--operation-timeout", "60"]).start();
        broker.wait_publishes(100, SOON);
        expect_window(&broker, 100, 100);
    }
}

#[test]
fn qos_2_with_mqtt_3_1_1_has_a_window_of_20_unless_it_is_set_by_hand() {
    for (qos, flags, window) in [
        ("2", &[][..], 20),
        ("1", &[], 100),
        ("2", &["--max-inflight", "40"], 40),
    ] {
        let script = ScriptedBroker::script().on_publish(|_| Reply::Silence);
        let broker = script.plain();
        let publisher = lines(&broker, 300).args(["--qos", qos, "--mqtt-version", "3.1.1"]);
        let publisher = publisher.args(["--operation-timeout", "60"]).args(flags);
        let _running = publisher.start();
        broker.wait_publishes(window, SOON);
        expect_window(&broker, window, window);
    }
}

/// Nothing that matters here is set but what Mosquitto has by default.
fn with_defaults() -> Broker {
    Broker::builder()
        .line("max_inflight_messages 20")
        .line("max_queued_messages 1000")
        .line("set_tcp_nodelay false")
        .start()
}

/// A subscriber until this many lines have come, and what it is to print.
fn listener(broker: &Broker, version: &str, count: usize) -> Running {
    let subscriber = Program::subscriber().to(broker).arg("-d");
    let subscriber = subscriber.args(["-t", "t", "-q", "2", "--mqtt-version", version]);
    let running = subscriber
        .args(["-C", &count.to_string(), "-W", "30"])
        .start();
    running.wait_subscribed();
    running
}

#[test]
fn all_lines_arrive_through_mosquitto_with_its_defaults() {
    // What it queues for a subscriber that is slower than the publisher.
    const COUNT: usize = 1_000;
    let broker = with_defaults();
    let input: String = (1..=COUNT).map(|n| n.to_string() + "\n").collect();
    for version in ["5", "3.1.1"] {
        for qos in ["1", "2"] {
            let received = listener(&broker, version, COUNT);
            let publisher = Program::publisher().to(&broker).args(["-t", "t", "-l"]);
            let publisher = publisher.args(["-q", qos, "--mqtt-version", version]);
            let publisher = publisher.stdin(Cursor::new(input.clone()));
            publisher.run(SOON * 2).expect_code(0);
            received.finish(SOON).expect_code(0).expect_stdout(&input);
        }
    }
}

#[test]
fn mixed_lines_and_a_kept_queue_arrive_through_mosquitto_with_its_defaults() {
    const COUNT: usize = 500;
    let broker = with_defaults();
    let queue = QueueFile::new();
    let line = |n| {
        format!(
            "{{\"topic\":\"t\",\"payload\":\"{n}\",\"qos\":{}}}\n",
            1 + n % 2
        )
    };
    let input: String = (1..=COUNT).map(line).collect();
    let offline = queue.publisher().at_port(crate::harness::free_port());
    offline
        .args(["-l", "--input", "json", "--flush-timeout", "0.1"])
        .stdin(Cursor::new(input.clone()))
        .run(SOON)
        .expect_code(75);
    let received = listener(&broker, "3.1.1", 2 * COUNT);
    queue
        .publisher()
        .to(&broker)
        .args(["-l", "--input", "json", "--mqtt-version", "3.1.1"])
        .stdin(Cursor::new(input))
        .run(SOON)
        .expect_code(0);
    let outcome = received.finish(SOON).expect_code(0);
    let mut numbers: Vec<usize> = outcome
        .stdout
        .texts()
        .iter()
        .map(|l| l.parse().unwrap())
        .collect();
    numbers.sort_unstable();
    let twice: Vec<_> = (1..=COUNT).flat_map(|n| [n, n]).collect();
    assert_eq!(numbers, twice, "{outcome}");
}

#[test]
fn the_window_fills_without_waiting_for_an_acknowledgement() {
    let broker = silent_after(0).plain();
    let _running = lines(&broker, 300)
        .args(["--operation-timeout", "60"])
        .start();
    broker.wait_publishes(100, SOON);
}

#[test]
fn a_lower_receive_maximum_of_the_broker_wins_and_a_higher_does_not() {
    for (maximum, window) in [(3, 3), (50, 10)] {
        let script = silent_after(20).connack_properties(&[0x21, 0, maximum]);
        let broker = script.plain();
        let publisher = lines(&broker, 200).args(["--max-inflight", "10"]);
        let _running = publisher.args(["--operation-timeout", "60"]).start();
        expect_window(&broker, 20 + window, window);
    }
}

#[test]
fn a_missing_puback_ends_the_connection_and_the_next_one_gets_the_message_again() {
    let broker = ScriptedBroker::script()
        .on_publish(|publish| match publish.connection {
            0 | 1 => Reply::Silence,
            _ => Reply::Ack,
        })
        .plain();
    let publisher = lines(&broker, 50).args(["--max-inflight", "4"]);
    let outcome = publisher
        .args(["--operation-timeout", "1", "--receipts"])
        .run(Duration::from_secs(15))
        .expect_code(0)
        .expect_stderr("--operation-timeout");
    let sent = broker.publishes();
    // Inside the window, in order, once on each connection.
    assert_eq!(on_connection(&sent, 0), [1, 2, 3, 4], "{outcome}");
    assert_eq!(on_connection(&sent, 1), [1, 2, 3, 4], "{outcome}");
    let all: Vec<_> = (1..=50).collect();
    assert_eq!(on_connection(&sent, 2), all, "{outcome}");
    // A message keeps its stream, number and time.
    let first = sent.iter().filter(|p| p.text() == "1");
    let names: BTreeSet<_> = first.map(Publish::seq).collect();
    assert_eq!(names.len(), 1, "{names:?}");
    // One final outcome each.
    let receipts = outcome.stdout.texts();
    assert_eq!(receipts.len(), 100, "{outcome}");
    let waited = sent[4].at - sent[0].at;
    let timeout = Duration::from_secs(1)..Duration::from_millis(2_500);
    assert!(timeout.contains(&waited), "{waited:?}");
}

#[test]
fn what_was_not_acknowledged_is_sent_first_and_in_order_after_a_lost_connection() {
    let broker = ScriptedBroker::script()
        .on_publish(|publish| match (publish.connection, &*publish.text()) {
            (0, "5") => Reply::HangUp,
            (0, _) => Reply::Silence,
            _ => Reply::Ack,
        })
        .plain();
    let publisher = lines(&broker, 60).args(["--max-inflight", "5"]);
    publisher.run(SOON).expect_code(0);
    let sent = broker.publishes();
    assert!(on_connection(&sent, 0).into_iter().eq(1..=5));
    assert!(on_connection(&sent, 1).into_iter().eq(1..=60));
}

#[test]
fn what_was_acknowledged_before_a_missing_puback_is_not_sent_again() {
    let broker = ScriptedBroker::script()
        .on_publish(|publish| match (publish.connection, &*publish.text()) {
            (0, "1") => {
                // By then all ten are on their way.
                assert!(!wait_until(Duration::from_millis(300), || false));
                Reply::Ack
            }
            (0, "2" | "3") => Reply::Ack,
            (0, _) => Reply::Silence,
            _ => Reply::Ack,
        })
        .plain();
    let publisher = lines(&broker, 10).args(["--operation-timeout", "1"]);
    publisher.run(SOON).expect_code(0);
    let sent = broker.publishes();
    assert!(on_connection(&sent, 0).into_iter().eq(1..=10));
    assert_eq!(on_connection(&sent, 1), [4, 5, 6, 7, 8, 9, 10]);
}

#[test]
fn a_repeat_never_comes_on_the_same_connection_however_slow_the_broker() {
    let broker = ScriptedBroker::script().on_publish(|_| Reply::Silence);
    let broker = broker.plain();
    let publisher = lines(&broker, 5).args(["--operation-timeout", "60"]);
    let _running = publisher.args(["--keep-alive", "1"]).start();
    let pings = |events: &[Event]| {
        let ping = |event: &&Event| matches!(event, Event::Ping(_));
        events.iter().filter(ping).count() >= 4
    };
    broker.wait(Duration::from_secs(20), pings);
    assert_eq!(on_connection(&broker.publishes(), 0), [1, 2, 3, 4, 5]);
}

#[test]
fn a_slow_link_with_a_full_window_is_not_taken_for_a_dead_one() {
    // All of them take four seconds, but there is an acknowledgement every tenth of one.
    let broker = ScriptedBroker::script()
        .on_publish(|_| {
            assert!(!wait_until(Duration::from_millis(100), || false));
            Reply::Ack
        })
        .plain();
    let publisher = lines(&broker, 40).args(["--operation-timeout", "1"]);
    publisher.run(Duration::from_secs(20)).expect_code(0);
    assert_eq!(broker.connects().len(), 1);
    assert_eq!(broker.publishes().len(), 40);
}

#[test]
fn quota_exceeded_is_not_the_end_of_a_message() {
    let refused = std::sync::Mutex::new(BTreeSet::new());
    let broker = ScriptedBroker::script()
        .on_publish(move |publish| match &*publish.text() {
            text @ ("2" | "5") if refused.lock().unwrap().insert(text.to_owned()) => {
                Reply::Refuse(0x97)
            }
            _ => Reply::Ack,
        })
        .plain();
    let publisher = lines(&broker, 8).args(["--receipts", "--summary"]);
    let outcome = publisher.run(Duration::from_secs(15)).expect_code(0);
    let lines = outcome.stdout.texts();
    for n in 1..=8 {
        let delivered = format!("delivered {n}");
        let times = lines.iter().filter(|line| **line == delivered).count();
        assert_eq!(times, 1, "{delivered}: {outcome}");
    }
    let sent: Vec<_> = broker.publishes().iter().map(Publish::text).collect();
    assert_eq!(sent.len(), 10, "{sent:?}");
    assert_eq!(broker.connects().len(), 1, "no reason to leave");
}

#[test]
fn a_refused_message_is_dead_with_its_reason_and_the_rest_goes_on() {
    for qos in ["1", "2"] {
        let broker = ScriptedBroker::script()
            .on_publish(|publish| match &*publish.text() {
                "2" => Reply::Refuse(0x99),
                "4" => Reply::Refuse(0x90),
                _ => Reply::Ack,
            })
            .plain();
        let publisher = lines(&broker, 5).args(["--receipts", "--summary", "--qos", qos]);
        let outcome = publisher.run(SOON).expect_code(65);
        let lines = outcome.stdout.texts();
        for start in [
            "delivered 1",
            "dead 2 payload format invalid (0x99)",
            "delivered 3",
            "dead 4 topic name invalid (0x90)",
            "delivered 5",
        ] {
            let found = lines.iter().filter(|line| line.starts_with(start));
            assert_eq!(found.count(), 1, "{start}: {outcome}");
        }
        let summary = lines.last().unwrap();
        for part in [
            "\"accepted\":5",
            "\"delivered\":3",
            "\"dead\":2",
            "\"queued\":0",
        ] {
            assert!(summary.contains(part), "{part}: {outcome}");
        }
        assert_eq!(broker.publishes().len(), 5, "none is sent again: {outcome}");
        assert_eq!(broker.connects().len(), 1, "{outcome}");
    }
}

#[test]
fn a_message_above_the_brokers_packet_size_is_dead_and_the_rest_goes_on() {
    let broker = Broker::builder().max_packet_size(1_000).start();
    let witness = Witness::start(&broker, "sizes");
    let input = ["small", &"x".repeat(2_000), "fits", &"y".repeat(1_001)].join("\n");
    // The broker does not answer before all lines are accepted: a line that is read after
    // CONNACK is rejected at once.
    broker.pause();
    let publisher = Program::publisher()
        .to(&broker)
        .args(["-t", "sizes", "-l", "--receipts"])
        .stdin(Cursor::new(input))
        .start();
    publisher.stdout_line(SOON, |line| line == "accepted 4");
    broker.resume();
    let outcome = publisher.finish(SOON).expect_code(65);
    let lines = outcome.stdout.texts();
    for start in ["delivered 1", "dead 2 ", "delivered 3", "dead 4 "] {
        let has_start = lines.iter().any(|line| line.starts_with(start));
        assert!(has_start, "{start}: {outcome}");
    }
    assert!(lines.iter().any(|line| line.contains("1000")), "{outcome}");
    let arrived: Vec<_> = witness.messages(2, SOON);
    assert_eq!([&arrived[0].text, &arrived[1].text], ["small", "fits"]);
    // Nothing that the broker would have thrown us out for.
    let connects = broker.log().texts();
    let ours = connects
        .iter()
        .filter(|line| line.contains("as publisher-"));
    assert_eq!(ours.count(), 1, "{outcome}");
}

#[test]
fn a_packet_of_exactly_the_brokers_size_passes_and_one_byte_more_does_not() {
    // Fixed header 3, topic 2 + 1, packet identifier 2, no properties 1: nine bytes.
    let broker = ScriptedBroker::script()
        .connack_properties(&[0x27, 0, 0, 2, 0])
        .plain();
    for (length, code) in [(512 - 9, 0), (512 - 8, 65)] {
        let text = "x".repeat(length);
        Program::publisher()
            .at_plain_port(broker.port())
            .args(["-t", "t", "--no-sequence", "-m", &text])
            .run(SOON)
            .expect_code(code);
    }
    assert_eq!(broker.publishes().len(), 1);
}

#[test]
fn a_connection_that_breaks_in_a_burst_does_not_end_the_process() {
    // The client library freed a message twice if its write failed: see
    // vendor/paho-mqtt-sys/CHANGED.md. About one connection in twenty brought it about.
    const COUNT: usize = 400;
    let broker = ScriptedBroker::script()
        .on_publish(|publish| match publish.text().parse::<usize>() {
            Ok(number) if number.is_multiple_of(5) && fastrand::bool() => Reply::HangUp,
            _ => Reply::Ack,
        })
        .plain();
    let publisher = lines(&broker, COUNT)
        .args(["--max-backoff", "0.1", "--stable-time", "9"])
        .args(["--max-inflight", "20", "--max-attempts", "100"]);
    publisher.run(SOON * 6).expect_code(0);
    let arrived: BTreeSet<_> = broker.publishes().iter().map(Publish::text).collect();
    assert_eq!(arrived.len(), COUNT);
}

#[test]
fn what_had_to_wait_for_a_backlog_is_sent_when_that_is_gone_though_nothing_else_happens() {
    // The last acknowledgement of the backlog takes longer than the next line takes to come.
    let reply = |publish: &Publish| {
        if publish.text() == "1" {
            std::thread::park_timeout(Duration::from_millis(100));
        }
        Reply::Ack
    };
    let broker = ScriptedBroker::script()
        .connack_after(Duration::from_millis(50))
        .on_publish(reply)
        .plain();
    let queue = QueueFile::new();
    let mut publisher = queue
        .publisher()
        .at_plain_port(broker.port())
        .args(["-l", "--max-inflight", "1"])
        .stdin_pipe()
        .start();
    publisher.send("1\n");
    broker.wait_publishes(1, SOON);
    publisher.send("2\n");
    broker.wait_publishes(2, SOON);
    publisher.close_stdin();
    publisher.finish(SOON).expect_code(0);
}
