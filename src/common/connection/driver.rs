//! Carries out what `connection` decides, through the client, and tells the user why there
//! is no connection. The event loops of both programs hold one.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::diagnosis::Dropped;
use super::state::{Action, Connection, State};
use crate::common::client::{Accepted, Client, Event, Reached};
use crate::common::fault::{Exit, Fault, Kind};
use crate::common::random;
use crate::common::runtime::clock::{clock, wait};

/// What changed for whoever uses the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Connected.
    Up(Accepted),
    /// Not connected any more, or not yet; the next attempt is on its way.
    Down(Down),
    /// There will be no further attempt.
    GaveUp(Fault),
    /// The connection has ended after [`Link::close`] began.
    Closed,
}

/// How a connection, or an attempt, has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Down {
    /// The line that tells why.
    pub why: String,
    /// The exit code that the cause stands for.
    pub exit: Exit,
    /// The reason code of the broker's DISCONNECT, if it sent one.
    pub code: Option<u8>,
    /// It had been accepted, and was closed in order without a reason.
    pub dropped: Option<Dropped>,
    /// How much of what was published the broker had received, if it ended the connection in order.
    pub reached: Option<Reached>,
}

/// What an event of the loop means while the connection is being closed.
#[derive(Clone, Debug)]
pub enum Heard {
    /// It comes from the client.
    Client(Event),
    /// Neither.
    Other,
}

/// How long DISCONNECT may take where nothing depends on it.
pub const GOODBYE: Duration = Duration::from_secs(1);

pub const OLDER: &str = "the broker does not answer MQTT 5; MQTT 3.1.1 is used, which has no reason codes, \
                         message expiry and seq, and does not mark batches";

/// The connection with its client.
#[derive(Debug)]
pub struct Link {
    connection: Connection,
    client: Client,
    random: fastrand::Rng,
    /// The last cause that was told in full.
    told: Option<Fault>,
    /// That MQTT 5 is not answered has been told.
    told_version: bool,
}

impl Link {
    /// A link that has not been started.
    pub fn new(connection: Connection, client: Client) -> Self {
        Self {
            connection,
            client,
            random: random::generator(),
            told: None,
            told_version: false,
        }
    }

    /// The state machine, to look at.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The client, for messages and subscriptions.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The current connection's number, for the client's commands.
    pub fn generation(&self) -> u64 {
        self.connection.generation()
    }

    /// Starts the first attempt.
    pub fn start(&mut self, now: Instant) {
        let actions = self.connection.start(now);
        self.act(actions);
    }

    /// Takes an event of the client about the connection itself.
    pub fn handle(&mut self, event: &Event, now: Instant) -> Option<Change> {
        match event {
            Event::Connected {
                generation,
                accepted,
            } => {
                if !self.connection.accepted(*generation, now) {
                    return None;
                }
                info!(
                    "connected to {} (port {}) with MQTT {}",
                    self.connection.host(),
                    accepted.port,
                    if accepted.mqtt_version == 5 {
                        "5"
                    } else {
                        "3.1.1"
                    }
                );
                self.told = None;
                if accepted.by_fallback && !std::mem::replace(&mut self.told_version, true) {
                    warn!(
                        "{}: {OLDER}; give --mqtt-version 3.1.1 to connect at once",
                        self.connection.host()
                    );
                }
                Some(Change::Up(*accepted))
            }
            Event::Ended {
                generation,
                code,
                fault,
                reached,
                ..
            } => {
                let stopped = self.connection.state() == State::Stopped;
                if stopped && *generation == self.generation() {
                    return Some(Change::Closed);
                }
                let online = match self.connection.state() {
                    State::Online { since } => Some(now.saturating_duration_since(since)),
                    _ => None,
                };
                let random = self.random.f64();
                let actions = self
                    .connection
                    .ended(*generation, fault.clone(), now, random);
                let change = self.act(actions);
                Some(match change? {
                    Change::Down(down) => Change::Down(Down {
                        code: *code,
                        reached: *reached,
                        dropped: online
                            .filter(|_| fault.kind == Kind::Closed)
                            .map(|lasted| Dropped { lasted }),
                        ..down
                    }),
                    other => other,
                })
            }
            Event::Disconnected { generation } => {
                (*generation == self.generation()).then_some(Change::Closed)
            }
            Event::Passed { .. }
            | Event::Progress { .. }
            | Event::Deliveries { .. }
            | Event::Subscribed { .. } => None,
        }
    }

    /// Ends a connection that the caller has found dead, or useless.
    pub fn condemn(&mut self, fault: Fault, now: Instant) -> Option<Change> {
        let random = self.random.f64();
        let actions = self.connection.condemn(fault, now, random);
        self.act(actions)
    }

    /// Lets time act.
    pub fn tick(&mut self, now: Instant) -> Option<Change> {
        let random = self.random.f64();
        let actions = self.connection.tick(now, random);
        self.act(actions)
    }

    /// Ends it for good, and waits until all has gone out, DISCONNECT last: at [`QoS`](crate::common::mqtt::message::Qos)
    /// 1 and 2 a courtesy, without which nothing is lost, so not for long. `patience` is how
    /// long, `hear` says what an event of the loop means for it. `false` if it took longer.
    pub fn close<E>(
        &mut self,
        inbox: &Receiver<E>,
        patience: Duration,
        hear: impl Fn(E) -> Heard,
    ) -> bool {
        let mut actions = self.connection.stop();
        if self.client.receives() {
            // Messages may have come on a connection whose CONNACK has not been told of yet.
            for action in &mut actions {
                if let Action::Abandon { generation } = *action {
                    *action = Action::Disconnect { generation };
                }
            }
        }
        let says_goodbye = actions
            .iter()
            .any(|action| matches!(action, Action::Disconnect { .. }));
        self.act(actions);
        let until = clock() + patience;
        while says_goodbye && let Some(event) = wait(inbox, Some(until)) {
            match hear(event) {
                Heard::Client(event) if self.handle(&event, clock()) == Some(Change::Closed) => {
                    return true;
                }
                Heard::Client(_) | Heard::Other => {}
            }
        }
        !says_goodbye
    }

    fn act(&mut self, actions: Vec<Action>) -> Option<Change> {
        let mut change = None;
        for action in actions {
            match action {
                Action::Connect {
                    generation,
                    deadline,
                } => self.client.connect(generation, deadline),
                Action::Abandon { generation } => self.client.abandon(generation),
                Action::Disconnect { generation } => self.client.disconnect(generation),
                Action::Retry { fault, delay } => {
                    let delay = delay.as_secs_f64();
                    if self.told.as_ref() == Some(&fault) {
                        // What to do about it has been told.
                        warn!("{}; trying again in {delay:.1} s", fault.message);
                    } else {
                        warn!("{fault}; trying again in {delay:.1} s");
                    }
                    change = Some(Change::Down(Down {
                        why: fault.to_string(),
                        exit: fault.exit,
                        code: None,
                        dropped: None,
                        reached: None,
                    }));
                    self.told = Some(fault);
                }
                Action::GiveUp { fault } => change = Some(Change::GaveUp(fault)),
            }
        }
        change
    }
}
