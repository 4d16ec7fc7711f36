//! The publisher's metrics (`--metrics`).

use std::io;
use std::time::Instant;

use crate::common::client::certificate_end::CertificateEnd;
use crate::common::connection::driver::ConnectionDriver;
use crate::common::fault::Exit;
use crate::common::metrics::metric_family::{MetricFamily, to_f64};
use crate::common::metrics::metrics_file::MetricsFile;
use crate::common::runtime::clock::{two_clock_now, unix_ms};
use crate::publisher::config::Config;
use crate::publisher::outbox::Outbox;
use crate::publisher::outbox::ack_time_histogram::AckTimeHistogram;
use crate::publisher::report::exit_status::Summary;

pub(super) struct PublisherMetrics {
    file: MetricsFile,
    certificate_end: CertificateEnd,
    delivered: u64,
    last_delivery_ms: Option<u64>,
}

impl PublisherMetrics {
    pub(super) fn start(config: &Config, outbox: &mut Outbox) -> io::Result<Option<Self>> {
        let Some(path) = &config.metrics else {
            return Ok(None);
        };
        outbox.ack_time_histogram = Some(AckTimeHistogram::default());
        let connection = &config.connection;
        Ok(Some(Self {
            file: MetricsFile::start("publisher", &connection.client_id, path)?,
            certificate_end: connection.certificate_end.clone(),
            delivered: 0,
            last_delivery_ms: None,
        }))
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.file.wake_at()
    }

    /// Writes the file if that is due.
    pub(super) fn update(
        &mut self,
        driver: &ConnectionDriver,
        outbox: &Outbox,
        summary: &Summary,
        now: Instant,
    ) {
        if std::mem::replace(&mut self.delivered, summary.delivered) != summary.delivered {
            self.last_delivery_ms = Some(unix_ms());
        }
        let events = driver.count_connection_events();
        if self.file.is_due(now, events) {
            let families = self.families(driver, outbox, summary);
            self.file.write(families, now, events);
        }
    }

    pub(super) fn finish(
        self,
        driver: &ConnectionDriver,
        outbox: &Outbox,
        summary: &Summary,
        exit: Exit,
    ) {
        let families = self.families(driver, outbox, summary);
        self.file.finish(families, exit);
    }

    fn families(
        &self,
        driver: &ConnectionDriver,
        outbox: &Outbox,
        summary: &Summary,
    ) -> Vec<MetricFamily> {
        let (gauge, now_s) = (MetricFamily::gauge, to_f64(unix_ms()) / 1e3);
        let mut all = driver.metric_families();
        all.extend(message_counters(summary));
        all.extend(backlog(outbox));
        all.extend(
            outbox
                .ack_time_histogram
                .iter()
                .map(AckTimeHistogram::to_family),
        );
        if let Some(last) = self.last_delivery_ms.map(|ms| to_f64(ms) / 1e3) {
            all.push(gauge(
                "last_delivery_timestamp_seconds",
                "Unix time of the last delivery; missing before the first.",
                last,
            ));
            all.push(gauge(
                "since_last_delivery_seconds",
                "Time since the last delivery, when this file was written.",
                ((now_s - last).max(0.0) * 1e3).round() / 1e3,
            ));
        }
        all.extend(self.certificate_end.to_families(now_s));
        all
    }
}

fn message_counters(summary: &Summary) -> Vec<MetricFamily> {
    let counter = MetricFamily::counter;
    let mut all = vec![
        counter(
            "messages_accepted_total",
            "Messages that the publisher has taken responsibility for.",
            summary.accepted,
        ),
        counter(
            "messages_delivered_total",
            "Messages that the broker has acknowledged; at QoS 0, written to the connection.",
            summary.delivered,
        ),
        counter(
            "messages_dropped_total",
            "Messages dropped because the queue was full.",
            summary.dropped,
        ),
        counter(
            "messages_expired_total",
            "Messages that waited longer than their expiry.",
            summary.expired,
        ),
        counter(
            "messages_dead_total",
            "Messages given up because the broker refuses them.",
            summary.dead,
        ),
        counter(
            "messages_rejected_total",
            "Messages that were never accepted.",
            summary.rejected,
        ),
    ];
    all.extend(summary.readings.map(|count| {
        let help = "Readings in the accepted messages.";
        counter("readings_accepted_total", help, count)
    }));
    all.extend(summary.failed.map(|count| {
        let help = "Commands of --exec that failed.";
        counter("commands_failed_total", help, count)
    }));
    all
}

fn backlog(outbox: &Outbox) -> Vec<MetricFamily> {
    let gauge = MetricFamily::gauge;
    let flag = |set: bool| f64::from(u8::from(set));
    let count = |count: usize| to_f64(count as u64);
    let (oldest, bytes) = outbox.oldest_and_bytes();
    let age = oldest.map(|message| two_clock_now().since(&message.accepted_at()));
    vec![
        gauge(
            "backlog_messages",
            "Messages taken and neither delivered nor given up; those in flight are among them.",
            count(outbox.count_unfinished()),
        ),
        gauge(
            "backlog_bytes",
            "Topics and payloads of the backlog.",
            to_f64(bytes),
        ),
        gauge(
            "backlog_age_seconds",
            "Age of the oldest message of the backlog; 0 without one.",
            age.unwrap_or_default().as_secs_f64(),
        ),
        gauge(
            "in_flight_messages",
            "Messages sent and not acknowledged.",
            count(outbox.in_flight_messages().len()),
        ),
        gauge(
            "queue_disk_full",
            "1 while nothing can be stored because the disk is full, else 0.",
            flag(outbox.queue.is_disk_full()),
        ),
        gauge(
            "adds_only",
            "1 while another publisher drains the queue file, and this one does not connect, else 0.",
            flag(outbox.queue.count_for_other_sender().is_some()),
        ),
    ]
}
