//! Which broker's limits are guarded, beyond the protocol's own. PURE.
//!
//! Sources: AWS IoT Core endpoints and quotas (AWS General Reference, "AWS IoT Core message
//! broker and protocol limits and quotas"); AWS IoT Developer Guide, "MQTT" and "Reserved
//! topics". AWS answers most breaches by closing the connection without a word, so they are
//! refused here, with the limit.

use std::time::Duration;

use super::aws_host;
use crate::common::mqtt::limits;
use crate::common::mqtt::message::{Draft, Qos};
use crate::common::mqtt::publish_size;

/// Whose limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// What MQTT allows.
    Generic,
    /// AWS IoT Core.
    Aws,
}

/// Where the limits come from, in every refusal.
const AWS: &str = "AWS IoT Core";

/// The largest payload, in bytes.
const AWS_PAYLOAD: usize = 131_072;
/// The longest topic name or filter, in bytes of UTF-8.
const AWS_TOPIC: usize = 256;
/// Slashes in a topic name or filter.
const AWS_SLASHES: usize = 7;
/// The longest client identifier, in bytes.
const AWS_CLIENT_ID: usize = 128;
/// Unacknowledged messages.
const AWS_IN_FLIGHT: u16 = 100;
/// Subscriptions of one connection.
const AWS_FILTERS: usize = 50;
/// Seconds between pings.
const AWS_KEEP_ALIVE: (u64, u64) = (30, 1_200);
/// The longest message expiry interval: a week.
const AWS_EXPIRY: Duration = Duration::from_secs(7 * 86_400);

/// How fast a connection may publish.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Messages per second.
    pub messages: f64,
    /// Messages at once.
    pub burst: f64,
    /// Bytes per second.
    pub bytes: f64,
    /// Bytes at once.
    pub burst_bytes: f64,
}

/// The quota is 100 messages a second and 512 KiB a second. The network bunches up what was
/// evenly spaced, and what is above the quota is discarded: so a little less.
const AWS_PACE: Pace = Pace {
    messages: 90.0,
    burst: 4.0,
    bytes: 470.0 * 1024.0,
    burst_bytes: 32.0 * 1024.0,
};

impl Profile {
    /// The profile of a host by its name.
    pub fn of(host: &str) -> Self {
        if aws_host::is_aws(host) {
            Profile::Aws
        } else {
            Profile::Generic
        }
    }

    /// Checks a topic name.
    ///
    /// # Errors
    ///
    /// What is wrong with it, to follow the name.
    pub fn check_topic_name(self, name: &str) -> Result<(), String> {
        limits::check_topic_name(name).map_err(|e| e.to_string())?;
        if self == Profile::Generic {
            return Ok(());
        }
        if name.starts_with('$') && !name.starts_with("$aws/") {
            return Err(format!("begins with $, which {AWS} reserves"));
        }
        check_aws_topic(counted_part(name))
    }

    /// Checks a topic filter.
    ///
    /// # Errors
    ///
    /// What is wrong with it, to follow the filter.
    pub fn check_topic_filter(self, filter: &str) -> Result<(), String> {
        limits::check_topic_filter(filter).map_err(|e| e.to_string())?;
        match self {
            Profile::Generic => Ok(()),
            Profile::Aws => check_aws_topic(counted_part(filter)),
        }
    }

    /// Checks how many filters one connection may have.
    ///
    /// # Errors
    ///
    /// The limit.
    pub fn check_filters(self, count: usize) -> Result<(), String> {
        if self == Profile::Aws && count > AWS_FILTERS {
            return Err(format!(
                "{count} filters are too many: {AWS} allows {AWS_FILTERS} subscriptions per \
                 connection"
            ));
        }
        Ok(())
    }

    /// Checks a client identifier.
    ///
    /// # Errors
    ///
    /// What is wrong with it, to follow the identifier.
    pub fn check_client_id(self, id: &str) -> Result<(), String> {
        limits::check_name(id).map_err(|e| e.to_string())?;
        match self {
            Profile::Aws if id.len() > AWS_CLIENT_ID => Err(format!(
                "is {} bytes long, {AWS} allows {AWS_CLIENT_ID}",
                id.len()
            )),
            Profile::Aws if id.starts_with('$') => {
                Err(format!("begins with $, which {AWS} does not allow"))
            }
            _ => Ok(()),
        }
    }

