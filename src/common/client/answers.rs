//! What Paho's answers mean, in our words.

use paho_mqtt::{Error, ServerResponse};

use super::{Delivery, Refusal, reason};

/// What a finished delivery means; none if nobody knows.
pub(super) fn delivery(result: Result<(), Error>) -> Option<Delivery> {
    match result {
        Ok(()) => Some(Delivery::Done),
        Err(Error::ReasonCode(code, properties)) => {
            let refusal = reason::refusal(reason::number(code), &properties);
            Some(if reason::is_transient(refusal.code) {
                Delivery::NotNow
            } else {
                Delivery::Refused(refusal)
            })
        }
        Err(_) => None,
    }
}

/// What an answered SUBSCRIBE means; none if the connection ended first.
/// `refused` is whether the broker has refused one that was not asked about before.
pub(super) fn subscription(
    result: Result<ServerResponse, Error>,
    refused: impl FnOnce() -> bool,
) -> Option<Result<u8, Refusal>> {
    match result {
        Ok(response) => {
            let granted = response
                .subscribe_response()
                .and_then(|code| u8::try_from(code).ok())
                .unwrap_or(0x80);
            Some(if granted <= 2 {
                Ok(granted)
            } else {
                Err(reason::refusal(granted, response.properties()))
            })
        }
        Err(Error::ReasonCode(code, properties)) => {
            Some(Err(reason::refusal(reason::number(code), &properties)))
        }
        // MQTT 3.1.1 knows one failure code, 0x80, and Paho makes this of it, but also of a SUBSCRIBE that
        // could not be written.
        Err(Error::Failure) if refused() => Some(Err(Refusal {
            code: 0x80,
            reason: "no reason given (0x80)".into(),
        })),
        Err(_) => None,
    }
}
