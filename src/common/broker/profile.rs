//! The limits of a broker beyond those of the protocol. PURE.
//!
//! Sources: AWS IoT Core endpoints and quotas (AWS General Reference, "AWS IoT Core message
//! broker and protocol limits and quotas"); AWS IoT Developer Guide, "MQTT" and "Reserved
//! topics". AWS IoT Core answers most violations by closing the connection without a reason, so they
//! are refused here with an error that names the limit and completes "FLAG VALUE …".

use std::time::Duration;

use super::aws_host;
use crate::common::mqtt::draft::Draft;
use crate::common::mqtt::limits;
use crate::common::mqtt::publish_size;
use crate::common::mqtt::qos::Qos;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    Generic,
    Aws,
}

const AWS: &str = "AWS IoT Core";

const AWS_MAX_PAYLOAD_BYTES: usize = 131_072;
const AWS_MAX_TOPIC_BYTES: usize = 256;
const AWS_MAX_TOPIC_SLASHES: usize = 7;
const AWS_MAX_CLIENT_ID_BYTES: usize = 128;
const AWS_MAX_IN_FLIGHT: u16 = 100;
const AWS_MAX_SUBSCRIPTIONS: usize = 50;
const AWS_KEEP_ALIVE_SECONDS: (u64, u64) = (30, 1_200);
const AWS_MAX_EXPIRY: Duration = Duration::from_secs(7 * 86_400);

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    pub messages: f64,
    pub burst: f64,
    pub bytes: f64,
    pub burst_bytes: f64,
}

/// The quota is 100 messages and 512 KiB per second. The network bunches up evenly spaced messages,
/// and the broker discards what exceeds the quota, so this is a little less.
const AWS_PACE: Pace = Pace {
    messages: 90.0,
    burst: 4.0,
    bytes: 470.0 * 1024.0,
    burst_bytes: 32.0 * 1024.0,
};

impl Profile {
    pub fn of_host(host: &str) -> Self {
        if aws_host::is_aws(host) {
            Profile::Aws
        } else {
            Profile::Generic
        }
    }

    fn check_aws_rule(
        self,
        is_allowed: bool,
        error: impl FnOnce() -> String,
    ) -> Result<(), String> {
        match self {
            Profile::Aws if !is_allowed => Err(error()),
            _ => Ok(()),
        }
    }

    fn check_aws_length(self, text: &str, max: usize) -> Result<(), String> {
        let bytes = text.len();
        self.check_aws_rule(bytes <= max, || {
            format!("is {bytes} bytes long, {AWS} allows {max}")
        })
    }

    pub fn check_topic_name(self, name: &str) -> Result<(), String> {
        limits::check_topic_name(name).map_err(|e| e.to_string())?;
        self.check_aws_rule(!name.starts_with('$') || name.starts_with("$aws/"), || {
            format!("begins with $, which {AWS} reserves")
        })?;
        self.check_topic_size(name)
    }

    pub fn check_topic_filter(self, filter: &str) -> Result<(), String> {
        limits::check_topic_filter(filter).map_err(|e| e.to_string())?;
        self.check_topic_size(filter)
    }

    fn check_topic_size(self, topic: &str) -> Result<(), String> {
        let topic = unprefixed_topic(topic);
        self.check_aws_length(topic, AWS_MAX_TOPIC_BYTES)?;
        let slashes = topic.matches('/').count();
        self.check_aws_rule(slashes <= AWS_MAX_TOPIC_SLASHES, || {
            format!("has {slashes} slashes, {AWS} allows {AWS_MAX_TOPIC_SLASHES}")
        })
    }

    pub fn check_subscription_count(self, count: usize) -> Result<(), String> {
        let max = AWS_MAX_SUBSCRIPTIONS;
        self.check_aws_rule(count <= max, || {
            format!("{count} filters are too many: {AWS} allows {max} subscriptions per connection")
        })
    }

    pub fn check_client_id(self, id: &str) -> Result<(), String> {
        limits::check_no_controls(id).map_err(|e| e.to_string())?;
        self.check_aws_length(id, AWS_MAX_CLIENT_ID_BYTES)?;
        self.check_aws_rule(!id.starts_with('$'), || {
            format!("begins with $, which {AWS} does not allow")
        })
    }

    pub fn check_qos(self, qos: Qos) -> Result<(), String> {
        self.check_aws_rule(qos != Qos::ExactlyOnce, || {
            format!("2 is not supported by {AWS}; use 1")
        })
    }

    pub fn check_retained_topic(self, topic: &str) -> Result<(), String> {
        self.check_aws_rule(!topic.starts_with('$'), || {
            format!("is not possible on {topic:?}: {AWS} keeps no message on reserved topics")
        })
    }

