//! The client library alone, as `vendor/` has it: `examples/paho-client.rs` drives it against
//! servers that send what no broker should. The programs check what comes in before the library
//! sees it, so that none of this could be seen through them.

mod malformed;

use std::{
    path::Path,
    process::Command,
    sync::{Mutex, mpsc},
    time::{Duration, Instant},
};

use crate::harness::{
    Program, SOON, Server,
    packet::{Packet, Publish, kind, read_packet},
    running::{Outcome, Running},
    server::Stream,
    strace::Strace,
    wait_until,
};

/// Time for some hundred attempts, and for what the library looks at every three seconds only.
const LONG: Duration = Duration::from_secs(60);

const VERSIONS: [u8; 2] = [4, 5];

/// The library in its own program, in which memory is filled with junk when it is allocated
/// and when it is freed, and what is freed twice ends the process.
fn client(server: &Server, version: u8, steps: &[&str]) -> Program {
    let publisher = Path::new(env!("CARGO_BIN_EXE_publisher"));
    let path = publisher.with_file_name("examples").join("paho-client");
    Program::new(Box::leak(path.to_str().unwrap().into()))
        .args([server.port().to_string(), version.to_string()])
        .args(steps)
        .env("MALLOC_CHECK_", "3")
        .env("MALLOC_PERTURB_", "165")
}

/// Expects it to end without a signal after the last of its steps, having printed these lines.
fn expect(running: Running, lines: &[&str]) -> Outcome {
    let outcome = running.finish(LONG).expect_code(0);
    assert_eq!(
        outcome.stdout.text().trim_end(),
        lines.join("\n"),
        "{outcome}"
    );
    outcome
}

/// A server that accepts every CONNECT and treats what comes after it, one packet at a time, with
/// the MQTT version; until that returns nothing, or the client is gone.
fn server(
    treat: impl Fn(&mut dyn Stream, &Packet, u8) -> Option<()> + Send + Sync + 'static,
) -> Server {
    Server::plain(move |stream| {
        let Some(version) = accept(stream, &[]) else {
            return;
        };
        while let Ok(packet) = read_packet(stream) {
            if treat(stream, &packet, version).is_none() {
                return;
            }
        }
    })
}

/// Reads a CONNECT and answers it, with these properties if it is of MQTT 5; its version.
fn accept(stream: &mut dyn Stream, properties: &[u8]) -> Option<u8> {
    let version = read_packet(stream).ok()?.connect().level;
    let body = match version {
        5 => [&[0, 0, byte(properties.len())], properties].concat(),
        _ => vec![0, 0],
    };
    send(stream, 0x20, &body)?;
    Some(version)
}

/// Sends a packet, whatever is in it.
fn send(stream: &mut dyn Stream, first: u8, body: &[u8]) -> Option<()> {
    stream.write_all(&packet(first, body)).ok()
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first], &*variable(body.len()), body].concat()
}

/// A variable byte integer.
fn variable(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(byte(number % 0x80) | 0x80);
        number /= 0x80;
    }
    bytes.push(byte(number));
    bytes
}

fn byte(number: usize) -> u8 {
    number.try_into().unwrap()
}

/// A string, or binary data, with its length.
fn string(text: &[u8]) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes(), text].concat()
}

/// The packet identifier of a PUBLISH of MQTT at QoS 1 or 2.
fn identifier(packet: &Packet, version: u8) -> [u8; 2] {
    packet.publish(0, version).packet_id.to_be_bytes()
}

/// A SUBACK or UNSUBACK with these codes.
fn codes(id: &[u8], version: u8, codes: &[u8]) -> Vec<u8> {
    let properties: &[u8] = if version == 5 { &[0] } else { &[] };
    [id, properties, codes].concat()
}

const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBCOMP: u8 = 0x70;
const SUBACK: u8 = 0x90;
const UNSUBACK: u8 = 0xb0;

#[test]
fn a_connect_that_cannot_be_written_is_reported_once() {
    let server = server(|_, _, _| Some(()));
    for version in VERSIONS {
        let running = client(&server, version, &["severed=100", "connect"]).start();
        expect(running, &["severed: 100", "connect: ok"]);
    }
}