    /// Checks a quality of service.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn check_qos(self, qos: Qos) -> Result<(), String> {
        match (self, qos) {
            (Profile::Aws, Qos::ExactlyOnce) => Err(format!("2 is not supported by {AWS}; use 1")),
            _ => Ok(()),
        }
    }

    /// Checks whether a message for this topic may be retained.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn check_retain(self, topic: &str) -> Result<(), String> {
        if self == Profile::Aws && topic.starts_with('$') {
            return Err(format!(
                "is not possible on {topic:?}: {AWS} keeps no message on reserved topics"
            ));
        }
        Ok(())
    }

    /// Checks a message that an earlier run has accepted, perhaps for another broker.
    ///
    /// # Errors
    ///
    /// Why this broker will not take it.
    pub fn check_message(self, draft: &Draft) -> Result<(), String> {
        let (bytes, (most, whose)) = (draft.payload.len(), self.max_payload(draft.topic.len()));
        if bytes > most {
            return Err(format!("{bytes} bytes of payload, {whose} allows {most}"));
        }
        self.check_topic_name(&draft.topic)
            .map_err(|why| format!("its topic {why}"))?;
        if self == Profile::Generic {
            return Ok(());
        }
        self.check_qos(draft.qos)
            .map_err(|why| format!("QoS {why}"))?;
        if draft.retain {
            self.check_retain(&draft.topic)
                .map_err(|why| format!("retaining {why}"))?;
        }
        Ok(())
    }

    /// Checks the time between pings.
    ///
    /// # Errors
    ///
    /// The limits.
    pub fn check_keep_alive(self, keep_alive: Duration) -> Result<(), String> {
        let (least, most) = AWS_KEEP_ALIVE;
        if self == Profile::Aws && !(least..=most).contains(&keep_alive.as_secs()) {
            return Err(format!("must be from {least} to {most} seconds for {AWS}"));
        }
        Ok(())
    }

    /// Checks the size of the window.
    ///
    /// # Errors
    ///
    /// The limit.
    pub fn check_in_flight(self, count: u16) -> Result<(), String> {
        if self == Profile::Aws && count > AWS_IN_FLIGHT {
            return Err(format!("is at most {AWS_IN_FLIGHT} for {AWS}"));
        }
        Ok(())
    }

    /// The largest payload in bytes on a topic of so many bytes, and who says so.
    pub fn max_payload(self, topic: usize) -> (usize, &'static str) {
        match self {
            Profile::Generic => (publish_size::max_payload(topic), "MQTT"),
            Profile::Aws => (AWS_PAYLOAD, AWS),
        }
    }

    /// How fast a connection may publish; none for as fast as it can.
    pub fn pace(self) -> Option<Pace> {
        (self == Profile::Aws).then_some(AWS_PACE)
    }

    /// The least time between two CONNECTs of one client identifier.
    pub fn connect_interval(self) -> Duration {
        match self {
            Profile::Generic => Duration::ZERO,
            Profile::Aws => Duration::from_secs(1),
        }
    }

    /// Where it is written who may do what, as the users of such a broker call it.
    pub fn access_rules(self) -> &'static str {
        match self {
            Profile::Generic => "the broker's access control list (ACL)",
            Profile::Aws => "the policy of this certificate",
        }
    }

    /// The name of an action in a policy of AWS IoT Core, in brackets behind what it is elsewhere.
    pub fn action(self, name: &str) -> String {
        match self {
            Profile::Generic => String::new(),
            Profile::Aws => format!(" ({name})"),
        }
    }

    /// The longest message expiry interval that the broker is told.
    pub fn max_expiry(self) -> Duration {
        match self {
            Profile::Generic => Duration::MAX,
            Profile::Aws => AWS_EXPIRY,
        }
    }
}

