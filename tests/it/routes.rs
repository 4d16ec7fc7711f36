//! Port 443, where 8883 is blocked.

use std::{
    io::Read as _,
    net::TcpStream,
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::Signal,
    unistd::gettid,
};

use crate::{
    aws::alpn_of,
    harness::{AwsLike, Program, SOON, Server, certs, namespace::skipped, server},
    misconfigured::SilentPort,
};

/// Runs a test in its own network, where the ports 443 and 8883 are free for everybody.
fn in_its_own_network(test: &str, run: impl FnOnce() + Send) {
    let alone = || {
        if unshare(CloneFlags::CLONE_NEWNET).is_err() {
            return skipped(test, "no network namespaces here");
        }
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.expect("ip, of iproute2").success());
        run();
    };
    thread::scope(|scope| {
        let ran = scope.spawn(alone).join();
        if let Err(panic) = ran {
            std::panic::resume_unwind(panic);
        }
    });
}

/// At an AWS endpoint, as far as the program can tell, in the network of this thread.
fn at_aws(program: Program) -> Program {
    let here = format!(
        "--net=/proc/{}/task/{}/ns/net",
        std::process::id(),
        gettid()
    );
    program
        .under(["nsenter", &here, "--"])
        .args(["--endpoint", "localhost", "--profile", "aws"])
        .ca(&certs().ca)
        .identity(&certs().device)
}

fn connect_by_443(timeout: u64) {
    let broker = AwsLike::builder().needs_alpn().port(443).start();
    let started = Instant::now();
    let timeout_flag = timeout.to_string();
    let program = at_aws(Program::one_message()).args(["--connect-timeout", &timeout_flag]);
    let outcome = program.args(["--debug"]).run(SOON * 2).expect_code(0);
    let took = broker.arrivals()[0].at - started;
    println!("there after {took:?} with --connect-timeout {timeout}");
    assert!(
        took < Duration::from_secs(timeout + 2),
        "{took:?}\n{outcome}"
    );
    outcome.expect_stderr(" connected to localhost:443 with MQTT 5");
}

#[test]
fn a_silent_8883_leads_to_443_within_the_connect_timeout() {
    in_its_own_network("routes", || {
        let _swallows = SilentPort::open(8883);
        connect_by_443(4);
    });
    in_its_own_network("routes", || {
        let _mute = Server::listen(8883, |mut stream| server::stay_silent(&mut stream));
        connect_by_443(4);
    });
    // A closed one costs nothing.
    in_its_own_network("routes", || connect_by_443(1));
}

#[test]
fn the_port_that_worked_is_remembered() {
    in_its_own_network("routes", || {
        let mute = Server::listen(8883, |mut stream| server::stay_silent(&mut stream));
        let broker = AwsLike::builder().needs_alpn().port(443).start();
        let program = at_aws(Program::publisher()).args(["-t", "t", "--interval", "0.2"]);
        let program = program.args(["--connect-timeout", "2", "-i", "me"]);
        let publisher = program.start();
        assert!(broker.wait_arrivals(2, SOON), "{publisher}");
        assert_eq!(mute.accepted().len(), 1);
        // Another client with its identifier throws it out.
        let rival = at_aws(Program::one_message()).args(["--port", "443", "-i", "me"]);
        rival.run(SOON).expect_code(0);
        publisher.stderr_line(SOON, |line| line.contains("taken over"));
        let so_far = broker.arrivals().len();
        assert!(broker.wait_arrivals(so_far + 2, SOON), "{publisher}");
        assert_eq!(mute.accepted().len(), 1, "8883 was not tried again");
        publisher.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    });
}

#[test]
fn both_ways_are_named_if_neither_works() {
    in_its_own_network("routes", || {
        let program = at_aws(Program::one_message()).args(["--flush-timeout", "0.2"]);
        let outcome = program.run(SOON).expect_code(69);
        let outcome = outcome.expect_stderr("localhost:8883: the port is closed");
        outcome.expect_stderr("nor does the other way work: localhost:443: the port is closed");
        let check = at_aws(Program::publisher().arg("check"))
            .run(SOON)
            .expect_code(69);
        assert!(
            check.stdout.text().contains("trying the next port"),
            "{check}"
        );
    });
}

#[test]
fn port_443_of_aws_is_asked_for_by_name_and_with_nothing_behind_it() {
    in_its_own_network("routes", || {
        let received = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&received);
        let _server = Server::listen(443, move |mut stream: TcpStream| {
            let mut hello = vec![0; 5];
            stream.read_exact(&mut hello).unwrap();
            let length = usize::from(u16::from_be_bytes([hello[3], hello[4]]));
            hello.resize(5 + length, 0);
            stream.read_exact(&mut hello[5..]).unwrap();
            kept.lock().unwrap().push(hello);
        });
        for flags in [&["--port", "443"][..], &[]] {
            let program = at_aws(Program::one_message()).args(flags);
            program
                .args(["--flush-timeout", "0.2"])
                .run(SOON)
                .expect_code(69);
        }
        let received = received.lock().unwrap();
        assert!(received.len() >= 2);
        for hello in received.iter() {
            assert_eq!(alpn_of(hello), ["x-amzn-mqtt-ca"]);
        }
    });
}
