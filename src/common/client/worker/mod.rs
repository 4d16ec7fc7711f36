//! The worker thread: carries out commands, watches tokens, names causes.
//!
//! It owns every Paho object. The event loop has its own deadlines and does not wait for it.
//!
//! * `dialling` is the way to a connection, `ending` the end of one.

mod dialling;
mod ending;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Instant;

use super::session::{Dialled, SWEEP, Session};
use super::versions::Versions;
use super::{Accepted, Config, Delivery, Event, Listener};
use crate::common::broker::profile::Profile;
use crate::common::fault::Fault;
use crate::common::mqtt::connack::Connack;
use crate::common::mqtt::message::{Message, Qos};
use crate::common::runtime::affinity;
use crate::common::runtime::clock::{clock, receive_within};
use crate::common::transport::bridge::{Direction, Severed};
use crate::common::transport::credentials::files::Loaded;
use crate::common::transport::{Handle, Passed, Step};

/// What the worker is told, by the event loop, by Paho's threads and by the connections'.
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
    Unsubscribe {
        generation: u64,
        filters: Vec<String>,
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
    /// There is a connection to say CONNECT on.
    Dialled {
        generation: u64,
        dialled: Dialled,
    },
    /// There is none.
    Undialled {
        generation: u64,
        dial: u64,
        step: Step,
        fault: Fault,
    },
    /// A step towards one went well.
    Passed {
        generation: u64,
        passed: Passed,
    },
    /// The broker has accepted the connection of this dial.
    Accepted {
        dial: u64,
        connack: Connack,
    },
    /// The line of this dial makes progress.
    Progress {
        dial: u64,
        direction: Direction,
    },
    /// One has ended, for whichever reason.
    Severed {
        dial: u64,
        severed: Severed,
    },
}

/// A dial under way.
struct Dialling {
    generation: u64,
    number: u64,
    handle: Arc<Handle>,
}

pub(super) struct Worker<N> {
    config: Config,
    listener: Option<Listener>,
    commands: Sender<Command>,
    notify: N,
    dialling: Option<Dialling>,
    dials: u64,
    /// Threads that dial, or carry bytes.
    threads: Arc<AtomicUsize>,
    /// The port by which the broker was reached.
    proven: Option<u16>,
    current: Option<Session>,
    /// Sessions that are over but must not be dropped yet.
    aside: Vec<Session>,
    /// When the attempt under way will be given up.
    deadline: Option<Instant>,
    /// Files read a moment ago.
    fresh: Option<Loaded>,
    /// Files were as they should be at an earlier attempt.
    were_good: bool,
    /// The MQTT password, for the attempt under way.
    password: Option<String>,
    /// What was said of a certificate that ends soon.
    warned: Option<String>,
    versions: Versions,
    /// When MQTT 5 without an answer is given up for 3.1.1, in the attempt under way.
    switch_at: Option<Instant>,
    v5: bool,
}

impl<N: Fn(Event)> Worker<N> {
    pub(super) fn new(
        config: Config,
        listener: Option<Listener>,
        commands: Sender<Command>,
        notify: N,
    ) -> Self {
        Self {
            versions: Versions::new(
                config.version,
                config.route.endpoint.profile == Profile::Generic,
            ),
            switch_at: None,
            v5: true,
            fresh: config.loaded.clone(),
            config,
            listener,
            commands,
            notify,
            dialling: None,
            dials: 0,
            threads: Arc::default(),
            proven: None,
            current: None,
            aside: Vec::new(),
            deadline: None,
            were_good: false,
            password: None,
            warned: None,
        }
    }

