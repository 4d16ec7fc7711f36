//! Which rows of the file are in memory, and which are to be read next. PURE.

use std::collections::HashMap;

use crate::common::mqtt::outgoing_message::OutgoingMessage;
use crate::publisher::queue::store_requests::{RowId, StoreRequest};

/// The rows and bytes that wait in memory, about. More are read when half of them are left.
pub(super) const PAGE: usize = 512;

pub(super) const PAGE_BYTES: u64 = 1 << 20;

/// A quarter is read at once, because delivered rows cannot be deleted meanwhile. But all of it is if rows have no number:
/// one transaction gives numbers to those that were read together, and no more are read before its end. So do those that
/// are dropped: one transaction deletes what was read together.
const PORTIONS: usize = 4;

#[derive(Debug, Default)]
pub(super) struct LoadedRowIndex {
    /// By the id of the message, until it has its outcome.
    by_id: HashMap<u64, RowId>,
    sizes: HashMap<RowId, u64>,
    bytes: u64,
}

impl LoadedRowIndex {
    pub(super) fn len(&self) -> usize {
        self.sizes.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn contains(&self, row: RowId) -> bool {
        self.sizes.contains_key(&row)
    }

    pub(super) fn row_of(&self, message: &OutgoingMessage) -> Option<RowId> {
        self.by_id.get(&message.id).copied()
    }

    pub(super) fn insert(&mut self, message: &OutgoingMessage, row: RowId) {
        self.by_id.insert(message.id, row);
        self.insert_ended_row(message, row);
    }

    pub(super) fn insert_ended_row(&mut self, message: &OutgoingMessage, row: RowId) {
        self.sizes.insert(row, message.draft.content_size());
        self.bytes += message.draft.content_size();
    }

    pub(super) fn take_row_of(&mut self, message: &OutgoingMessage) -> Option<RowId> {
        self.by_id.remove(&message.id)
    }

    pub(super) fn remove(&mut self, row: RowId) {
        if let Some(size) = self.sizes.remove(&row) {
            self.bytes -= size;
        }
    }
}

/// Reads the rows in passes from the first to the last one.
#[derive(Debug, Default)]
pub(super) struct RowCursor {
    cursor: RowId,
    pub(super) is_reading: bool,
    pub(super) found_new: bool,
    /// Whether some of the rows that were read last had no number.
    pub(super) found_unnumbered: bool,
    /// Whether the rows that are read next only make room for others.
    pub(super) makes_room: bool,
    /// The last pass has found none: another one is of no use before something changes.
    pub(super) is_done: bool,
}

impl RowCursor {
    pub(super) fn next_request(&mut self) -> Option<StoreRequest> {
        if self.is_reading || self.is_done {
            return None;
        }
        self.is_reading = true;
        let makes_room = std::mem::take(&mut self.makes_room);
        let portions = if self.found_unnumbered || makes_room {
            1
        } else {
            PORTIONS
        };
        Some(StoreRequest::Load {
            after: self.cursor,
            rows: PAGE / portions,
            bytes: PAGE_BYTES / portions as u64,
        })
    }

    /// A page was read up to the row `last`; `None` at the end of the file.
    pub(super) fn handle_page(&mut self, last: Option<RowId>) {
        self.is_reading = false;
        self.cursor = last.unwrap_or(0);
        if last.is_none() {
            self.is_done = !std::mem::take(&mut self.found_new);
        }
    }
}
