//! Finds the likely cause when a broker closes several connections without a reason. PURE.
//!
//! AWS IoT Core does so with MQTT 3.1.1 when it denies a publish, and when another client connects with the same
//! identifier. Only connections closed without a network error, one after the other, count: a reset, a timeout or a
//! closed port point to the network, or to a broker that restarts. Each hint is given once per run.

use std::time::Duration;

use crate::common::broker::profile::Profile;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingRequest<'a> {
    /// A message, on a connection that has had none acknowledged: its topic and size in bytes.
    Publish(&'a str, usize),
    Subscribe(&'a str),
    Nothing,
}

/// A connection that lasted longer did not end because of what was asked on it.
const SHORT_LIVED: Duration = Duration::from_secs(5);

/// Short-lived connections in a row that make a hint; fewer are enough while a request is pending.
const MIN_CLOSES: u32 = 3;
const MIN_CLOSES_WITH_REQUEST: u32 = 2;

#[derive(Debug, Default)]
struct CloseCounter {
    closes: u32,
    is_hint_given: bool,
}

impl CloseCounter {
    fn count_close(&mut self, min_closes: u32) -> bool {
        self.closes += 1;
        self.closes >= min_closes && !std::mem::replace(&mut self.is_hint_given, true)
    }
}

#[derive(Debug)]
pub struct UnexplainedCloses {
    host: String,
    profile: Profile,
    /// `None` for an identifier that was generated for this run.
    client_id: Option<String>,
    idle: CloseCounter,
    publish: CloseCounter,
    subscribe: CloseCounter,
}

impl UnexplainedCloses {
    pub fn new(host: String, profile: Profile, client_id: Option<String>) -> Self {
        Self {
            host,
            profile,
            client_id,
            idle: CloseCounter::default(),
            publish: CloseCounter::default(),
            subscribe: CloseCounter::default(),
        }
    }

    /// Returns the hint to log. `closed_after` is how long an accepted connection was up that the
    /// broker closed without a reason.
    pub fn connection_ended(
        &mut self,
        closed_after: Option<Duration>,
        pending: PendingRequest<'_>,
    ) -> Option<String> {
        let is_short_lived = closed_after.is_some_and(|uptime| uptime < SHORT_LIVED);
        if !is_short_lived || !matches!(pending, PendingRequest::Publish(..)) {
            self.publish.closes = 0;
        }
        if !is_short_lived || !matches!(pending, PendingRequest::Subscribe(_)) {
            self.subscribe.closes = 0;
        }
        if !is_short_lived {
            self.idle.closes = 0;
            return None;
        }
        let (host, rules) = (&self.host, self.profile.access_rules());
        match pending {
            PendingRequest::Publish(topic, bytes) => {
                self.publish.count_close(MIN_CLOSES_WITH_REQUEST).then(|| {
                    format!(
                        "{host}: the broker closes the connection right after a message for \
                         {topic:?} ({bytes} bytes), without a reason; does {rules} let this client \
                         publish there{}, and is the message within the broker's limits?",
                        self.profile.policy_action_suffix("iot:Publish")
                    )
                })
            }
            PendingRequest::Subscribe(filter) => {
                self.subscribe.count_close(MIN_CLOSES_WITH_REQUEST).then(|| {
                    format!(
                        "{host}: the broker closes the connection right after the SUBSCRIBE for \
                         {filter:?}, without a reason; does {rules} let this client subscribe to it{}?",
                        self.profile.policy_action_suffix("iot:Subscribe")
                    )
                })
            }
            PendingRequest::Nothing => self.idle.count_close(MIN_CLOSES).then(|| {
                let remedy = match &self.client_id {
                    Some(id) => format!(
                        "is another client connected with the client id {id:?}? give each its own \
                         --client-id"
                    ),
                    None => "see its log".into(),
                };
                format!(
                    "{host}: the broker has closed {MIN_CLOSES} good connections within seconds, \
                     without a reason; {remedy}"
                )
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const SOON: Option<Duration> = Some(SECOND);
    const PUBLISH: PendingRequest<'_> = PendingRequest::Publish("a/b", 7);
    const SUBSCRIBE: PendingRequest<'_> = PendingRequest::Subscribe("#");

    fn diagnosis(profile: Profile) -> UnexplainedCloses {
        UnexplainedCloses::new("h:8883".into(), profile, Some("me".into()))
    }

    #[test]
    fn three_short_connections_point_to_a_second_client_and_the_hint_is_given_once() {
        let generated = UnexplainedCloses::new("h".into(), Profile::Generic, None);
        for (mut diagnosis, part) in [
            (diagnosis(Profile::Generic), "\"me\""),
            (generated, "see its log"),
        ] {
            let hints: Vec<_> = (0..10)
                .map(|_| diagnosis.connection_ended(SOON, PendingRequest::Nothing))
                .collect();
            assert_eq!(hints.iter().flatten().count(), 1);
            assert!(hints[2].as_ref().unwrap().contains(part), "{hints:?}");
        }
    }

    #[test]
    fn another_sort_of_end_resets_the_count() {
        for pending in [PendingRequest::Nothing, PUBLISH, SUBSCRIBE] {
            for between in [Some(SECOND * 5), None] {
                let mut diagnosis = diagnosis(Profile::Aws);
                for _ in 0..10 {
                    assert_eq!(diagnosis.connection_ended(SOON, pending), None);
                    let hint = diagnosis.connection_ended(between, PendingRequest::Nothing);
                    assert_eq!(hint, None);
                }
            }
        }
        let mut diagnosis = diagnosis(Profile::Aws);
        for _ in 0..9 {
            assert_eq!(diagnosis.connection_ended(SOON, PUBLISH), None);
            assert_eq!(diagnosis.connection_ended(SOON, SUBSCRIBE), None);
        }
    }

    #[test]
    fn a_request_pending_twice_is_named_in_the_terms_of_the_broker() {
        let (aws, generic) = (Profile::Aws, Profile::Generic);
        let message = "\"a/b\" (7 bytes)";
        for (profile, pending, parts) in [
            (aws, PUBLISH, [message, "policy", "(iot:Publish)"]),
            (aws, SUBSCRIBE, ["\"#\"", "policy", "(iot:Subscribe)"]),
            (generic, PUBLISH, [message, "(ACL)", "limits"]),
            (generic, SUBSCRIBE, ["\"#\"", "(ACL)", "subscribe"]),
        ] {
            let mut diagnosis = diagnosis(profile);
            let hints: Vec<_> = (0..9)
                .map(|_| diagnosis.connection_ended(SOON, pending))
                .collect();
            assert_eq!(hints.iter().flatten().count(), 1);
            let hint = hints[1].as_ref().unwrap();
            assert!(parts.iter().all(|part| hint.contains(part)), "{hint}");
            assert_eq!(profile == aws, hint.contains("iot:"), "{hint}");
            assert_eq!(profile == aws, hint.contains("policy"), "{hint}");
        }
    }
}
