//! CONNECT, publish, subscribe: what can be known only from the broker.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use super::report::Report;
use super::{step_name, steps_after_tcp, tell};
use crate::common::cli::doctor::CheckConfig;
use crate::common::client::{Accepted, Client, Delivery, Event, Refusal};
use crate::common::event_loop::{clock, send, unix_ms, wait};
use crate::common::fault::{Exit, Fault};
use crate::common::limits;
use crate::common::message::{Draft, Message, Qos};
use crate::common::transport::{Passed, Step};

/// So long a connection must last: another client with the same identifier, once thrown out,
/// comes back after a second.
const STAY: Duration = Duration::from_millis(2_500);

/// What is published.
const MESSAGE: &str = "{\"check\":\"iot-pubsub\"}";

/// The part of the check that connects.
pub(super) struct Online<'a> {
    config: &'a CheckConfig,
    client: Client,
    inbox: Receiver<Event>,
    generation: u64,
    connected: bool,
    attempted: Option<Instant>,
    /// What comes next on the way to a connection: the step that is to blame for silence.
    next: &'static str,
}

/// Why a step has no answer.
type End = (Option<Step>, Fault);

impl<'a> Online<'a> {
    pub(super) fn start(config: &'a CheckConfig) -> std::io::Result<Self> {
        let (events, inbox) = mpsc::channel();
        let client = Client::start(config.connection.client(1, false), None, move |event| {
            send(&events, event);
        })?;
        Ok(Self {
            config,
            client,
            inbox,
            generation: 0,
            connected: false,
            attempted: None,
            next: "DNS",
        })
    }

    pub(super) fn examine(&mut self, report: &mut Report) {
        let later = &steps_after_tcp(self.config)[1..];
        match self.connect(Some(&mut *report)) {
            Ok(accepted) => report.ok("CONNECT", describe(&accepted)),
            Err((step, fault)) => {
                let failed = step.map_or(self.next, step_name);
                report.failed(failed, &fault);
                let before_tls = ["DNS", "TCP", "proxy"].contains(&failed);
                if before_tls && self.config.connection.endpoint.tls {
                    report.skipped("TLS", "needs a connection");
                }
                for step in later.iter().filter(|step| **step != failed) {
                    report.skipped(step, "needs a connection");
                }
                return;
            }
        }
        if self.config.connection.client_id_given && !self.stays(report) {
            for step in later.iter().skip_while(|s| **s != "client id").skip(1) {
                report.skipped(step, "needs a connection that stays");
            }
            return;
        }
        for topic in &self.config.topics {
            if limits::check_topic_name(topic).is_ok() {
                self.publish(topic, report);
            } else {
                report.skipped("publish", &format!("{topic}: a filter is no topic name"));
            }
            self.subscribe(topic, report);
        }
        self.client.disconnect(self.generation);
        let _: Result<(), _> = self.hear(Duration::from_secs(1), None, |event| {
            matches!(event, Event::Disconnected { .. }).then_some(())
        });
    }

    /// Connects; tells each step on the way if there is somebody to tell.
    fn connect(&mut self, report: Option<&mut Report>) -> Result<Accepted, End> {
        let connection = &self.config.connection;
        if let Some(at) = self.attempted {
            // AWS IoT Core takes one CONNECT a second of one client identifier.
            let until = at + connection.profile.connect_interval();
            while wait(&self.inbox, Some(until)).is_some() {}
        }
        self.next = "DNS";
        self.generation += 1;
        self.attempted = Some(clock());
        let deadline = clock() + connection.connect_timeout;
        self.client.connect(self.generation, deadline);
        let timeout = connection.connect_timeout + Duration::from_millis(200);
        let answer = self.hear(timeout, report, |event| match event {
            Event::Connected { accepted, .. } => Some(*accepted),
            _ => None,
        });
        self.connected = answer.is_ok();
        if answer.is_err() {
            self.client.abandon(self.generation);
        }
        answer
    }

    /// Waits for an answer.
    fn hear<T>(
        &mut self,
        within: Duration,
        mut report: Option<&mut Report>,
        answer: impl Fn(&Event) -> Option<T>,
    ) -> Result<T, End> {
        let until = clock() + within;
        while let Some(event) = wait(&self.inbox, Some(until)) {
            if let Event::Passed { passed, .. } = &event {
                self.next = self.after(passed);
                if let Some(report) = &mut report {
                    tell(passed, report);
                }
            }
            if generation(&event) != self.generation {
                continue;
            }
            if let Some(answer) = answer(&event) {
                return Ok(answer);
            }
            if let Event::Ended {
                generation,
                step,
                fault,
                ..
            } = event
                && generation == self.generation
            {
                self.connected = false;
                return Err((step, fault));
            }
        }
        let host = &self.config.connection.endpoint;
        let message =
            format!("{host}: no answer within {within:?}; is the network up, is the broker well?");
        Err((None, Fault::passing(Exit::Unavailable, message)))
    }

