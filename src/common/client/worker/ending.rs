//! How an attempt or a connection ends, and what the cause is.

use super::Worker;
use crate::common::client::cause::{self, Unanswered};
use crate::common::client::{Event, Version, reason};
use crate::common::endpoint::Endpoint;
use crate::common::fault::Fault;
use crate::common::transport::bridge::{End, Severed};

impl<N: Fn(Event)> Worker<N> {
    /// The connect failed: finds the cause, or falls back to MQTT 3.1.1.
    pub(super) fn failed(&mut self, generation: u64) {
        let Some(session) = self.current.take() else {
            return;
        };
        session.cut();
        let way = session.way.clone();
        let (severed, certified) = (session.severed.clone(), session.certified);
        self.aside.push(session);
        let end = severed.as_ref().map(|severed| &severed.end);
        if end == Some(&End::OlderVersion) && self.config.version == Version::Any {
            self.v5 = false;
            if let Err(fault) = self.attempt(generation) {
                self.ended(generation, fault);
            }
            return;
        }
        let host = way.to_string();
        let fault = match end {
            Some(End::Refused(diagnosis)) if self.v5 => reason::connect_refused(&host, diagnosis),
            Some(End::Refused(diagnosis)) => reason::connect_returned(&host, diagnosis.code),
            Some(End::OlderVersion) => reason::version_5_refused(&host),
            Some(End::NoConnack(violation)) => cause::no_connack(&way, violation),
            Some(End::Violation(violation)) => cause::violation(&way, violation),
            Some(End::NoMemory(size)) => cause::no_memory(&way, *size),
            _ => severed
                .as_ref()
                .and_then(|severed| severed.fault.clone())
                .unwrap_or_else(|| {
                    cause::unanswered(Unanswered {
                        way: &way,
                        has_certificate: certified,
                        client_id: &self.config.client_id,
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
        if let Some(Err(_)) = session.connect_result() {
            return self.failed(generation);
        }
        // Acknowledgements that came before the end count.
        let settled = session.take_deliveries();
        let severed = session.severed.take();
        session.cut();
        let way = session.way.clone();
        let reached = severed.as_ref().and_then(|severed| severed.reached);
        let (code, fault) = Self::why_lost(&way, severed);
        self.retire();
        self.settle(generation, settled);
        (self.notify)(Event::Ended {
            generation,
            step: None,
            code,
            fault,
            reached,
        });
    }

    /// Why an accepted connection has ended, and the reason code of the broker's DISCONNECT.
    fn why_lost(way: &Endpoint, severed: Option<Severed>) -> (Option<u8>, Fault) {
        let Some(severed) = severed else {
            return (None, cause::lost(way, true, None));
        };
        match severed.end {
            End::Disconnected(diagnosis) => {
                let fault = reason::disconnected(&way.to_string(), &diagnosis);
                (Some(diagnosis.code), fault)
            }
            End::Violation(violation) | End::NoConnack(violation) => {
                (None, cause::violation(way, &violation))
            }
            End::NoMemory(size) => (None, cause::no_memory(way, size)),
            end => {
                let by_us = end == End::ByUs;
                let lost = || cause::lost(way, by_us, severed.cause.as_deref());
                (None, severed.fault.unwrap_or_else(lost))
            }
        }
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
