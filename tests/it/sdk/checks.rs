//! What is refused before it is accepted.

use iot_pubsub::common::mqtt::limits::{MqttStringError, check_topic_filter, check_topic_name};
use iot_pubsub::common::mqtt::qos::Qos;
use iot_pubsub::publisher::outbox::drain_pacer::parse_drain_rate;

#[test]
fn keep_topics_with_wildcards_or_without_a_character_are_refused() {
    assert_eq!(check_topic_name("a/+"), Err(MqttStringError::Wildcard('+')));
    assert_eq!(check_topic_name(""), Err(MqttStringError::Empty));
    for filter in ["foo/#", "foo/bar", "foo/+", "#"] {
        assert_eq!(check_topic_filter(filter), Ok(()));
    }
    assert!("3".parse::<Qos>().is_err());
}

#[test]
fn better_a_draining_rate_of_zero_is_refused_with_a_clear_message() {
    assert!(parse_drain_rate("0").unwrap_err().contains("never drain"));
}