    pub(super) fn run(mut self, inbox: &Receiver<Command>) {
        affinity::gather();
        loop {
            let waiting = self.current.as_ref().is_some_and(Session::has_deliveries);
            let command = match self.switch_at {
                _ if waiting => receive_within(inbox, SWEEP),
                Some(at) => receive_within(inbox, at.saturating_duration_since(clock())),
                None => inbox.recv().map_err(RecvTimeoutError::from),
            };
            match command {
                Ok(command) => self.carry_out(command),
                Err(RecvTimeoutError::Timeout) if waiting => self.collect(),
                Err(RecvTimeoutError::Timeout) => self.switch(),
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
            Command::Unsubscribe {
                generation,
                filters,
            } => {
                if let Some(session) = self.current(generation) {
                    session.unsubscribe(&filters);
                }
            }
            Command::Abandon { generation } => self.abandon(generation),
            Command::Disconnect { generation } => self.disconnect(generation),
            Command::Wake { generation } => self.wake(generation),
            Command::Lost { generation } => self.lost(generation),
            Command::Accepted { dial, connack } => {
                if let Some(session) = self.current.as_mut().filter(|s| s.dial == dial) {
                    session.accept(connack);
                    let generation = session.generation;
                    self.wake(generation);
                }
            }
            Command::Dialled {
                generation,
                dialled,
            } => self.dialled(generation, dialled),
            Command::Undialled {
                generation,
                dial,
                step,
                fault,
            } => {
                if self.dialling(dial) {
                    self.versions.interrupted();
                    (self.notify)(Event::Ended {
                        generation,
                        step: Some(step),
                        code: None,
                        fault,
                        reached: None,
                    });
                }
            }
            Command::Progress { dial, direction } => {
                if let Some(session) = self.current.as_ref().filter(|s| s.dial == dial) {
                    let generation = session.generation;
                    (self.notify)(Event::Progress {
                        generation,
                        direction,
                    });
                }
            }
            Command::Passed { generation, passed } => {
                (self.notify)(Event::Passed { generation, passed });
            }
            Command::Severed { dial, severed } => self.severed(dial, severed),
        }
    }

    fn current(&mut self, generation: u64) -> Option<&mut Session> {
        self.current
            .as_mut()
            .filter(|session| session.generation == generation)
    }

    fn ended(&self, generation: u64, fault: Fault) {
        (self.notify)(Event::Ended {
            generation,
            step: None,
            code: None,
            fault,
            reached: None,
        });
    }

    fn connect(&mut self, generation: u64, deadline: Instant) {
        self.deadline = Some(deadline);
        if clock() >= deadline {
            // It lay behind one that hung; the loop has given it up long ago.
            return;
        }
        self.v5 = self.versions.begins_with_five(clock());
        if let Err(fault) = self.attempt(generation) {
            self.ended(generation, fault);
        }
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
        if session.disconnected() {
            let settled = session.take_deliveries();
            self.settle(generation, settled);
            self.retire();
            (self.notify)(Event::Disconnected { generation });
            return;
        }
        match session.connect_result() {
            Some(Ok(())) => return self.accepted(generation),
            Some(Err(_)) => return self.failed(generation),
            None => {}
        }
        let settled = session.take_deliveries();
        let subscribed = session.take_subscribed();
        self.settle(generation, settled);
        for (filter, answer) in subscribed {
            (self.notify)(Event::Subscribed {
                generation,
                filter,
                answer,
            });
        }
    }

    fn accepted(&mut self, generation: u64) {
        let session = self.current.as_ref();
        let Some((session, connack)) = session.and_then(|s| Some((s, s.connack()?))) else {
            return;
        };
        let port = session.way.port;
        self.proven = Some(port);
        self.switch_at = None;
        let by_fallback = self.versions.accepted(self.v5, clock());
        (self.notify)(Event::Connected {
            generation,
            accepted: Accepted {
                mqtt_version: if self.v5 { 5 } else { 4 },
                by_fallback,
                port,
                session_present: connack.session_present,
                receive_maximum: connack.receive_maximum,
                maximum_packet_size: connack.maximum_packet_size,
                maximum_qos: connack.maximum_qos,
                retain_available: connack.retain_available,
            },
        });
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

    /// Sessions that were given up come to their end.
    fn tidy(&mut self, generation: u64) {
        for session in &mut self.aside {
            if session.generation == generation {
                // Whatever it says: nobody waits for it any more.
                let _ = session.connect_result();
            }
        }
    }
}
