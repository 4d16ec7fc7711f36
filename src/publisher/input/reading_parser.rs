//! Parses and checks the bytes that a source gave: topic, QoS, retain and size of each reading.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::batch::Reading;
use super::config::InputConfig;
use super::stamp::stamp;
use crate::common::broker::profile::Profile;
use crate::common::mqtt::draft::Draft;
use crate::common::mqtt::message_json::JsonInput;
use crate::common::mqtt::message_properties::MessageProperties;
use crate::common::mqtt::property_fields::PropertyFields;
use crate::common::mqtt::qos::Qos;

/// `read_at` is the Unix time of the reading. The error says why the reading is rejected.
pub fn parse<'a>(
    config: &InputConfig,
    profile: Profile,
    bytes: Cow<'a, [u8]>,
    read_at: Duration,
) -> Result<Reading<'a>, String> {
    if config.json {
        return parse_json(config, profile, &bytes, read_at);
    }
    let topic = config.topic.as_ref().ok_or("no topic: give --topic")?;
    let payload = if config.stamp {
        stamp(&bytes, read_at)?.into()
    } else {
        bytes
    };
    if payload.len() > config.max_payload {
        return Err(too_long(config, profile));
    }
    let given = &config.properties;
    if given.requires_text() && std::str::from_utf8(&payload).is_err() {
        return Err("not UTF-8, which --payload-format text says it is".into());
    }
    Ok(Reading {
        topic: Arc::clone(topic),
        payload,
        qos: config.qos,
        retain: config.retain,
        readings: 1,
        properties: given.shared.clone(),
    })
}

pub fn too_long(config: &InputConfig, profile: Profile) -> String {
    let (limit, whose) = profile.max_payload(0);
    if limit <= config.max_payload {
        format!("longer than {limit} bytes, which is {whose}'s limit")
    } else {
        format!("longer than {} bytes", config.max_payload)
    }
}

fn parse_json(
    config: &InputConfig,
    profile: Profile,
    line: &[u8],
    read_at: Duration,
) -> Result<Reading<'static>, String> {
    let input = JsonInput::parse(line)?;
    let given = config.topic.as_ref();
    let topic = match input.topic.as_deref() {
        None => Arc::clone(given.ok_or("names no topic, and --topic is not given")?),
        Some(named) => {
            let checked = profile.check_topic_name(named);
            checked.map_err(|e| format!("its topic {e}"))?;
            let same = given.filter(|given| ***given == *named);
            same.map_or_else(|| named.into(), Arc::clone)
        }
    };
    let qos = match input.qos {
        None => config.qos,
        Some(level) => Qos::from_level(level).ok_or("\"qos\" must be 0, 1 or 2")?,
    };
    profile.check_qos(qos).map_err(|e| format!("\"qos\" {e}"))?;
    let retain = input.retain_flag()?.unwrap_or(config.retain);
    if retain {
        let checked = profile.check_retained_topic(&topic);
        checked.map_err(|e| format!("\"retain\" {e}"))?;
    }
    let own = input.properties()?;
    let mut payload = input.into_payload()?;
    if config.stamp {
        payload = stamp(&payload, read_at)?;
    }
    if payload.len() > config.max_payload.min(profile.max_payload(topic.len()).0) {
        return Err(too_long(config, profile));
    }
    // What a line itself says of its payload is passed on unchecked: a broker has let it through to the bridge.
    let is_text_by_flag = config.properties.requires_text()
        && own.as_ref().is_none_or(|own| own.payload_format.is_none());
    if is_text_by_flag && std::str::from_utf8(&payload).is_err() {
        return Err("its payload is not UTF-8, which --payload-format text says it is".into());
    }
    Ok(Reading {
        topic,
        properties: match own {
            None => config.properties.shared.clone(),
            Some(own) => merge_properties(config, profile, own, &payload)?,
        },
        payload: payload.into(),
        qos,
        retain,
        readings: 1,
    })
}

/// What a line sets has priority over the flags.
fn merge_properties(
    config: &InputConfig,
    profile: Profile,
    own: PropertyFields<'static>,
    payload: &[u8],
) -> Result<Option<Arc<MessageProperties>>, String> {
    if let Some(topic) = &own.response_topic {
        let checked = profile.check_topic_name(topic);
        checked.map_err(|e| format!("its response-topic {e}"))?;
    }
    let mut fields = own.with_defaults(&config.properties.fields);
    // A reading out of a batch may become part of another one, which has this type again.
    if config.has_batches() && !payload.contains(&b'\n') {
        let of_reading = |content: &Cow<'_, str>| content != Draft::BATCH_TYPE;
        fields.content_type = fields.content_type.filter(of_reading);
    }
    Ok(MessageProperties::new(&fields))
}
