//! The rows of this run that another process is to send, and what becomes of them. PURE.

use std::collections::BTreeMap;

use crate::publisher::queue::QueueEvent;
use crate::publisher::queue::store_requests::{MessageOutcome, RowId, StoreRequest};

#[derive(Debug, Default)]
pub(super) struct RowsForOtherSender {
    /// Rows without a number: id of their messages.
    pub(super) unnumbered: BTreeMap<RowId, u64>,
    /// Rows with a number: id and `seq` of their messages.
    pub(super) numbered: BTreeMap<RowId, (u64, u64)>,
    last_numbered: RowId,
    /// Something may have changed since the last request.
    pub(super) is_due: bool,
    is_asking: bool,
}

impl RowsForOtherSender {
    pub(super) fn len(&self) -> usize {
        self.unnumbered.len() + self.numbered.len()
    }

    pub(super) fn insert_unnumbered(&mut self, row: RowId, id: u64) {
        self.unnumbered.insert(row, id);
        self.is_due = true;
    }

    pub(super) fn remove(&mut self, row: RowId) -> Option<u64> {
        self.unnumbered
            .remove(&row)
            .or_else(|| Some(self.numbered.remove(&row)?.0))
    }

    pub(super) fn next_request(&mut self) -> Option<StoreRequest> {
        if self.len() == 0 || !self.is_due || self.is_asking {
            return None;
        }
        self.is_due = false;
        self.is_asking = true;
        Some(StoreRequest::AskOutcomes {
            numbered: self.last_numbered,
        })
    }

    pub(super) fn handle_outcomes(
        &mut self,
        numbered: Vec<(RowId, u64)>,
        ends: Vec<(RowId, u64, MessageOutcome)>,
        oldest: Option<RowId>,
    ) -> Vec<QueueEvent> {
        self.is_asking = false;
        let mut events = Vec::new();
        for (row, seq) in numbered {
            self.last_numbered = self.last_numbered.max(row);
            events.extend(self.record_seq(row, seq));
        }
        let mut outcomes: BTreeMap<RowId, MessageOutcome> = BTreeMap::new();
        for (row, seq, outcome) in ends {
            events.extend(self.record_seq(row, seq));
            outcomes.insert(row, outcome);
        }
        // Rows are sent in order: those before the oldest one are done. Of a row that was deleted long
        // ago the outcome is not recorded any more; its number may never have been known.
        for id in split_before(&mut self.unnumbered, oldest).into_values() {
            let (seq, outcome) = (0, MessageOutcome::Delivered);
            events.push(QueueEvent::Ended { id, seq, outcome });
        }
        let mut done = split_before(&mut self.numbered, oldest);
        for row in outcomes.keys() {
            done.extend(self.numbered.remove_entry(row));
        }
        for (row, (id, seq)) in done {
            let outcome = outcomes.remove(&row).unwrap_or(MessageOutcome::Delivered);
            events.push(QueueEvent::Ended { id, seq, outcome });
        }
        events
    }

    fn record_seq(&mut self, row: RowId, seq: u64) -> Option<QueueEvent> {
        let id = self.unnumbered.remove(&row)?;
        self.numbered.insert(row, (id, seq));
        Some(QueueEvent::Numbered { id, seq })
    }
}

fn split_before<T>(rows: &mut BTreeMap<RowId, T>, oldest: Option<RowId>) -> BTreeMap<RowId, T> {
    let later = oldest.map(|oldest| rows.split_off(&oldest));
    std::mem::replace(rows, later.unwrap_or_default())
}
