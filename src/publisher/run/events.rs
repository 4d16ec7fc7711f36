//! What the run hears of its messages, from the broker and from the disk.

use log::{error, info, warn};

use super::Publisher;
use crate::common::client::Delivery;
use crate::common::connection::diagnosis::PendingRequest;
use crate::common::connection::driver::Disconnection;
use crate::common::fault::{Exit, Fault};
use crate::common::mqtt::limits;
use crate::publisher::outbox::Loss;
use crate::publisher::queue::News;
use crate::publisher::queue::requests;

/// MQTT 5's reason code.
const NOT_AUTHORIZED: u8 = 0x87;

/// The reason codes of MQTT 5.0 section 3.14.2.1 with which a broker ends a connection for a message: not authorized,
/// topic name invalid, packet too large, payload format invalid, retain or `QoS` not supported.
const ABOUT_A_MESSAGE: [u8; 6] = [NOT_AUTHORIZED, 0x90, 0x95, 0x99, 0x9A, 0x9B];

/// Those that are about a packet, which may be a message: malformed packet, protocol error. Mosquitto gives the
/// first for a topic with control characters, the second for one with wildcards.
const ABOUT_A_PACKET: [u8; 2] = [0x81, 0x82];

/// What the end of a connection says about the messages in flight, the first of which has this topic.
fn loss(disconnection: &Disconnection, topic: Option<&str>) -> Loss {
    let reached = disconnection.reached;
    // A receiver may take a name with non-characters for a malformed packet (MQTT 5.0 section 1.5.4).
    let is_name =
        |code| ABOUT_A_PACKET.contains(&code) && topic.is_some_and(limits::has_noncharacters);
    match disconnection.reason_code {
        Some(code) if ABOUT_A_MESSAGE.contains(&code) || is_name(code) => Loss::Refused {
            reason: disconnection.message.clone(),
            reached,
        },
        Some(code) if !ABOUT_A_PACKET.contains(&code) => Loss::Unrelated,
        // The broker broke the protocol, or there was no memory.
        None if disconnection.exit != Exit::Unavailable => Loss::Unrelated,
        _ => Loss::Closed { reached },
    }
}

impl Publisher<'_> {
    pub(super) fn settle(&mut self, settled: Vec<(u64, Delivery)>) {
        for (place, delivery) in settled {
            // Anything but "not authorised" is about the message.
            if let Delivery::Refused(refusal) = &delivery
                && refusal.code == NOT_AUTHORIZED
            {
                self.refused = self.refused.or_worse(Exit::Refused);
            }
            self.outbox.settle(place, delivery, self.now);
        }
    }

    /// The connection has ended: what that says of the messages in flight.
    pub(super) fn dropped(&mut self, disconnection: &Disconnection) {
        let head = self.outbox.head_in_flight();
        let topic = head.as_ref().map(|(topic, _)| &**topic);
        let given_up = self
            .outbox
            .disconnected(loss(disconnection, topic), self.now);
        if given_up && disconnection.reason_code == Some(NOT_AUTHORIZED) {
            self.refused = self.refused.or_worse(Exit::Refused);
        }
    }

    /// Says what a series of such ends points to. Before [`dropped`](Self::dropped), which may take the message away.
    pub(super) fn hint(&mut self, disconnection: &Disconnection) {
        let head = self.outbox.head_in_flight();
        let delivered = self.report.summary.delivered > self.delivered_before;
        let pending = match &head {
            Some((topic, bytes)) if !delivered => PendingRequest::Publish(topic, *bytes),
            _ => PendingRequest::Nothing,
        };
        if let Some(hint) = self
            .diagnosis
            .connection_ended(disconnection.closed_after, pending)
        {
            warn!("{hint}");
        }
    }

    /// What the store has done, or cannot do.
    pub(super) fn stored(&mut self, report: requests::StoreResult) {
        let now = self.now;
        for news in self.outbox.queue_mut().handle(report, now) {
            self.outbox.hear(&news);
            match news {
                News::Damaged(count) => self.report.damaged(count),
                News::DiskFull(why) => warn!("{why}; nothing can be kept until there is space"),
                News::DiskRecovered => warn!("there is space on the disk again"),
                News::Ours => {
                    info!("the publisher that drained the queue has gone; this one drains now");
                    self.driver.start(now);
                }
                News::Gone(fault) => self.queue_gone(fault),
                News::Broken(fault) => {
                    self.fault = Some(fault);
                    self.store_done = true;
                    self.input.stop();
                }
                News::Closed => self.store_done = true,
                _ => {}
            }
        }
    }

    /// The queue is not where it was: what is at hand, or can still be read, is sent if that goes
    /// soon; nothing more is accepted.
    fn queue_gone(&mut self, fault: Fault) {
        error!("{fault}; nothing more is accepted");
        self.input.stop();
        // One that only adds sends nothing, nor does one that has given up.
        let sends = self.fault.is_none() && self.outbox.queue().entrusted().is_none();
        self.store_done |= !sends;
        self.fault = Some(fault);
        self.flush_by(self.now + self.config.flush_timeout);
    }

    /// Passes on what has become of messages.
    pub(super) fn tell(&mut self) {
        for receipt in self.outbox.take_receipts() {
            self.report.record(&receipt);
        }
    }
}