/// Answers a PUBLISH at QoS 1, a SUBSCRIBE or an UNSUBSCRIBE with all acknowledgements but the right one.
fn answer_wrongly(stream: &mut dyn Stream, id: [u8; 2], version: u8, right: u8) -> Option<()> {
    for first in [PUBACK, PUBREC, PUBCOMP] {
        if first != right {
            send(stream, first, &id)?;
        }
    }
    for first in [SUBACK, UNSUBACK] {
        if first != right {
            send(stream, first, &codes(&id, version, &[0]))?;
        }
    }
    Some(())
}

/// The packet identifier of such a packet, and what acknowledges it.
fn to_be_acknowledged(packet: &Packet, version: u8) -> Option<([u8; 2], u8)> {
    let id = || packet.body().number().to_be_bytes();
    match packet.kind() {
        kind::PUBLISH => Some((identifier(packet, version), PUBACK)),
        kind::SUBSCRIBE => Some((id(), SUBACK)),
        kind::UNSUBSCRIBE => Some((id(), UNSUBACK)),
        _ => None,
    }
}

const COMMANDS: [&str; 3] = ["publish=1,100", "subscribe=1", "unsubscribe=1"];

#[test]
fn an_acknowledgement_of_the_wrong_type_acknowledges_nothing() {
    let server = server(|stream, packet, version| {
        if let Some((id, right)) = to_be_acknowledged(packet, version) {
            answer_wrongly(stream, id, version, right)?;
            return None;
        }
        Some(())
    });
    for (version, command) in VERSIONS.into_iter().flat_map(|v| COMMANDS.map(|c| (v, c))) {
        let running = client(&server, version, &["connect", command]).start();
        let name = command.split('=').next().unwrap();
        let failed = format!("{name}: Operation incomplete");
        expect(running, &["connect: ok", &failed]);
    }
}

#[test]
fn acknowledgements_of_the_wrong_type_do_no_harm_to_the_right_one() {
    let server = server(|stream, packet, version| {
        let Some((id, right)) = to_be_acknowledged(packet, version) else {
            return Some(());
        };
        answer_wrongly(stream, id, version, right)?;
        match right {
            PUBACK => send(stream, PUBACK, &id),
            _ => send(stream, right, &codes(&id, version, &[0])),
        }
    });
    for version in VERSIONS {
        let steps = ["connect", COMMANDS[0], COMMANDS[1], COMMANDS[2]];
        let running = client(&server, version, &steps).start();
        let ok = ["publish: ok", "subscribe: ok", "unsubscribe: ok"];
        expect(running, &["connect: ok", ok[0], ok[1], ok[2]]);
    }
}

#[test]
fn a_second_pubcomp_and_one_out_of_order_end_nothing() {
    let server = server(|stream, packet, version| match packet.kind() {
        kind::PUBLISH => {
            let id = identifier(packet, version);
            for first in [PUBCOMP, PUBREC] {
                send(stream, first, &id)?;
            }
            Some(())
        }
        kind::PUBREL => {
            let id = packet.body().number().to_be_bytes();
            for first in [PUBREC, PUBCOMP, PUBCOMP] {
                send(stream, first, &id)?;
            }
            Some(())
        }
        _ => Some(()),
    });
    for version in VERSIONS {
        let steps = ["connect", "publish=2,100", "publish=2,100", "publish=2,100"];
        let running = client(&server, version, &steps).start();
        expect(
            running,
            &["connect: ok", "publish: ok", "publish: ok", "publish: ok"],
        );
    }
}

#[test]
fn a_suback_with_another_number_of_codes_than_filters_ends_the_connection() {
    for (subscribe, count) in [("subscribe=3", 1), ("subscribe=3", 5), ("subscribe=1", 2)] {
        let server = server(move |stream, packet, version| match packet.kind() {
            kind::SUBSCRIBE => {
                let id = packet.subscribe(version).0.to_be_bytes();
                send(stream, SUBACK, &codes(&id, version, &vec![1; count]))
            }
            _ => Some(()),
        });
        for version in VERSIONS {
            let steps = ["connect", subscribe, "lost"];
            let outcome = client(&server, version, &steps).run(LONG).expect_code(0);
            let said = outcome.stdout.text();
            assert!(said.ends_with("\nlost: ok\n"), "{outcome}");
            assert!(!said.contains("subscribe: ok"), "{outcome}");
        }
    }
}

