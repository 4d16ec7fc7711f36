//! A simulated world around the pure core: a link, a broker and a thermometer, all driven
//! by an agenda of happenings. After every step the invariants are checked.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use iot_pubsub::common::broker::profile::Profile;
use iot_pubsub::common::client::Delivery;
use iot_pubsub::common::connection::backoff::{Backoff, Policy};
use iot_pubsub::common::connection::state::{
    AttemptSettings, ConnectionAction, ConnectionState, ConnectionStateMachine, FiniteOrEndless,
};
use iot_pubsub::common::fault::{Exit, Fault};
use iot_pubsub::common::mqtt::draft::Draft;
use iot_pubsub::common::mqtt::qos::Qos;
use iot_pubsub::publisher::outbox::Outbox;
use iot_pubsub::publisher::outbox::broker_limits::BrokerLimits;
use iot_pubsub::publisher::outbox::drain_pacer::DrainPacer;
use iot_pubsub::publisher::outbox::types::{Offered, OutboxConfig, PoisonEvidence};
use iot_pubsub::publisher::outbox::user_receipts::UserReceipt;
use iot_pubsub::publisher::queue::limits::{DropBehavior, Limits, MessageCountLimit};
use iot_pubsub::publisher::queue::memory::MemoryQueue;
use iot_pubsub::publisher::queue::store_requests::MessageOutcome;

pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

/// A world for the core to live in.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) capacity: i64,
    pub(super) behavior: DropBehavior,
    pub(super) drain: f64,
    pub(super) window: usize,
    pub(super) receive_maximum: usize,
    /// Between readings.
    pub(super) interval: Duration,
    /// How long the link is up and down, at most.
    pub(super) up: Duration,
    pub(super) down: Duration,
    /// Until a PUBACK, at most.
    pub(super) latency: Duration,
}

/// What may happen outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Reading,
    LinkChanges,
    /// CONNACK for an attempt, or its failure if the link is down.
    Answer(u64),
    /// PUBACK on a connection, for the message in a place.
    Ack(u64, u64),
}

pub(super) struct Simulation {
    world: World,
    random: fastrand::Rng,
    now: Instant,
    agenda: BTreeSet<(Instant, Happening)>,
    link_is_up: bool,
    pub(super) connection: ConnectionStateMachine,
    pub(super) outbox: Outbox,
    held: Option<Draft>,
    pub(super) accepted: BTreeSet<u64>,
    pub(super) settled: BTreeSet<u64>,
    pub(super) dropped: BTreeSet<u64>,
    dropped_after_accepting: usize,
    /// Accepted while online with nothing queued: never to be dropped.
    taken_online: BTreeSet<u64>,
    /// On the present connection.
    sent: Vec<u64>,
    pub(super) readings: u64,
}

