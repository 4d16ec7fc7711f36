//! The states of a connection: idle, connecting, online, waiting for the next attempt, stopped.
//! Events and the time go in, actions come out. PURE: no clock, no socket, no log.
//!
//! Every attempt has a number, its *generation*. An event of an earlier generation changes nothing.

use std::time::{Duration, Instant};

use super::backoff::Backoff;
use crate::common::fault::{Exit, Fault, FaultCause};

/// A fault that no retry can cure ends a finite run; an endless run keeps trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FiniteOrEndless {
    Finite,
    Endless,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConnectionState {
    #[default]
    Idle,
    Connecting {
        deadline: Instant,
    },
    Online {
        since: Instant,
    },
    Waiting {
        until: Instant,
    },
    /// Only [`ConnectionStateMachine::start`] leaves this state.
    Stopped,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionAction {
    Connect {
        deadline: Instant,
    },
    Abandon,
    /// Send DISCONNECT and close.
    Disconnect,
    Retry {
        fault: Fault,
        delay: Duration,
    },
    /// End the run: no retry can cure this fault.
    GiveUp(Fault),
}

#[derive(Clone, Debug)]
pub struct AttemptSettings {
    pub host: String,
    pub run: FiniteOrEndless,
    pub connect_timeout: Duration,
    pub interval: Duration,
}

#[derive(Debug)]
pub struct ConnectionStateMachine {
    settings: AttemptSettings,
    backoff: Backoff,
    state: ConnectionState,
    last_attempt: Option<Instant>,
    generation: u64,
    times_connected: u64,
    last_fault: Option<Fault>,
    /// The connection is being replaced by one with new credentials.
    renewal: Option<Renewal>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Renewal {
    /// DISCONNECT has been requested, and the connection has not ended yet.
    Ending,
    Connecting,
}

impl ConnectionStateMachine {
    pub fn new(settings: AttemptSettings, backoff: Backoff) -> Self {
        Self {
            settings,
            backoff,
            state: ConnectionState::Idle,
            last_attempt: None,
            generation: 0,
            times_connected: 0,
            last_fault: None,
            renewal: None,
        }
    }

    pub fn state(&self) -> ConnectionState {
        self.state
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn was_ever_online(&self) -> bool {
        self.times_connected > 0
    }

    pub fn reconnect_count(&self) -> u64 {
        self.times_connected.saturating_sub(1)
    }

    pub fn authority(&self) -> &str {
        &self.settings.host
    }

    pub fn last_fault(&self) -> Option<&Fault> {
        self.last_fault.as_ref()
    }

    /// `None` while there is a connection.
    pub fn why_offline(&self) -> Option<Fault> {
        match self.state {
            ConnectionState::Connecting { .. } if self.last_fault.is_none() => {
                let message = format!("{}: no answer yet", self.settings.host);
                Some(Fault::passing(Exit::Unavailable, message))
            }
            _ => self.last_fault.clone(),
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has to be called next.
    pub fn wake_at(&self) -> Option<Instant> {
        match self.state {
            ConnectionState::Connecting { deadline } => Some(deadline),
            ConnectionState::Waiting { until } => Some(until),
            _ => None,
        }
    }

    /// Has no effect except before the first attempt and after a stop.
    pub fn start(&mut self, now: Instant) -> Vec<ConnectionAction> {
        match self.state {
            ConnectionState::Idle | ConnectionState::Stopped => vec![self.connect(now)],
            _ => Vec::new(),
        }
    }

    pub fn handle_connected(&mut self, generation: u64, now: Instant) -> bool {
        let is_current = generation == self.generation
            && matches!(self.state, ConnectionState::Connecting { .. });
        if is_current {
            self.state = ConnectionState::Online { since: now };
            self.times_connected += 1;
            self.last_fault = None;
            self.renewal = None;
        }
        is_current
    }

    /// Ends the connection in order and makes a new one at once, or after `within` if the end takes longer. An attempt is
    /// abandoned, and the next call of [`handle_timeout`](Self::handle_timeout) begins another. Until the new connection
    /// stands, no fault ends the run. Has no effect without a connection or an attempt.
    pub fn renew(&mut self, within: Duration, now: Instant) -> Vec<ConnectionAction> {
        match self.state {
            ConnectionState::Online { since } => {
                self.backoff
                    .reset_if_stable(now.saturating_duration_since(since));
                self.renewal = Some(Renewal::Ending);
                self.state = ConnectionState::Waiting {
                    until: now + within,
                };
                vec![ConnectionAction::Disconnect]
            }
            ConnectionState::Connecting { .. } => {
                self.renewal = Some(Renewal::Connecting);
                let until = self.earliest_attempt(now);
                self.state = ConnectionState::Waiting { until };
                vec![ConnectionAction::Abandon]
            }
            ConnectionState::Idle | ConnectionState::Waiting { .. } | ConnectionState::Stopped => {
                Vec::new()
            }
        }
    }

    /// Whether the end of the connection is that of [`renew`](Self::renew).
    pub fn is_renewal_ending(&self, generation: u64) -> bool {
        generation == self.generation && self.renewal == Some(Renewal::Ending)
    }

    /// The connection has ended, as [`renew`](Self::renew) requested.
    pub fn handle_renewal_ended(&mut self, now: Instant) -> Vec<ConnectionAction> {
        self.renewal = Some(Renewal::Connecting);
        let until = self.earliest_attempt(now);
        if now < until {
            self.state = ConnectionState::Waiting { until };
            return Vec::new();
        }
        vec![self.connect(now)]
    }

    /// The attempt failed, or the connection ended. `random` is uniform in [0, 1).
    pub fn handle_ended(
        &mut self,
        generation: u64,
        fault: Fault,
        now: Instant,
        random: f64,
    ) -> Vec<ConnectionAction> {
        if generation != self.generation {
            return Vec::new();
        }
        match self.state {
            ConnectionState::Connecting { .. } => {}
            ConnectionState::Online { since } => self
                .backoff
                .reset_if_stable(now.saturating_duration_since(since)),
            _ => return Vec::new(),
        }
        self.last_fault = Some(fault.clone());
        let is_finite = self.settings.run == FiniteOrEndless::Finite && self.renewal.is_none();
        if fault.permanent && is_finite {
            self.state = ConnectionState::Stopped;
            return vec![ConnectionAction::GiveUp(fault)];
        }
        let delay = self.backoff.next_delay(random);
        let until = (now + delay).max(self.earliest_attempt(now));
        self.state = ConnectionState::Waiting { until };
        let delay = until.saturating_duration_since(now);
        vec![ConnectionAction::Retry { fault, delay }]
    }

    /// For a connection that does not work (no PUBACK, no SUBACK).
    pub fn fail_connection(
        &mut self,
        fault: Fault,
        now: Instant,
        random: f64,
    ) -> Vec<ConnectionAction> {
        let mut actions = self.handle_ended(self.generation, fault, now, random);
        if !actions.is_empty() {
            actions.insert(0, ConnectionAction::Abandon);
        }
        actions
    }

    /// Fails an attempt that is past its deadline; starts the next one when its delay is over.
    pub fn handle_timeout(&mut self, now: Instant, random: f64) -> Vec<ConnectionAction> {
        match self.state {
            ConnectionState::Connecting { deadline } if now >= deadline => {
                let message = format!(
                    "{}: no CONNACK within --connect-timeout {:?} (name look-up, TCP and TLS included)",
                    self.settings.host, self.settings.connect_timeout
                );
                let fault = Fault::passing(Exit::Unavailable, message);
                self.fail_connection(fault.with_kind(FaultCause::TimedOut), now, random)
            }
            ConnectionState::Waiting { until } if now >= until => {
                if self.renewal == Some(Renewal::Ending) {
                    // The next call connects.
                    self.renewal = Some(Renewal::Connecting);
                    return vec![ConnectionAction::Abandon];
                }
                vec![self.connect(now)]
            }
            _ => Vec::new(),
        }
    }

    pub fn stop(&mut self) -> Vec<ConnectionAction> {
        self.renewal = None;
        match std::mem::replace(&mut self.state, ConnectionState::Stopped) {
            ConnectionState::Online { .. } => vec![ConnectionAction::Disconnect],
            ConnectionState::Connecting { .. } => vec![ConnectionAction::Abandon],
            _ => Vec::new(),
        }
    }

    /// A broker may limit how often a client connects.
    fn earliest_attempt(&self, now: Instant) -> Instant {
        self.last_attempt.unwrap_or(now) + self.settings.interval
    }

    fn connect(&mut self, now: Instant) -> ConnectionAction {
        self.generation += 1;
        self.last_attempt = Some(now);
        let deadline = now + self.settings.connect_timeout;
        self.state = ConnectionState::Connecting { deadline };
        ConnectionAction::Connect { deadline }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::connection::backoff::Policy;
    use crate::common::runtime::clock::instant_now;

    const SECOND: Duration = Duration::from_secs(1);

    /// A finite run with a connection.
    fn online(now: Instant) -> ConnectionStateMachine {
        let policy = Policy::new(SECOND, SECOND * 32, SECOND * 20, 0.5).unwrap();
        let settings = AttemptSettings {
            host: "h:8883".into(),
            run: FiniteOrEndless::Finite,
            connect_timeout: SECOND * 10,
            interval: Duration::ZERO,
        };
        let mut connection = ConnectionStateMachine::new(settings, Backoff::new(policy));
        connection.start(now);
        assert!(connection.handle_connected(1, now));
        connection
    }

    fn has_connect(actions: &[ConnectionAction]) -> bool {
        matches!(actions, [ConnectionAction::Connect { .. }])
    }

    #[test]
    fn a_renewal_connects_again_when_the_old_connection_has_ended() {
        let now = instant_now();
        let mut connection = online(now);
        let disconnect = vec![ConnectionAction::Disconnect];
        assert_eq!(connection.renew(SECOND * 30, now), disconnect);
        assert!(connection.is_renewal_ending(1));
        assert!(has_connect(&connection.handle_renewal_ended(now + SECOND)));
        // Until the new one stands, no fault ends the run.
        let fault = Fault::permanent(Exit::Refused, "h: refused");
        let actions = connection.handle_ended(2, fault, now + SECOND * 2, 0.5);
        assert!(
            matches!(actions[..], [ConnectionAction::Retry { .. }]),
            "{actions:?}"
        );
    }

    #[test]
    fn a_renewal_replaces_an_attempt_under_way_no_earlier_than_the_interval_allows() {
        let start = instant_now();
        for interval in [0, 5] {
            let mut connection = online(start);
            connection.settings.interval = SECOND * interval;
            let fault = Fault::passing(Exit::Unavailable, "h: closed");
            connection.handle_ended(1, fault.clone(), start, 0.5);
            let begun = start + SECOND * 60;
            assert!(has_connect(&connection.handle_timeout(begun, 0.5)));
            let now = begun + SECOND;
            let abandon = vec![ConnectionAction::Abandon];
            assert_eq!(connection.renew(SECOND * 30, now), abandon);
            // The old attempt changes nothing any more.
            assert!(!connection.handle_connected(2, now));
            assert_eq!(connection.handle_ended(2, fault, now, 0.5), []);
            let next = now.max(begun + SECOND * interval);
            assert!(connection.wake_at().unwrap() <= next);
            assert!(has_connect(&connection.handle_timeout(next, 0.5)));
            assert_eq!(connection.generation(), 3);
            // As in any renewal, no fault ends a finite run.
            let refused = Fault::permanent(Exit::Refused, "h: refused");
            let actions = connection.handle_ended(3, refused, next, 0.5);
            assert!(matches!(actions[..], [ConnectionAction::Retry { .. }]));
        }
    }

    #[test]
    fn an_old_connection_that_does_not_end_is_abandoned() {
        let now = instant_now();
        let mut connection = online(now);
        connection.renew(SECOND * 30, now);
        assert_eq!(connection.handle_timeout(now + SECOND * 29, 0.5), []);
        let late = now + SECOND * 30;
        let abandon = vec![ConnectionAction::Abandon];
        assert_eq!(connection.handle_timeout(late, 0.5), abandon);
        assert!(has_connect(&connection.handle_timeout(late, 0.5)));
    }

    #[test]
    fn a_stop_during_a_renewal_makes_no_new_connection() {
        let now = instant_now();
        let mut connection = online(now);
        connection.renew(SECOND * 30, now);
        assert_eq!(connection.stop(), []);
        assert!(!connection.is_renewal_ending(1));
        assert_eq!(connection.state(), ConnectionState::Stopped);
    }
}
