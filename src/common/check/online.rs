//! The steps that need the broker: CONNECT, client id, publish, subscribe.

use std::sync::Arc;
use std::time::Duration;

use super::connection::{CheckConnection, RequestError};
use super::report::{
    self, CLIENT_ID, CONNECT, CheckReport, DNS, PROXY, PUBLISH, SUBSCRIBE, TCP, TLS,
    steps_after_tcp,
};
use crate::common::cli::check_command_args::ConnectionCheckConfig;
use crate::common::client::{
    ClientEventKind, ConnectionInfo, Delivery, RefusedRequest, RequestKind,
};
use crate::common::connection::driver::FALLBACK_NOTICE;
use crate::common::fault::{Exit, Fault, FaultCause};
use crate::common::mqtt::draft::Draft;
use crate::common::mqtt::limits;
use crate::common::mqtt::outgoing_message::OutgoingMessage;
use crate::common::mqtt::qos::Qos;
use crate::common::mqtt::reason_codes::FIRST_ERROR;
use crate::common::runtime::clock::unix_ms;

/// How long a connection must last: another client with the same identifier, once disconnected,
/// usually reconnects after a second.
const CLIENT_ID_TEST: Duration = Duration::from_millis(2_500);

const PAYLOAD: &str = "{\"check\":\"iot-pubsub\"}";

pub(super) struct OnlineCheck<'a> {
    pub(super) config: &'a ConnectionCheckConfig,
    pub(super) connection: CheckConnection<'a>,
}

