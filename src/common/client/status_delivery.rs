//! A status message that has been published and has no PUBACK yet.

use std::time::Instant;

use paho_mqtt::DeliveryToken;

use super::{ConnectionInfo, Delivery};

pub(super) struct StatusDelivery {
    /// `None` once Paho has given the message up because the connection is ending.
    pub(super) token: Option<DeliveryToken>,
    /// How long to wait; `None` if the caller ends the wait.
    pub(super) until: Option<Instant>,
    pub(super) next_step: AfterStatus,
}

/// What waits for the PUBACK.
#[derive(Clone, Copy, Debug)]
pub(super) enum AfterStatus {
    ReportConnected(ConnectionInfo),
    Disconnect,
}

#[derive(Debug)]
pub(super) enum StatusResult {
    Answered(Delivery),
    TimedOut,
}
