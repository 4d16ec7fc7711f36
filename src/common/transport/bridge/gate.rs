//! What the bridge holds back for whoever deals with the messages: see [`Flow`].
//!
//! *Towards the broker* acknowledgements wait until they are due; everything else passes.
//! *Towards the client library* nothing is handed over while too much waits, but only ever between
//! two packets. A ping that the library sends meanwhile goes out, so that the broker sees that we
//! live, and is answered here: the broker's answer stands behind what is not taken.

use std::collections::VecDeque;

use crate::common::flow::Flow;
use crate::common::flow::framing::{
    DISCONNECT, Framer, Head, PINGREQ, PINGRESP, PINGRESP_PACKET, PUBACK, PUBREC, whole_packet,
};

/// The gate of one connection.
pub(super) struct Gate<'a> {
    flow: &'a Flow,
    /// Follows what the broker says.
    heard: Framer,
    heads: Vec<Head>,
    /// Follows what the client library has been handed of it.
    handed: Framer,
    closed: bool,
    /// Pings that the client library waits for.
    pings: u32,
    /// What the client library says, up to the end of a packet.
    said: Vec<u8>,
    /// Acknowledgements that are not due, and their lengths.
    held: Vec<u8>,
    lengths: VecDeque<usize>,
    /// Acknowledgements that went out.
    passed: u64,
}

impl<'a> Gate<'a> {
    pub(super) fn new(flow: &'a Flow) -> Self {
        Self {
            flow,
            heard: Framer::default(),
            heads: Vec::new(),
            handed: Framer::default(),
            closed: false,
            pings: 0,
            said: Vec::new(),
            held: Vec::new(),
            lengths: VecDeque::new(),
            passed: 0,
        }
    }

    pub(super) fn flow(&self) -> &'a Flow {
        self.flow
    }

    /// Looks whether too much waits. What the broker says is not read then.
    pub(super) fn look(&mut self) -> bool {
        self.closed = self.flow.is_full(self.closed);
        self.closed
    }

    /// What [`look`](Self::look) saw last.
    pub(super) fn closed(&self) -> bool {
        self.closed
    }

    /// Whether acknowledgements wait, or messages.
    pub(super) fn holds(&self) -> bool {
        self.closed || !self.lengths.is_empty()
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
        let pings = &mut self.pings;
        self.handed.follow(bytes, |head| {
            if head.kind == PINGRESP {
                *pings = pings.saturating_sub(1);
            }
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
                Some(PUBACK | PUBREC) => {
                    self.held.extend_from_slice(packet);
                    self.lengths.push_back(packet.len());
                }
                kind => {
                    if kind == Some(DISCONNECT) {
                        // Behind it nothing counts.
                        self.release(out);
                    }
                    self.pings += u32::from(kind == Some(PINGREQ));
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
        if self.lengths.is_empty() {
            return;
        }
        let due = self.flow.due().saturating_sub(self.passed);
        let due = usize::try_from(due).unwrap_or(usize::MAX);
        let count = due.min(self.lengths.len());
        let bytes: usize = self.lengths.drain(..count).sum();
        out.extend(self.held.drain(..bytes));
        self.passed += count as u64;
    }
}
