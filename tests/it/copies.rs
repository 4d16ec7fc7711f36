//! Copies of a queue file: cloned machines, backups that are put back, file systems that begin
//! again at each boot. Every reading arrives at a subscriber that drops repeats, and what really is a
//! repeat does not.

use std::{collections::BTreeSet, fs, io::Cursor, path::Path, time::Duration};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{
    Broker, Program, QueueFile, SOON,
    namespace::{MountNamespace, skipped},
    running::Running,
    temp_dir,
};

/// How often each is done.
const ROUNDS: usize = 5;

/// A broker, and a subscriber that drops repeats and remembers.
struct Scene {
    broker: Broker,
    dir: TempDir,
    subscriber: Option<Running>,
    /// Readings published.
    expected: Vec<String>,
    /// Lines printed by subscribers that have ended: payload and `seq` property.
    printed: Vec<String>,
    duplicates: u64,
}

impl Scene {
    fn start() -> Self {
        let mut scene = Self {
            broker: Broker::start(),
            dir: temp_dir(),
            subscriber: None,
            expected: Vec::new(),
            printed: Vec::new(),
            duplicates: 0,
        };
        scene.subscribe();
        scene
    }

    fn subscribe(&mut self) {
        let program = Program::subscriber()
            .to(&self.broker)
            .args(["-d", "-t", "t"]);
        let program = program.args(["--persistent", "--client-id", "keeper", "--dedup"]);
        let program = program.args(["-F", "%p %P", "--summary", "--state"]);
        let running = program.arg(self.dir.path().join("state")).start();
        running.wait_subscribed();
        self.subscriber = Some(running);
    }

    /// Ends the subscriber.
    fn leave(&mut self) {
        let subscriber = self.subscriber.take().unwrap();
        let outcome = subscriber.finish_by(Signal::SIGTERM, SOON).expect_code(0);
        let mut lines = outcome.stdout.texts();
        let summary: Value = serde_json::from_str(&lines.pop().unwrap()).unwrap();
        self.duplicates += summary["duplicates"].as_u64().unwrap();
        self.printed.extend(lines);
    }

    /// Three new readings by this publisher. They are printed.
    fn publish(&mut self, publisher: Program) {
        let from = self.expected.len();
        let readings: Vec<_> = (from..from + 3).map(|n| format!("reading-{n}")).collect();
        let lines = readings.join("\n") + "\n";
        let publisher = publisher
            .to(&self.broker)
            .arg("-l")
            .stdin(Cursor::new(lines));
        publisher.run(SOON).expect_code(0);
        self.expected.extend(readings);
        let count = self.expected.len() - self.printed.len();
        self.subscriber.as_ref().unwrap().stdout_lines(count, SOON);
    }

    /// A queue file whose stream has been used.
    fn used_queue(&mut self) -> QueueFile {
        let queue = QueueFile::new();
        self.publish(queue.publisher());
        self.publish(queue.publisher());
        queue
    }

    /// Each reading was printed once. Gives their streams and numbers.
    fn finish(mut self) -> Vec<String> {
        self.leave();
        let words = self
            .printed
            .iter()
            .map(|line| line.split_once(' ').unwrap());
        let (readings, properties): (Vec<_>, Vec<_>) = words.unzip();
        assert_eq!(readings, self.expected);
        assert_eq!(self.duplicates, 0);
        let name = |property: &str| property.rsplit_once('/').unwrap().0.to_owned();
        properties.into_iter().map(name).collect()
    }
}

/// Writes a copy of a queue file, and of the files beside it with these endings, over another.
fn copy(from: &QueueFile, to: &QueueFile, endings: &[&str]) {
    for ending in [""].iter().chain(endings) {
        fs::copy(from.beside(ending), to.beside(ending)).unwrap();
    }
    assert!(!to.beside("-wal").exists(), "the log was left behind");
}

/// A machine with its own identifier.
fn machine(dir: &Path, number: usize) -> Option<MountNamespace> {
    let id = dir.join(format!("machine-id-{number}"));
    fs::write(&id, format!("{number:032x}\n")).unwrap();
    let machine = MountNamespace::new()?;
    let bind = machine.run(&["mount", "--bind"], &[&id, Path::new("/etc/machine-id")]);
    bind.ok().map(|_| machine)
}

fn all_differ(names: &[String]) -> bool {
    names.iter().collect::<BTreeSet<_>>().len() == names.len()
}

#[test]
fn of_clones_on_other_machines_every_reading_arrives() {
    let mut scene = Scene::start();
    let original = scene.used_queue();
    let master = QueueFile::new();
    copy(&original, &master, &["-lock"]);
    for number in 0..ROUNDS {
        let Some(machine) = machine(scene.dir.path(), number) else {
            return skipped("of_clones_on_other_machines", "no mounts here");
        };
        // The very file of its master, as on a card that was cloned, on another machine.
        copy(&master, &original, &["-lock"]);
        scene.publish(original.publisher().under(machine.enter()));
    }
    let names = scene.finish();
    assert!(all_differ(&names), "{names:?}");
}

#[test]
fn of_clones_beside_the_original_every_reading_arrives() {
    let mut scene = Scene::start();
    let original = scene.used_queue();
    for round in 0..ROUNDS {
        let clone = QueueFile::new();
        copy(&original, &clone, &["-lock"]);
        scene.publish(clone.publisher());
        scene.publish(original.publisher());
        if round == 2 {
            scene.leave();
            scene.subscribe();
        }
    }
    let names = scene.finish();
    assert!(all_differ(&names), "{names:?}");
}

