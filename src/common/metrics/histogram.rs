//! How many values lie below each of some bounds, as Prometheus counts them. PURE.

use super::metric_family::{MetricFamily, MetricKind, Sample, to_f64};

#[derive(Clone, Debug)]
pub struct Histogram {
    /// Ascending.
    bounds: &'static [f64],
    /// Of the values in each bucket alone; those above all bounds come last.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    pub fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len() + 1],
            sum: 0.0,
        }
    }

    pub fn observe(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum += value;
    }

    pub fn to_family(&self, name: &'static str, help: &'static str) -> MetricFamily {
        let sample = |suffix, label: Option<String>, value| Sample {
            suffix,
            label: label.map(|bound| ("le", bound)),
            value,
        };
        let names = self.bounds.iter().map(ToString::to_string);
        let names = names.chain(["+Inf".to_owned()]);
        let mut below = 0;
        let mut samples = Vec::new();
        for (bound, count) in names.zip(&self.counts) {
            below += count;
            samples.push(sample("_bucket", Some(bound), to_f64(below)));
        }
        samples.push(sample("_sum", None, self.sum));
        samples.push(sample("_count", None, to_f64(below)));
        MetricFamily {
            name,
            help,
            kind: MetricKind::Histogram,
            samples,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_include_their_bound() {
        let mut histogram = Histogram::new(&[0.1, 1.0]);
        for value in [0.05, 0.1, 0.5, 7.0] {
            histogram.observe(value);
        }
        let family = histogram.to_family("x_seconds", "X.");
        let found: Vec<_> = family
            .samples
            .iter()
            .map(|s| {
                (
                    s.suffix,
                    s.label.as_ref().map(|(_, le)| le.as_str()),
                    s.value,
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                ("_bucket", Some("0.1"), 2.0),
                ("_bucket", Some("1"), 3.0),
                ("_bucket", Some("+Inf"), 4.0),
                ("_sum", None, 7.65),
                ("_count", None, 4.0),
            ]
        );
    }
}
