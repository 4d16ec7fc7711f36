//! When the client's certificate ends, as far as it has been read: the worker writes it, the event loop reads it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::common::metrics::metric_family::MetricFamily;

/// Seconds of Unix time; 0 without a certificate.
#[derive(Clone, Debug, Default)]
pub struct CertificateEnd(Arc<AtomicI64>);

impl CertificateEnd {
    pub fn set(&self, unix_s: Option<i64>) {
        self.0.store(unix_s.unwrap_or(0), Ordering::Relaxed);
    }

    /// None without a certificate.
    #[allow(
        clippy::cast_precision_loss,
        reason = "ends within the next 200 million years"
    )]
    pub fn to_families(&self, now_unix_s: f64) -> Vec<MetricFamily> {
        let end = self.0.load(Ordering::Relaxed);
        if end == 0 {
            return Vec::new();
        }
        let (end, gauge) = (end as f64, MetricFamily::gauge);
        vec![
            gauge(
                "certificate_not_after_timestamp_seconds",
                "Unix time at which the client certificate ends.",
                end,
            ),
            gauge(
                "certificate_remaining_seconds",
                "Time until the client certificate ends; negative once it has expired.",
                (end - now_unix_s).floor(),
            ),
        ]
    }
}
