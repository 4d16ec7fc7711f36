//! What the bridge holds back for whoever deals with the messages: see [`Flow`].
//!
//! *Towards the broker* acknowledgements wait until they are due; everything else passes. The
//! library takes them for sent, and sees no reason for a ping while it sends: so a ping goes out
//! from here when nothing else has for the keep-alive time.
//!
//! *Towards the client library* nothing is handed over while too much waits, but only ever between
//! two packets. A ping that the library sends meanwhile goes out, so that the broker sees that we
//! live, and is answered here: the broker's answer stands behind what is not taken.

use std::collections::VecDeque;
use std::time::Instant;

use crate::common::flow::Flow;
use crate::common::flow::framing::{
    CONNACK, DISCONNECT, Framer, Head, PINGREQ, PINGREQ_PACKET, PINGRESP, PINGRESP_PACKET, PUBACK,
    PUBREC, whole_packet,
};

/// The gate of one connection.
pub(super) struct Gate<'a> {
    flow: &'a Flow,
    /// Follows what the broker says.
    heard: Framer,
    heads: Vec<Head>,
    /// Follows what the client library has been handed of it.
    handed: Framer,
    /// The client library has the broker's answer to CONNECT.
    accepted: bool,
    closed: bool,
    /// Pings that the client library waits for.
    pings: u32,
    /// What the client library says, up to the end of a packet.
    said: Vec<u8>,
    held: Held,
    /// When something went out last.
    sent_at: Instant,
}

impl<'a> Gate<'a> {
    pub(super) fn new(flow: &'a Flow, now: Instant) -> Self {
        Self {
            flow,
            heard: Framer::default(),
            heads: Vec::new(),
            handed: Framer::default(),
            accepted: false,
            closed: false,
            pings: 0,
            said: Vec::new(),
            held: Held::default(),
            sent_at: now,
        }
    }

    pub(super) fn flow(&self) -> &'a Flow {
        self.flow
    }

    /// Looks whether too much waits. What the broker says is not read then, unless the client
    /// library has the beginning of a packet, or is still waiting to be accepted.
    pub(super) fn look(&mut self) -> bool {
        self.closed = self.accepted && self.flow.is_full(self.closed);
        self.closed
    }

    /// Whether the broker is to be listened to, after a look.
    pub(super) fn hears(&mut self) -> bool {
        !self.look() || !self.handed.between_packets()
    }

    /// What [`look`](Self::look) saw last.
    pub(super) fn closed(&self) -> bool {
        self.closed
    }

    /// Whether acknowledgements wait, or messages.
    pub(super) fn holds(&self) -> bool {
        self.closed || !self.held.is_empty()
    }

    /// The broker has said this.
    pub(super) fn hear(&mut self, bytes: &[u8]) {
        let heads = &mut self.heads;
        heads.clear();
        self.heard.follow(bytes, |head| heads.push(head));
        self.flow.arrived(heads);
    }

    /// How much of this may be handed to the client library.
    pub(super) fn allowance(&self, bytes: &[u8]) -> usize {
        if self.closed {
            self.handed.rest_of_packet(bytes)
        } else {
            bytes.len()
        }
    }

    /// The client library has been handed this.
    pub(super) fn handed(&mut self, bytes: &[u8]) {
        let (pings, accepted) = (&mut self.pings, &mut self.accepted);
        self.handed.follow(bytes, |head| match head.kind {
            PINGRESP => *pings = pings.saturating_sub(1),
            CONNACK => *accepted = true,
            _ => {}
        });
    }

    /// What is to be handed to the client library in place of what is held back.
    pub(super) fn answer(&self) -> Option<&'static [u8]> {
        let due = self.closed && self.pings > 0 && self.handed.between_packets();
        due.then_some(&PINGRESP_PACKET)
    }

    /// It has been.
    pub(super) fn answered(&mut self) {
        self.pings = 0;
    }

    /// The client library says this: leaves what may go to the broker now.
    pub(super) fn say(&mut self, out: &mut Vec<u8>) {
        let mut said = std::mem::take(&mut self.said);
        said.append(out);
        let mut done = 0;
        while let Some(rest) = said.get(done..)
            && let Some(packet) = whole_packet(rest).and_then(|length| rest.get(..length))
        {
            done += packet.len();
            match packet.first().map(|byte| byte >> 4) {
                Some(PUBACK | PUBREC) => self.held.push(packet),
                kind => {
                    self.pings += u32::from(kind == Some(PINGREQ));
                    if kind == Some(DISCONNECT) {
                        // The broker hears nothing that comes behind it.
                        self.held.release(self.flow.due(), out);
                    }
                    out.extend_from_slice(packet);
                }
            }
        }
        said.drain(..done);
        self.said = said;
        self.release(out);
    }

    /// Appends to `out` the acknowledgements that are due.
    pub(super) fn release(&mut self, out: &mut Vec<u8>) {
        if !self.held.is_empty() {
            self.held.release(self.flow.due(), out);
        }
    }

    /// Something has gone out to the broker.
    pub(super) fn sent(&mut self, now: Instant) {
        self.sent_at = now;
    }

    /// When a ping of our own is due, while acknowledgements are held back.
    pub(super) fn ping_at(&self) -> Option<Instant> {
        (!self.held.is_empty()).then(|| self.sent_at + self.flow.keep_alive())
    }

    /// Appends it to `out`, if it is due.
    pub(super) fn ping(&self, now: Instant, out: &mut Vec<u8>) {
        if self.ping_at().is_some_and(|at| now >= at) {
            out.extend(PINGREQ_PACKET);
        }
    }
}

