//! The worker thread: carries out commands, watches tokens, names causes.
//!
//! It owns every Paho object and may block in Paho for as long as a name look-up takes; the
//! event loop has its own deadlines and does not wait for it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;
use paho_mqtt::{Error, PropertyCode, ReasonCode, ServerResponse};

use super::diagnosis::Diagnosis;
use super::probe;
use super::session::{Hint, Session};
use super::tls::Loaded;
use super::{Accepted, Config, Delivery, Event, OnMessage, Version};
use crate::common::event_loop::{clock, wall_clock};
use crate::common::fault::{Exit, Fault};
use crate::common::message::{Message, Qos};

/// What the worker is told, by the event loop and by Paho's threads.
pub(super) enum Command {
    Connect {
        generation: u64,
        deadline: Instant,
    },
    Publish {
        generation: u64,
        messages: Vec<(u64, Arc<Message>)>,
    },
    Subscribe {
        generation: u64,
        filter: usize,
        text: String,
        qos: Qos,
    },
    Abandon {
        generation: u64,
    },
    Disconnect {
        generation: u64,
    },
    /// A token may have completed.
    Wake {
        generation: u64,
    },
    /// The connection is gone.
    Lost {
        generation: u64,
    },
    /// The broker said why it is about to close.
    Farewell {
        generation: u64,
        fault: Fault,
    },
}

/// Attempts given up that Paho has not ended yet, at most. Dropping one earlier leaks its
/// socket.
const MAX_ASIDE: usize = 8;

/// How long acknowledgements may lie before they are collected, if nothing wakes the worker
/// for more of them.
const COLLECT: Duration = Duration::from_millis(20);

pub(super) struct Worker<N> {
    config: Config,
    on_message: Option<OnMessage>,
    commands: Sender<Command>,
    notify: N,
    current: Option<Session>,
    /// Sessions that are over but must not be dropped yet.
    aside: Vec<Session>,
    /// When the attempt under way will be given up.
    deadline: Option<Instant>,
    /// Files read a moment ago.
    fresh: Option<Loaded>,
    v5: bool,
    diagnosis: Diagnosis,
}

impl<N: Fn(Event)> Worker<N> {
    pub(super) fn new(
        config: Config,
        on_message: Option<OnMessage>,
        commands: Sender<Command>,
        notify: N,
    ) -> Self {
        Self {
            v5: config.version != Version::V311,
            fresh: config.loaded.clone(),
            config,
            on_message,
            commands,
            notify,
            current: None,
            aside: Vec::new(),
            deadline: None,
            diagnosis: Diagnosis::default(),
        }
    }

