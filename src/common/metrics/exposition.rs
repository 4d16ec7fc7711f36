//! The text format of Prometheus, version 0.0.4. PURE.
//!
//! Source: <https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details>.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::metric_family::MetricFamily;

/// The metrics of one program. `program` stands in front of each name, `client_id` becomes a label of each value, so
/// that the files of several programs can be read together.
pub fn encode(program: &str, client_id: &str, families: &[MetricFamily]) -> String {
    let client_id = escape_label(client_id);
    let mut out = String::new();
    for family in families {
        let name = format!("iot_{program}_{}", family.name);
        // Writing to a string cannot fail.
        let _ = writeln!(out, "# HELP {name} {}", family.help);
        let _ = writeln!(out, "# TYPE {name} {}", family.kind.name());
        for sample in &family.samples {
            let _ = write!(out, "{name}{}{{client_id=\"{client_id}\"", sample.suffix);
            if let Some((label, value)) = &sample.label {
                let _ = write!(out, ",{label}=\"{}\"", escape_label(value));
            }
            let _ = writeln!(out, "}} {}", sample.value);
        }
    }
    out
}

fn escape_label(value: &str) -> String {
    let value = value.replace('\\', "\\\\");
    value.replace('"', "\\\"").replace('\n', "\\n")
}

/// What one file of these programs says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParsedMetrics {
    pub program: String,
    pub client_id: String,
    /// Values by name, without `iot_PROGRAM_`; those that differ in a label only are added up.
    values: BTreeMap<String, f64>,
}

impl ParsedMetrics {
    /// Reads what [`encode`] has written; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parsed = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, rest) = line.strip_prefix("iot_")?.split_once("{client_id=\"")?;
            let (program, name) = name.split_once('_')?;
            let end = end_of_quoted(rest)?;
            let (client_id, labels) = (rest.get(..end)?, rest.get(end..)?);
            let value: f64 = labels.rsplit_once("} ")?.1.parse().ok()?;
            if parsed.program.is_empty() {
                program.clone_into(&mut parsed.program);
                parsed.client_id = unescape_label(client_id);
            }
            *parsed.values.entry(name.to_owned()).or_insert(0.0) += value;
        }
        (!parsed.values.is_empty()).then_some(parsed)
    }

    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.get(name).copied()
    }
}

/// The index of the quotation mark that ends a value.
fn end_of_quoted(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.bytes().position(|byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    })
}

fn unescape_label(value: &str) -> String {
    let mut out = String::new();
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => out.push('\n'),
                other => out.extend(other),
            },
            (c, _) => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_file_has_help_type_and_labels() {
        let causes = [("dns", 2), ("tls", 0)];
        let families = [
            MetricFamily::gauge("connected", "1 if so.", 1.0),
            MetricFamily::counters_by_cause("failures_total", "Failures.", causes),
        ];
        let text = "# HELP iot_publisher_connected 1 if so.\n\
                    # TYPE iot_publisher_connected gauge\n\
                    iot_publisher_connected{client_id=\"a\\\"b\"} 1\n\
                    # HELP iot_publisher_failures_total Failures.\n\
                    # TYPE iot_publisher_failures_total counter\n\
                    iot_publisher_failures_total{client_id=\"a\\\"b\",cause=\"dns\"} 2\n\
                    iot_publisher_failures_total{client_id=\"a\\\"b\",cause=\"tls\"} 0\n";
        assert_eq!(encode("publisher", "a\"b", &families), text);
        let parsed = ParsedMetrics::parse(text).unwrap();
        assert_eq!(parsed.get("failures_total"), Some(2.0));
    }

    #[test]
    fn another_file_is_not_taken_for_one() {
        for text in [
            "",
            "\n",
            "# HELP\n",
            "node_load1 0.5\n",
            "iot_publisher_connected 1\n",
        ] {
            assert_eq!(ParsedMetrics::parse(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_client_identifier_and_value_can_be_read_back(id in ".*", value: u32) {
            let value = f64::from(value) / 8.0;
            let families = [MetricFamily::gauge("x", "X.", value)];
            let text = encode("subscriber", &id, &families);
            // A line of the format ends only at a newline.
            prop_assume!(!id.contains('\r'));
            let parsed = ParsedMetrics::parse(&text).unwrap();
            prop_assert_eq!((parsed.client_id.as_str(), parsed.get("x")), (id.as_str(), Some(value)));
            prop_assert_eq!(parsed.program, "subscriber");
        }
    }
}
