//! What a durable queue still has to write, and when. PURE.
//!
//! A message goes to the wire and to the journal at the same time. If its acknowledgement
//! comes before it is due on disk, it is never written. What has come to its end is taken off
//! the disk in groups. One batch is under way at a time: all that falls due meanwhile shares
//! the next transaction, and its one sync.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::requests::{DeadLetter, Outcome, RowId, WriteBatch};
use super::{Limits, size};
use crate::common::mqtt::message::Message;

/// How long rows that have come to their end may lie before they are taken off the disk, if
/// there are too few of them for a group.
const GATHER: Duration = Duration::from_millis(50);

/// How long if others cannot be sent for them: what is left of a burst of acknowledgements is less
/// than a group.
const PRESSED: Duration = Duration::from_millis(1);

/// Of messages for which there is no space half is tried next, and so on: a part may fit. If so many
/// bytes do not, the disk is full.
pub(super) const LEAST_BYTES: u64 = 8 << 10;

/// The batch that is being written.
#[derive(Debug, Default)]
struct Writing {
    inserts: Vec<Arc<Message>>,
    /// Inserts whose messages have come to their end meanwhile.
    ended: BTreeMap<u64, Outcome>,
    /// Rows that the batch takes off the disk.
    rows: Vec<RowId>,
    /// Messages that go to the dead letters, and how many of them were never written.
    dead: Vec<u64>,
    unwritten_dead: usize,
}

/// A batch is on disk.
#[derive(Debug, Default)]
pub struct Written {
    /// Messages that are on disk now and still to be delivered, with their rows.
    pub stored: Vec<(Arc<Message>, RowId)>,
    /// Messages that came to their end while they were being written: off again with them.
    pub ended: Vec<(Arc<Message>, RowId)>,
    pub gone: Vec<RowId>,
    /// Messages that are among the dead letters now.
    pub buried: Vec<u64>,
}

#[derive(Debug, Default)]
pub struct Journal {
    /// Not on disk, and when each of them is due there; none is at once.
    pending: BTreeMap<u64, (Arc<Message>, Option<Instant>)>,
    /// The last of those that are due at once.
    due_now: Option<u64>,
    /// No other is due before this.
    due_next: Option<Instant>,
    next: WriteBatch,
    ends_since: Option<Instant>,
    /// The window is full, of rows that are to go as well, and more is to be sent.
    pressed: bool,
    /// So many ended messages are taken off the disk at once.
    group: usize,
    writing: Option<Writing>,
    /// No further message is inserted with others after this many bytes: there was no space for more.
    most: Option<u64>,
    /// There was no space for inserts: not before then, and apart from what gives space back.
    inserts_after: Option<Instant>,
    /// There was none for anything else either: nothing before then.
    retry_at: Option<Instant>,
}

impl Journal {
    /// From now on so many ended messages are taken off the disk at once.
    pub fn set_group(&mut self, group: usize) {
        self.group = group.max(1);
    }

    /// Whether others wait for rows to be taken off the disk.
    pub fn press(&mut self, pressed: bool) {
        self.pressed = pressed;
    }

    /// A message has to be on disk by then, or at once.
    pub fn add(&mut self, message: Arc<Message>, due: Option<Instant>) {
        match due {
            None => self.due_now = self.due_now.max(Some(message.id)),
            Some(at) => self.due_next = Some(self.due_next.map_or(at, |next| next.min(at))),
        }
        self.pending.insert(message.id, (message, due));
    }

    /// Everything is due now.
    pub fn hurry(&mut self) {
        self.due_now = self.pending.last_key_value().map(|(id, _)| *id);
    }

    /// A message has come to its end; `row` is where it lies, if that is known.
    pub fn settle(
        &mut self,
        message: &Arc<Message>,
        row: Option<RowId>,
        end: Outcome,
        now: Instant,
    ) {
        let writing = self.writing.as_mut().filter(|writing| {
            let among = writing.inserts.binary_search_by_key(&message.id, |m| m.id);
            row.is_none() && among.is_ok()
        });
        if let Some(writing) = writing {
            writing.ended.insert(message.id, end);
            return;
        }
        self.pending.remove(&message.id);
        self.note_end(message, row, end, now);
    }

