//! Translates the results of Paho's tokens.

use paho_mqtt::{Error, Properties, PropertyCode, ReasonCode, ServerResponse};

use super::{BrokerRefusal, Delivery};
use crate::common::escape::shortened;
use crate::common::mqtt::reason_code::{self, FIRST_ERROR};

/// `None` if the fate of the message is unknown.
pub(super) fn delivery(result: Result<(), Error>) -> Option<Delivery> {
    match result {
        Ok(()) => Some(Delivery::Done),
        Err(Error::ReasonCode(code, properties)) => {
            let refusal = refusal(reason_number(code), &properties);
            Some(if refusal.is_transient() {
                Delivery::NotNow
            } else {
                Delivery::Refused(refusal)
            })
        }
        Err(_) => None,
    }
}

/// The granted QoS or the refusal; `None` if the connection ended first. `was_refused`: the broker
/// has refused a SUBSCRIBE that has not been reported yet.
pub(super) fn subscription(
    result: Result<ServerResponse, Error>,
    was_refused: impl FnOnce() -> bool,
) -> Option<Result<u8, BrokerRefusal>> {
    match result {
        Ok(response) => {
            let granted = response
                .subscribe_response()
                .and_then(|code| u8::try_from(code).ok())
                .unwrap_or(FIRST_ERROR);
            Some(if granted <= 2 {
                Ok(granted)
            } else {
                Err(refusal(granted, response.properties()))
            })
        }
        Err(Error::ReasonCode(code, properties)) => {
            Some(Err(refusal(reason_number(code), &properties)))
        }
        // Paho reports the one failure code of MQTT 3.1.1 (0x80) like this, but also a SUBSCRIBE
        // that could not be written.
        Err(Error::Failure) if was_refused() => Some(Err(BrokerRefusal {
            code: FIRST_ERROR,
            reason: "no reason given (0x80)".into(),
        })),
        Err(_) => None,
    }
}

fn refusal(code: u8, properties: &Properties) -> BrokerRefusal {
    let mut reason = reason_code::describe(code);
    let text = properties.get_string(PropertyCode::ReasonString);
    if let Some(text) = text.filter(|text| !text.is_empty()) {
        reason = format!("{reason}: {}", shortened(&text));
    }
    BrokerRefusal { code, reason }
}

fn reason_number(code: ReasonCode) -> u8 {
    u8::try_from(code as u32).unwrap_or(FIRST_ERROR)
}