    pub fn check_message(self, draft: &Draft) -> Result<(), String> {
        let (bytes, (max, source)) = (draft.payload.len(), self.max_payload(draft.topic.len()));
        if bytes > max {
            return Err(format!("{bytes} bytes of payload, {source} allows {max}"));
        }
        let of_topic = |why| format!("its topic {why}");
        self.check_topic_name(&draft.topic).map_err(of_topic)?;
        let of_qos = |why| format!("QoS {why}");
        self.check_qos(draft.qos).map_err(of_qos)?;
        if draft.retain {
            let of_retain = |why| format!("retaining {why}");
            self.check_retained_topic(&draft.topic).map_err(of_retain)?;
        }
        Ok(())
    }

    pub fn check_keep_alive(self, keep_alive: Duration) -> Result<(), String> {
        let (min, max) = AWS_KEEP_ALIVE_SECONDS;
        self.check_aws_rule((min..=max).contains(&keep_alive.as_secs()), || {
            format!("must be from {min} to {max} seconds for {AWS}")
        })
    }

    pub fn check_in_flight(self, count: u16) -> Result<(), String> {
        let max = AWS_MAX_IN_FLIGHT;
        self.check_aws_rule(count <= max, || format!("is at most {max} for {AWS}"))
    }

    pub fn max_payload(self, topic_bytes: usize) -> (usize, &'static str) {
        match self {
            Profile::Generic => (publish_size::max_payload(topic_bytes), "MQTT"),
            Profile::Aws => (AWS_MAX_PAYLOAD_BYTES, AWS),
        }
    }

    pub fn pace(self) -> Option<Pace> {
        (self == Profile::Aws).then_some(AWS_PACE)
    }

    /// The minimum time between two CONNECTs with the same client identifier.
    pub fn connect_interval(self) -> Duration {
        match self {
            Profile::Generic => Duration::ZERO,
            Profile::Aws => Duration::from_secs(1),
        }
    }

    pub fn access_rules(self) -> &'static str {
        match self {
            Profile::Generic => "the broker's access control list (ACL)",
            Profile::Aws => "the policy of this certificate",
        }
    }

    pub fn policy_action_suffix(self, name: &str) -> String {
        match self {
            Profile::Generic => String::new(),
            Profile::Aws => format!(" ({name})"),
        }
    }

    pub fn max_expiry(self) -> Duration {
        match self {
            Profile::Generic => Duration::MAX,
            Profile::Aws => AWS_MAX_EXPIRY,
        }
    }
}

/// The part of a topic to which the limits apply, without the prefix of a rule (Basic Ingest) or of
/// a shared subscription.
fn unprefixed_topic(topic: &str) -> &str {
    let rest = topic.strip_prefix("$aws/rules/");
    let rest = rest.or_else(|| topic.strip_prefix("$share/"));
    rest.and_then(|rest| rest.split_once('/'))
        .map_or(topic, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_name_determines_the_profile() {
        for host in [
            "a-ats.iot.eu-west-1.amazonaws.com",
            "A.IOT.CN-NORTH-1.AMAZONAWS.COM.CN",
        ] {
            assert_eq!(Profile::of_host(host), Profile::Aws, "{host}");
        }
        let lookalikes = ["amazonaws.com.evil.example", "xamazonaws.com"];
        for host in lookalikes.into_iter().chain(["localhost", "192.0.2.1"]) {
            assert_eq!(Profile::of_host(host), Profile::Generic, "{host}");
        }
    }

    #[test]
    fn a_message_of_an_earlier_run_that_the_broker_would_refuse_is_found() {
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
        assert!(aws.check_topic_name("1/2/3/4/5/6/7/8").is_ok());
        for (topic, limit) in [(&*bytes(257), "256"), ("1/2/3/4/5/6/7/8/", "7")] {
            let error = aws.check_topic_name(topic).unwrap_err();
            assert!(error.contains(limit), "{error}");
        }
        let basic = format!("$aws/rules/rule/{}", bytes(256));
        assert!(aws.check_topic_name(&basic).is_ok());
        assert!(aws.check_topic_name("$aws/things/t/shadow/update").is_ok());
        assert!(aws.check_topic_name("$SYS/x").is_err());
        let shared = format!("$share/group/{}", bytes(256));
        assert!(aws.check_topic_filter(&shared).is_ok());
        let too_deep = "$share/g/1/2/3/4/5/6/7/8/9";
        assert!(aws.check_topic_filter(too_deep).is_err());
        assert!(aws.check_client_id(&bytes(128)).is_ok());
        let error = aws.check_client_id(&bytes(129)).unwrap_err();
        assert!(error.contains("128"));
        assert!(aws.check_client_id("$id").is_err());
        assert!(aws.check_qos(Qos::ExactlyOnce).is_err());
        assert!(
            aws.check_retained_topic("$aws/things/t/shadow/update")
                .is_err()
        );
        for (seconds, good) in [(29, false), (30, true), (1200, true), (1201, false)] {
            let checked = aws.check_keep_alive(Duration::from_secs(seconds));
            assert_eq!(checked.is_ok(), good, "{seconds}");
        }
        assert!(
            aws.check_subscription_count(50).is_ok() && aws.check_subscription_count(51).is_err()
        );
        assert!(aws.check_in_flight(100).is_ok() && aws.check_in_flight(101).is_err());
        assert_eq!(aws.max_payload(3).0, 131_072);
    }
}
