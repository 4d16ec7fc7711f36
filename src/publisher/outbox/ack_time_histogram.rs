//! How long the broker takes to acknowledge messages, as a histogram. PURE.

use std::collections::VecDeque;
use std::time::Instant;

use crate::common::metrics::histogram::Histogram;
use crate::common::metrics::metric_family::MetricFamily;

/// In seconds: from a broker in the same network to the longest operation timeout that makes sense.
const BOUNDS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

#[derive(Debug)]
pub struct AckTimeHistogram {
    /// Position and time of the messages in flight, by position.
    sent: VecDeque<(u64, Instant)>,
    times: Histogram,
}

impl Default for AckTimeHistogram {
    fn default() -> Self {
        Self {
            sent: VecDeque::new(),
            times: Histogram::new(&BOUNDS),
        }
    }
}

impl AckTimeHistogram {
    pub fn handle_sent(&mut self, position: u64, now: Instant) {
        let index = self.sent.partition_point(|(other, _)| *other < position);
        self.sent.insert(index, (position, now));
    }

    /// The message is no longer in flight. Only a message that was acknowledged is counted.
    pub fn handle_result(&mut self, position: u64, is_acknowledged: bool, now: Instant) {
        let Ok(index) = self
            .sent
            .binary_search_by_key(&position, |(other, _)| *other)
        else {
            return;
        };
        if let Some((_, since)) = self.sent.remove(index).filter(|_| is_acknowledged) {
            let time = now.saturating_duration_since(since);
            self.times.observe(time.as_secs_f64());
        }
    }

    /// The connection has ended.
    pub fn clear(&mut self) {
        self.sent.clear();
    }

    pub fn to_family(&self) -> MetricFamily {
        self.times.to_family(
            "ack_time_seconds",
            "Time from sending a message of QoS 1 or 2 to its acknowledgement.",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn each_acknowledged_message_counts_once_whatever_the_order() {
        let start = crate::common::runtime::clock::instant_now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut histogram = AckTimeHistogram::default();
        for position in [5, 6, 2, 7] {
            histogram.handle_sent(position, start);
        }
        histogram.handle_result(6, true, at(30));
        histogram.handle_result(2, true, at(30));
        histogram.handle_result(2, true, at(90));
        histogram.handle_result(5, false, at(90));
        histogram.clear();
        histogram.handle_result(7, true, at(90));
        let samples = histogram.to_family().samples;
        let count = samples.last().unwrap();
        assert_eq!((count.suffix, count.value), ("_count", 2.0));
    }
}
