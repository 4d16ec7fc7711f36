//! Days of simulated time in the pure core: connection, outbox, queue and pacing wired as
//! the event loop wires them, with a link that flaps, a queue that fills and a backlog that
//! drains against arrivals. After every step the invariants are checked; nothing sleeps.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use iot_pubsub::common::backoff::{Backoff, Policy};
use iot_pubsub::common::connection::{Action, Connection, Run, State};
use iot_pubsub::common::fault::{Exit, Fault};
use iot_pubsub::common::message::{Draft, Qos};
use iot_pubsub::common::pacing::{Drain, DrainRate};
use iot_pubsub::common::queue::{Capacity, DropBehavior, OfflineQueue};
use iot_pubsub::publisher::outbox::{Offered, Outbox, Outcome, SessionLimits, Settled};
use proptest::prelude::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A world for the core to live in.
#[derive(Clone, Debug)]
struct World {
    seed: u64,
    capacity: i64,
    behavior: DropBehavior,
    drain: DrainRate,
    window: usize,
    receive_maximum: usize,
    /// Between readings.
    interval: Duration,
    /// How long the link is up and down, at most.
    up: Duration,
    down: Duration,
    /// Until a PUBACK, at most.
    latency: Duration,
}

/// What may happen outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Reading,
    LinkChanges,
    /// CONNACK for an attempt, or its failure if the link is down.
    Answer(u64),
    /// PUBACK on a connection.
    Ack(u64, u64),
}

struct Simulation {
    world: World,
    random: fastrand::Rng,
    now: Instant,
    agenda: BTreeSet<(Instant, Happening)>,
    link_is_up: bool,
    connection: Connection,
    outbox: Outbox,
    held: Option<Draft>,
    accepted: BTreeSet<u64>,
    settled: BTreeSet<u64>,
    dropped: BTreeSet<u64>,
    dropped_after_accepting: usize,
    /// Accepted while online with nothing queued: never to be dropped.
    taken_online: BTreeSet<u64>,
    /// On the present connection.
    sent: Vec<u64>,
    readings: u64,
}