    fn note_end(&mut self, message: &Arc<Message>, row: Option<RowId>, end: Outcome, now: Instant) {
        match (end, row) {
            (Outcome::Dead(reason), row) => self.next.dead.push(DeadLetter {
                row,
                message: Arc::clone(message),
                reason,
            }),
            (end, Some(row)) => {
                self.next.ends.push((row, end));
                self.ends_since.get_or_insert(now);
            }
            (Outcome::Dropped(_), None) => self.next.dropped += 1,
            (Outcome::Expired, None) => self.next.expired += 1,
            (Outcome::Delivered, None) => {}
        }
    }

    /// A row gets its stream and number.
    pub fn number(&mut self, row: RowId, message: Arc<Message>) {
        self.next.numbers.push((row, message));
    }

    /// A connection was lost with this row at the head, the nth in a row.
    pub fn attempted(&mut self, row: RowId, attempts: u32) {
        self.next.attempts.push((row, attempts));
    }

    /// A message was dropped that never was on disk.
    pub fn dropped(&mut self) {
        self.next.dropped += 1;
    }

    /// The oldest rows have to go, whosever they are, until these limits hold.
    pub fn keep_within(&mut self, limits: Limits) {
        self.next.within = Some(limits);
    }

    /// Whether rows still wait for their numbers.
    pub fn is_numbering(&self) -> bool {
        !self.next.numbers.is_empty()
    }

    /// Whether there is nothing to write and nothing being written.
    pub fn is_idle(&self) -> bool {
        self.writing.is_none() && self.pending.is_empty() && self.next.is_empty()
    }

    /// Messages that are not on disk yet and have to get there.
    pub fn unwritten(&self) -> usize {
        let writing = self.writing.as_ref();
        let inserts = writing.map_or(0, |w| w.inserts.len() - w.ended.len() + w.unwritten_dead);
        self.pending.len() + inserts + unwritten_dead(&self.next)
    }

    /// Messages that have come to their end and are still on disk.
    pub fn unsettled(&self) -> usize {
        let writing = self
            .writing
            .as_ref()
            .map_or(0, |w| w.rows.len() + w.ended.len());
        self.next.ends.len() + writing
    }

    /// When the next batch falls due.
    pub fn wake_at(&self) -> Option<Instant> {
        if self.writing.is_some() || self.is_idle() {
            return None;
        }
        let inserts = self.inserts_wake_at();
        let ends = self.ends_due();
        let due = inserts.into_iter().chain(ends).min();
        match self.retry_at {
            Some(retry_at) => Some(due.map_or(retry_at, |due| due.max(retry_at))),
            None => due,
        }
    }

    /// The next batch, if it is time for one. `closing` writes whatever there is.
    pub fn take(&mut self, now: Instant, closing: bool) -> Option<WriteBatch> {
        if self.writing.is_some() || self.retry_at.is_some_and(|at| now < at) {
            return None;
        }
        // What was refused is tried again, whatever it is: so it shows that there is space.
        let again = self.retry_at.take().is_some();
        if closing {
            self.hurry();
        }
        // What makes room belongs to the inserts that need it.
        let within = self.next.within.take();
        let within = within.filter(|_| !self.pending.is_empty());
        let tight = self.inserts_after.is_some();
        let held = self.inserts_after.filter(|at| now < *at && !closing);
        let last = if held.is_some() {
            None
        } else {
            self.last_due(now)
        };
        let ends = closing
            || self.next.ends.len() >= self.group
            || self.ends_due().is_some_and(|due| now >= due);
        let others = !self.next.numbers.is_empty()
            || !self.next.dead.is_empty()
            || !self.next.attempts.is_empty();
        let timely = others || (ends || again) && !self.next.is_empty();
        if last.is_none() && !timely {
            self.next.within = within;
            return None;
        }
        self.ends_since = None;
        let mut batch = std::mem::take(&mut self.next);
        if let Some(last) = last.filter(|_| !tight || batch.is_empty()) {
            batch.within = within;
            let end = self.most.map_or(last, |most| self.some_until(last, most));
            let later = self.pending.split_off(&(end + 1));
            let due = std::mem::replace(&mut self.pending, later);
            self.due_now = (end < last).then_some(last);
            batch.inserts = due.into_values().map(|(message, _)| message).collect();
        } else {
            self.next.within = within;
        }
        let dead = batch.dead.iter().filter_map(|dead| dead.row);
        self.writing = Some(Writing {
            inserts: batch.inserts.clone(),
            ended: BTreeMap::new(),
            rows: batch.ends.iter().map(|(row, _)| *row).chain(dead).collect(),
            dead: batch.dead.iter().map(|dead| dead.message.id).collect(),
            unwritten_dead: unwritten_dead(&batch),
        });
        Some(batch)
    }

