//! CONNECT, publish, subscribe: what can be known only from the broker.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use super::report::Report;
use super::{step_name, steps_after_tcp, tell};
use crate::common::cli::check_args::CheckConfig;
use crate::common::client::{Accepted, Client, Delivery, Event, Refusal, Request};
use crate::common::connection::driver::OLDER;
use crate::common::fault::{Exit, Fault, Kind};
use crate::common::mqtt::limits;
use crate::common::mqtt::message::{Draft, Message, Qos};
use crate::common::mqtt::reason_code::FIRST_ERROR;
use crate::common::runtime::clock::{clock, send, unix_ms, wait};
use crate::common::transport::{Passed, Step};

/// So long a connection must last: another client with the same identifier, once thrown out,
/// comes back after a second.
const STAY: Duration = Duration::from_millis(2_500);

/// Before another attempt.
const PAUSE: Duration = Duration::from_millis(500);

/// So long a connection on which nothing is asked must last to show that the broker keeps connections.
const IDLE: Duration = Duration::from_secs(1);

/// What is published.
const MESSAGE: &str = "{\"check\":\"iot-pubsub\"}";

/// The part of the check that connects.
pub(super) struct Online<'a> {
    config: &'a CheckConfig,
    client: Client,
    inbox: Receiver<Event>,
    generation: u64,
    connected: bool,
    /// CONNECTs in a row that were not answered.
    unanswered: u32,
    attempted: Option<Instant>,
    /// A port that was refused, or a CONNECT that was not answered, since this was last cleared.
    was_down: bool,
    /// What comes next on the way to a connection: the stage that is to blame for silence.
    next: Stage,
}

/// A stage of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Dial(Step),
    /// CONNECT and its answer.
    Connect,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Dial(step) => step_name(step),
            Self::Connect => "CONNECT",
        }
    }
}

/// Why a step has no answer.
type End = (Option<Step>, Fault);

