//! Translates the results of Paho's tokens.

use paho_mqtt::{Error, Properties, PropertyCode, ReasonCode, ServerResponse};

use super::{Delivery, RefusedRequest};
use crate::common::escape::cut_to_log_length;
use crate::common::mqtt::reason_codes::{self, FIRST_ERROR};

/// `None` if the fate of the message is unknown.
pub(super) fn delivery(result: Result<(), Error>) -> Option<Delivery> {
    match result {
        Ok(()) => Some(Delivery::Done),
        Err(Error::ReasonCode(code, properties)) => {
            let refusal = refused_request(reason_number(code), &properties);
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
pub(super) fn subscription_outcome(
    result: Result<ServerResponse, Error>,
    was_refused: impl FnOnce() -> bool,
) -> Option<Result<u8, RefusedRequest>> {
    match result {
        Ok(response) => {
            let granted = response
                .subscribe_response()
                .and_then(|code| u8::try_from(code).ok())
                .unwrap_or(FIRST_ERROR);
            Some(if granted <= 2 {
                Ok(granted)
            } else {
                Err(refused_request(granted, response.properties()))
            })
        }
        Err(Error::ReasonCode(code, properties)) => {
            Some(Err(refused_request(reason_number(code), &properties)))
        }
        // Paho reports the one failure code of MQTT 3.1.1 (0x80) like this, but also a SUBSCRIBE
        // that could not be written.
        Err(Error::Failure) if was_refused() => Some(Err(RefusedRequest {
            code: FIRST_ERROR,
            reason: "no reason given (0x80)".into(),
        })),
        Err(_) => None,
    }
}

fn refused_request(code: u8, properties: &Properties) -> RefusedRequest {
    let mut reason = reason_codes::describe(code);
    let text = properties.get_string(PropertyCode::ReasonString);
    if let Some(text) = text.filter(|text| !text.is_empty()) {
        reason = format!("{reason}: {}", cut_to_log_length(&text));
    }
    RefusedRequest { code, reason }
}

fn reason_number(code: ReasonCode) -> u8 {
    u8::try_from(code as u32).unwrap_or(FIRST_ERROR)
}
