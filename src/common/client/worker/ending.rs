//! How an attempt or a connection ends, and what the cause is.

use paho_mqtt::{Error, ReasonCode};

use super::Worker;
use crate::common::client::cause::{self, Unanswered};
use crate::common::client::{Event, Version, reason};
use crate::common::transport::bridge::Severed;

impl<N: Fn(Event)> Worker<N> {
    /// The connect failed: finds the cause, or falls back to MQTT 3.1.1.
    pub(super) fn failed(&mut self, generation: u64, error: Error) {
        let Some(session) = self.current.take() else {
            return;
        };
        let heard = session.handle.has_heard();
        // A broker of old answers with a return code of MQTT 3, which is no reason code, and
        // Paho makes nothing of it.
        let speaks_older = match &error {
            Error::ReasonCode(ReasonCode::UnsupportedProtocolVersion, _) => true,
            Error::Failure => heard && self.v5,
            _ => false,
        };
        session.cut();
        let way = session.way.clone();
        let (severed, certified) = (session.severed.clone(), session.certified);
        self.aside.push(session);
        if speaks_older && self.v5 && self.config.version == Version::Any {
            self.v5 = false;
            if let Err(fault) = self.attempt(generation) {
                self.ended(generation, fault);
            }
            return;
        }
        let host = way.to_string();
        let fault = match error {
            Error::ReasonCode(code, properties) => {
                reason::connect_refused(&host, code, &properties)
            }
            Error::ConnectReturn(code) => reason::connect_returned(&host, code),
            _ if speaks_older => reason::version_5_refused(&host),
            _ => severed
                .as_ref()
                .and_then(|severed| severed.fault.clone())
                .unwrap_or_else(|| {
                    cause::unanswered(Unanswered {
                        way: &way,
                        has_certificate: certified,
                        client_id: &self.config.client_id,
                        heard,
                        cause: severed.as_ref().and_then(|s| s.cause.as_deref()),
                    })
                }),
        };
        self.ended(generation, fault);
    }

    /// The connection is gone.
    pub(super) fn lost(&mut self, generation: u64) {
        let Some(session) = self.current(generation) else {
            return;
        };
        if let Some(Err(error)) = session.connect_result() {
            return self.failed(generation, error);
        }
        // Acknowledgements that came before the end count.
        let settled = session.take_deliveries();
        let farewell = session.farewell.take();
        let severed = session.severed.take();
        session.cut();
        let (code, fault) = match (farewell, severed) {
            (Some((code, fault)), _) => (Some(code), fault),
            (
                None,
                Some(Severed {
                    fault: Some(fault), ..
                }),
            ) => (None, fault),
            (None, severed) => {
                let by_us = severed.as_ref().is_none_or(|severed| severed.by_us);
                let cause = severed.as_ref().and_then(|s| s.cause.as_deref());
                (None, cause::lost(&session.way, by_us, cause))
            }
        };
        self.retire();
        self.settle(generation, settled);
        (self.notify)(Event::Ended {
            generation,
            step: None,
            code,
            fault,
        });
    }

    pub(super) fn abandon(&mut self, generation: u64) {
        if self
            .dialling
            .as_ref()
            .is_some_and(|d| d.generation == generation)
        {
            self.give_up_dialling();
        }
        if let Some(session) = self.current(generation) {
            let settled = session.take_deliveries();
            session.cut();
            self.retire();
            self.settle(generation, settled);
        }
    }
}
