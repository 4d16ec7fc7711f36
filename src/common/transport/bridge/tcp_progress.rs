//! Whether what we send reaches the broker while no answer comes. PURE.
//!
//! While a large message passes a slow connection, the broker cannot answer, but its system acknowledges bytes: that
//! is progress. Once everything has been acknowledged there is no more: the broker is slow, not the connection.

use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(500);

/// This many bytes may be in a buffer for a while although they have been acknowledged.
const BUFFERED: u64 = 8 << 10;

/// Bytes are counted as TCP counts them, from the beginning of the connection.
#[derive(Debug, Default)]
pub(super) struct TcpProgress {
    is_waiting: bool,
    check_at: Option<Instant>,
    /// Where the first packet begins that has not been answered.
    begin: u64,
    /// Where the last packet ends that has to be answered, as far as it is written.
    end: u64,
    /// Bytes of that which were acknowledged at the last check.
    acknowledged: u64,
    /// It took more than one check for them.
    is_slow: bool,
    received: u64,
    has_messages: bool,
    has_answers: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProgressCheckResult {
    /// Bytes of what has to be answered have been acknowledged, and not all of them.
    pub(super) part_arrived: bool,
    /// The last of them have been acknowledged, on a slow connection, or they were many.
    pub(super) all_arrived: bool,
    pub(super) has_received: bool,
    /// Bytes of messages have been received, or of a packet that is not complete.
    pub(super) has_contents: bool,
}

impl TcpProgress {
    pub(super) fn handle_written(&mut self, from: u64, to: u64) {
        if !std::mem::replace(&mut self.is_waiting, true) {
            self.acknowledged = from;
            self.begin = from;
        }
        self.end = to;
    }

    pub(super) fn handle_received_packet(&mut self, is_message: bool) {
        self.has_messages |= is_message;
        self.has_answers |= !is_message;
    }

    pub(super) fn stop(&mut self) {
        self.is_waiting = false;
        self.is_slow = false;
        self.check_at = None;
    }

    pub(super) fn schedule_check(&mut self, now: Instant, received: u64) -> Instant {
        if self.check_at.is_none() {
            self.received = received;
            (self.has_messages, self.has_answers) = (false, false);
        }
        *self.check_at.get_or_insert(now + INTERVAL)
    }

    /// `has_unwritten` is whether there is more to be sent than was written.
    pub(super) fn measure_progress(
        &mut self,
        acknowledged: Option<u64>,
        received: u64,
        has_unwritten: bool,
        now: Instant,
    ) -> ProgressCheckResult {
        self.check_at = Some(now + INTERVAL);
        let arrived = acknowledged.map_or(0, |count| count.min(self.end));
        let has_moved = arrived > self.acknowledged;
        let is_all = !has_unwritten && arrived == self.end;
        let is_noticeable = self.is_slow || arrived.saturating_sub(self.begin) > BUFFERED;
        let has_received = received > self.received;
        let progress = ProgressCheckResult {
            part_arrived: has_moved && !is_all,
            all_arrived: has_moved && is_all && is_noticeable,
            has_received,
            // The answer to a ping says nothing of what else is due.
            has_contents: has_received && (self.has_messages || !self.has_answers),
        };
        self.is_slow |= progress.part_arrived;
        self.acknowledged = self.acknowledged.max(arrived);
        self.received = received;
        (self.has_messages, self.has_answers) = (false, false);
        progress
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "any instant will do")]
mod tests {
    use super::*;

    fn written(from: u64, to: u64) -> TcpProgress {
        let mut tcp = TcpProgress::default();
        tcp.handle_written(from, to);
        tcp
    }

    fn check(tcp: &mut TcpProgress, acknowledged: u64) -> ProgressCheckResult {
        tcp.measure_progress(Some(acknowledged), 0, false, Instant::now())
    }

    fn check_contents(tcp: &mut TcpProgress, received: u64) -> bool {
        tcp.measure_progress(None, received, false, Instant::now())
            .has_contents
    }

    #[test]
    fn many_bytes_that_arrive_at_once_are_progress_and_few_are_not() {
        for (bytes, arrived) in [(BUFFERED, false), (BUFFERED + 1, true)] {
            let mut tcp = written(100, 100 + bytes);
            assert_eq!(check(&mut tcp, 100 + bytes).all_arrived, arrived);
            assert!(!check(&mut tcp, 100 + bytes).all_arrived);
        }
    }

    #[test]
    fn acknowledged_bytes_are_progress_except_the_last() {
        for (acknowledged, unwritten, expected, case) in [
            (
                &[100, 100][..],
                false,
                &[false, false][..],
                "a broken connection",
            ),
            (
                &[110, 500, 500, 1_099],
                false,
                &[true, true, false, true],
                "progress",
            ),
            (
                &[1_100, 1_100],
                false,
                &[false, false],
                "the broker is silent",
            ),
            (&[1_100, 1_100], true, &[true, false], "more follows"),
        ] {
            let mut now = Instant::now();
            let mut tcp = written(100, 600);
            tcp.handle_written(600, 1_100);
            for (count, part_arrived) in acknowledged.iter().zip(expected) {
                assert_eq!(tcp.schedule_check(now, 0), now + INTERVAL);
                now += INTERVAL;
                let progress = tcp.measure_progress(Some(*count), 0, unwritten, now);
                assert_eq!(progress.part_arrived, *part_arrived, "{case}: {count}");
            }
        }
    }

    #[test]
    fn that_the_last_bytes_arrived_is_reported_of_a_slow_connection_only() {
        let mut tcp = written(0, 100);
        assert!(!check(&mut tcp, 100).all_arrived);
        tcp.stop();
        tcp.handle_written(100, 200);
        assert!(check(&mut tcp, 150).part_arrived);
        assert!(check(&mut tcp, 200).all_arrived);
        assert!(!check(&mut tcp, 200).all_arrived);
    }

    #[test]
    fn bytes_that_need_no_answer_are_no_progress() {
        let mut tcp = written(0, 50);
        // A ping of 31 bytes follows.
        for acknowledged in [50, 81] {
            assert!(!check(&mut tcp, acknowledged).part_arrived);
        }
        tcp.stop();
        tcp.handle_written(81, 200);
        assert!(!check(&mut tcp, 81).part_arrived);
        assert!(check(&mut tcp, 100).part_arrived);
    }

    #[test]
    fn without_a_count_from_the_system_there_is_no_progress() {
        let progress = written(0, 50).measure_progress(None, 0, true, Instant::now());
        assert!(!progress.part_arrived);
    }

    #[test]
    fn bytes_received_before_an_answer_is_due_do_not_count() {
        let mut tcp = TcpProgress::default();
        tcp.schedule_check(Instant::now(), 1_000);
        assert!(!check_contents(&mut tcp, 1_000));
        assert!(check_contents(&mut tcp, 1_001));
        tcp.stop();
        tcp.schedule_check(Instant::now(), 5_000);
        assert!(!check_contents(&mut tcp, 5_000));
    }

    #[test]
    fn an_answer_alone_is_no_progress() {
        let mut tcp = TcpProgress::default();
        tcp.schedule_check(Instant::now(), 0);
        tcp.handle_received_packet(false);
        let progress = tcp.measure_progress(None, 2, false, Instant::now());
        assert!(progress.has_received && !progress.has_contents);
        tcp.handle_received_packet(false);
        tcp.handle_received_packet(true);
        assert!(check_contents(&mut tcp, 20));
        assert!(check_contents(&mut tcp, 30), "the part of a message");
    }
}