impl Simulation {
    #[allow(
        clippy::disallowed_methods,
        reason = "an origin; the simulation moves it"
    )]
    pub(super) fn new(world: World) -> Self {
        let second = Duration::from_secs(1);
        let policy = Policy::new(second, second * 32, second * 20, 0.2).unwrap();
        let limits = Limits {
            capacity: MessageCountLimit::from_aws_queue_size(world.capacity),
            max_bytes: 100_000,
            behavior: world.behavior,
        };
        let queue = MemoryQueue::new(limits, "run".into());
        let config = OutboxConfig {
            max_in_flight: world.window,
            operation_timeout: second * 5,
            expiry: None,
            commit_interval: None,
            max_attempts: u32::MAX,
            sequence: false,
            profile: Profile::Generic,
        };
        let now = Instant::now();
        let mut simulation = Self {
            random: fastrand::Rng::with_seed(world.seed),
            now,
            agenda: BTreeSet::from([(now, Happening::Reading), (now, Happening::LinkChanges)]),
            link_is_up: false,
            connection: ConnectionStateMachine::new(
                AttemptSettings {
                    host: "h:1".into(),
                    run: FiniteOrEndless::Endless,
                    connect_timeout: second * 10,
                    interval: Duration::ZERO,
                },
                Backoff::new(policy),
            ),
            outbox: Outbox::new(config, Box::new(queue), DrainPacer::new(world.drain, false)),
            held: None,
            accepted: BTreeSet::new(),
            settled: BTreeSet::new(),
            dropped: BTreeSet::new(),
            dropped_after_accepting: 0,
            taken_online: BTreeSet::new(),
            sent: Vec::new(),
            readings: 0,
            world,
        };
        let actions = simulation.connection.start(now);
        simulation.act(actions);
        simulation
    }

    fn within(&mut self, most: Duration) -> Instant {
        self.now
            + most
                .mul_f64(self.random.f64())
                .max(Duration::from_millis(1))
    }

    fn act(&mut self, actions: Vec<ConnectionAction>) {
        for action in actions {
            match action {
                ConnectionAction::Connect { .. } => {
                    let at = self.within(Duration::from_millis(300));
                    let generation = self.connection.generation();
                    self.agenda.insert((at, Happening::Answer(generation)));
                }
                ConnectionAction::Retry { delay, .. } => {
                    assert!(delay <= Duration::from_secs(32));
                    self.outbox.handle_disconnected(
                        PoisonEvidence::ByBroker {
                            reason: None,
                            reached: None,
                        },
                        self.now,
                    );
                    self.sent.clear();
                }
                ConnectionAction::Abandon => {}
                ConnectionAction::Disconnect | ConnectionAction::GiveUp(_) => {
                    unreachable!("{action:?}")
                }
            }
        }
    }

    fn end_connection(&mut self) {
        let fault = Fault::passing(Exit::Unavailable, "the link is down");
        let random = self.random.f64();
        let generation = self.connection.generation();
        let actions = self
            .connection
            .handle_ended(generation, fault, self.now, random);
        self.act(actions);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Reading => {
                self.agenda
                    .insert((self.now + self.world.interval, Happening::Reading));
                self.readings += 1;
                if self.held.is_none() {
                    let payload = vec![b'x'; self.random.usize(0..200)];
                    self.offer(Draft {
                        topic: "t".into(),
                        payload,
                        qos: Qos::AtLeastOnce,
                        retain: false,
                        readings: 1,
                        properties: None,
                    });
                }
            }
            Happening::LinkChanges => {
                self.link_is_up = !self.link_is_up;
                let most = if self.link_is_up {
                    self.world.up
                } else {
                    self.world.down
                };
                let at = self.within(most);
                self.agenda.insert((at, Happening::LinkChanges));
                if !self.link_is_up
                    && matches!(self.connection.state(), ConnectionState::Online { .. })
                {
                    self.end_connection();
                }
            }
            Happening::Answer(generation) if generation == self.connection.generation() => {
                if !self.link_is_up {
                    self.end_connection();
                } else if self.connection.handle_connected(generation, self.now) {
                    let limits = BrokerLimits {
                        receive_maximum: self.world.receive_maximum,
                        ..BrokerLimits::PROTOCOL
                    };
                    self.outbox.handle_connected(limits, self.now);
                }
            }
            Happening::Ack(generation, position) if generation == self.connection.generation() => {
                if matches!(self.connection.state(), ConnectionState::Online { .. }) {
                    self.outbox
                        .handle_delivery_result(position, Delivery::Done, self.now);
                    match &self.outbox.take_receipts()[..] {
                        [
                            UserReceipt::Ended {
                                seq,
                                outcome: MessageOutcome::Delivered,
                                ..
                            },
                        ] => {
                            let seq = *seq;
                            assert!(self.settled.insert(seq), "settled twice");
                            assert!(!self.dropped.contains(&seq), "dropped, then sent");
                        }
                        other => panic!("{other:?} for position {position}"),
                    }
                }
            }
            Happening::Answer(_) | Happening::Ack(..) => {}
        }
    }

    fn offer(&mut self, draft: Draft) {
        let straight = matches!(self.connection.state(), ConnectionState::Online { .. })
            && self.outbox.queue.is_empty();
        match self.outbox.offer(draft, self.now, 0) {
            Offered::Taken { seq } => {
                assert!(self.accepted.insert(seq));
                if straight && self.outbox.queue.is_empty() {
                    self.taken_online.insert(seq);
                }
                for receipt in self.outbox.take_receipts() {
                    match receipt {
                        UserReceipt::Accepted { seq: now, .. } => assert_eq!(now, seq),
                        UserReceipt::Ended {
                            seq: old,
                            outcome: MessageOutcome::Dropped(_),
                            ..
                        } => {
                            assert!(self.accepted.contains(&old));
                            self.drop_one(old);
                            self.dropped_after_accepting += 1;
                        }
                        other @ UserReceipt::Ended { .. } => panic!("{other:?}"),
                    }
                }
            }
            Offered::Dropped { seq } => {
                assert_eq!(self.outbox.take_receipts().len(), 1);
                self.drop_one(seq);
            }
            Offered::Refused => assert_eq!(self.world.capacity, 0),
            Offered::Full(draft) => self.held = Some(draft),
            Offered::TooLarge(why) => panic!("{why}"),
        }
    }

    fn drop_one(&mut self, seq: u64) {
        assert!(self.dropped.insert(seq), "dropped twice");
        assert!(!self.settled.contains(&seq), "delivered, then dropped");
        assert!(
            !self.taken_online.contains(&seq),
            "taken online, then dropped"
        );
    }

    fn turn(&mut self) {
        let random = self.random.f64();
        let actions = self.connection.handle_timeout(self.now, random);
        self.act(actions);
        if self.outbox.is_ack_overdue(self.now) {
            let fault = Fault::passing(Exit::Unavailable, "no PUBACK");
            let actions = self.connection.fail_connection(fault, self.now, random);
            self.act(actions);
        }
        if let Some(draft) = self.held.take() {
            self.offer(draft);
        }
        let backlog = self.outbox.queue.len();
        self.outbox.drain.check_backlog_growth(self.now, backlog);
        let generation = self.connection.generation();
        let messages = self.outbox.next_messages(self.now, 0);
        assert!(self.outbox.take_receipts().is_empty());
        for (position, message) in messages {
            assert!(matches!(
                self.connection.state(),
                ConnectionState::Online { .. }
            ));
            assert!(!self.settled.contains(&message.seq) && !self.dropped.contains(&message.seq));
            assert!(
                self.sent.last().is_none_or(|last| *last < message.seq),
                "out of order"
            );
            self.sent.push(message.seq);
            let at = self.within(self.world.latency);
            self.agenda
                .insert((at, Happening::Ack(generation, position)));
        }
        self.check();
    }

    /// What must hold at every moment.
    fn check(&self) {
        let queue = &self.outbox.queue;
        if self.world.capacity >= 0 {
            assert!(queue.len() <= usize::try_from(self.world.capacity).unwrap());
        }
        assert!(queue.bytes() <= 100_000);
        assert!(
            self.outbox.in_flight_messages().len()
                <= self.world.window.min(self.world.receive_maximum)
        );
        let accounted =
            self.settled.len() + self.outbox.count_unfinished() + self.dropped_after_accepting;
        assert_eq!(
            self.accepted.len(),
            accounted,
            "every message is in one place"
        );
    }

    pub(super) fn run(&mut self, length: Duration) {
        let end = self.now + length;
        while self.now < end {
            self.turn();
            let next = [
                self.agenda.first().map(|(at, _)| *at),
                self.connection.wake_at(),
                self.outbox.wake_at(self.now),
            ];
            let Some(next) = next.into_iter().flatten().min() else {
                return;
            };
            self.now = next.max(self.now);
            while let Some((at, happening)) = self.agenda.first().copied()
                && at <= self.now
            {
                self.agenda.pop_first();
                self.happen(happening);
            }
        }
    }

    /// A steady link, no more readings: everything has to go.
    pub(super) fn settle_down(&mut self) {
        self.agenda
            .retain(|(_, h)| !matches!(h, Happening::Reading | Happening::LinkChanges));
        self.link_is_up = true;
        self.world.latency = Duration::from_millis(50);
        self.run(DAY / 4);
        assert_eq!(
            self.outbox.count_unfinished(),
            0,
            "something was never delivered"
        );
    }
}
