//! Publishers, a disk, a broker and time: what may happen to them, and what was promised.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use iot_pubsub::common::client::{Delivery, RefusedRequest};
use iot_pubsub::common::mqtt::outgoing_message::OutgoingMessage;
use iot_pubsub::publisher::outbox::user_receipts::UserReceipt;
use iot_pubsub::publisher::queue::store_requests::MessageOutcome;

use super::disk::{Disk, Owner};
use super::process::{Process, WINDOW};

/// How often each may happen.
#[derive(Clone, Copy, Debug)]
pub(super) struct World {
    pub(super) seed: u64,
    /// Publishers at the same time, at most.
    pub(super) processes: usize,
    /// One step in so many is a crash.
    pub(super) crash: usize,
    /// The disk may fill.
    pub(super) fills: bool,
}

pub(super) struct Simulation {
    world: World,
    random: Rng,
    pub(super) now: Instant,
    pub(super) disk: Disk,
    pub(super) processes: Vec<Process>,
    last_name: Owner,
    last_number: u64,
    pub(super) crashes: usize,
    losses: usize,
    /// Which publisher was given a number.
    pub(super) giver: BTreeMap<u64, Owner>,
    pub(super) accepted: BTreeSet<u64>,
    /// In the order in which each arrived for the first time.
    arrived: Vec<u64>,
    has_arrived: BTreeSet<u64>,
    pub(super) arrivals: usize,
    acknowledged: BTreeSet<u64>,
    /// Payloads by stream and number.
    named: BTreeMap<(String, u64), u64>,
}

/// One in so many is refused by the broker.
const REFUSED: u64 = 23;

fn number(message: &OutgoingMessage) -> u64 {
    let payload = message.draft.payload.clone();
    String::from_utf8(payload).unwrap().parse().unwrap()
}