    pub(super) fn run(mut self, inbox: &Receiver<Command>) {
        stay_on_one_core();
        loop {
            let waiting = self.current.as_ref().is_some_and(Session::has_deliveries);
            let command = if waiting {
                inbox.recv_timeout(COLLECT)
            } else {
                inbox.recv().map_err(RecvTimeoutError::from)
            };
            match command {
                Ok(command) => self.carry_out(command),
                Err(RecvTimeoutError::Timeout) => self.collect(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Connect {
                generation,
                deadline,
            } => self.connect(generation, deadline),
            Command::Publish {
                generation,
                messages,
            } => self.publish(generation, &messages),
            Command::Subscribe {
                generation,
                filter,
                text,
                qos,
            } => {
                if let Some(session) = self.current(generation) {
                    session.subscribe(filter, text, qos);
                    self.wake(generation);
                }
            }
            Command::Abandon { generation } => self.abandon(generation),
            Command::Disconnect { generation } => match self.current(generation) {
                Some(session) => {
                    session.disconnect();
                    self.wake(generation);
                }
                None => (self.notify)(Event::Disconnected { generation }),
            },
            Command::Wake { generation } => self.wake(generation),
            Command::Lost { generation } => self.lost(generation),
            Command::Farewell { generation, fault } => {
                if let Some(session) = self.current(generation) {
                    session.farewell = Some(fault);
                    self.lost(generation);
                }
            }
        }
    }

    fn current(&mut self, generation: u64) -> Option<&mut Session> {
        self.current
            .as_mut()
            .filter(|session| session.generation == generation)
    }

    fn ended(&self, generation: u64, fault: Fault) {
        (self.notify)(Event::Ended { generation, fault });
    }

    fn connect(&mut self, generation: u64, deadline: Instant) {
        self.deadline = Some(deadline);
        if clock() >= deadline {
            // It lay behind one that hung; the loop has given it up long ago.
            return;
        }
        self.v5 = self.config.version != Version::V311;
        if let Err(fault) = self.attempt(generation) {
            self.ended(generation, fault);
        }
    }

    /// Starts one attempt, with a fresh client.
    fn attempt(&mut self, generation: u64) -> Result<(), Fault> {
        if self.aside.iter().filter(|s| s.is_connecting()).count() >= MAX_ASIDE {
            let endpoint = &self.config.endpoint;
            let message = format!("{endpoint}: {MAX_ASIDE} earlier attempts are still hanging");
            return Err(Fault::passing(Exit::Unavailable, message));
        }
        let loaded = self.load()?;
        self.diagnosis
            .before_attempt(&self.config, &loaded, self.deadline)?;
        let session = Session::start(
            generation,
            &self.config,
            &loaded,
            self.v5,
            self.on_message.as_ref(),
            &self.commands,
        )
        .map_err(|e| {
            let message = format!("{}: the MQTT library refuses: {e}", self.config.endpoint);
            Fault::permanent(Exit::Config, message)
        })?;
        self.retire();
        self.current = Some(session);
        // Only now: dropping the last client would wait for Paho's threads to end.
        self.aside.retain(Session::is_connecting);
        self.wake(generation);
        Ok(())
    }

    fn load(&mut self) -> Result<Loaded, Fault> {
        let loaded = match self.fresh.take() {
            Some(loaded) => loaded,
            None => self.config.tls.load()?,
        };
        self.config.tls.check_dates(&loaded, wall_clock())?;
        Ok(loaded)
    }

    fn publish(&mut self, generation: u64, messages: &[(u64, Arc<Message>)]) {
        let Some(session) = self.current(generation) else {
            return;
        };
        let mut settled: Vec<(u64, Delivery)> = Vec::new();
        for (name, message) in messages {
            settled.extend(session.publish(*name, message).map(|end| (*name, end)));
        }
        settled.extend(session.take_deliveries_unless_armed());
        self.settle(generation, settled);
    }

    fn settle(&self, generation: u64, settled: Vec<(u64, Delivery)>) {
        if !settled.is_empty() {
            (self.notify)(Event::Deliveries {
                generation,
                settled,
            });
        }
    }

    /// Looks at everything that may have completed.
    fn wake(&mut self, generation: u64) {
        self.tidy(generation);
        let Some(session) = self.current(generation) else {
            return;
        };
        match session.connect_result() {
            Some(Ok(response)) => return self.accepted(generation, &response),
            Some(Err((error, hint))) => return self.failed(generation, error, hint),
            None => {}
        }
        let settled = session.take_deliveries();
        let subscribed = session.take_subscribed();
        let disconnected = session.disconnected();
        self.settle(generation, settled);
        for (filter, answer) in subscribed {
            (self.notify)(Event::Subscribed {
                generation,
                filter,
                answer,
            });
        }
        if disconnected {
            self.retire();
            (self.notify)(Event::Disconnected { generation });
        }
    }

    fn accepted(&mut self, generation: u64, response: &ServerResponse) {
        self.diagnosis.acquit();
        let properties = response.properties();
        let number = |code| properties.get_int(code);
        (self.notify)(Event::Connected {
            generation,
            accepted: Accepted {
                mqtt_version: if self.v5 { 5 } else { 4 },
                receive_maximum: number(PropertyCode::ReceiveMaximum)
                    .and_then(|n| u16::try_from(n).ok()),
                maximum_packet_size: properties
                    .get(PropertyCode::MaximumPacketSize)
                    .and_then(|property| property.get_u32()),
                maximum_qos: number(PropertyCode::MaximumQos).and_then(|n| u8::try_from(n).ok()),
                retain_available: number(PropertyCode::RetainAvailable) != Some(0),
            },
        });
    }

    /// The connect failed: finds the cause, or falls back to MQTT 3.1.1.
    fn failed(&mut self, generation: u64, error: Error, hint: Hint) {
        self.retire();
        let speaks_older = match &error {
            Error::ReasonCode(ReasonCode::UnsupportedProtocolVersion, _) => true,
            // A broker of old answers with a return code of MQTT 3, which is no reason code,
            // and Paho makes nothing of it; a name that does not resolve looks the same.
            Error::Failure if self.v5 => match probe::resolve(&self.config.endpoint) {
                Ok(_) => true,
                Err(fault) => return self.ended(generation, fault),
            },
            _ => false,
        };
        if speaks_older && self.v5 && self.config.version == Version::Any {
            self.v5 = false;
            if let Err(fault) = self.attempt(generation) {
                self.ended(generation, fault);
            }
            return;
        }
        let fault = self
            .diagnosis
            .cause(&self.config, error, hint, self.deadline);
        self.ended(generation, fault);
    }

    /// The connection is gone.
    fn lost(&mut self, generation: u64) {
        let Some(session) = self.current(generation) else {
            return;
        };
        if let Some(Err((error, hint))) = session.connect_result() {
            return self.failed(generation, error, hint);
        }
        // Acknowledgements that came before the end count.
        let settled = session.take_deliveries();
        let farewell = session.farewell.take();
        self.retire();
        self.settle(generation, settled);
        let fault = farewell.unwrap_or_else(|| {
            Fault::passing(
                Exit::Unavailable,
                format!("{}: the connection was lost", self.config.endpoint),
            )
        });
        self.ended(generation, fault);
    }

    fn abandon(&mut self, generation: u64) {
        if let Some(session) = self.current(generation) {
            let settled = session.take_deliveries();
            if !session.is_connecting() {
                session.disconnect();
            }
            self.retire();
            self.settle(generation, settled);
        }
    }

    /// Acknowledgements that no wake has told of.
    fn collect(&mut self) {
        if let Some(session) = &mut self.current {
            let generation = session.generation;
            let settled = session.take_deliveries();
            self.settle(generation, settled);
        }
    }

    /// Puts the current session aside; the next attempt drops those that have ended.
    fn retire(&mut self) {
        self.aside.extend(self.current.take());
    }

    /// An attempt that was given up has come to its end after all. If it was accepted, it
    /// must not stay: it would take the session of the connection that follows.
    fn tidy(&mut self, generation: u64) {
        for session in &mut self.aside {
            if session.generation == generation && matches!(session.connect_result(), Some(Ok(_))) {
                session.disconnect();
            }
        }
    }
}

/// Keeps this thread, and Paho's threads that it is going to start, on the core it is on.
/// Paho hands every message from thread to thread under global locks; on two cores they
/// mostly wait for each other. Where the system does not allow it, nothing is lost.
fn stay_on_one_core() {
    let mut here = CpuSet::new();
    if sched_getcpu().and_then(|core| here.set(core)).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &here);
    }
}