/// Why a step has failed on the second connection too.
enum Failure {
    /// Both were closed in order, right after what was asked, and one without it was not: the broker does not want
    /// it.
    Refused(Fault),
    /// Anything else.
    Fault(Fault),
}

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
            unanswered: 0,
            attempted: None,
            was_down: false,
            next: Stage::Dial(Step::Dns),
        })
    }

    pub(super) fn examine(&mut self, report: &mut Report) {
        let later = &steps_after_tcp(self.config)[1..];
        let mut answer = self.connect(Some(&mut *report));
        if answer
            .as_ref()
            .is_err_and(|(_, fault)| fault.kind == Kind::Unanswered)
        {
            // The broker may restart, or speak only MQTT 3.1.1.
            answer = self.connect_again();
        }
        match answer {
            Ok(accepted) => report.ok("CONNECT", describe(&accepted)),
            Err((step, fault)) => {
                let failed = step.map_or(self.next, Stage::Dial);
                report.failed(failed.name(), &fault);
                let before_tls = [Step::Dns, Step::Tcp, Step::Proxy].map(Stage::Dial);
                if before_tls.contains(&failed) && self.config.connection.endpoint.tls {
                    report.skipped("TLS", "needs a connection");
                }
                for step in later.iter().filter(|step| **step != failed.name()) {
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
        self.next = Stage::Dial(Step::Dns);
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
        self.unanswered = match &answer {
            Err((_, fault)) if fault.kind == Kind::Unanswered => self.unanswered + 1,
            _ => 0,
        };
        if answer.is_err() {
            self.client.abandon(self.generation);
        }
        answer
    }

    /// Connects after a connection has ended. A broker that restarts is given the connect timeout for it.
    fn connect_again(&mut self) -> Result<Accepted, End> {
        self.connect_again_after(PAUSE)
    }

    /// As [`Self::connect_again`], with this pause before the first attempt.
    fn connect_again_after(&mut self, mut pause: Duration) -> Result<Accepted, End> {
        let until = clock() + self.config.connection.connect_timeout;
        // MQTT 3.1.1 is tried third.
        let tries_older = self.config.connection.tries_older_mqtt();
        let enough = if tries_older { 3 } else { 2 };
        loop {
            let pause_until = clock() + pause;
            while wait(&self.inbox, Some(pause_until)).is_some() {}
            pause = PAUSE;
            let answer = self.connect(None);
            self.was_down |= answer.as_ref().is_err_and(|(step, fault)| {
                fault.kind == Kind::Unanswered
                    || *step == Some(Step::Tcp) && fault.exit == Exit::Unavailable
            });
            let goes_on = answer.as_ref().is_err_and(|(_, fault)| match fault.kind {
                Kind::Unanswered => self.unanswered < enough,
                _ => fault.exit == Exit::Unavailable && clock() < until,
            });
            if !goes_on {
                return answer;
            }
        }
    }

    /// Asks for something, and a second time on another connection if the first ends before the answer: that
    /// may be the network's doing, or a broker that restarts.
    fn ask<T>(
        &mut self,
        request: impl Fn(&Self),
        answer: impl Fn(&Event) -> Option<T>,
    ) -> Result<T, Failure> {
        let timeout = self.config.connection.operation_timeout;
        let mut before: Option<Kind> = None;
        loop {
            self.ensure_connected().map_err(Failure::Fault)?;
            request(self);
            let fault = match self.hear(timeout, None, &answer) {
                Ok(answer) => return Ok(answer),
                Err((_, fault)) => fault,
            };
            if self.connected || fault.exit != Exit::Unavailable {
                return Err(Failure::Fault(fault));
            }
            if let Some(before) = before {
                return Err(self.ended_twice(before, fault));
            }
            before = Some(fault.kind);
        }
    }

    /// Why two connections have ended before an answer: what was asked is to blame only if one on which nothing is
    /// asked lasts.
    fn ended_twice(&mut self, before: Kind, fault: Fault) -> Failure {
        if let Err(fault) = self.ensure_connected() {
            return Failure::Fault(fault);
        }
        match self.hear(IDLE, None, |_| None::<()>) {
            Err((_, idle)) if !self.connected && idle.kind == Kind::Closed => {
                let host = &self.config.connection.endpoint;
                let message = format!(
                    "{host}: the broker closes every connection right after CONNACK, whatever is asked"
                );
                Failure::Fault(Fault::passing(Exit::Unavailable, message).with_remedy(
                    "see the log of the broker, or of the proxy or load balancer in front of it",
                ))
            }
            _ if self.connected && before == Kind::Closed && fault.kind == Kind::Closed => {
                Failure::Refused(fault)
            }
            _ => Failure::Fault(fault),
        }
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
        let message = format!("{host}: no answer within {within:?}");
        let fault = Fault::passing(Exit::Unavailable, message)
            .with_remedy("is the network up, is the broker well?");
        let kind = match self.next {
            Stage::Connect if !self.connected => Kind::Unanswered,
            _ => Kind::Other,
        };
        Err((None, fault.of_kind(kind)))
    }

    /// The stage that follows a step that went well.
    fn after(&self, passed: &Passed) -> Stage {
        let connection = &self.config.connection;
        let after_tls = match connection.endpoint.websocket {
            Some(_) => Stage::Dial(Step::WebSocket),
            None => Stage::Connect,
        };
        let after_tcp = if connection.endpoint.tls {
            Stage::Dial(Step::Tls)
        } else {
            after_tls
        };
        match passed {
            Passed::Resolved(_) => Stage::Dial(Step::Tcp),
            Passed::Connected(_) if connection.proxy.is_some() => Stage::Dial(Step::Proxy),
            Passed::Connected(_) | Passed::Tunnelled => after_tcp,
            Passed::Secured(_) => after_tls,
            Passed::Upgraded => Stage::Connect,
            Passed::WentOn(_) => Stage::Dial(Step::Dns),
        }
    }

    /// Whether the connection lasts: another client with the same identifier would end it. If it does not, nor does
    /// the next: once is what a broker that restarts does.
    fn stays(&mut self, report: &mut Report) -> bool {
        let mut closed_before = false;
        self.was_down = false;
        for (stay, is_last) in [(STAY, false), (STAY * 2, true)] {
            // At once: a broker that restarts may be down for some milliseconds only.
            if !self.connected
                && let Err((_, fault)) = self.connect_again_after(Duration::ZERO)
            {
                report.failed("client id", &fault);
                return false;
            }
            let fault = match self.hear(stay, None, |_| None::<()>) {
                Err((_, fault)) if !self.connected => fault,
                _ => break,
            };
            let closed = fault.kind == Kind::Closed;
            if is_last || fault.exit != Exit::Unavailable {
                // Another client does not close the broker's port.
                let fault = self.left(fault, closed && closed_before && !self.was_down);
                report.failed("client id", &fault);
                return false;
            }
            closed_before = closed;
        }
        let id = &self.config.connection.client_id;
        report.ok("client id", format!("{id}: nobody else has it"));
        true
    }

    /// What it means that the connection did not last.
    fn left(&self, fault: Fault, closed_twice: bool) -> Fault {
        let id = &self.config.connection.client_id;
        match fault.kind {
            Kind::TakenOver => fault.with_remedy(
                "another client is connected with this --client-id; give each its own (a service of yours? stop \
                 it for the check)",
            ),
            _ if closed_twice => Fault::passing(
                Exit::Refused,
                format!("{}, twice within seconds after CONNACK", fault.message),
            )
            .with_remedy(format!(
                "is another client connected with the client id {id:?}? give each its own --client-id (a service \
                 of yours? stop it for the check)"
            )),
            _ => fault,
        }
    }

    fn ensure_connected(&mut self) -> Result<(), Fault> {
        if self.connected {
            return Ok(());
        }
        self.connect_again().map(|_| ()).map_err(|(_, fault)| fault)
    }

    fn publish(&mut self, topic: &str, report: &mut Report) {
        let message = Arc::new(message(topic));
        let request = |online: &Self| {
            let message = Arc::clone(&message);
            online.client.publish(online.generation, vec![(1, message)]);
        };
        let answer = self.ask(request, |event| match event {
            Event::Deliveries { settled, .. } => settled.first().map(|(_, end)| end.clone()),
            _ => None,
        });
        let what = format!("a message for {topic:?}");
        let fault = match answer {
            Ok(Delivery::Done) => return report.ok("publish", format!("{topic}: acknowledged")),
            Ok(Delivery::NotNow) => {
                let message = format!("the broker refuses {what} now");
                Fault::passing(Exit::Unavailable, message).with_remedy("it may accept later")
            }
            Ok(Delivery::Refused(refusal)) => self.refused(&what, &refusal, Request::Publish),
            Err(failure) => self.failed(&what, failure, Request::Publish),
        };
        report.failed("publish", &fault);
    }

    fn subscribe(&mut self, filter: &str, report: &mut Report) {
        let request = |online: &Self| {
            let (generation, filter) = (online.generation, filter.to_owned());
            online
                .client
                .subscribe(generation, 0, filter, Qos::AtLeastOnce);
        };
        let answer = self.ask(request, |event| match event {
            Event::Subscribed { answer, .. } => Some(answer.clone()),
            _ => None,
        });
        let what = format!("the subscription to {filter:?}");
        let fault = match answer {
            Ok(Ok(qos)) => {
                return report.ok("subscribe", format!("{filter}: granted with QoS {qos}"));
            }
            Ok(Err(refusal)) => self.refused(&what, &refusal, Request::Subscribe),
            Err(failure) => self.failed(&what, failure, Request::Subscribe),
        };
        report.failed("subscribe", &fault);
    }

    /// The broker has refused it with a reason code.
    fn refused(&self, what: &str, refusal: &Refusal, request: Request) -> Fault {
        let message = format!("the broker refuses {what}: {}", refusal.reason);
        let remedy = refusal.remedy(self.config.connection.endpoint.profile, request);
        Fault::permanent(refusal.exit(), message).with_remedy(remedy)
    }

    /// It has not been answered on either connection.
    fn failed(&self, what: &str, failure: Failure, request: Request) -> Fault {
        match failure {
            Failure::Fault(fault) => fault,
            Failure::Refused(fault) => {
                // A refusal of MQTT 3.1.1 has no reason code either.
                let refusal = Refusal {
                    code: FIRST_ERROR,
                    reason: format!("{}, right after it, twice", fault.message),
                };
                self.refused(what, &refusal, request)
            }
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
    if accepted.by_fallback {
        told = format!("{told}; {OLDER}; --mqtt-version 3.1.1 connects at once");
    }
    told
}

fn message(topic: &str) -> Message {
    Message {
        id: 0,
        stream: "check".into(),
        seq: 0,
        accepted_ms: unix_ms(),
        accepted_boot: None,
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