#[test]
fn of_an_older_copy_that_is_put_back_every_reading_arrives() {
    let mut scene = Scene::start();
    let queue = scene.used_queue();
    for round in 0..ROUNDS {
        let backup = QueueFile::new();
        copy(&queue, &backup, &[]);
        scene.publish(queue.publisher());
        copy(&backup, &queue, &[]);
        scene.publish(queue.publisher());
        if round == 2 {
            scene.leave();
            scene.subscribe();
        }
    }
    let names = scene.finish();
    assert!(all_differ(&names), "{names:?}");
}

#[test]
fn of_the_same_copy_at_every_start_every_reading_arrives() {
    // With the lock that belongs to it, nothing shows that it is a copy: stream and numbers are the same.
    for (endings, differ) in [(&[][..], true), (&["-lock"], false)] {
        let mut scene = Scene::start();
        let queue = scene.used_queue();
        let master = QueueFile::new();
        copy(&queue, &master, &["-lock"]);
        for _ in 0..ROUNDS {
            copy(&master, &queue, endings);
            scene.publish(queue.publisher());
            scene.leave();
            scene.subscribe();
        }
        let names = scene.finish();
        assert_eq!(all_differ(&names), differ, "{names:?}");
    }
}

#[test]
fn in_memory_that_each_boot_empties_a_boot_begins_a_stream() {
    let dir = temp_dir();
    let Some(memory) = MountNamespace::with_tmpfs(dir.path(), "size=16m") else {
        return skipped("in_memory_that_each_boot_empties", "no mounts here");
    };
    let mut scene = Scene::start();
    let publisher = || {
        let program = Program::publisher().args(["-t", "t", "--queue"]);
        program
            .arg(dir.path().join("queue.db"))
            .under(memory.enter())
    };
    scene.publish(publisher());
    scene.publish(publisher());
    let boot = scene.dir.path().join("boot_id");
    fs::write(&boot, "another boot\n").unwrap();
    let boot_id = Path::new("/proc/sys/kernel/random/boot_id");
    memory.run(&["mount", "--bind"], &[&boot, boot_id]).unwrap();
    scene.publish(publisher());
    let names = scene.finish();
    let stream = |index: usize| names[index].rsplit_once('/').unwrap();
    assert_eq!(stream(5), (stream(0).0, "6"), "{names:?}");
    assert_ne!(stream(6).0, stream(0).0, "{names:?}");
    assert_eq!(stream(6).1, "1", "{names:?}");
}

#[test]
fn what_was_numbered_before_the_copy_is_a_repeat() {
    let mut scene = Scene::start();
    let queue = scene.used_queue();
    queue.add("waiting-1\nwaiting-2\n");
    let copies = [(); 2].map(|()| {
        let clone = QueueFile::new();
        copy(&queue, &clone, &[]);
        clone
    });
    queue.drain(&scene.broker);
    let waiting = ["waiting-1", "waiting-2"].map(String::from);
    scene.expected.extend(waiting);
    for clone in &copies {
        clone.drain(&scene.broker);
        // What a clone takes itself is none.
        scene.publish(clone.publisher());
    }
    scene.leave();
    assert_eq!(scene.duplicates, 4);
    scene.duplicates = 0;
    scene.subscribe();
    queue.drain(&scene.broker);
    scene.finish();
}

#[test]
fn repeats_after_a_kill_are_dropped() {
    let mut scene = Scene::start();
    let queue = QueueFile::new();
    let mut accepted = Vec::new();
    for kill in 0..2 * ROUNDS {
        let line = |n: usize| format!("{kill}-{n}");
        let lines: String = (0..1_000).map(|n| line(n) + "\n").collect();
        let publisher = queue.publisher().to(&scene.broker).arg("-l");
        let running = publisher.stdin(Cursor::new(lines)).start();
        running.stdout.wait_count(20 + 50 * kill, SOON);
        running.signal(Signal::SIGKILL);
        let outcome = running.finish(SOON);
        let receipts = outcome.stdout.texts();
        let count = receipts
            .iter()
            .filter(|r| r.starts_with("accepted "))
            .count();
        accepted.extend((0..count).map(line));
        if kill == ROUNDS {
            scene.leave();
            scene.subscribe();
        }
    }
    queue.drain(&scene.broker);
    // The last one is printed after all that was sent before it.
    let last = Program::publisher().args(["-t", "t", "-m", "last"]);
    last.to(&scene.broker).run(SOON).expect_code(0);
    let subscriber = scene.subscriber.as_ref().unwrap();
    subscriber.stdout_line(SOON + Duration::from_secs(20), |line| {
        line.starts_with("last ")
    });
    scene.leave();
    let printed: Vec<_> = scene
        .printed
        .iter()
        .map(|l| l.split(' ').next().unwrap())
        .collect();
    let once: BTreeSet<_> = printed.iter().copied().collect();
    assert_eq!(once.len(), printed.len(), "something came twice");
    let missing: Vec<_> = accepted
        .iter()
        .filter(|l| !once.contains(l.as_str()))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    println!(
        "{} accepted, {} repeats dropped",
        accepted.len(),
        scene.duplicates
    );
}
