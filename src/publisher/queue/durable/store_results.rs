//! What the store's reports do to the books of a durable queue. PURE.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::{DISK_RETRY, DurableQueue, PAGE, PAGE_BYTES};
use crate::common::fault::{Exit, Fault};
use crate::publisher::queue::journal::LEAST_BYTES;
use crate::publisher::queue::requests::{Counts, Outcome, RowId, StoredMessage};
use crate::publisher::queue::{DropBehavior, News, size};

/// This many bytes of the oldest messages go at once, and at least twice as many as the next message
/// has: only whole pages of the file are free for others. Not many more than are needed: deleting takes
/// space of its own first.
const ROOM: u64 = 2 * LEAST_BYTES;

/// The oldest go this many times in a row before it is clear that this does not help.
const EVICTIONS: u32 = 4;

impl DurableQueue {
    pub(super) fn committed(
        &mut self,
        ids: &[RowId],
        evicted: &[(RowId, u64)],
        counts: Counts,
        now: Instant,
    ) -> Vec<News> {
        let mut news = Vec::new();
        self.stuck = false;
        if !ids.is_empty() {
            self.full_until = None;
            self.evicted_in_vain = 0;
            // One that is at the brink is not told of over and over.
            let over = self
                .full_since
                .is_none_or(|since| now >= since + DISK_RETRY);
            if over && std::mem::take(&mut self.full_told) {
                news.push(News::DiskRecovered);
            }
        }
        self.searched = false;
        let written = self.journal.committed(ids, now);
        if !written.gone.is_empty() {
            // There may be space now: what comes waits for the next attempt.
            self.full_until = None;
        }
        for row in written.gone {
            self.forget_row(row);
        }
        let buried = written.buried.into_iter();
        news.extend(buried.map(|id| News::Buried { id }));
        for (message, row) in written.ended {
            // On disk until the next batch; the journal knows its row.
            self.known.insert(row, size(&message));
            self.known_bytes += size(&message);
        }
        self.counts = counts;
        let stored = written.stored;
        // Rows that only the disk knows come before those that were just written.
        let mut before = self.on_disk_only().saturating_sub(stored.len());
        for (message, row) in stored {
            let id = message.id;
            if message.seq == 0 {
                // Somebody has to number it first: this process too reads it again for that.
                self.watch.insert(row, id);
                self.ask = true;
                if self.tail.starts_with(id) {
                    self.tail.pop();
                }
                before += 1;
                continue;
            }
            news.push(News::Safe { id });
            if !self.tail.starts_with(id) {
                // On its way already.
                self.know(&message, row);
                continue;
            }
            self.tail.pop();
            let behind = before > 0 || self.loading || !self.arriving.items.is_empty();
            if behind || self.head.items.len() >= PAGE || self.head.bytes >= PAGE_BYTES {
                before += 1;
            } else {
                self.know(&message, row);
                self.head.push(message);
            }
        }
        for (row, seq) in evicted.iter().copied() {
            let waiting = self.watch.remove(&row);
            let id = waiting.or_else(|| self.entrusted.remove(&row).map(|(id, _)| id));
            news.push(News::Displaced { id, seq });
        }
        if !self.journal.is_numbering() {
            news.extend(self.admit_arriving());
        }
        news
    }

    /// What was read has its numbers on disk, and can be sent.
    pub(super) fn admit_arriving(&mut self) -> Vec<News> {
        let mut news = Vec::new();
        while let Some(message) = self.arriving.pop() {
            let row = self.rows.get(&message.id).copied();
            if let Some(id) = row.and_then(|row| self.watch.remove(&row)) {
                news.push(News::Numbered {
                    id,
                    seq: message.seq,
                });
            }
            self.head.push(message);
        }
        news
    }