#[test]
fn the_keep_alive_that_the_server_asks_for_is_kept() {
    let (sender, gaps) = mpsc::channel();
    let server = Server::plain(move |stream| {
        // A Server Keep Alive of one second, instead of the minute that was asked for.
        accept(stream, &[0x13, 0, 1]);
        let mut last = Instant::now();
        for _ in 0..3 {
            let Ok(packet) = read_packet(stream) else {
                return;
            };
            assert_eq!(packet.kind(), kind::PINGREQ);
            sender.send(last.elapsed()).unwrap();
            last = Instant::now();
            send(stream, 0xd0, &[]);
        }
    });
    let running = client(&server, 5, &["connect", "lost"]).start();
    expect(running, &["connect: ok", "lost: ok"]);
    let gaps: Vec<Duration> = gaps.try_iter().collect();
    assert_eq!(gaps.len(), 3, "{gaps:?}");
    // A busy machine may take its time, but a server lets half as much again pass.
    let kept = |gap: &Duration| *gap < Duration::from_millis(1_500);
    assert!(gaps.iter().all(kept), "{gaps:?}");
}

#[test]
fn its_threads_sleep_while_nothing_happens() {
    let (sender, pings) = mpsc::channel();
    let server = Server::plain(move |stream| {
        // A Server Keep Alive of four seconds.
        accept(stream, &[0x13, 0, 4]);
        while let Ok(packet) = read_packet(stream) {
            assert_eq!(packet.kind(), kind::PINGREQ);
            send(stream, 0xd0, &[]);
            sender.send(()).unwrap();
        }
    });
    let running = client(&server, 5, &["connect", "lost"]).start();
    pings.recv_timeout(LONG).unwrap();
    let first = running.waits();
    pings.recv_timeout(LONG).unwrap();
    let between = running.waits_since(&first);
    // The end of the wait, the answer to the ping; twice as many on a busy machine.
    assert!(between <= 5, "{between} wake-ups in four seconds");
}

/// A server that accepts CONNECT and reads nothing more until it is sent `()`, and the messages that it reads then.
fn late_reader() -> (Server, mpsc::Sender<()>, mpsc::Receiver<Publish>) {
    let (go, going) = mpsc::channel();
    let going = Mutex::new(going);
    let (sender, arrivals) = mpsc::channel();
    let server = Server::plain(move |stream| {
        accept(stream, &[]);
        let Ok(()) = going.lock().unwrap().recv() else {
            return;
        };
        while let Ok(packet) = read_packet(stream) {
            sender.send(packet.publish(0, 5)).unwrap();
        }
    });
    (server, go, arrivals)
}

#[test]
fn a_message_behind_one_that_is_partly_written_is_sent_as_soon_as_there_is_room() {
    let (server, go, arrivals) = late_reader();
    // The first one is larger than all buffers on the way.
    let steps = ["connect=pair", "send=0,20000000", "send=0,10", "line"];
    let mut running = client(&server, 5, &steps).stdin_pipe().start();
    // All but the last.
    running.stdout_lines(steps.len() - 1, SOON);
    go.send(()).unwrap();
    let [first, second] = [0, 1].map(|_| arrivals.recv_timeout(SOON).unwrap());
    let gap = second.at - first.at;
    assert!(gap < Duration::from_millis(400), "{gap:?}");
    running.send("\n");
    running.finish(LONG).expect_code(0);
}

#[test]
fn messages_that_wait_together_are_written_together() {
    let (server, go, arrivals) = late_reader();
    // The first one is larger than all buffers on the way, so that the others wait for its end.
    let small = vec!["send=1,10"; 50];
    let steps = [&["connect=pair", "send=0,20000000"], &*small, &["line"]].concat();
    let (mut strace, words) = Strace::watch("writev");
    let mut running = client(&server, 5, &steps).under(words).stdin_pipe().start();
    running.stdout_lines(steps.len() - 1, SOON);
    go.send(()).unwrap();
    let arrived: Vec<_> = (0..=small.len())
        .map(|_| arrivals.recv_timeout(SOON).unwrap().payload.len())
        .collect();
    assert_eq!(arrived[1..], vec![10; small.len()]);
    running.send("\n");
    running.finish(LONG).expect_code(0);
    // Fixed header 2, topic 2 + 1, packet identifier 2, no properties 1, payload 10.
    let together = format!(" = {}", small.len() * 18);
    let calls = strace.calls();
    let found = calls.iter().filter(|call| call.ends_with(&together));
    assert_eq!(found.count(), 1, "{calls:#?}");
}