/// Acknowledgements that are not due.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    lengths: VecDeque<usize>,
    /// How many went out before them.
    passed: u64,
}

impl Held {
    fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    fn push(&mut self, packet: &[u8]) {
        self.bytes.extend_from_slice(packet);
        self.lengths.push_back(packet.len());
    }

    fn release(&mut self, due: u64, out: &mut Vec<u8>) {
        let due = due.saturating_sub(self.passed);
        let due = usize::try_from(due).unwrap_or(usize::MAX);
        let count = due.min(self.lengths.len());
        let bytes: usize = self.lengths.drain(..count).sum();
        out.extend(self.bytes.drain(..bytes));
        self.passed += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::event_loop::clock;
    use crate::common::flow::{Backlog, Ticket};
    use std::sync::Arc;
    use std::time::Duration;

    const KEEP_ALIVE: Duration = Duration::from_secs(10);
    const CONNACK_PACKET: [u8; 4] = [CONNACK << 4, 2, 0, 0];
    const DISCONNECT_PACKET: [u8; 2] = [DISCONNECT << 4, 0];

    fn publish(id: u8) -> Vec<u8> {
        vec![0x32, 5, 0, 1, b't', 0, id]
    }

    fn puback(id: u8) -> Vec<u8> {
        vec![PUBACK << 4, 2, 0, id]
    }

    /// The broker sends these, and the client library takes them.
    fn received(gate: &mut Gate<'_>, flow: &Arc<Flow>, ids: &[u8]) -> Vec<Ticket> {
        ids.iter()
            .map(|id| {
                gate.hear(&publish(*id));
                gate.handed(&publish(*id));
                flow.ticket(true)
            })
            .collect()
    }

    fn say(gate: &mut Gate<'_>, packets: &[&[u8]]) -> Vec<u8> {
        let mut out = packets.concat();
        gate.say(&mut out);
        out
    }

    #[test]
    fn what_is_due_goes_out_before_disconnect_and_nothing_else_does() {
        let flow = Arc::new(Backlog::default()).flow(KEEP_ALIVE).unwrap();
        let mut gate = Gate::new(&flow, clock());
        let tickets = received(&mut gate, &flow, &[1, 2, 3]);
        assert_eq!(say(&mut gate, &[&puback(1)]), b"");
        tickets[0].settle();
        tickets[1].settle();
        let out = say(&mut gate, &[&puback(2), &puback(3), &DISCONNECT_PACKET]);
        assert_eq!(
            out,
            [&puback(1)[..], &puback(2), &DISCONNECT_PACKET].concat()
        );
    }

    #[test]
    fn while_too_much_waits_a_packet_is_handed_over_to_its_end_and_pings_are_answered() {
        let backlog = Arc::new(Backlog::default());
        let flow = backlog.flow(KEEP_ALIVE).unwrap();
        let mut gate = Gate::new(&flow, clock());
        backlog.add(2 << 20);
        assert!(gate.hears(), "to be accepted comes first");
        gate.handed(&CONNACK_PACKET);
        gate.handed(&publish(1)[..3]);
        assert!(gate.hears(), "a packet is under way");
        assert_eq!(say(&mut gate, &[&PINGREQ_PACKET]), PINGREQ_PACKET);
        assert_eq!(gate.answer(), None);
        let rest = [&publish(1)[3..], &publish(2)].concat();
        assert_eq!(gate.allowance(&rest), 4);
        gate.handed(&rest[..4]);
        assert!(!gate.hears());
        assert_eq!(gate.answer(), Some(&PINGRESP_PACKET[..]));
        backlog.remove(2 << 20);
        assert!(gate.hears());
        assert_eq!(gate.allowance(&rest[4..]), publish(2).len());
    }

    #[test]
    fn it_pings_by_itself_while_acknowledgements_are_all_that_is_said() {
        let flow = Arc::new(Backlog::default()).flow(KEEP_ALIVE).unwrap();
        let now = clock();
        let mut gate = Gate::new(&flow, now);
        assert_eq!(gate.ping_at(), None);
        let tickets = received(&mut gate, &flow, &[1, 2]);
        say(&mut gate, &[&puback(1)]);
        gate.sent(now + KEEP_ALIVE / 2);
        say(&mut gate, &[&puback(2)]);
        let at = now + KEEP_ALIVE * 3 / 2;
        assert_eq!(gate.ping_at(), Some(at));
        let mut out = Vec::new();
        gate.ping(at.checked_sub(Duration::from_millis(1)).unwrap(), &mut out);
        assert_eq!(out, b"");
        gate.ping(at, &mut out);
        assert_eq!(out, PINGREQ_PACKET);
        for ticket in tickets {
            ticket.settle();
        }
        gate.release(&mut Vec::new());
        assert_eq!(gate.ping_at(), None);
    }
}
