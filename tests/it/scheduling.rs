//! How the kernel schedules the threads of a publisher and the commands that it runs: sched(7).

use std::collections::BTreeSet;
use std::fs;

use nix::libc::{SCHED_BATCH, SCHED_IDLE, SCHED_OTHER, c_int};

use crate::harness::running::Running;
use crate::harness::{Program, SOON, ScriptedBroker};

/// The 41st field of `/proc/PID/stat`, of which two stand before the end of the name.
const POLICY: usize = 38;

fn publisher(broker: &ScriptedBroker) -> Program {
    Program::publisher()
        .at_plain_port(broker.port())
        .args(["--topic", "t"])
}

fn policies(running: &Running) -> BTreeSet<String> {
    let threads = fs::read_dir(format!("/proc/{}/task", running.id())).unwrap();
    let policy = |stat: String| {
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        fields.split(' ').nth(POLICY).unwrap().to_owned()
    };
    // A thread may have ended meanwhile.
    let stats = threads
        .flatten()
        .map(|t| fs::read_to_string(t.path().join("stat")));
    stats.flatten().map(policy).collect()
}

fn of(policy: c_int) -> BTreeSet<String> {
    BTreeSet::from([policy.to_string()])
}

fn policies_of(broker: &ScriptedBroker, program: Program) -> BTreeSet<String> {
    let mut running = program.arg("-l").stdin_pipe().start();
    running.send("x\n");
    // With SCHED_IDLE it gets little of a busy core.
    broker.wait_publishes(1, SOON * 6);
    policies(&running)
}

#[test]
fn no_thread_of_a_publisher_takes_the_core_of_another_one() {
    let broker = ScriptedBroker::script().plain();
    let found = policies_of(&broker, publisher(&broker));
    assert_eq!(found, of(SCHED_BATCH));
}

#[test]
fn a_policy_that_the_user_has_chosen_stays() {
    let broker = ScriptedBroker::script().plain();
    let program = publisher(&broker).under(["chrt", "--idle", "0"]);
    let found = policies_of(&broker, program);
    assert_eq!(found, of(SCHED_IDLE));
}

#[test]
fn a_command_is_scheduled_as_usual() {
    let broker = ScriptedBroker::script().plain();
    // It reads its own file, in which its name has no spaces.
    let print = "cut -d ' ' -f 41 /proc/self/stat";
    publisher(&broker)
        .args(["-C", "1", "--exec", "sh", "-c", print])
        .run(SOON)
        .expect_code(0);
    let printed = broker.publishes()[0].payload.clone();
    assert_eq!(String::from_utf8_lossy(&printed), SCHED_OTHER.to_string());
}