#[test]
fn whatever_is_written_together_arrives_whole_and_in_order() {
    // Pieces of some two kilobytes, or as large as they come.
    for connect in ["connect=narrow", "connect=pair"] {
        sizes_arrive(connect);
    }
}

/// Publishes messages of all sizes to a server that reads none until the last one is under way.
fn sizes_arrive(connect: &str) {
    let (server, go, arrivals) = late_reader();
    // More than all buffers on the way, so that every kind of write is broken off at some time: alone or
    // behind others, of what is kept until then and of what is not.
    let mut random = fastrand::Rng::with_seed(18);
    let sizes: Vec<_> = (0..2_000)
        .map(|_| {
            let most = [20, 1_000, 4_090, 5_000, 60_000][random.usize(..5)];
            (random.usize(..9).min(1), random.usize(..most))
        })
        .collect();
    let send = |(qos, size): &(usize, usize)| format!("send={qos},{size}");
    let sends: Vec<_> = sizes.iter().map(send).collect();
    let mut steps = vec![connect];
    steps.extend(sends.iter().map(String::as_str));
    steps.push("line");
    let mut running = client(&server, 5, &steps).stdin_pipe().start();
    running.stdout_lines(steps.len() - 1, SOON);
    go.send(()).unwrap();
    for (number, (_, size)) in sizes.iter().enumerate() {
        let payload = arrivals.recv_timeout(SOON).unwrap().payload;
        let expected = (0..=250).cycle().take(*size);
        assert!(
            payload.into_iter().eq(expected),
            "{connect}, {number}: {size}"
        );
    }
    running.send("\n");
    running.finish(LONG).expect_code(0);
}

#[test]
fn a_byte_that_is_not_read_yet_costs_no_processor_time() {
    let (go, going) = mpsc::channel::<()>();
    let going = Mutex::new(going);
    let server = Server::plain(move |stream| {
        accept(stream, &[]);
        // The library is in the middle of a message, and reads nothing.
        let Ok(()) = going.lock().unwrap().recv() else {
            return;
        };
        send(stream, 0xd0, &[]);
        let Ok(()) = going.lock().unwrap().recv() else {
            return;
        };
        while read_packet(stream).is_ok() {}
    });
    let steps = ["connect=pair", "send=0,20000000", "line"];
    let mut running = client(&server, 5, &steps).stdin_pipe().start();
    running.stdout_lines(steps.len() - 1, SOON);
    go.send(()).unwrap();
    let before = running.processor_time();
    let is_busy = || running.processor_time() > before + Duration::from_millis(500);
    assert!(!wait_until(Duration::from_secs(2), is_busy), "{running}");
    go.send(()).unwrap();
    running.send("\n");
    running.finish(LONG).expect_code(0);
}

#[test]
fn commands_inherit_none_of_its_sockets() {
    let server = server(|_, _, _| Some(()));
    let outcome = client(&server, 5, &["connect", "command"]).run(LONG);
    let said = outcome.expect_code(0).stdout.text();
    let descriptors = said.strip_prefix("connect: ok\ncommand: ").unwrap();
    assert!(descriptors.contains("pipe:"), "{descriptors}");
    assert!(!descriptors.contains("socket:"), "{descriptors}");
}

#[test]
fn clients_that_are_gone_leave_no_descriptor() {
    let server = server(|_, _, _| Some(()));
    let steps = ["clients=1", "descriptors", "clients=20", "descriptors"];
    let outcome = client(&server, 5, &steps).run(LONG).expect_code(0);
    let lines: Vec<_> = outcome.stdout.all();
    assert_eq!(lines[1].text, lines[3].text, "{outcome}");
}

#[test]
fn a_disconnect_that_waits_for_acknowledgements_keeps_its_properties() {
    let (sender, disconnects) = mpsc::channel();
    let server = server(move |_, packet, _| {
        if packet.kind() == kind::DISCONNECT {
            sender.send(rest(packet)).unwrap();
        }
        Some(())
    });
    let steps = ["connect", "send=1,10", "disconnect"];
    let running = client(&server, 5, &steps).start();
    expect(running, &["connect: ok", "send: ok", "disconnect: ok"]);
    let disconnect = disconnects.recv_timeout(SOON).unwrap();
    assert_eq!(disconnect, [0, 5, 0x11, 0, 0, 0, 60]);
}