    /// The step that follows one that went well.
    fn after(&self, passed: &Passed) -> &'static str {
        let connection = &self.config.connection;
        let after_tls = match connection.endpoint.websocket {
            Some(_) => "WebSocket",
            None => "CONNECT",
        };
        let after_tcp = if connection.endpoint.tls {
            "TLS"
        } else {
            after_tls
        };
        match passed {
            Passed::Resolved(_) => "TCP",
            Passed::Connected(_) if connection.proxy.is_some() => "proxy",
            Passed::Connected(_) | Passed::Tunnelled => after_tcp,
            Passed::Secured(_) => after_tls,
            Passed::Upgraded => "CONNECT",
            Passed::WentOn(_) => "DNS",
        }
    }

    /// Whether the connection lasts: another client with the same identifier would end it.
    fn stays(&mut self, report: &mut Report) -> bool {
        let id = self.config.connection.client_id.clone();
        match self.hear(STAY, None, |_| None::<()>) {
            Err((_, fault)) if !self.connected => {
                let fault = if fault.message.contains("--client-id") || fault.exit == Exit::Protocol
                {
                    let why = format!("{fault} (a service of yours? stop it for the check)");
                    Fault::passing(fault.exit, why)
                } else {
                    Fault::passing(
                        Exit::Refused,
                        format!(
                            "{fault}; is another client connected with the client id {id:?}? give \
                             each its own --client-id (a service of yours? stop it for the check)"
                        ),
                    )
                };
                report.failed("client id", &fault);
                false
            }
            _ => {
                report.ok("client id", format!("{id}: nobody else has it"));
                true
            }
        }
    }

    fn reconnected(&mut self, step: &'static str, report: &mut Report) -> bool {
        if self.connected {
            return true;
        }
        match self.connect(None) {
            Ok(_) => true,
            Err((_, fault)) => {
                report.failed(step, &fault);
                false
            }
        }
    }

    fn publish(&mut self, topic: &str, report: &mut Report) {
        if !self.reconnected("publish", report) {
            return;
        }
        let message = Arc::new(message(topic));
        self.client.publish(self.generation, vec![(1, message)]);
        let timeout = self.config.connection.operation_timeout;
        let answer = self.hear(timeout, None, |event| match event {
            Event::Deliveries { settled, .. } => settled.first().map(|(_, end)| end.clone()),
            _ => None,
        });
        let refused = |why: &str, exit| {
            let message = format!(
                "the broker refuses a message for {topic:?}: {why}; check what its policy allows \
                 this client to publish (iot:Publish)"
            );
            Fault::permanent(exit, message)
        };
        match answer {
            Ok(Delivery::Done) => report.ok("publish", format!("{topic}: acknowledged")),
            Ok(Delivery::NotNow) => {
                report.failed("publish", &refused("not now", Exit::Unavailable));
            }
            Ok(Delivery::Refused(refusal)) => {
                report.failed("publish", &refused(&refusal.reason, refusal.exit()));
            }
            Err((_, fault)) if !self.connected && fault.exit == Exit::Unavailable => {
                report.failed("publish", &refused(&fault.to_string(), Exit::Refused));
            }
            Err((_, fault)) => report.failed("publish", &fault),
        }
    }

    fn subscribe(&mut self, filter: &str, report: &mut Report) {
        if !self.reconnected("subscribe", report) {
            return;
        }
        let generation = self.generation;
        self.client
            .subscribe(generation, 0, filter.to_owned(), Qos::AtLeastOnce);
        let timeout = self.config.connection.operation_timeout;
        let answer: Result<Result<u8, Refusal>, End> =
            self.hear(timeout, None, |event| match event {
                Event::Subscribed { answer, .. } => Some(answer.clone()),
                _ => None,
            });
        let refused = |why: &str, exit| {
            let message = format!(
                "the broker refuses the subscription to {filter:?}: {why}; check what its policy \
                 allows this client to subscribe to (iot:Subscribe)"
            );
            Fault::permanent(exit, message)
        };
        match answer {
            Ok(Ok(qos)) => report.ok("subscribe", format!("{filter}: granted with QoS {qos}")),
            Ok(Err(refusal)) => {
                report.failed("subscribe", &refused(&refusal.reason, refusal.exit()));
            }
            Err((_, fault)) if !self.connected && fault.exit == Exit::Unavailable => {
                report.failed("subscribe", &refused(&fault.to_string(), Exit::Refused));
            }
            Err((_, fault)) => report.failed("subscribe", &fault),
        }
    }
}

/// Which attempt an event is about.
fn generation(event: &Event) -> u64 {
    match event {
        Event::Connected { generation, .. }
        | Event::Ended { generation, .. }
        | Event::Passed { generation, .. }
        | Event::Progress { generation, .. }
        | Event::Deliveries { generation, .. }
        | Event::Subscribed { generation, .. }
        | Event::Disconnected { generation } => *generation,
    }
}

fn describe(accepted: &Accepted) -> String {
    let version = match accepted.mqtt_version {
        5 => "5",
        _ => "3.1.1",
    };
    let mut told = format!("MQTT {version}, port {}", accepted.port);
    if let Some(max) = accepted.receive_maximum {
        told = format!("{told}, {max} messages in flight");
    }
    if let Some(max) = accepted.maximum_packet_size {
        told = format!("{told}, packets of {max} bytes at most");
    }
    told
}

fn message(topic: &str) -> Message {
    Message {
        key: 0,
        stream: "check".into(),
        seq: 0,
        accepted_ms: unix_ms(),
        expires_ms: None,
        expires_at: None,
        attempts: 0,
        draft: Draft {
            topic: topic.into(),
            payload: MESSAGE.into(),
            qos: Qos::AtLeastOnce,
            retain: false,
            readings: 1,
        },
    }
}