/// What counts against the limits: neither the rule that a message goes straight to, nor the
/// name of a shared subscription.
fn counted_part(topic: &str) -> &str {
    for prefix in ["$aws/rules/", "$share/"] {
        if let Some((_, rest)) = topic
            .strip_prefix(prefix)
            .and_then(|rest| rest.split_once('/'))
        {
            return rest;
        }
    }
    topic
}

fn check_aws_topic(topic: &str) -> Result<(), String> {
    let slashes = topic.matches('/').count();
    if topic.len() > AWS_TOPIC {
        return Err(format!(
            "is {} bytes long, {AWS} allows {AWS_TOPIC}",
            topic.len()
        ));
    }
    if slashes > AWS_SLASHES {
        return Err(format!("has {slashes} slashes, {AWS} allows {AWS_SLASHES}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_name_chooses_the_profile() {
        for host in [
            "a-ats.iot.eu-west-1.amazonaws.com",
            "A.IOT.CN-NORTH-1.AMAZONAWS.COM.CN",
        ] {
            assert_eq!(Profile::of(host), Profile::Aws, "{host}");
        }
        for host in [
            "localhost",
            "amazonaws.com.evil.example",
            "xamazonaws.com",
            "192.0.2.1",
        ] {
            assert_eq!(Profile::of(host), Profile::Generic, "{host}");
        }
    }

    #[test]
    fn a_message_of_an_earlier_run_for_which_a_broker_would_close_is_not_sent() {
        let message = |topic: &str| Draft {
            topic: topic.into(),
            payload: Vec::new(),
            qos: Qos::ExactlyOnce,
            retain: true,
            readings: 1,
        };
        assert_eq!(Profile::Generic.check_message(&message("$a/b")), Ok(()));
        for topic in ["a/\u{1b}", "a/\u{9f}", "a/+"] {
            for profile in [Profile::Generic, Profile::Aws] {
                let why = profile.check_message(&message(topic)).unwrap_err();
                assert!(why.starts_with("its topic contains"), "{why}");
            }
        }
    }

    #[test]
    fn every_limit_of_aws_is_exact() {
        let aws = Profile::Aws;
        let bytes = |n: usize| "x".repeat(n);
        assert!(aws.check_topic_name(&bytes(256)).is_ok());
        assert!(
            aws.check_topic_name(&bytes(257))
                .unwrap_err()
                .contains("256")
        );
        assert!(aws.check_topic_name("1/2/3/4/5/6/7/8").is_ok());
        assert!(
            aws.check_topic_name("1/2/3/4/5/6/7/8/")
                .unwrap_err()
                .contains('7')
        );
        let basic = format!("$aws/rules/rule/{}", bytes(256));
        assert!(aws.check_topic_name(&basic).is_ok());
        assert!(aws.check_topic_name("$aws/things/t/shadow/update").is_ok());
        assert!(aws.check_topic_name("$SYS/x").is_err());
        let shared = format!("$share/group/{}", bytes(256));
        assert!(aws.check_topic_filter(&shared).is_ok());
        assert!(
            aws.check_topic_filter("$share/g/1/2/3/4/5/6/7/8/9")
                .is_err()
        );
        assert!(aws.check_client_id(&bytes(128)).is_ok());
        assert!(
            aws.check_client_id(&bytes(129))
                .unwrap_err()
                .contains("128")
        );
        assert!(aws.check_client_id("$id").is_err());
        assert!(aws.check_qos(Qos::ExactlyOnce).is_err());
        assert!(aws.check_retain("$aws/things/t/shadow/update").is_err());
        for (seconds, good) in [(29, false), (30, true), (1200, true), (1201, false)] {
            let checked = aws.check_keep_alive(Duration::from_secs(seconds));
            assert_eq!(checked.is_ok(), good, "{seconds}");
        }
        assert!(aws.check_filters(50).is_ok() && aws.check_filters(51).is_err());
        assert!(aws.check_in_flight(100).is_ok() && aws.check_in_flight(101).is_err());
        assert_eq!(aws.max_payload(3).0, 131_072);
    }
}