/// All the bytes after the fixed header.
fn rest(packet: &Packet) -> Vec<u8> {
    let mut fields = packet.body();
    std::iter::from_fn(|| (!fields.is_empty()).then(|| fields.byte())).collect()
}

#[test]
fn a_message_that_is_acknowledged_before_all_of_it_is_written_arrives_whole() {
    // It takes the library some luck to have the message under way before the acknowledgement,
    // which it has read already, is looked at.
    let early = (0..20).any(|_| acknowledged_early());
    assert!(early, "never acknowledged early");
}

/// Acknowledges a message that is larger than all buffers on the way before reading any of it.
/// Whether the client had the message under way then; if so, all of it must come.
fn acknowledged_early() -> bool {
    const SIZE: usize = 20_000_000;
    let (go, going) = mpsc::channel::<()>();
    let (sender, received) = mpsc::channel();
    let going = Mutex::new(going);
    let server = Server::plain(move |stream| {
        accept(stream, &[]);
        let going = going.lock().unwrap();
        // Something to answer, some thousand packets that take a little time, and the
        // acknowledgement of the first message of the client, all read at once.
        let mut burst = packet(0x30, &[&*string(b"go"), &[0]].concat());
        burst.extend(packet(0xd0, &[]).repeat(4_000));
        burst.extend(packet(PUBACK, &[0, 1]));
        let Ok(()) = going.recv() else { return };
        stream.write_all(&burst).unwrap();
        let Ok(()) = going.recv() else { return };
        if let Ok(packet) = read_packet(stream) {
            sender.send(packet.publish(0, 5).payload).unwrap();
        }
    });
    let steps = ["connect=pair", &format!("reply={SIZE}"), "line"];
    let running = client(&server, 5, &steps).stdin_pipe().start();
    running.stdout_line(SOON, |line| line == "ready");
    go.send(()).unwrap();
    let within = Duration::from_millis(500);
    if running
        .stdout
        .wait(within, |line| line == "reply: ok")
        .is_none()
    {
        return false;
    }
    go.send(()).unwrap();
    let payload = received.recv_timeout(SOON);
    let expected = (0..=250).cycle().take(SIZE);
    assert!(
        payload.is_ok_and(|payload| payload.into_iter().eq(expected)),
        "{running}"
    );
    true
}

#[test]
fn a_message_for_which_there_is_no_memory_is_not_acknowledged() {
    const SIZE: usize = 100_000_000;
    // For neither the packet nor the message, and for the packet only.
    for (spare, version) in [
        (20_000_000, 4),
        (20_000_000, 5),
        (150_000_000, 4),
        (150_000_000, 5),
    ] {
        let (sender, kinds) = mpsc::channel();
        let server = server(move |stream, packet, version| {
            sender.send(packet.kind()).unwrap();
            if packet.kind() != kind::PUBLISH {
                return Some(());
            }
            let properties: &[u8] = if version == 5 { &[0] } else { &[] };
            let payload = vec![b'x'; SIZE];
            send(
                stream,
                0x32,
                &[&*string(b"t"), &[0, 1], properties, &payload].concat(),
            )
        });
        let steps = ["connect=pair", "line", "send=0,1", "lost"];
        let mut running = client(&server, version, &steps).stdin_pipe().start();
        running.stdout_line(SOON, |line| line == "connect: ok");
        let pid = running.id().to_string();
        let limit = format!("--as={}", address_space(running.id()) + spare);
        let limited = Command::new("prlimit")
            .args(["--pid", &pid, &limit])
            .status();
        assert!(limited.unwrap().success());
        running.send("\n");
        expect(
            running,
            &["connect: ok", "line: ok", "send: ok", "lost: ok"],
        );
        let kinds: Vec<u8> = kinds.try_iter().collect();
        assert!(!kinds.contains(&kind::PUBACK), "{kinds:?}");
    }
}

/// How much of its address space a process uses, in bytes.
fn address_space(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmSize:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<usize>()
        .unwrap()
        * 1024
}

#[test]
fn it_is_compiled_with_a_stack_protector() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_publisher")).unwrap();
    let symbol = b"__stack_chk_fail";
    assert!(program.windows(symbol.len()).any(|bytes| bytes == symbol));
}