    /// When what has come to its end is to be taken off the disk, however little it is.
    fn ends_due(&self) -> Option<Instant> {
        let gather = if self.pressed { PRESSED } else { GATHER };
        self.ends_since.map(|since| since + gather)
    }

    fn inserts_wake_at(&self) -> Option<Instant> {
        let Some(after) = self.inserts_after else {
            return self.due_next.filter(|_| !self.pending.is_empty());
        };
        let due_now = |last: u64| self.pending.range(..=last).next().is_some();
        if self.due_now.is_some_and(due_now) {
            return Some(after);
        }
        let due = self.due_next.filter(|_| !self.pending.is_empty());
        due.map(|due| due.max(after))
    }

    /// The last of those that are tried first where there may be too little space for all.
    fn some_until(&self, last: u64, most: u64) -> u64 {
        let mut bytes = 0;
        let due = self.pending.range(..=last);
        let some = due.take_while(|(_, (message, _))| {
            let first = bytes == 0;
            bytes += size(message);
            first || bytes <= most
        });
        some.last().map_or(last, |(id, _)| *id)
    }

    /// The last message that is due: it takes along what was accepted before it.
    fn last_due(&mut self, now: Instant) -> Option<u64> {
        if self.due_next.is_some_and(|at| at <= now) {
            let due = |due: Option<Instant>| due.is_some_and(|at| at <= now);
            let late = self.pending.iter().rev().find(|(_, (_, at))| due(*at));
            self.due_now = self.due_now.max(late.map(|(id, _)| *id));
            let later = self.pending.values().filter_map(|(_, at)| *at);
            self.due_next = later.filter(|at| *at > now).min();
        }
        // Acknowledged meanwhile, it is not among them any more.
        let last = self.due_now?;
        self.pending.range(..=last).next_back().map(|(id, _)| *id)
    }

    /// The batch is on disk; `ids` are the rows of its inserts.
    pub fn committed(&mut self, ids: &[RowId], now: Instant) -> Written {
        let Some(mut writing) = self.writing.take() else {
            return Written::default();
        };
        if !writing.inserts.is_empty() {
            self.inserts_after = None;
            let most = self.most.map(|most| most.saturating_mul(2));
            self.most = most.filter(|_| !self.pending.is_empty());
        }
        let mut written = Written {
            gone: writing.rows,
            buried: writing.dead,
            ..Written::default()
        };
        for (message, row) in writing.inserts.into_iter().zip(ids.iter().copied()) {
            match writing.ended.remove(&message.id) {
                Some(end) => {
                    self.note_end(&message, Some(row), end, now);
                    written.ended.push((message, row));
                }
                None => written.stored.push((message, row)),
            }
        }
        written
    }

