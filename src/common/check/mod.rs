//! `check`, the doctor: takes every step that a run takes, one after the other, and says what
//! works and what does not, with the cause and the next thing to do.
//!
//! It connects as a run does, through the same client, so that it finds what a run would find.
//! A step that cannot be taken because an earlier one failed is named all the same.

mod report;

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;

use super::cli::config::ConnectionConfig;
use super::cli::doctor::CheckConfig;
use super::client::{Accepted, Client, Delivery, Event, Refusal};
use super::event_loop::{clock, send, unix_ms, wait, wall_clock};
use super::fault::{Exit, Fault};
use super::limits;
use super::message::{Draft, Message, Qos};
use super::profile::{self, Profile};
use super::transport::files::Loaded;
use super::transport::{self, Handle, Passed, Step};
use report::Report;

/// When this program was made, about: a clock that shows an earlier time is wrong.
const MADE: u64 = 1_767_225_600;

/// So long a connection must last: another client with the same identifier, once thrown out,
/// comes back after a second.
const STAY: Duration = Duration::from_millis(2_500);

/// What is published.
const MESSAGE: &str = "{\"check\":\"iot-pubsub\"}";

/// Checks, and says what was found.
///
/// # Errors
///
/// What kept it from starting.
pub fn run(config: &CheckConfig) -> anyhow::Result<Exit> {
    let connection = &config.connection;
    let mut report = Report::new(connection.endpoint.to_string(), config.json);
    name(connection, &mut report);
    let now = wall_clock();
    check_clock(now, &mut report);
    let files_are_good = check_files(connection, now, &mut report);
    if !files_are_good {
        reach(connection, &mut report);
        for step in steps_after_tcp(config) {
            report.skipped(step, "needs the files");
        }
        return Ok(report.finish());
    }
    let mut doctor = Doctor::start(config).context("threads cannot be started")?;
    doctor.examine(&mut report);
    Ok(report.finish())
}

/// The broker, as the flags have it.
fn name(connection: &ConnectionConfig, report: &mut Report) {
    let ways = connection.endpoint.ways();
    let mut ways: Vec<String> = ways.iter().map(ToString::to_string).collect();
    if connection.profile == Profile::Aws {
        ways.push("limits of AWS IoT Core".into());
    }
    if let Some(proxy) = &connection.proxy {
        ways.push(format!("proxy {proxy}"));
    }
    ways.extend(profile::hint(&connection.endpoint.host));
    report.ok("endpoint", ways.join(", "));
}

fn check_clock(now: SystemTime, report: &mut Report) {
    let shown = humantime::format_rfc3339_seconds(now);
    if unix_ms() / 1_000 >= MADE {
        report.ok("clock", shown.to_string());
    } else {
        let message = format!("the clock says {shown}, which is over; set it, or start ntp");
        report.failed("clock", &Fault::permanent(Exit::Config, message));
    }
}

/// Whether certificate, key and CA are as they should be.
fn check_files(connection: &ConnectionConfig, now: SystemTime, report: &mut Report) -> bool {
    if !connection.endpoint.tls {
        report.ok("files", "none are needed without TLS");
        return true;
    }
    let (findings, loaded) = connection.files.examine(now);
    let mut good = loaded.is_some();
    for finding in findings {
        match finding.result {
            Ok(detail) => report.ok(finding.what, detail),
            Err(fault) => {
                report.failed(finding.what, &fault);
                good = false;
            }
        }
    }
    good
}

/// Looks how far one gets without the files: up to TLS.
fn reach(connection: &ConnectionConfig, report: &mut Report) {
    let mut route = connection.route();
    route.endpoint.tls = false;
    route.endpoint.websocket = None;
    let deadline = clock() + connection.connect_timeout;
    let handle = Handle::default();
    let follow = &mut |_: &_, passed| tell(&passed, report);
    let dialled = transport::dial(&route, &Loaded::default(), None, deadline, &handle, follow);
    if let Err(failed) = dialled {
        report.failed(step_name(failed.step), &failed.fault);
    }
}

fn steps_after_tcp(config: &CheckConfig) -> Vec<&'static str> {
    let mut steps = vec!["TLS", "CONNECT"];
    if config.connection.client_id_given {
        steps.push("client id");
    }
    if config.topic.is_some() {
        steps.extend(["publish", "subscribe"]);
    }
    steps
}