impl OnlineCheck<'_> {
    pub(super) fn run(mut self, report: &mut CheckReport) {
        let mut later = steps_after_tcp(self.config);
        later.retain(|step| *step != TLS);
        match self.connection.connect_first(report) {
            Ok(info) => {
                report.add_ok(CONNECT, describe_connection(&info));
                if info.by_fallback {
                    report.add_warning(FALLBACK_NOTICE.into());
                }
            }
            Err(fault) => {
                let fault = self.name_takeover(fault);
                let failed = self.connection.step;
                report.add_failed(failed, &fault);
                if [DNS, TCP, PROXY].contains(&failed) && self.config.connection.endpoint.tls {
                    report.add_skipped(TLS, "needs a connection");
                }
                for step in later.iter().filter(|step| **step != failed) {
                    report.add_skipped(step, "needs a connection");
                }
                return;
            }
        }
        if report::tests_client_id(self.config) && !self.check_client_id(report) {
            for step in later.iter().skip_while(|s| **s != CLIENT_ID).skip(1) {
                report.add_skipped(step, "needs a connection that stays");
            }
            return;
        }
        for topic in &self.config.topics {
            if limits::check_topic_name(topic).is_ok() {
                let result = self.publish(topic);
                report.add(PUBLISH, result);
            } else {
                report.add_skipped(PUBLISH, &format!("{topic}: a filter is no topic name"));
            }
            let result = self.subscribe(topic);
            report.add(SUBSCRIBE, result);
        }
        self.connection.disconnect();
    }

    /// The broker may allow only the identifier that the check does not use.
    fn name_takeover(&self, fault: Fault) -> Fault {
        let Some(spared) = &self.config.spared_client_id else {
            return fault;
        };
        // AWS IoT Core closes the connection without a reason.
        if fault.exit != Exit::Refused && fault.kind != FaultCause::Unanswered {
            return fault;
        }
        let own = &self.config.connection.client_id;
        let more = format!(
            "the check connects as {own:?}: if only {spared:?} is allowed, stop the program that uses it and give \
             --takeover"
        );
        let remedy = match &fault.remedy {
            Some(remedy) => format!("{remedy}; {more}"),
            None => more,
        };
        fault.with_remedy(remedy)
    }

    /// Whether the connection lasts: another client with the same identifier would end it, and the
    /// next one too. A single end may be a restart of the broker.
    fn check_client_id(&mut self, report: &mut CheckReport) -> bool {
        let mut was_closed_before = false;
        self.connection.was_down = false;
        for (duration, is_last) in [(CLIENT_ID_TEST, false), (CLIENT_ID_TEST * 2, true)] {
            // Without delay: a broker that restarts may be down for some milliseconds only.
            if let Err(fault) = self.connection.ensure_connected(Duration::ZERO) {
                report.add_failed(CLIENT_ID, &fault);
                return false;
            }
            let Some(fault) = self.connection.idle(duration) else {
                break;
            };
            let is_closed = fault.kind == FaultCause::Closed;
            if is_last || fault.exit != Exit::Unavailable {
                // Another client does not close the broker's port.
                let is_closed_twice = is_closed && was_closed_before && !self.connection.was_down;
                report.add_failed(CLIENT_ID, &self.explain_end(fault, is_closed_twice));
                return false;
            }
            was_closed_before = is_closed;
        }
        let id = &self.config.connection.client_id;
        report.add_ok(CLIENT_ID, format!("{id}: no other client uses it"));
        true
    }

    fn explain_end(&self, fault: Fault, is_closed_twice: bool) -> Fault {
        let id = &self.config.connection.client_id;
        let advice =
            "give each its own --client-id (a service of yours? stop it while you run the check)";
        match fault.kind {
            FaultCause::TakenOver => fault.with_remedy(format!(
                "another client is connected with this --client-id; {advice}"
            )),
            _ if is_closed_twice => {
                let message = format!("{}, twice within seconds after CONNACK", fault.message);
                Fault::passing(Exit::Refused, message).with_remedy(format!(
                    "is another client connected with the client id {id:?}? {advice}"
                ))
            }
            _ => fault,
        }
    }

    fn publish(&mut self, topic: &str) -> Result<String, Fault> {
        let message = Arc::new(test_message(topic));
        let answer = self.connection.request(
            |client, generation| client.publish(generation, vec![(1, Arc::clone(&message))]),
            |event| match event {
                ClientEventKind::Deliveries(deliveries) => {
                    deliveries.first().map(|(_, delivery)| delivery.clone())
                }
                _ => None,
            },
        );
        let what = format!("a message for {topic:?}");
        Err(match answer {
            Ok(Delivery::Done) => return Ok(format!("{topic}: acknowledged")),
            Ok(Delivery::NotNow) => {
                let message = format!("the broker refuses {what} now");
                Fault::passing(Exit::Unavailable, message).with_remedy("it may accept later")
            }
            Ok(Delivery::Refused(refusal)) => {
                self.request_refusal_fault(&what, &refusal, RequestKind::Publish)
            }
            Err(error) => self.request_fault(&what, error, RequestKind::Publish),
        })
    }

    fn subscribe(&mut self, filter: &str) -> Result<String, Fault> {
        let answer = self.connection.request(
            |client, generation| {
                client.subscribe(generation, 0, filter.to_owned(), Qos::AtLeastOnce);
            },
            |event| match event {
                ClientEventKind::Subscribed { answer, .. } => Some(answer.clone()),
                _ => None,
            },
        );
        let what = format!("the subscription to {filter:?}");
        match answer {
            Ok(Ok(qos)) => Ok(format!("{filter}: granted with QoS {qos}")),
            Ok(Err(refusal)) => {
                Err(self.request_refusal_fault(&what, &refusal, RequestKind::Subscribe))
            }
            Err(error) => Err(self.request_fault(&what, error, RequestKind::Subscribe)),
        }
    }

    fn request_refusal_fault(
        &self,
        what: &str,
        refusal: &RefusedRequest,
        request: RequestKind,
    ) -> Fault {
        let message = format!("the broker refuses {what}: {}", refusal.reason);
        let remedy = refusal.remedy(self.config.connection.endpoint.profile, request);
        Fault::permanent(refusal.exit(), message).with_remedy(remedy)
    }

    fn request_fault(&self, what: &str, error: RequestError, request: RequestKind) -> Fault {
        match error {
            RequestError::Fault(fault) => fault,
            // With MQTT 3.1.1 a broker can refuse only by closing the connection.
            RequestError::ClosedTwice(fault) => {
                let (code, message) = (FIRST_ERROR, fault.message);
                let reason = format!("{message}, right after it, twice");
                self.request_refusal_fault(what, &RefusedRequest { code, reason }, request)
            }
        }
    }
}

fn describe_connection(info: &ConnectionInfo) -> String {
    let mut text = format!("MQTT {}", info.version_name());
    if let Some(port) = info.port {
        text = format!("{text}, port {port}");
    }
    if let Some(max) = info.connack.receive_maximum {
        text = format!("{text}, {max} messages in flight");
    }
    if let Some(max) = info.connack.maximum_packet_size {
        text = format!("{text}, packets of {max} bytes at most");
    }
    if info.by_fallback {
        text = format!("{text}; {FALLBACK_NOTICE}; --mqtt-version 3.1.1 connects at once");
    }
    text
}

fn test_message(topic: &str) -> OutgoingMessage {
    OutgoingMessage {
        stream: "check".into(),
        accepted_ms: unix_ms(),
        draft: Draft {
            topic: topic.into(),
            payload: PAYLOAD.into(),
            qos: Qos::AtLeastOnce,
            readings: 1,
            ..Draft::default()
        },
        ..OutgoingMessage::default()
    }
}
