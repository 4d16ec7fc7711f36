//! How an attempt or a connection ends, and what the cause is.

use std::sync::Arc;

use super::Worker;
use crate::common::broker::endpoint::Endpoint;
use crate::common::client::cause::{self, Unanswered};
use crate::common::client::{Event, reason};
use crate::common::fault::Fault;
use crate::common::mqtt::packet_type::PacketType;
use crate::common::mqtt::reason_code::MALFORMED_PACKET;
use crate::common::runtime::clock::clock;
use crate::common::transport::bridge::{End, Severed};

impl<N: Fn(Event)> Worker<N> {
    /// The connect failed: finds the cause, or tries the other version of MQTT.
    pub(super) fn failed(&mut self, generation: u64) {
        let Some(session) = self.current.take() else {
            return;
        };
        self.switch_at = None;
        session.cut();
        let way = session.way.clone();
        let (severed, certified) = (session.severed.clone(), session.certified);
        self.aside.push(session);
        let (v5, now) = (self.v5, clock());
        let fault = match severed.as_ref().map(|severed| &severed.end) {
            Some(End::OlderVersion(diagnosis)) => {
                if self.versions.refused(true) {
                    return self.try_version(generation, false);
                }
                reason::version_5_refused(&way, diagnosis)
            }
            Some(End::Refused(diagnosis)) if v5 => {
                self.versions.interrupted();
                reason::connect_refused(&way, diagnosis)
            }
            Some(End::Refused(diagnosis)) => {
                if diagnosis.code == reason::RETURNED_VERSION && self.versions.refused(false) {
                    return self.try_version(generation, true);
                }
                self.versions.interrupted();
                reason::connect_returned(&way, diagnosis.code)
            }
            Some(End::NoConnack(violation)) => {
                // A broker that takes any version for 3.1.1 answers so.
                let is_older = violation.packet == Some(PacketType::Connack)
                    && violation.code == MALFORMED_PACKET;
                if is_older {
                    self.versions.unanswered(v5, now);
                } else {
                    self.versions.interrupted();
                }
                cause::no_connack(&way, violation)
            }
            Some(End::Violation(violation)) => cause::violation(&way, violation),
            Some(End::NoMemory(size)) => cause::no_memory(&way, *size),
            _ => {
                let told = severed.as_ref().and_then(|severed| severed.fault.clone());
                if let Some(fault) = told {
                    self.versions.interrupted();
                    return self.ended(generation, fault);
                }
                let in_packet = severed.as_ref().is_some_and(|severed| severed.in_packet);
                let in_a_row = if in_packet {
                    self.versions.interrupted();
                    1
                } else {
                    self.versions.unanswered(v5, now)
                };
                cause::unanswered(Unanswered {
                    way: &way,
                    has_certificate: certified,
                    client_id: &self.config.client_id,
                    cause: severed.as_ref().and_then(|s| s.cause.as_deref()),
                    in_packet,
                    version: self.config.version,
                    is_older: !v5,
                    in_a_row,
                    older_is_next: !self.versions.begins_with_five(now),
                })
            }
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
        let (code, fault) = Self::why_lost(&way, severed.as_ref());
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
    fn why_lost(way: &Endpoint, severed: Option<&Severed>) -> (Option<u8>, Fault) {
        match severed.map(|severed| &severed.end) {
            Some(End::Disconnected(diagnosis)) => {
                let fault = reason::disconnected(way, diagnosis);
                (Some(diagnosis.code), fault)
            }
            Some(End::Violation(violation) | End::NoConnack(violation)) => {
                (None, cause::violation(way, violation))
            }
            Some(End::NoMemory(size)) => (None, cause::no_memory(way, *size)),
            _ => {
                let told = severed.and_then(|severed| severed.fault.clone());
                (None, told.unwrap_or_else(|| cause::lost(way, severed)))
            }
        }
    }

    /// Ends a connection in order; an attempt, at once.
    pub(super) fn disconnect(&mut self, generation: u64) {
        let backlog = self.listener.as_ref().map(|to| Arc::clone(&to.backlog));
        match (self.current(generation), backlog) {
            (Some(session), Some(backlog)) => {
                session.disconnects_below();
                backlog.end_connection();
                self.wake(generation);
            }
            (Some(session), None) => {
                session.disconnect();
                self.wake(generation);
            }
            (None, _) => {
                self.abandon(generation);
                (self.notify)(Event::Disconnected { generation });
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
            self.versions.interrupted();
        }
        self.switch_at = None;
        let (v5, now) = (self.v5, clock());
        let share = self.config.connect_timeout / 4;
        if let Some(session) = self.current(generation) {
            // One that was sent just now had no time to be answered.
            let is_unanswered = session.is_connecting() && now >= session.started + share;
            let settled = session.take_deliveries();
            session.cut();
            if is_unanswered {
                self.versions.unanswered(v5, now);
            }
            self.retire();
            self.settle(generation, settled);
        }
    }
}
