//! Whether what we send gets through, when no answer comes. PURE.
//!
//! A large message takes its time on a slow line. Meanwhile the broker cannot answer, but its system acknowledges
//! bytes: the line makes progress. It is looked at now and then, as long as an answer is due. What has been
//! acknowledged to its last byte is no progress: then the answer is the broker's affair.

use std::time::{Duration, Instant};

/// Between two looks, while an answer is due.
const INTERVAL: Duration = Duration::from_millis(500);

/// More bytes than this may stand in a buffer for a while although they have been acknowledged.
const MUCH: u64 = 8 << 10;

/// What is known of a line. Bytes are counted as TCP carries them, from the beginning of the connection.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Answers were due when it was last asked.
    waits: bool,
    look_at: Option<Instant>,
    /// Where the last packet ends that has to be answered, as far as it is written.
    end: u64,
    /// Bytes that the broker's system had acknowledged of that at the last look.
    acknowledged: u64,
    /// Where the first packet begins that has not been answered.
    begin: u64,
    /// It took more than one look for what is under way.
    slow: bool,
    /// Bytes that had been received at the last look.
    received: u64,
    /// Messages have come since then.
    messages: bool,
    answers: bool,
}

impl Line {
    /// Bytes of a packet that has to be answered were written, from here to there.
    pub(super) fn wrote(&mut self, from: u64, to: u64) {
        if !std::mem::replace(&mut self.waits, true) {
            self.acknowledged = from;
            self.begin = from;
        }
        self.end = to;
    }

    /// A whole packet has come.
    pub(super) fn heard(&mut self, is_message: bool) {
        self.messages |= is_message;
        self.answers |= !is_message;
    }

    /// No answer is due.
    pub(super) fn rest(&mut self) {
        self.waits = false;
        self.slow = false;
        self.look_at = None;
    }

    /// Answers are due: when to look at the line next.
    pub(super) fn look_at(&mut self, now: Instant, received: u64) -> Instant {
        if self.look_at.is_none() {
            self.received = received;
            (self.messages, self.answers) = (false, false);
        }
        *self.look_at.get_or_insert(now + INTERVAL)
    }

    /// So much has been acknowledged and received. `unwritten` is whether there is more to be sent than was written.
    pub(super) fn look(
        &mut self,
        acknowledged: Option<u64>,
        received: u64,
        unwritten: bool,
        now: Instant,
    ) -> Progress {
        self.look_at = Some(now + INTERVAL);
        let reached = acknowledged.map_or(0, |count| count.min(self.end));
        let moved = reached > self.acknowledged;
        let is_sent = !unwritten && reached == self.end;
        let progress = Progress {
            sent: moved && !is_sent,
            arrived: moved && is_sent && (self.slow || reached - self.begin > MUCH),
            alive: received > self.received,
            // A ping's answer alone says nothing of what else is due.
            received: received > self.received && (self.messages || !self.answers),
        };
        self.slow |= progress.sent;
        self.acknowledged = self.acknowledged.max(reached);
        self.received = received;
        (self.messages, self.answers) = (false, false);
        progress
    }
}

/// What has moved since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// Bytes of what has to be answered have been acknowledged, and not all of them.
    pub(super) sent: bool,
    /// The last of them have been acknowledged, on a line that was seen to be slow, or they were many.
    pub(super) arrived: bool,
    /// Bytes have been received.
    pub(super) alive: bool,
    /// Bytes of messages have been received, or of something that is not complete.
    pub(super) received: bool,
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "an origin; the test moves it")]
mod tests {
    use super::*;

    /// Writes from 100 to 1,100, and looks at what has been acknowledged after each interval.
    fn looks(acknowledged: &[u64], unwritten: bool) -> Vec<bool> {
        let mut now = Instant::now();
        let mut line = Line::default();
        line.wrote(100, 600);
        line.wrote(600, 1_100);
        let seen = acknowledged.iter().map(|count| {
            assert_eq!(line.look_at(now, 0), now + INTERVAL);
            now += INTERVAL;
            line.look(Some(*count), 0, unwritten, now).sent
        });
        seen.collect()
    }

    #[test]
    fn many_bytes_that_are_taken_at_once_have_arrived_and_few_are_no_progress() {
        for (bytes, arrived) in [(MUCH, false), (MUCH + 1, true)] {
            let now = Instant::now();
            let mut line = Line::default();
            line.wrote(100, 100 + bytes);
            line.look_at(now, 0);
            let mut look = || line.look(Some(100 + bytes), 0, false, now + INTERVAL);
            assert_eq!((look().arrived, look().arrived), (arrived, false));
        }
    }

    #[test]
    fn bytes_that_are_acknowledged_are_progress_but_for_the_last() {
        assert_eq!(looks(&[100, 100], false), [false, false], "a dead line");
        assert_eq!(
            looks(&[110, 500, 500, 1_099], false),
            [true, true, false, true]
        );
        assert_eq!(
            looks(&[1_100, 1_100], false),
            [false, false],
            "the broker is silent"
        );
        assert_eq!(looks(&[1_100, 1_100], true), [true, false], "more follows");
    }

    #[test]
    fn what_arrives_at_last_is_told_of_a_slow_line_only() {
        let now = Instant::now();
        let mut line = Line::default();
        line.wrote(0, 100);
        assert!(!line.look(Some(100), 0, false, now).arrived);
        line.rest();
        line.wrote(100, 200);
        assert!(line.look(Some(150), 0, false, now).sent);
        assert!(line.look(Some(200), 0, false, now).arrived);
        assert!(!line.look(Some(200), 0, false, now).arrived);
    }

    #[test]
    fn what_needs_no_answer_is_no_progress() {
        let now = Instant::now();
        let mut line = Line::default();
        line.wrote(0, 50);
        // A ping of 31 bytes follows.
        assert!(!line.look(Some(50), 0, false, now).sent);
        assert!(!line.look(Some(81), 0, false, now).sent);
        line.rest();
        line.wrote(81, 200);
        assert!(!line.look(Some(81), 0, false, now).sent);
        assert!(line.look(Some(100), 0, false, now).sent);
    }

    #[test]
    fn a_system_that_does_not_say_shows_no_progress() {
        let mut line = Line::default();
        line.wrote(0, 50);
        assert!(!line.look(None, 0, true, Instant::now()).sent);
    }

    #[test]
    fn bytes_received_count_from_when_an_answer_was_due() {
        let now = Instant::now();
        let mut line = Line::default();
        line.look_at(now, 1_000);
        assert!(!line.look(None, 1_000, false, now).received);
        assert!(line.look(None, 1_001, false, now).received);
        line.rest();
        line.look_at(now, 5_000);
        assert!(!line.look(None, 5_000, false, now).received);
    }

    #[test]
    fn an_answer_alone_is_no_progress() {
        let now = Instant::now();
        let mut line = Line::default();
        line.look_at(now, 0);
        line.heard(false);
        let progress = line.look(None, 2, false, now);
        assert!(progress.alive && !progress.received);
        line.heard(false);
        line.heard(true);
        assert!(line.look(None, 20, false, now).received);
        assert!(
            line.look(None, 30, false, now).received,
            "the part of a message"
        );
    }
}
