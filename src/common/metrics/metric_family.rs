//! A metric with its values. PURE.
//!
//! Names follow <https://prometheus.io/docs/practices/naming/>: base units (seconds, bytes), `_total` for counters. The
//! name of the program comes in front of them when they are written.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

impl MetricKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// What follows the name of the metric: `_bucket`, for example.
    pub suffix: &'static str,
    pub label: Option<(&'static str, String)>,
    pub value: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct MetricFamily {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: MetricKind,
    pub samples: Vec<Sample>,
}

impl MetricFamily {
    pub fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self::single(name, help, MetricKind::Counter, to_f64(value))
    }

    pub fn gauge(name: &'static str, help: &'static str, value: f64) -> Self {
        Self::single(name, help, MetricKind::Gauge, value)
    }

    fn single(name: &'static str, help: &'static str, kind: MetricKind, value: f64) -> Self {
        let sample = Sample {
            suffix: "",
            label: None,
            value,
        };
        Self {
            name,
            help,
            kind,
            samples: vec![sample],
        }
    }

    /// A counter for each cause.
    pub fn counters_by_cause(
        name: &'static str,
        help: &'static str,
        counts: impl IntoIterator<Item = (&'static str, u64)>,
    ) -> Self {
        let sample = |(cause, count): (&str, u64)| Sample {
            suffix: "",
            label: Some(("cause", cause.to_owned())),
            value: to_f64(count),
        };
        Self {
            name,
            help,
            kind: MetricKind::Counter,
            samples: counts.into_iter().map(sample).collect(),
        }
    }
}

/// Exact up to 2⁵³, as everywhere in Prometheus.
#[allow(
    clippy::cast_precision_loss,
    reason = "Prometheus has no other numbers"
)]
pub fn to_f64(number: u64) -> f64 {
    number as f64
}
