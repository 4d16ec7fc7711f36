//! How often connections were made, lost and not made, by cause. PURE.

use super::end_cause::EndCause;
use crate::common::metrics::metric_family::MetricFamily;

type CountsByCause = [u64; EndCause::ALL.len()];

#[derive(Debug, Default)]
pub(super) struct ConnectionCounts {
    connected: u64,
    lost: CountsByCause,
    failed: CountsByCause,
}

impl ConnectionCounts {
    pub(super) fn handle_connected(&mut self) {
        self.connected += 1;
    }

    /// `was_online`: a connection ended; otherwise an attempt failed.
    pub(super) fn handle_ended(&mut self, was_online: bool, cause: EndCause) {
        let counts = if was_online {
            &mut self.lost
        } else {
            &mut self.failed
        };
        for (other, count) in EndCause::ALL.into_iter().zip(counts) {
            *count += u64::from(other == cause);
        }
    }

    pub(super) fn total(&self) -> u64 {
        let ended = self.lost.iter().chain(&self.failed);
        self.connected + ended.sum::<u64>()
    }

    pub(super) fn to_families(&self, is_online: bool) -> Vec<MetricFamily> {
        let names = EndCause::ALL.map(EndCause::name);
        let by_cause = |counts: CountsByCause| names.into_iter().zip(counts);
        vec![
            MetricFamily::gauge(
                "connected",
                "1 while the broker has accepted a connection, else 0.",
                f64::from(u8::from(is_online)),
            ),
            MetricFamily::counter(
                "connections_total",
                "Connections that the broker has accepted; all but the first are reconnects.",
                self.connected,
            ),
            MetricFamily::counters_by_cause(
                "connections_lost_total",
                "Accepted connections that ended before the run, by cause.",
                by_cause(self.lost),
            ),
            MetricFamily::counters_by_cause(
                "connect_failures_total",
                "Attempts to connect that failed, by cause or failed step.",
                by_cause(self.failed),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_and_failed_attempts_are_counted_apart_and_by_cause() {
        let mut counts = ConnectionCounts::default();
        counts.handle_ended(false, EndCause::Dns);
        counts.handle_connected();
        counts.handle_ended(true, EndCause::Timeout);
        counts.handle_ended(false, EndCause::Dns);
        counts.handle_connected();
        let families = counts.to_families(true);
        let value = |name: &str, cause: Option<&str>| {
            let family = families.iter().find(|family| family.name == name).unwrap();
            let label = |sample: &&crate::common::metrics::metric_family::Sample| {
                sample.label.as_ref().map(|(_, value)| value.as_str()) == cause
            };
            family.samples.iter().find(label).unwrap().value
        };
        for (name, cause, expected) in [
            ("connected", None, 1.0),
            ("connections_total", None, 2.0),
            ("connections_lost_total", Some("timeout"), 1.0),
            ("connections_lost_total", Some("dns"), 0.0),
            ("connect_failures_total", Some("dns"), 2.0),
        ] {
            assert!((value(name, cause) - expected).abs() < 0.1, "{name}");
        }
    }
}
