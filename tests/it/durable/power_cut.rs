//! The power goes: a file system on a loop device is shut down without flushing anything, as
//! ext4 offers to its own tests, between acceptance and delivery. What was not synced is gone.
//! `scripts/power-cut-test` does it more often.
//!
//! Without syncs (libeatmydata) the same must lose messages, or this would test nothing.

use std::{fs::File, io::Cursor, path::Path, time::Duration};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Listener, accepted};
use crate::harness::{
    Broker, Program, Reply, SOON, ScriptedBroker, free_port,
    namespace::{MountNamespace, skipped},
    queue_file::{checked_totals, publisher_on},
    temp_dir, times,
};

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`, from Linux's `fs/ext4/ext4.h`; by
/// perl, which is on every Debian, since our own code has no way to make such a call.
const SHUTDOWN: &str = "open(my $dir, '<', $ARGV[0]) or die $!; my $flags = pack('L', 2); \
     ioctl($dir, 0x8004587d, $flags) or die $!";

/// A small ext4 of the test's own.
struct Disk {
    namespace: MountNamespace,
    dir: tempfile::TempDir,
}

impl Disk {
    /// What keeps it from being made, if it cannot be.
    fn new() -> Result<Self, String> {
        let dir = temp_dir();
        let namespace = MountNamespace::new().ok_or("no mount namespace")?;
        let image = File::create(dir.path().join("image")).unwrap();
        image.set_len(16 << 20).unwrap();
        let disk = Self { namespace, dir };
        std::fs::create_dir(disk.mounted()).unwrap();
        disk.run(&["mkfs.ext4", "-q", "-F"], &["image"])?;
        disk.mount()?;
        Ok(disk)
    }

    fn mounted(&self) -> std::path::PathBuf {
        self.dir.path().join("disk")
    }

    fn run(&self, words: &[&str], names: &[&str]) -> Result<(), String> {
        let paths: Vec<_> = names
            .iter()
            .map(|name| self.dir.path().join(name))
            .collect();
        let paths: Vec<&Path> = paths.iter().map(AsRef::as_ref).collect();
        self.namespace.run(words, &paths).map(drop)
    }

    fn mount(&self) -> Result<(), String> {
        self.run(&["mount", "-o", "loop"], &["image", "disk"])
    }

    fn cut_power(&self) {
        self.run(&["perl", "-e", SHUTDOWN], &["disk"]).unwrap();
    }

    /// The machine starts again.
    fn restart(&self) {
        self.run(&["umount"], &["disk"]).unwrap();
        self.mount().unwrap();
    }

    fn publisher(&self) -> Program {
        publisher_on(&self.mounted().join("queue.db")).under(self.namespace.enter())
    }

    fn status(&self) -> Value {
        let status = Program::publisher().args(["queue", "status", "--json", "--queue"]);
        let status = status.arg(self.mounted().join("queue.db"));
        let status = status.under(self.namespace.enter()).run(SOON);
        serde_json::from_str(&status.expect_code(0).stdout.text()).unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Else its directory could not be removed; it goes with the namespace all the same.
        let _ = self.run(&["umount", "--lazy"], &["disk"]);
    }
}

/// Publishes on a new disk until the power goes; then sends what is there. Gives what was
/// accepted, and what of it is missing.
fn cut(disk: &Disk, round: usize, under: &[&str], random: &mut fastrand::Rng) -> (usize, usize) {
    let payload = |n: usize| format!("{round:03}.{n:05}");
    let lines: String = (1..=5_000).map(|n| payload(n) + "\n").collect();
    // Either there is no broker, or it does not answer.
    let silent = ScriptedBroker::script()
        .on_publish(|_| Reply::Silence)
        .plain();
    let publisher = disk.publisher().under(under);
    let publisher = if random.bool() {
        publisher.at_plain_port(silent.port())
    } else {
        publisher.at_plain_port(free_port())
    };
    let running = publisher.arg("-l").stdin(Cursor::new(lines)).start();
    // Right after the file was made, or somewhere in the middle.
    let some = random.usize(1..1_500);
    assert!(running.stdout.wait_count(some, SOON), "{running}");
    // What is said from here on is said by a machine without power.
    let count = accepted(&running.stdout.texts());
    disk.cut_power();
    running
        .stdout
        .wait_end(Duration::from_millis(random.u64(..100)));
    let outcome = running.finish_by(Signal::SIGKILL, SOON);
    assert!(matches!(outcome.code, None | Some(74)), "{outcome}");
    disk.restart();
    if under.is_empty() {
        let status = disk.status();
        let waiting = status["waiting"].as_u64().unwrap();
        assert!(waiting >= count as u64, "{count} accepted: {status}");
        assert_eq!(checked_totals(&status)["accepted"], waiting, "{status}");
    }

    let broker = Broker::start();
    let listener = Listener::start(&broker);
    let drained = disk.publisher().to(&broker).arg("-l").run(SOON * 2);
    let all: Vec<_> = (1..=count).map(payload).collect();
    if under.is_empty() {
        let drained = drained.expect_code(0);
        let arrived = listener.wait_for(&all);
        assert!(arrived.first.is_sorted(), "{drained}");
        return (count, 0);
    }
    let missing = |arrived: &[String]| all.iter().filter(|p| !arrived.contains(p)).count();
    listener.settle(Duration::from_millis(300));
    (count, missing(&listener.arrived().first))
}

#[test]
fn what_was_accepted_before_the_power_went_is_delivered() {
    let cuts = times("IOT_TEST_POWER_CUTS", 8);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut all = 0;
    for round in 0..cuts {
        let disk = match Disk::new() {
            Ok(disk) => disk,
            Err(why) => return skipped("power cut", &why),
        };
        all += cut(&disk, round, &[], &mut random).0;
    }
    println!("{cuts} power cuts: {all} accepted, all arrived");
}

#[test]
fn without_syncs_a_power_cut_loses_what_was_accepted() {
    let mut random = fastrand::Rng::new();
    let mut lost = 0;
    for round in 0..3 {
        let disk = match Disk::new() {
            Ok(disk) => disk,
            Err(why) => return skipped("power cut without syncs", &why),
        };
        lost += cut(&disk, round, &["eatmydata"], &mut random).1;
    }
    assert!(lost > 0, "the test of power cuts would notice nothing");
}
