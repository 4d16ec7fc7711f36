//! A fleet of devices that lose their broker together, and come back to one that takes only so
//! many connections a second. The devices are the programs' own state machine and backoff
//! (`common/connection/state.rs`, `common/connection/backoff.rs`); time is simulated, and the same scene always
//! takes the same course.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use iot_pubsub::common::broker::profile::{Pace, Profile};
use iot_pubsub::common::connection::backoff::{Backoff, Policy, PolicyError};
use iot_pubsub::common::connection::state::{
    AttemptSettings, ConnectionAction, ConnectionStateMachine, FiniteOrEndless,
};
use iot_pubsub::common::fault::{Exit, Fault};
use iot_pubsub::publisher::outbox::quota_limiter::QuotaLimiter;

const SECOND: Duration = Duration::from_secs(1);
/// `--connect-timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Name, TCP, TLS: until CONNECT has arrived, at least and at most, in milliseconds.
const WAY: std::ops::Range<u64> = 50..250;
/// When a simulation is given up.
const LONGEST: Duration = Duration::from_secs(12 * 3600);

/// How those fare whom the broker does not let in, or who find none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denial {
    /// They get an answer at once: connection refused, a CONNACK that says no, a closed connection.
    Refused,
    /// They get no answer, and wait for the connect timeout.
    Silent,
}

/// What happens to whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene {
    /// How many lose the connection at once.
    pub(crate) devices: u32,
    /// How long the broker is away.
    pub(crate) outage: Duration,
    /// Connections that it takes a second; a second's worth of them at once.
    pub(crate) rate: u32,
    /// What it does with the others.
    pub(crate) denial: Denial,
    /// `--base-backoff`.
    pub(crate) base: Duration,
    /// `--max-backoff`.
    pub(crate) max: Duration,
    /// `--jitter`.
    pub(crate) jitter: f64,
}

/// How it went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Course {
    /// Attempts that arrived, for each second since the connection was lost.
    pub(crate) attempts: Vec<u32>,
    /// Those of them that were let in.
    pub(crate) accepted: Vec<u32>,
    /// When each device was back, counted from the end of the outage; in order.
    pub(crate) back: Vec<Duration>,
    /// Attempts while there was no broker.
    pub(crate) in_vain: u32,
    /// Attempts that the broker, back again, did not let in.
    pub(crate) turned_away: u32,
}

impl Course {
    /// The most attempts in one second after the outage.
    pub(crate) fn peak(&self, outage: Duration) -> u32 {
        let from = usize::try_from(outage.as_secs()).unwrap_or(usize::MAX);
        self.attempts.iter().skip(from).copied().max().unwrap_or(0)
    }

    /// When this many percent of the devices were back; the longest time there is if they never were.
    pub(crate) fn back_by(&self, percent: usize, devices: u32) -> Duration {
        let needed = (devices as usize * percent).div_ceil(100).max(1);
        self.back.get(needed - 1).copied().unwrap_or(Duration::MAX)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    /// Its CONNECT is at the broker.
    Arrival(u64),
    /// A deadline, or the end of a wait.
    Time,
}

struct Fleet {
    scene: Scene,
    lost: Instant,
    random: fastrand::Rng,
    devices: Vec<ConnectionStateMachine>,
    agenda: BinaryHeap<Reverse<(Instant, usize, Happening)>>,
    door: QuotaLimiter,
    course: Course,
}

/// Plays the scene until all devices are back.
///
/// # Errors
///
/// [`PolicyError`] if base, maximum and jitter do not make a backoff.
pub(crate) fn play(scene: Scene) -> Result<Course, PolicyError> {
    let stable = (scene.base * 2).max(SECOND * 20);
    let policy = Policy::new(scene.base, scene.max, stable, scene.jitter)?;
    #[allow(clippy::disallowed_methods, reason = "an origin; moved by hand")]
    let origin = Instant::now();
    let mut fleet = Fleet {
        scene,
        // They have been connected for an hour, far longer than the stable time.
        lost: origin + SECOND * 3600,
        random: fastrand::Rng::with_seed(8883),
        devices: Vec::new(),
        agenda: BinaryHeap::new(),
        door: QuotaLimiter::new(Pace {
            messages: f64::from(scene.rate),
            burst: f64::from(scene.rate),
            bytes: 1.0,
            burst_bytes: 1.0,
        }),
        course: Course::default(),
    };
    for _ in 0..scene.devices {
        let settings = AttemptSettings {
            host: String::new(),
            run: FiniteOrEndless::Endless,
            connect_timeout: CONNECT_TIMEOUT,
            interval: Profile::Aws.connect_interval(),
        };
        let mut device = ConnectionStateMachine::new(settings, Backoff::new(policy));
        device.start(origin);
        device.handle_connected(device.generation(), origin);
        fleet.devices.push(device);
    }
    fleet.run();
    Ok(fleet.course)
}

fn fault() -> Fault {
    Fault::passing(Exit::Unavailable, String::new())
}

impl Fleet {
    fn run(&mut self) {
        for index in 0..self.devices.len() {
            let generation = self.devices[index].generation();
            self.ended(index, generation, self.lost);
        }
        while let Some(Reverse((now, index, happening))) = self.agenda.pop() {
            if now > self.lost + LONGEST {
                break;
            }
            match happening {
                Happening::Arrival(generation) => self.arrival(index, generation, now),
                Happening::Time => {
                    let random = self.random.f64();
                    let actions = self.devices[index].handle_timeout(now, random);
                    self.act(index, &actions, now);
                }
            }
        }
    }

    fn ended(&mut self, index: usize, generation: u64, now: Instant) {
        let random = self.random.f64();
        let actions = self.devices[index].handle_ended(generation, fault(), now, random);
        self.act(index, &actions, now);
    }

    fn act(&mut self, index: usize, actions: &[ConnectionAction], now: Instant) {
        for action in actions {
            if let ConnectionAction::Connect { .. } = action {
                let way = Duration::from_millis(self.random.u64(WAY));
                let arrival = Happening::Arrival(self.devices[index].generation());
                self.agenda.push(Reverse((now + way, index, arrival)));
            }
        }
        if !actions.is_empty()
            && let Some(at) = self.devices[index].wake_at()
        {
            self.agenda.push(Reverse((at, index, Happening::Time)));
        }
    }

    fn arrival(&mut self, index: usize, generation: u64, now: Instant) {
        let since = now.saturating_duration_since(self.lost);
        let back = since.checked_sub(self.scene.outage);
        let let_in = back.filter(|_| self.door.ready_at(now).is_none());
        count(&mut self.course.attempts, since, 1);
        count(
            &mut self.course.accepted,
            since,
            u32::from(let_in.is_some()),
        );
        if let Some(back) = let_in {
            self.door.record_sent(0, now);
            self.devices[index].handle_connected(generation, now);
            self.course.back.push(back);
            return;
        }
        if back.is_some() {
            self.course.turned_away += 1;
        } else {
            self.course.in_vain += 1;
        }
        if self.scene.denial == Denial::Refused {
            self.ended(index, generation, now);
        }
    }
}

fn count(seconds: &mut Vec<u32>, since: Duration, more: u32) {
    let second = usize::try_from(since.as_secs()).unwrap_or(usize::MAX);
    if seconds.len() <= second {
        seconds.resize(second + 1, 0);
    }
    seconds[second] += more;
}
