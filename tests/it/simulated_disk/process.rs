//! One publisher of the simulation: the real outbox with the real durable queue, and requests
//! and results on their way to the disk and back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iot_pubsub::common::broker::profile::Profile;
use iot_pubsub::common::mqtt::draft::Draft;
use iot_pubsub::common::mqtt::outgoing_message::OutgoingMessage;
use iot_pubsub::common::mqtt::qos::Qos;
use iot_pubsub::publisher::outbox::Outbox;
use iot_pubsub::publisher::outbox::broker_limits::BrokerLimits;
use iot_pubsub::publisher::outbox::drain_pacer::DrainPacer;
use iot_pubsub::publisher::outbox::types::{Offered, OutboxConfig, PoisonEvidence};
use iot_pubsub::publisher::outbox::user_receipts::UserReceipt;
use iot_pubsub::publisher::queue::durable::DurableQueue;
use iot_pubsub::publisher::queue::limits::{DropBehavior, Limits, MessageCountLimit};
use iot_pubsub::publisher::queue::store_requests::{StoreRequest, StoreResult};

use super::disk::{Disk, Owner};

pub(super) const WINDOW: usize = 7;

/// A publisher at work.
pub(super) struct Process {
    pub(super) name: Owner,
    pub(super) outbox: Outbox,
    pub(super) drains: bool,
    pub(super) online: bool,
    pub(super) closed: bool,
    requests: VecDeque<StoreRequest>,
    results: VecDeque<StoreResult>,
    /// Sent on this connection and not answered yet.
    pub(super) wire: VecDeque<(u64, Arc<OutgoingMessage>)>,
    /// Offered and not accepted yet, in order.
    pub(super) waiting: VecDeque<u64>,
    /// Had no place yet.
    held: Option<u64>,
    seen_version: u64,
    /// The next number when the store took the queue over.
    taken_over: Option<u64>,
}

fn draft(number: u64) -> Draft {
    Draft {
        topic: "t".into(),
        payload: number.to_string().into_bytes(),
        qos: Qos::AtLeastOnce,
        retain: false,
        readings: 1,
        properties: None,
    }
}

impl Process {
    pub(super) fn start(name: Owner, disk: &mut Disk) -> Self {
        let opened = disk.open(name, &format!("stream-{name}"));
        let drains = opened.drains;
        let limits = Limits {
            capacity: MessageCountLimit::Unlimited,
            max_bytes: 1 << 30,
            behavior: DropBehavior::Block,
        };
        let config = OutboxConfig {
            max_in_flight: WINDOW,
            operation_timeout: Duration::from_secs(3_600),
            expiry: None,
            // Every second publisher gathers.
            commit_interval: name.is_multiple_of(2).then_some(Duration::from_millis(700)),
            max_attempts: u32::MAX,
            sequence: true,
            profile: Profile::Generic,
        };
        let queue = DurableQueue::new(limits, opened);
        Self {
            name,
            outbox: Outbox::new(
                config,
                Box::new(queue),
                DrainPacer::new(f64::INFINITY, false),
            ),
            drains,
            online: false,
            closed: false,
            requests: VecDeque::new(),
            results: VecDeque::new(),
            wire: VecDeque::new(),
            waiting: VecDeque::new(),
            held: None,
            taken_over: None,
            seen_version: disk.version,
        }
    }

    /// Once the event loop knows that this process drains; its store knows it earlier.
    pub(super) fn connect(&mut self, now: Instant) {
        let drains = self.outbox.queue.count_for_other_sender().is_none();
        if drains && !self.online {
            self.online = true;
            self.outbox.handle_connected(BrokerLimits::PROTOCOL, now);
        }
    }

    pub(super) fn disconnect(&mut self, now: Instant) {
        if std::mem::take(&mut self.online) {
            self.wire.clear();
            self.outbox
                .handle_disconnected(PoisonEvidence::Unrelated, now);
        }
    }

    /// Offers a message; whether the source may go on.
    pub(super) fn offer(&mut self, number: u64, now: Instant) -> bool {
        match self.outbox.offer(draft(number), now, 0) {
            Offered::Taken { .. } => self.waiting.push_back(number),
            Offered::Full(_) => {
                self.held = Some(number);
                return false;
            }
            other => panic!("{other:?}"),
        }
        true
    }

    pub(super) fn is_held_up(&self) -> bool {
        self.held.is_some()
    }

    /// One turn of the event loop; gives what was sent, and what is told.
    pub(super) fn turn(
        &mut self,
        now: Instant,
    ) -> (Vec<(u64, Arc<OutgoingMessage>)>, Vec<UserReceipt>) {
        if let Some(number) = self.held.take() {
            self.offer(number, now);
        }
        let sent = self.outbox.next_messages(now, 0);
        self.wire.extend(sent.iter().cloned());
        assert!(self.wire.len() <= WINDOW, "more than a window in flight");
        let before = self.requests.len();
        while let Some(request) = self.outbox.queue.next_request(now) {
            self.requests.push_back(request);
        }
        let receipts = self.outbox.take_receipts();
        let idle = sent.is_empty() && receipts.is_empty() && self.requests.len() == before;
        if idle && let Some(at) = self.outbox.wake_at(now) {
            assert!(at > now, "it would spin");
        }
        (sent, receipts)
    }

    /// The store carries out one order.
    pub(super) fn store_works(&mut self, disk: &mut Disk) -> bool {
        let Some(request) = self.requests.pop_front() else {
            return false;
        };
        let result = match request {
            StoreRequest::Commit(batch) => disk.commit(batch, self.name, self.drains),
            StoreRequest::Load { after, rows, .. } => disk.load(after, rows),
            StoreRequest::RecordConnected(_) => unreachable!("the queue does not request it"),
            StoreRequest::AskOutcomes { numbered } => disk.ask(numbered, self.name),
            StoreRequest::Close { next_seq } => {
                if let Some(next_seq) = next_seq.or(self.taken_over) {
                    disk.close(next_seq);
                }
                StoreResult::Closed
            }
        };
        self.results.push_back(result);
        true
    }

    /// The store looks round: for a lock that is free, for what others have written.
    pub(super) fn store_looks(&mut self, disk: &mut Disk) {
        if !self.drains && disk.lock.is_none() {
            self.results.push_back(disk.ask(0, self.name));
            self.drains = true;
            let opened = disk.open(self.name, &format!("stream-{}", self.name));
            self.taken_over = Some(opened.next_seq);
            self.results.push_back(StoreResult::TookOver(opened));
        } else if self.seen_version != disk.version {
            let counts = disk.counts();
            self.results.push_back(StoreResult::Changed { counts });
        }
        self.seen_version = disk.version;
    }

    /// The event loop handles one result.
    pub(super) fn handle_result(&mut self, now: Instant) -> bool {
        let Some(result) = self.results.pop_front() else {
            return false;
        };
        self.closed |= matches!(result, StoreResult::Closed);
        self.outbox.handle_store_result(result, now);
        true
    }

    pub(super) fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.results.is_empty() && self.wire.is_empty()
    }
}