    pub(super) fn loaded(&mut self, rows: Vec<StoredMessage>, last: Option<RowId>) {
        self.loading = false;
        // A pass that is over begins anew with the first row.
        self.cursor = last.unwrap_or(0);
        if last.is_none() {
            self.searched = !std::mem::take(&mut self.met_new);
        }
        for StoredMessage {
            row: id,
            mut message,
        } in rows
        {
            if self.known.contains_key(&id) {
                continue;
            }
            self.met_new = true;
            self.last_id += 1;
            message.id = self.last_id;
            let unnumbered = message.seq == 0;
            if unnumbered {
                message.stream = Arc::clone(&self.stream);
                message.seq = self.next_seq;
                self.next_seq += 1;
            }
            let message = Arc::new(message);
            self.know(&message, id);
            if unnumbered && self.gone.is_none() {
                self.journal.number(id, Arc::clone(&message));
            }
            let waits = unnumbered && self.gone.is_none();
            if waits || !self.arriving.items.is_empty() {
                self.arriving.push(message);
            } else {
                self.head.push(message);
            }
        }
    }

    pub(super) fn answered(
        &mut self,
        numbered: Vec<(RowId, u64)>,
        ends: Vec<(RowId, u64, Outcome)>,
        oldest: Option<RowId>,
    ) -> Vec<News> {
        self.asking = false;
        let mut news = Vec::new();
        let mut number = |watch: &mut BTreeMap<_, _>, entrusted: &mut BTreeMap<_, _>, row, seq| {
            if let Some(id) = watch.remove(&row) {
                entrusted.insert(row, (id, seq));
                news.push(News::Numbered { id, seq });
            }
        };
        for (row, seq) in numbered {
            self.numbered = self.numbered.max(row);
            number(&mut self.watch, &mut self.entrusted, row, seq);
        }
        let mut noted: BTreeMap<RowId, Outcome> = BTreeMap::new();
        for (row, seq, end) in ends {
            number(&mut self.watch, &mut self.entrusted, row, seq);
            noted.insert(row, end);
        }
        // One that has come to its end so long ago that nobody remembers, before it was known to
        // have a number.
        let watched = match oldest {
            Some(oldest) => self.watch.split_off(&oldest),
            None => BTreeMap::new(),
        };
        for id in std::mem::replace(&mut self.watch, watched).into_values() {
            let (seq, outcome) = (0, Outcome::Delivered);
            news.push(News::Ended { id, seq, outcome });
        }
        // Rows go in order: what lies before the oldest has come to its end.
        let later = match oldest {
            Some(oldest) => self.entrusted.split_off(&oldest),
            None => BTreeMap::new(),
        };
        let mut gone = std::mem::replace(&mut self.entrusted, later);
        for row in noted.keys() {
            gone.extend(self.entrusted.remove_entry(row));
        }
        for (row, (id, seq)) in gone {
            let outcome = noted.remove(&row).unwrap_or(Outcome::Delivered);
            news.push(News::Ended { id, seq, outcome });
        }
        news
    }

    pub(super) fn full(&mut self, why: String, now: Instant) -> Vec<News> {
        let mut news = Vec::new();
        if self.closing && !self.last_attempt {
            self.journal.retry_now();
            return news;
        }
        if self.closing {
            let unwritten = self.journal.unwritten();
            if unwritten == 0 {
                // Nothing is lost; what could not be deleted is sent again.
                news.push(News::Closed);
                return news;
            }
            let message = format!("{why}; no space for {unwritten} messages: free some");
            news.push(News::Broken(Fault::permanent(Exit::Io, message)));
            return news;
        }
        if !std::mem::replace(&mut self.full_told, true) {
            news.push(News::DiskFull(why));
        }
        match self.limits.behavior {
            DropBehavior::Block => return news,
            DropBehavior::Oldest if self.evicted_in_vain < EVICTIONS && !self.stuck => {
                self.evicted_in_vain += 1;
                let next = self.tail.items.front().map_or(0, |message| size(message));
                let mut wanted = next.saturating_mul(2).max(ROOM);
                while wanted > 0
                    && let Some(message) = self.head.pop()
                {
                    wanted = wanted.saturating_sub(size(&message));
                    self.end(&message, Outcome::OLDEST_ON_DISK, now);
                    news.push(News::Evicted(message));
                }
                self.journal.retry_inserts(now);
            }
            DropBehavior::Oldest | DropBehavior::Newest => {
                while let Some(message) = self.tail.pop() {
                    self.journal.forget(message.id);
                    self.journal.dropped();
                    let (id, seq) = (message.id, message.seq);
                    news.push(News::Dropped { id, seq });
                }
            }
        }
        news
    }
}