fn step_name(step: Step) -> &'static str {
    match step {
        Step::Dns => "DNS",
        Step::Tcp => "TCP",
        Step::Proxy => "proxy",
        Step::Tls => "TLS",
        Step::WebSocket => "WebSocket",
    }
}

/// A step of the dial that went well.
fn tell(passed: &Passed, report: &mut Report) {
    match passed {
        Passed::Resolved(addresses) => {
            let all: Vec<String> = addresses.iter().map(|a| a.ip().to_string()).collect();
            report.ok("DNS", all.join(", "));
        }
        Passed::Connected(address) => report.ok("TCP", address.to_string()),
        Passed::Tunnelled => report.ok("proxy", "has opened a tunnel"),
        Passed::Secured(facts) => {
            let alpn = match &facts.alpn {
                Some(name) => format!(", ALPN {name}"),
                None => String::new(),
            };
            report.ok("TLS", format!("{}, {}{alpn}", facts.version, facts.cipher));
            report.ok(
                "server",
                format!(
                    "{}, until {}; chain: {}",
                    facts.names,
                    facts.ends,
                    facts.chain.join(" < ")
                ),
            );
        }
        Passed::Upgraded => report.ok("WebSocket", "is open"),
        Passed::WentOn(fault) => {
            report.skipped("port", &format!("{fault}; going on to the next"));
        }
    }
}

/// The part that needs the network.
struct Doctor<'a> {
    config: &'a CheckConfig,
    client: Client,
    inbox: Receiver<Event>,
    generation: u64,
    online: bool,
    attempted: Option<Instant>,
}

/// Why a step has no answer.
type End = (Option<Step>, Fault);

impl<'a> Doctor<'a> {
    fn start(config: &'a CheckConfig) -> std::io::Result<Self> {
        let (events, inbox) = mpsc::channel();
        let client = Client::start(config.connection.client(1, false), None, move |event| {
            send(&events, event);
        })?;
        Ok(Self {
            config,
            client,
            inbox,
            generation: 0,
            online: false,
            attempted: None,
        })
    }

    fn examine(&mut self, report: &mut Report) {
        let later = &steps_after_tcp(self.config)[1..];
        match self.connect(Some(&mut *report)) {
            Ok(accepted) => report.ok("CONNECT", describe(&accepted)),
            Err((step, fault)) => {
                let failed = step.map_or("CONNECT", step_name);
                report.failed(failed, &fault);
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
        if let Some(topic) = &self.config.topic {
            if limits::check_topic_name(topic).is_ok() {
                self.publish(topic, report);
            } else {
                report.skipped("publish", "a filter is no topic name");
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
            let _ = wait(&self.inbox, Some(until));
        }
        self.generation += 1;
        self.attempted = Some(clock());
        let deadline = clock() + connection.connect_timeout;
        self.client.connect(self.generation, deadline);
        let timeout = connection.connect_timeout + Duration::from_millis(200);
        let answer = self.hear(timeout, report, |event| match event {
            Event::Connected { accepted, .. } => Some(*accepted),
            _ => None,
        });
        self.online = answer.is_ok();
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
            if let (Event::Passed { passed, .. }, Some(report)) = (&event, &mut report) {
                tell(passed, report);
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
                self.online = false;
                return Err((step, fault));
            }
        }
        let host = &self.config.connection.endpoint;
        let message =
            format!("{host}: no answer within {within:?}; is the network up, is the broker well?");
        Err((None, Fault::passing(Exit::Unavailable, message)))
    }

    /// Whether the connection lasts: another client with the same identifier would end it.
    fn stays(&mut self, report: &mut Report) -> bool {
        let id = self.config.connection.client_id.clone();
        match self.hear(STAY, None, |_| None::<()>) {
            Err((_, fault)) if !self.online => {
                let fault = if fault.message.contains("--client-id") {
                    fault
                } else {
                    Fault::passing(
                        Exit::Refused,
                        format!(
                            "{fault}; is another client connected with the client id {id:?}? give \
                             each its own --client-id"
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
        if self.online {
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
            Err((_, fault)) if !self.online => {
                report.failed("publish", &refused(&fault.message, Exit::Refused));
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
            Err((_, fault)) if !self.online => {
                report.failed("subscribe", &refused(&fault.message, Exit::Refused));
            }
            Err((_, fault)) => report.failed("subscribe", &fault),
        }
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
        },
    }
}