impl Simulation {
    #[allow(
        clippy::disallowed_methods,
        reason = "an origin; the simulation moves it"
    )]
    fn new(world: World) -> Self {
        let second = Duration::from_secs(1);
        let policy = Policy::new(second, second * 32, second * 20, 0.2).unwrap();
        let queue = OfflineQueue::new(
            Capacity::from_signed(world.capacity),
            100_000,
            world.behavior,
        );
        let now = Instant::now();
        let mut simulation = Self {
            random: fastrand::Rng::with_seed(world.seed),
            now,
            agenda: BTreeSet::from([(now, Happening::Reading), (now, Happening::LinkChanges)]),
            link_is_up: false,
            connection: Connection::new(Run::Endless, second * 10, Backoff::new(policy)),
            outbox: Outbox::new(
                world.window,
                second * 5,
                None,
                queue,
                Drain::new(world.drain, false),
            ),
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

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Connect { generation, .. } => {
                    let at = self.within(Duration::from_millis(300));
                    self.agenda.insert((at, Happening::Answer(generation)));
                }
                Action::Retry { delay, .. } => {
                    assert!(delay <= Duration::from_secs(32));
                    self.outbox.disconnected();
                    self.sent.clear();
                }
                Action::Abandon { .. } => {}
                Action::Disconnect { .. } | Action::GiveUp { .. } => unreachable!("{action:?}"),
            }
        }
    }

    fn end_connection(&mut self) {
        let fault = Fault::passing(Exit::Unavailable, "the link is down");
        let random = self.random.f64();
        let generation = self.connection.generation();
        let actions = self.connection.ended(generation, fault, self.now, random);
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
                if !self.link_is_up && matches!(self.connection.state(), State::Online { .. }) {
                    self.end_connection();
                }
            }
            Happening::Answer(generation) if generation == self.connection.generation() => {
                if !self.link_is_up {
                    self.end_connection();
                } else if self.connection.accepted(generation, self.now) {
                    let limits = SessionLimits {
                        receive_maximum: self.world.receive_maximum,
                        ..SessionLimits::PROTOCOL
                    };
                    self.outbox.connected(limits, self.now);
                }
            }
            Happening::Ack(generation, seq) if generation == self.connection.generation() => {
                if matches!(self.connection.state(), State::Online { .. }) {
                    match self.outbox.settle(seq, Outcome::Delivered, self.now) {
                        Some(Settled::Delivered(message)) => {
                            assert!(self.settled.insert(message.seq), "settled twice");
                            assert!(!self.dropped.contains(&message.seq), "dropped, then sent");
                        }
                        other => panic!("{other:?} for {seq}"),
                    }
                }
            }
            Happening::Answer(_) | Happening::Ack(..) => {}
        }
    }

    fn offer(&mut self, draft: Draft) {
        let straight = matches!(self.connection.state(), State::Online { .. })
            && self.outbox.queue().is_empty();
        match self.outbox.offer(draft, 0) {
            Offered::Accepted { seq, evicted } => {
                assert!(self.accepted.insert(seq));
                if straight && self.outbox.queue().is_empty() {
                    self.taken_online.insert(seq);
                }
                for old in evicted {
                    assert!(self.accepted.contains(&old.seq));
                    self.drop_one(old.seq);
                    self.dropped_after_accepting += 1;
                }
            }
            Offered::Dropped { seq } => self.drop_one(seq),
            Offered::Refused => assert_eq!(self.world.capacity, 0),
            Offered::Full(draft) => self.held = Some(draft),
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
        let actions = self.connection.tick(self.now, random);
        self.act(actions);
        if self.outbox.overdue(self.now) {
            let fault = Fault::passing(Exit::Unavailable, "no PUBACK");
            let actions = self.connection.condemn(fault, self.now, random);
            self.act(actions);
        }
        if let Some(draft) = self.held.take() {
            self.offer(draft);
        }
        self.outbox.review(self.now);
        let generation = self.connection.generation();
        let (messages, dead) = self.outbox.dispatch(self.now);
        assert!(dead.is_empty());
        for message in messages {
            assert!(matches!(self.connection.state(), State::Online { .. }));
            assert!(!self.settled.contains(&message.seq) && !self.dropped.contains(&message.seq));
            assert!(
                self.sent.last().is_none_or(|last| *last < message.seq),
                "out of order"
            );
            self.sent.push(message.seq);
            let at = self.within(self.world.latency);
            self.agenda
                .insert((at, Happening::Ack(generation, message.seq)));
        }
        self.check();
    }

    /// What must hold at every moment.
    fn check(&self) {
        let queue = self.outbox.queue();
        if self.world.capacity >= 0 {
            assert!(queue.len() <= usize::try_from(self.world.capacity).unwrap());
        }
        assert!(queue.bytes() <= 100_000);
        assert!(self.outbox.in_flight() <= self.world.window.min(self.world.receive_maximum));
        assert!(queue.iter().is_sorted_by_key(|m| m.seq), "out of order");
        let accounted =
            self.settled.len() + self.outbox.outstanding() + self.dropped_after_accepting;
        assert_eq!(
            self.accepted.len(),
            accounted,
            "every message is in one place"
        );
    }

    fn run(&mut self, length: Duration) {
        let end = self.now + length;
        while self.now < end {
            self.turn();
            let next = [
                self.agenda.first().map(|(at, _)| *at),
                self.connection.wake_at(),
                self.outbox.wake_at(),
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
    fn settle_down(&mut self) {
        self.agenda
            .retain(|(_, h)| !matches!(h, Happening::Reading | Happening::LinkChanges));
        self.link_is_up = true;
        self.world.latency = Duration::from_millis(50);
        self.run(DAY / 4);
        assert_eq!(
            self.outbox.outstanding(),
            0,
            "something was never delivered"
        );
    }
}

fn worlds() -> impl Strategy<Value = World> {
    let behavior = prop_oneof![
        Just(DropBehavior::Newest),
        Just(DropBehavior::Oldest),
        Just(DropBehavior::Block),
    ];
    let drain = prop_oneof![
        Just(DrainRate::Max),
        (1u32..50).prop_map(|r| DrainRate::PerSecond(f64::from(r) / 5.0)),
    ];
    let capacity = prop_oneof![Just(-1i64), Just(0), 1i64..50];
    (
        any::<u64>(),
        capacity,
        behavior,
        drain,
        1usize..120,
        1usize..120,
        100u64..20_000,
        1u64..600,
        1u64..600,
        1u64..8_000,
    )
        .prop_map(
            |(
                seed,
                capacity,
                behavior,
                drain,
                window,
                receive_maximum,
                interval,
                up,
                down,
                latency,
            )| World {
                seed,
                capacity,
                behavior,
                drain,
                window,
                receive_maximum,
                interval: Duration::from_millis(interval),
                up: Duration::from_secs(up),
                down: Duration::from_secs(down),
                latency: Duration::from_millis(latency),
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_world_keeps_the_invariants_for_an_hour_and_delivers_in_the_end(world in worlds()) {
        let mut simulation = Simulation::new(world);
        simulation.run(DAY / 24);
        simulation.settle_down();
    }
}

fn a_world() -> World {
    World {
        seed: 42,
        capacity: 20,
        behavior: DropBehavior::Newest,
        drain: DrainRate::PerSecond(2.0),
        window: 100,
        receive_maximum: 65_535,
        interval: Duration::from_secs(1),
        up: Duration::from_secs(600),
        down: Duration::from_secs(60),
        latency: Duration::from_millis(200),
    }
}

#[test]
fn a_day_on_a_flapping_link() {
    let mut simulation = Simulation::new(World {
        up: Duration::from_secs(6),
        down: Duration::from_secs(6),
        ..a_world()
    });
    simulation.run(DAY);
    assert!(simulation.readings > 86_000);
    assert!(
        simulation.connection.reconnects() > 500,
        "{}",
        simulation.connection.reconnects()
    );
    simulation.settle_down();
}

#[test]
fn a_day_with_a_full_queue_that_drops_the_oldest() {
    let world = World {
        capacity: 5,
        behavior: DropBehavior::Oldest,
        down: Duration::from_secs(300),
        ..a_world()
    };
    let mut simulation = Simulation::new(world);
    simulation.run(DAY);
    assert!(simulation.dropped.len() > 1_000);
    simulation.settle_down();
    assert_eq!(
        simulation.settled.len() + simulation.dropped.len(),
        simulation.accepted.len()
    );
}

#[test]
fn a_day_of_draining_slower_than_readings_arrive_still_catches_up() {
    let world = World {
        capacity: -1,
        interval: Duration::from_millis(250),
        up: Duration::from_secs(7_200),
        down: Duration::from_secs(120),
        ..a_world()
    };
    let mut simulation = Simulation::new(world);
    simulation.run(DAY);
    assert!(simulation.dropped.is_empty());
    // Two a second out against four a second in would leave a hundred thousand waiting.
    assert!(
        simulation.outbox.outstanding() < 2_000,
        "{}",
        simulation.outbox.outstanding()
    );
    simulation.settle_down();
}

#[test]
fn a_day_of_lost_acknowledgements_ends_connections_and_loses_nothing() {
    let world = World {
        capacity: -1,
        latency: Duration::from_secs(6),
        drain: DrainRate::Max,
        ..a_world()
    };
    let mut simulation = Simulation::new(world);
    simulation.run(DAY);
    assert!(simulation.connection.reconnects() > 100);
    simulation.settle_down();
    assert_eq!(simulation.settled.len(), simulation.accepted.len());
}
