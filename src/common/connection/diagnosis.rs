//! What a series of ends says that no single one does. PURE.
//!
//! Some brokers close a connection without a reason: AWS IoT Core does so with MQTT 3.1.1 when it
//! denies a publish, and when another client comes with the same identifier. Only connections that were closed in
//! order, and in a row, are such a series: a reset, a time-out, a port that is closed meanwhile show that it is
//! the network, or a broker that restarts. Each hint is given once per run.

use std::time::Duration;

use crate::common::broker::profile::Profile;

/// An accepted connection was closed in order, without a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// How long it had lasted.
    pub lasted: Duration,
}

/// What was not answered yet when a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum During<'a> {
    /// A message, where the connection has had none acknowledged: its topic and its bytes.
    Message(&'a str, usize),
    /// A SUBSCRIBE with this filter.
    Subscribe(&'a str),
    Nothing,
}

/// So soon after a connect an end is suspicious.
const WITHIN: Duration = Duration::from_secs(5);

/// This number of suspicious ends in a row is a pattern; with something under way fewer are enough.
const OFTEN: u32 = 3;
const OFTEN_DURING: u32 = 2;

/// The ends so far.
#[derive(Debug)]
pub struct Patterns {
    host: String,
    profile: Profile,
    /// None for one that was made up for this run.
    client_id: Option<String>,
    drops: u32,
    drops_with_a_message: u32,
    drops_with_a_subscribe: u32,
    told_drops: bool,
    told_message: bool,
    told_subscribe: bool,
}

impl Patterns {
    /// No end yet. `client_id` is the identifier that was given.
    pub fn new(host: String, profile: Profile, client_id: Option<String>) -> Self {
        Self {
            host,
            profile,
            client_id,
            drops: 0,
            drops_with_a_message: 0,
            drops_with_a_subscribe: 0,
            told_drops: false,
            told_message: false,
            told_subscribe: false,
        }
    }

    /// A connection or an attempt has ended, otherwise than in order if `dropped` is none. What to tell the user
    /// about it.
    pub fn ended(&mut self, dropped: Option<Dropped>, during: During<'_>) -> Option<String> {
        let before = (self.drops_with_a_message, self.drops_with_a_subscribe);
        self.drops_with_a_message = 0;
        self.drops_with_a_subscribe = 0;
        if dropped.is_none_or(|dropped| dropped.lasted >= WITHIN) {
            self.drops = 0;
            return None;
        }
        match during {
            During::Message(topic, bytes) => {
                self.drops_with_a_message = before.0 + 1;
                self.hint_message(topic, bytes)
            }
            During::Subscribe(filter) => {
                self.drops_with_a_subscribe = before.1 + 1;
                self.hint_subscribe(filter)
            }
            During::Nothing => {
                self.drops += 1;
                self.hint_drops()
            }
        }
    }

    fn hint_message(&mut self, topic: &str, bytes: usize) -> Option<String> {
        if self.drops_with_a_message < OFTEN_DURING || self.told_message {
            return None;
        }
        self.told_message = true;
        let (host, rules) = (&self.host, self.profile.access_rules());
        let action = self.profile.action("iot:Publish");
        Some(format!(
            "{host}: the broker closes the connection right after a message for {topic:?} \
             ({bytes} bytes), without a reason; does {rules} let this client publish there{action}, and is \
             the message within the broker's limits?"
        ))
    }

    fn hint_subscribe(&mut self, filter: &str) -> Option<String> {
        if self.drops_with_a_subscribe < OFTEN_DURING || self.told_subscribe {
            return None;
        }
        self.told_subscribe = true;
        let (host, rules) = (&self.host, self.profile.access_rules());
        let action = self.profile.action("iot:Subscribe");
        Some(format!(
            "{host}: the broker closes the connection right after the SUBSCRIBE for {filter:?}, without a \
             reason; does {rules} let this client subscribe to it{action}?"
        ))
    }

    fn hint_drops(&mut self) -> Option<String> {
        if self.drops < OFTEN || self.told_drops {
            return None;
        }
        self.told_drops = true;
        let host = &self.host;
        let what = format!(
            "{host}: the broker has closed {OFTEN} good connections within seconds, without a reason"
        );
        Some(match &self.client_id {
            Some(id) => format!(
                "{what}; is another client connected with the client id {id:?}? give each its own --client-id"
            ),
            None => format!("{what}; see its log"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const SOON: Option<Dropped> = Some(Dropped { lasted: SECOND });

    fn patterns(profile: Profile) -> Patterns {
        Patterns::new("h:8883".into(), profile, Some("me".into()))
    }

    #[test]
    fn three_drops_within_seconds_point_to_a_twin_and_are_told_once() {
        let mut patterns = patterns(Profile::Generic);
        let told: Vec<_> = (0..10)
            .map(|_| patterns.ended(SOON, During::Nothing))
            .collect();
        assert_eq!(told.iter().flatten().count(), 1);
        assert!(told[2].as_ref().unwrap().contains("\"me\""), "{told:?}");
    }

    #[test]
    fn a_client_id_of_this_run_has_no_twin() {
        let mut patterns = Patterns::new("h".into(), Profile::Generic, None);
        let told = (0..3).filter_map(|_| patterns.ended(SOON, During::Nothing));
        let told: Vec<_> = told.collect();
        assert!(told[0].ends_with("see its log"), "{told:?}");
    }

    #[test]
    fn what_is_in_between_ends_the_series() {
        let message = During::Message("a/b", 7);
        let lasted = Some(Dropped { lasted: SECOND * 5 });
        for during in [During::Nothing, message, During::Subscribe("#")] {
            for between in [lasted, None] {
                let mut patterns = patterns(Profile::Aws);
                for _ in 0..10 {
                    assert_eq!(patterns.ended(SOON, during), None);
                    assert_eq!(patterns.ended(between, During::Nothing), None);
                }
            }
        }
        let mut patterns = patterns(Profile::Aws);
        for _ in 0..9 {
            assert_eq!(patterns.ended(SOON, message), None);
            assert_eq!(patterns.ended(SOON, During::Subscribe("#")), None);
        }
    }

    #[test]
    fn something_under_way_twice_points_to_it_in_the_words_of_the_broker() {
        for (profile, during, parts) in [
            (
                Profile::Aws,
                During::Message("a/b", 7),
                ["\"a/b\" (7 bytes)", "policy", "(iot:Publish)"],
            ),
            (
                Profile::Aws,
                During::Subscribe("#"),
                ["\"#\"", "policy", "(iot:Subscribe)"],
            ),
            (
                Profile::Generic,
                During::Message("a/b", 7),
                ["\"a/b\" (7 bytes)", "(ACL)", "limits"],
            ),
            (
                Profile::Generic,
                During::Subscribe("#"),
                ["\"#\"", "(ACL)", "subscribe"],
            ),
        ] {
            let mut patterns = patterns(profile);
            let told: Vec<_> = (0..9).map(|_| patterns.ended(SOON, during)).collect();
            assert_eq!(told.iter().flatten().count(), 1);
            let hint = told[1].as_ref().unwrap();
            assert!(parts.iter().all(|part| hint.contains(part)), "{hint}");
            assert_eq!(profile == Profile::Aws, hint.contains("iot:"), "{hint}");
            assert_eq!(profile == Profile::Aws, hint.contains("policy"), "{hint}");
        }
    }
}