    /// Nothing of the batch was written. Its inserts are tried again, not before `retry_at`, and
    /// the rest of it at once without them; if there were none, all of it is left alone.
    pub fn refused(&mut self, batch: WriteBatch, now: Instant, retry_at: Instant) {
        let Some(mut writing) = self.writing.take() else {
            return;
        };
        self.inserts_after = Some(retry_at);
        if !batch.inserts.is_empty() {
            self.most = Some((bytes(&batch) / 2).max(LEAST_BYTES));
        }
        if batch.inserts.is_empty() {
            self.retry_at = Some(retry_at);
        }
        let later = std::mem::take(&mut self.next);
        let inserts = batch.inserts.clone();
        self.next = WriteBatch {
            inserts: Vec::new(),
            ..batch
        };
        self.next.numbers.extend(later.numbers);
        self.next.ends.extend(later.ends);
        self.next.dead.extend(later.dead);
        self.next.attempts.extend(later.attempts);
        self.next.dropped += later.dropped;
        self.next.expired += later.expired;
        self.next.within = later.within.or(self.next.within);
        if !self.next.ends.is_empty() {
            self.ends_since = Some(now);
        }
        for message in inserts {
            match writing.ended.remove(&message.id) {
                Some(end) => self.note_end(&message, None, end, now),
                None => self.add(message, None),
            }
        }
    }

    /// A disk that was full need not be left alone any longer.
    pub fn retry_now(&mut self) {
        self.retry_at = None;
    }

    /// Room has been made: inserts follow what makes it.
    pub fn retry_inserts(&mut self, now: Instant) {
        self.inserts_after = Some(now);
    }

    /// Forgets a message that is not written yet, and says whether there was one.
    pub fn forget(&mut self, id: u64) -> bool {
        self.pending.remove(&id).is_some()
    }
}

/// Bytes of the messages that a batch inserts.
pub(super) fn bytes(batch: &WriteBatch) -> u64 {
    batch.inserts.iter().map(|message| size(message)).sum()
}

/// Dead letters of a batch that were never written as messages.
fn unwritten_dead(batch: &WriteBatch) -> usize {
    batch.dead.iter().filter(|dead| dead.row.is_none()).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::mqtt::message::{Draft, Qos};

    fn message(id: u64) -> Arc<Message> {
        Arc::new(Message {
            id,
            stream: "s".into(),
            seq: id,
            accepted_ms: 0,
            accepted_boot: None,
            expires_ms: None,
            expires_at: None,
            attempts: 0,
            draft: Draft {
                topic: "t".into(),
                payload: Vec::new(),
                qos: Qos::AtLeastOnce,
                retain: false,
                readings: 1,
            },
        })
    }

    #[test]
    fn after_a_full_disk_a_part_is_tried_before_the_whole() {
        #[allow(clippy::disallowed_methods, reason = "an origin")]
        let now = Instant::now();
        let mut journal = Journal::default();
        for id in 1..=100 {
            let mut message = message(id);
            Arc::make_mut(&mut message).draft.payload = vec![0; 999];
            journal.add(message, None);
        }
        let all = journal.take(now, false).unwrap();
        assert_eq!(all.inserts.len(), 100);
        journal.refused(all, now, now);
        let some = journal.take(now, false).unwrap();
        assert_eq!(some.inserts.len(), 50);
        journal.refused(some, now, now);
        let some = journal.take(now, false).unwrap();
        assert_eq!(some.inserts.len(), 25);
        let ids: Vec<RowId> = (1..=25).collect();
        journal.committed(&ids, now);
        let more = journal.take(now, false).unwrap();
        assert_eq!((more.inserts.len(), more.inserts[0].id), (50, 26));
    }

    #[test]
    fn what_has_ended_waits_for_a_group_but_not_long_if_others_wait_for_its_place() {
        #[allow(clippy::disallowed_methods, reason = "an origin")]
        let now = Instant::now();
        let mut journal = Journal::default();
        journal.set_group(2);
        journal.settle(&message(1), Some(1), Outcome::Delivered, now);
        journal.press(true);
        assert_eq!(journal.wake_at(), Some(now + PRESSED));
        assert!(journal.take(now + PRESSED, false).is_some());
        journal.committed(&[], now);
        journal.settle(&message(2), Some(2), Outcome::Delivered, now);
        journal.settle(&message(3), Some(3), Outcome::Delivered, now);
        assert!(journal.take(now, false).is_some(), "a group");
    }
}
