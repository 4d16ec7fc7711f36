//! One connection's life: idle, connecting, online, waiting for the next attempt, stopped.
//! Events and the time go in, actions come out. PURE: no clock, no socket, no log.
//!
//! Every attempt has a *generation*. An event that names an older one is history: it
//! changes nothing, however late it comes. What happens on a connection (messages,
//! subscriptions) is not decided here.

use std::time::{Duration, Instant};

use super::backoff::Backoff;
use crate::common::fault::{Exit, Fault};

/// Whether the run has an end of its own. A fault that no retry can cure ends a finite
/// run; an endless one goes on trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// It ends when its work is done.
    Finite,
    /// It goes on until it is stopped.
    Endless,
}

/// Where the connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not started yet.
    Idle,
    /// DNS, TCP, TLS and CONNACK, all of them by the deadline.
    Connecting {
        /// When the attempt is given up.
        deadline: Instant,
    },
    /// The broker has accepted.
    Online {
        /// When it did.
        since: Instant,
    },
    /// Between two attempts.
    Waiting {
        /// When the next one starts.
        until: Instant,
    },
    /// Ended by the user or given up; nothing but a new start leaves it.
    Stopped,
}

/// What the edge has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start an attempt.
    Connect {
        /// Its number.
        generation: u64,
        /// When it will be given up.
        deadline: Instant,
    },
    /// Drop an attempt or a connection without ceremony.
    Abandon {
        /// Its number.
        generation: u64,
    },
    /// Say DISCONNECT and close.
    Disconnect {
        /// Its number.
        generation: u64,
    },
    /// Tell the user why there is no connection and when the next attempt comes.
    Retry {
        /// What went wrong.
        fault: Fault,
        /// How long until the next attempt.
        delay: Duration,
    },
    /// End the run: no retry can cure this.
    GiveUp {
        /// What went wrong.
        fault: Fault,
    },
}

/// How a connection is to be gone about.
#[derive(Clone, Debug)]
pub struct Terms {
    /// What faults call the broker.
    pub host: String,
    /// Whether the run has an end.
    pub run: Run,
    /// How long an attempt may take.
    pub connect_timeout: Duration,
    /// The least time between the beginnings of two attempts.
    pub interval: Duration,
}

/// The state machine.
#[derive(Debug)]
pub struct Connection {
    terms: Terms,
    backoff: Backoff,
    state: State,
    /// When the last attempt began.
    attempted: Option<Instant>,
    generation: u64,
    accepted: u64,
    last_fault: Option<Fault>,
}

impl Connection {
    /// A connection that has not been started.
    pub fn new(terms: Terms, backoff: Backoff) -> Self {
        Self {
            terms,
            backoff,
            state: State::Idle,
            attempted: None,
            generation: 0,
            accepted: 0,
            last_fault: None,
        }
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// The number of the current attempt or connection.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether any attempt was ever accepted.
    pub fn ever_accepted(&self) -> bool {
        self.accepted > 0
    }

    /// Connections after the first.
    pub fn reconnects(&self) -> u64 {
        self.accepted.saturating_sub(1)
    }

    /// What faults call the broker.
    pub fn host(&self) -> &str {
        &self.terms.host
    }

    /// Why there is no connection; none while there is one. A first attempt that has had no
    /// answer yet is a reason as well.
    pub fn why_offline(&self) -> Option<Fault> {
        match self.state {
            State::Connecting { .. } if self.last_fault.is_none() => Some(Fault::passing(
                Exit::Unavailable,
                format!("{}: no answer yet", self.terms.host),
            )),
            _ => self.last_fault.clone(),
        }
    }

    /// When [`tick`](Self::tick) has something to do, at the latest.
    pub fn wake_at(&self) -> Option<Instant> {
        match self.state {
            State::Connecting { deadline } => Some(deadline),
            State::Waiting { until } => Some(until),
            State::Idle | State::Online { .. } | State::Stopped => None,
        }
    }

    /// Starts the first attempt, or a new one after a stop.
    pub fn start(&mut self, now: Instant) -> Vec<Action> {
        match self.state {
            State::Idle | State::Stopped => vec![self.attempt(now)],
            _ => Vec::new(),
        }
    }

    /// The broker accepted. Only this starts the stable time. `false` for an attempt that
    /// is no longer current.
    pub fn accepted(&mut self, generation: u64, now: Instant) -> bool {
        let current =
            generation == self.generation && matches!(self.state, State::Connecting { .. });
        if current {
            self.state = State::Online { since: now };
            self.accepted += 1;
            self.last_fault = None;
        }
        current
    }

    /// The attempt failed, or the connection ended. `random` is uniform in [0, 1).
    pub fn ended(
        &mut self,
        generation: u64,
        fault: Fault,
        now: Instant,
        random: f64,
    ) -> Vec<Action> {
        if generation != self.generation {
            return Vec::new();
        }
        match self.state {
            State::Connecting { .. } => {}
            State::Online { since } => self
                .backoff
                .connection_ended(now.saturating_duration_since(since)),
            State::Idle | State::Waiting { .. } | State::Stopped => return Vec::new(),
        }
        self.last_fault = Some(fault.clone());
        if fault.permanent && self.terms.run == Run::Finite {
            self.state = State::Stopped;
            return vec![Action::GiveUp { fault }];
        }
        let delay = self.backoff.next_delay(random);
        let until = (now + delay).max(self.attempted.unwrap_or(now) + self.terms.interval);
        self.state = State::Waiting { until };
        let delay = until.saturating_duration_since(now);
        vec![Action::Retry { fault, delay }]
    }

    /// The user of the connection has found it dead (no PUBACK, no SUBACK): close it and
    /// begin again.
    pub fn condemn(&mut self, fault: Fault, now: Instant, random: f64) -> Vec<Action> {
        let generation = self.generation;
        let mut actions = self.ended(generation, fault, now, random);
        if !actions.is_empty() {
            actions.insert(0, Action::Abandon { generation });
        }
        actions
    }

    /// Lets time act: an attempt past its deadline is given up, a wait that is over
    /// becomes an attempt.
    pub fn tick(&mut self, now: Instant, random: f64) -> Vec<Action> {
        match self.state {
            State::Connecting { deadline } if now >= deadline => {
                let message = format!(
                    "{}: no CONNACK within --connect-timeout {:?} (name look-up, TCP and TLS included)",
                    self.terms.host, self.terms.connect_timeout
                );
                let fault = Fault::passing(Exit::Unavailable, message);
                self.condemn(fault, now, random)
            }
            State::Waiting { until } if now >= until => vec![self.attempt(now)],
            _ => Vec::new(),
        }
    }

    /// Ends it for good. A wait ends at once, a connection says goodbye.
    pub fn stop(&mut self) -> Vec<Action> {
        let generation = self.generation;
        match std::mem::replace(&mut self.state, State::Stopped) {
            State::Online { .. } => vec![Action::Disconnect { generation }],
            State::Connecting { .. } => vec![Action::Abandon { generation }],
            State::Idle | State::Waiting { .. } | State::Stopped => Vec::new(),
        }
    }

    fn attempt(&mut self, now: Instant) -> Action {
        self.generation += 1;
        self.attempted = Some(now);
        let deadline = now + self.terms.connect_timeout;
        self.state = State::Connecting { deadline };
        Action::Connect {
            generation: self.generation,
            deadline,
        }
    }
}
