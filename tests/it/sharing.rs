//! Several subscribers of which each gets a part.

use std::{collections::BTreeSet, fs, io::Cursor, time::Duration};

use nix::sys::signal::Signal;

use crate::harness::running::Running;
use crate::harness::{Broker, Program, SOON, temp_dir, wait_until};

const MESSAGES: usize = 3_000;

#[test]
fn every_message_reaches_one_of_three_though_one_is_killed() {
    let broker = Broker::builder().line("max_queued_messages 0").start();
    let dir = temp_dir();
    let file = |member: usize| dir.path().join(member.to_string());
    let start = |member: usize| -> Running {
        let program = Program::subscriber()
            .to(&broker)
            .args(["-d", "--persistent"]);
        let program = program.args(["-t", "$share/readers/t", "--client-id"]);
        let program = program.arg(format!("member-{member}")).arg("--output");
        program.arg(file(member)).start()
    };
    let mut members: Vec<Running> = (0..3).map(start).collect();
    for member in &members {
        member.wait_subscribed();
    }
    let lines: Vec<String> = (0..MESSAGES).map(|n| n.to_string()).collect();
    let publisher = Program::publisher().to(&broker).args(["-t", "t", "-l"]);
    let publisher = publisher.stdin(Cursor::new(lines.join("\n"))).start();
    let read = |member| fs::read_to_string(file(member)).unwrap_or_default();
    assert!(wait_until(SOON, || read(1).lines().count() > MESSAGES / 30));
    members.remove(1).finish_by(Signal::SIGKILL, SOON);
    std::thread::park_timeout(Duration::from_millis(200));
    members.push(start(1));
    publisher.finish(SOON).expect_code(0);
    let got = || -> BTreeSet<usize> {
        let texts: Vec<String> = (0..3).map(read).collect();
        let lines = texts.iter().flat_map(|text| text.lines());
        lines.map(|line| line.parse().unwrap()).collect()
    };
    let all = wait_until(SOON, || got().len() == MESSAGES);
    assert!(all, "{} of {MESSAGES}", got().len());
    for member in 0..3 {
        let part = read(member).lines().count();
        assert!(part > MESSAGES / 10, "member {member} got {part}");
    }
    for member in members {
        member.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    }
}