impl Simulation {
    #[allow(
        clippy::disallowed_methods,
        reason = "an origin; the simulation moves it"
    )]
    pub(super) fn new(world: World) -> Self {
        Self {
            random: Rng::with_seed(world.seed),
            world,
            now: Instant::now(),
            disk: Disk::default(),
            processes: Vec::new(),
            last_name: 0,
            last_number: 0,
            crashes: 0,
            losses: 0,
            giver: BTreeMap::new(),
            accepted: BTreeSet::new(),
            arrived: Vec::new(),
            has_arrived: BTreeSet::new(),
            arrivals: 0,
            acknowledged: BTreeSet::new(),
            named: BTreeMap::new(),
        }
    }

    pub(super) fn start_one(&mut self) {
        self.last_name += 1;
        let process = Process::start(self.last_name, &mut self.disk);
        self.processes.push(process);
    }

    pub(super) fn crash(&mut self, index: usize) {
        let process = self.processes.swap_remove(index);
        if self.disk.lock == Some(process.name) {
            self.disk.lock = None;
        }
        self.crashes += 1;
    }

    /// What a broker makes of a message that has reached it.
    fn arrive(&mut self, message: &OutgoingMessage) {
        let number = number(message);
        assert!(message.seq > 0, "{number} has no number");
        let name = (message.stream.to_string(), message.seq);
        let before = self.named.insert(name.clone(), number);
        assert!(
            before.is_none_or(|n| n == number),
            "{name:?} is {before:?} and {number}"
        );
        self.arrivals += 1;
        if self.has_arrived.insert(number) {
            self.arrived.push(number);
        }
    }

    pub(super) fn turn(&mut self, index: usize) {
        let (sent, receipts) = self.processes[index].turn(self.now);
        let again = |(_, message): &(u64, Arc<OutgoingMessage>)| {
            self.acknowledged.contains(&number(message))
        };
        assert!(
            self.crashes > 0 || !sent.iter().any(again),
            "sent after its acknowledgement"
        );
        for receipt in receipts {
            match receipt {
                UserReceipt::Accepted { .. } => {
                    let number = self.processes[index]
                        .waiting
                        .pop_front()
                        .expect("one was offered");
                    let kept = self.disk.has(number.to_string().as_bytes());
                    let known = self.acknowledged.contains(&number);
                    assert!(kept || known, "{number} is accepted and nowhere");
                    assert!(self.accepted.insert(number), "{number} is accepted twice");
                }
                UserReceipt::Ended {
                    outcome: MessageOutcome::Dead(_),
                    ..
                } => {}
                UserReceipt::Ended {
                    outcome: MessageOutcome::Delivered,
                    message: Some(message),
                    ..
                } => {
                    let payload: u64 = std::str::from_utf8(&message.draft.payload)
                        .unwrap()
                        .parse()
                        .unwrap();
                    assert!(self.acknowledged.contains(&payload));
                }
                UserReceipt::Ended {
                    outcome: MessageOutcome::Delivered,
                    message: None,
                    ..
                } => assert!(!self.acknowledged.is_empty()),
                other @ UserReceipt::Ended { .. } => panic!("{other:?}"),
            }
        }
    }

    /// The broker takes the first message on the wire, and its answer comes.
    pub(super) fn answer(&mut self, index: usize) -> bool {
        let Some((position, message)) = self.processes[index].wire.pop_front() else {
            return false;
        };
        let number = number(&message);
        let delivery = if number.is_multiple_of(REFUSED) {
            Delivery::Refused(RefusedRequest {
                code: 0x97,
                reason: "no".into(),
            })
        } else {
            self.arrive(&message);
            self.acknowledged.insert(number);
            Delivery::Done
        };
        self.processes[index]
            .outbox
            .handle_delivery_result(position, delivery, self.now);
        true
    }

    /// The connection is lost: some of what was on the wire had arrived, and nobody knows.
    fn lose_connection(&mut self, index: usize) {
        if self.processes[index].online {
            let some = self.random.usize(0..=self.processes[index].wire.len());
            let wire: Vec<_> = self.processes[index]
                .wire
                .iter()
                .take(some)
                .cloned()
                .collect();
            for (_, message) in wire
                .iter()
                .filter(|(_, m)| !number(m).is_multiple_of(REFUSED))
            {
                self.arrive(message);
            }
            self.losses += 1;
            self.processes[index].disconnect(self.now);
        }
    }

    pub(super) fn step(&mut self) {
        self.now += Duration::from_millis(self.random.u64(0..60));
        if self.processes.len() < self.world.processes && self.random.u8(..8) == 0 {
            self.start_one();
        }
        if self.world.fills && self.random.u16(..200) == 0 {
            self.disk.full = !self.disk.full;
        }
        if self.processes.is_empty() {
            return;
        }
        let index = self.random.usize(..self.processes.len());
        if self.random.usize(..self.world.crash) == 0 {
            return self.crash(index);
        }
        let process = &mut self.processes[index];
        match self.random.u8(..20) {
            0..=5 if !process.is_held_up() => {
                for _ in 0..self.random.u8(1..5) {
                    self.last_number += 1;
                    self.giver.insert(self.last_number, process.name);
                    if !process.offer(self.last_number, self.now) {
                        break;
                    }
                }
            }
            6..=8 => {
                process.store_works(&mut self.disk);
            }
            9..=11 => {
                process.handle_result(self.now);
            }
            12 => process.store_looks(&mut self.disk),
            13..=16 => {
                self.answer(index);
            }
            17 => process.connect(self.now),
            18 if self.random.u8(..8) == 0 => self.lose_connection(index),
            19 if self.random.u8(..30) == 0 => return self.end(index),
            _ => {}
        }
        self.turn(index);
    }

    /// A run ends in order, with whatever is left.
    pub(super) fn end(&mut self, index: usize) {
        self.lose_connection(index);
        self.processes[index].outbox.queue.begin_close();
        // A full disk ends it as well; what was not written was not accepted.
        for _ in 0..1_000 {
            self.turn(index);
            let process = &mut self.processes[index];
            process.store_works(&mut self.disk);
            process.handle_result(self.now);
            if process.closed {
                break;
            }
        }
        if self.processes[index].closed {
            self.turn(index);
            let name = self.processes.swap_remove(index).name;
            if self.disk.lock == Some(name) {
                // It took over at the very end, and never knew.
                self.disk.lock = None;
            }
        } else {
            self.crash(index);
        }
    }

    /// No more faults, nothing new: everything has to go, driven by events and wakes alone.
    pub(super) fn settle_down(&mut self) {
        self.disk.full = false;
        if self.processes.is_empty() {
            self.start_one();
        }
        for _ in 0..200_000 {
            let mut moved = false;
            let mut wake = None;
            for index in 0..self.processes.len() {
                let process = &mut self.processes[index];
                process.connect(self.now);
                process.store_looks(&mut self.disk);
                moved |= process.store_works(&mut self.disk);
                moved |= process.handle_result(self.now);
                moved |= self.answer(index);
                self.turn(index);
                let process = &self.processes[index];
                moved |= !process.is_idle();
                wake = [wake, process.outbox.wake_at(self.now)]
                    .into_iter()
                    .flatten()
                    .min();
            }
            let left: usize = self
                .processes
                .iter()
                .map(|p| p.outbox.count_unfinished())
                .sum();
            if left == 0 && self.disk.len() == 0 {
                return;
            }
            if !moved {
                let wake = wake
                    .unwrap_or_else(|| panic!("stuck with {left}, {} on disk", self.disk.len()));
                self.now = self.now.max(wake);
            }
        }
        panic!("it never comes to its end: {} on disk", self.disk.len());
    }

    /// What was promised.
    pub(super) fn check(&self) {
        let dead: BTreeSet<u64> = self
            .disk
            .dead
            .iter()
            .map(|message| {
                std::str::from_utf8(&message.draft.payload)
                    .unwrap()
                    .parse()
                    .unwrap()
            })
            .collect();
        for number in &self.accepted {
            let ended = self.has_arrived.contains(number) || dead.contains(number);
            assert!(ended, "{number} was accepted and is lost");
        }
        // Each message that was written has one outcome: no row is deleted for two, and none without one.
        let disk = &self.disk;
        assert_eq!(
            disk.inserted + disk.dead_at_once,
            disk.delivered + disk.dead.len() + disk.len()
        );
        let repeats = self.arrivals - self.arrived.len();
        let most = (self.crashes + self.losses) * WINDOW;
        assert!(repeats <= most, "{repeats} repeats, at most {most}");
        let mut last = BTreeMap::new();
        for number in &self.arrived {
            let before = last.insert(self.giver[number], *number);
            assert!(
                before.is_none_or(|b| b < *number),
                "{number} after {before:?}"
            );
        }
        // One at a time: then it is one order over all runs.
        assert!(self.world.processes > 1 || self.arrived.is_sorted());
    }
}
