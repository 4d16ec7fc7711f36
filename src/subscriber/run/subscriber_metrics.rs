//! The subscriber's metrics (`--metrics`).

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::subscriber::Subscriber;
use crate::common::acks::SessionAcks;
use crate::common::client::certificate_end::CertificateEnd;
use crate::common::fault::Exit;
use crate::common::metrics::histogram::Histogram;
use crate::common::metrics::metric_family::{MetricFamily, to_f64};
use crate::common::metrics::metrics_file::MetricsFile;
use crate::common::runtime::clock::unix_ms;
use crate::subscriber::config::Config;
use crate::subscriber::message_receiver::{MessageReceiver, ReceiverCounts};

/// In seconds: from an output that is written at once to a long command.
const ACK_TIME_BOUNDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

pub(super) struct SubscriberMetrics {
    file: MetricsFile,
    certificate_end: CertificateEnd,
    receiver: Arc<MessageReceiver>,
    session_acks: Arc<SessionAcks>,
}

impl SubscriberMetrics {
    pub(super) fn start(
        config: &Config,
        receiver: &Arc<MessageReceiver>,
        session_acks: &Arc<SessionAcks>,
    ) -> io::Result<Option<Self>> {
        let Some(path) = &config.metrics else {
            return Ok(None);
        };
        session_acks.start_timing(Histogram::new(&ACK_TIME_BOUNDS));
        let connection = &config.connection;
        Ok(Some(Self {
            file: MetricsFile::start("subscriber", &connection.client_id, path)?,
            certificate_end: connection.certificate_end.clone(),
            receiver: Arc::clone(receiver),
            session_acks: Arc::clone(session_acks),
        }))
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.file.wake_at()
    }

    /// Writes the file if that is due.
    pub(super) fn update(&mut self, subscriber: &Subscriber<'_>, now: Instant) {
        let events = subscriber.count_connection_events();
        if self.file.is_due(now, events) {
            let families = self.families(subscriber, self.receiver.counts());
            self.file.write(families, now, events);
        }
    }

    pub(super) fn finish(self, subscriber: &Subscriber<'_>, counts: ReceiverCounts, exit: Exit) {
        let families = self.families(subscriber, counts);
        self.file.finish(families, exit);
    }

    fn families(&self, subscriber: &Subscriber<'_>, counts: ReceiverCounts) -> Vec<MetricFamily> {
        let (gauge, now_s) = (MetricFamily::gauge, to_f64(unix_ms()) / 1e3);
        let mut all = subscriber.metric_families();
        all.extend(message_metrics(counts));
        all.push(gauge(
            "backlog_bytes",
            "Bytes received that wait for the output.",
            to_f64(self.session_acks.backlog_bytes()),
        ));
        all.extend(self.session_acks.ack_times().map(|times| {
            let help = "Time from the arrival of a message of QoS 1 or 2 to its acknowledgement.";
            times.to_family("ack_time_seconds", help)
        }));
        if let Some(last) = self.receiver.last_received_s() {
            let last = to_f64(last);
            all.push(gauge(
                "last_message_timestamp_seconds",
                "Unix time of the last message; missing before the first.",
                last,
            ));
            all.push(gauge(
                "since_last_message_seconds",
                "Time since the last message, when this file was written.",
                (now_s - last).max(0.0).floor(),
            ));
        }
        all.extend(self.certificate_end.to_families(now_s));
        all
    }
}

fn message_metrics(counts: ReceiverCounts) -> Vec<MetricFamily> {
    let counter = MetricFamily::counter;
    let mut all = vec![
        counter(
            "readings_received_total",
            "Readings that were written, drawn or given to a command.",
            counts.received,
        ),
        counter(
            "messages_duplicate_total",
            "Repeated messages, dropped or not; counted with --state, --dedup, --summary or --metrics.",
            counts.duplicates,
        ),
        // A late message makes it smaller.
        MetricFamily::gauge(
            "messages_missing",
            "Sequence numbers that have not come, of streams that this run receives.",
            to_f64(counts.gaps),
        ),
        counter(
            "messages_skipped_total",
            "Messages acknowledged and skipped because their topic is invalid.",
            counts.skipped,
        ),
    ];
    all.extend(counts.failed.map(|count| {
        let help = "Commands of --exec that failed.";
        counter("commands_failed_total", help, count)
    }));
    all
}
