//! `docs/alerts.yml` and `docs/dashboard.json`: that Prometheus accepts them, and that each metric in them is one that the
//! programs write.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::{fs, iter};

use serde_json::Value;

use crate::harness::{Broker, Program, SOON, temp_dir};

const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs");

/// Derived from another metric when the file is written: wrong as soon as the file is old, so not used here.
const NOT_SHOWN: [&str; 4] = [
    "iot_publisher_since_last_delivery_seconds",
    "iot_subscriber_since_last_message_seconds",
    "iot_publisher_certificate_remaining_seconds",
    "iot_subscriber_certificate_remaining_seconds",
];

fn document(name: &str) -> String {
    fs::read_to_string(Path::new(DOCS).join(name)).unwrap()
}

fn promtool(args: &[&str]) {
    let output = Command::new("promtool")
        .args(args)
        .current_dir(DOCS)
        .output()
        .expect("promtool (scripts/setup installs it)");
    let text = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&text)
    );
}

/// Each alert's name and rule.
fn alerts() -> Vec<(String, String)> {
    let text = document("alerts.yml");
    let rules = text.split("- alert: ").skip(1);
    let named = rules.map(|rule| rule.split_once('\n').expect("a rule after its name"));
    let alerts: Vec<_> = named
        .map(|(name, rule)| (name.to_owned(), rule.to_owned()))
        .collect();
    assert!(alerts.len() > 10);
    alerts
}

/// The names of our metrics in a text; a selector that is for both programs has two.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let starts = [
        "iot_publisher_",
        "iot_subscriber_",
        "iot_(publisher|subscriber)_",
    ];
    let mut found = BTreeSet::new();
    for start in starts {
        for (at, _) in text.match_indices(start) {
            let rest = &text[at + start.len()..];
            let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_');
            let name = &rest[..end.unwrap_or(rest.len())];
            let both = ["iot_publisher_", "iot_subscriber_"];
            let programs = both
                .iter()
                .filter(|one| start == **one || start.contains('('));
            found.extend(programs.map(|program| format!("{program}{name}")));
        }
    }
    found
}

/// The names of the values that real runs write, those at their end included.
fn written_metrics() -> BTreeSet<String> {
    let broker = Broker::start();
    let dir = temp_dir();
    let file = |name: &str| dir.path().join(name);
    let subscriber = Program::subscriber()
        .to(&broker)
        .args(["-t", "t", "-d", "-C", "1", "--metrics"])
        .arg(file("subscriber.prom"))
        .args(["--exec", "cat"])
        .start();
    subscriber.wait_subscribed();
    for (name, source) in [
        ("exec.prom", &["--count", "1", "--exec", "echo", "21.5"][..]),
        ("batch.prom", &["--stdin-line", "--batch", "2"]),
    ] {
        let publisher = Program::publisher().to(&broker).args(["-t", "t"]);
        let publisher = publisher.arg("--metrics").arg(file(name)).args(source);
        publisher.stdin(&b"1\n2\n"[..]).run(SOON).expect_code(0);
    }
    subscriber.finish(SOON).expect_code(0);
    let names = ["subscriber.prom", "exec.prom", "batch.prom"];
    let texts = names.map(|name| fs::read_to_string(file(name)).unwrap());
    let lines = texts.iter().flat_map(|text| text.lines());
    let values = lines.filter(|line| !line.starts_with('#'));
    values
        .map(|line| line.split('{').next().unwrap().to_owned())
        .collect()
}

#[test]
fn prometheus_accepts_the_alert_rules_and_each_fires_as_their_tests_say() {
    promtool(&["check", "rules", "alerts.yml"]);
    promtool(&["test", "rules", "alerts.test.yml"]);
}

#[test]
fn each_alert_says_what_to_do_and_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() {
    let tests = document("alerts.test.yml");
    for (name, rule) in alerts() {
        for part in ["severity: ", "summary: ", "action: "] {
            assert!(rule.contains(part), "{name} has no {part}");
        }
        let of_this = format!("alertname=\"{name}\"");
        let expectations = tests.split(&of_this).skip(1);
        let expectations = expectations.filter_map(|rest| rest.split("exp_samples:").nth(1));
        let (silent, firing): (Vec<_>, Vec<_>) =
            expectations.partition(|rest| rest.starts_with(" []"));
        assert!(!firing.is_empty() && !silent.is_empty(), "{name}");
    }
}

#[test]
fn the_alerts_and_the_dashboard_use_metrics_that_the_programs_write() {
    let written = written_metrics();
    let dashboard = metrics_in(&document("dashboard.json"));
    let alerts = metrics_in(&document("alerts.yml"));
    let tests = metrics_in(&document("alerts.test.yml"));
    for name in dashboard.iter().chain(&alerts).chain(&tests) {
        let is_family = || written.contains(&format!("{name}_bucket"));
        assert!(
            written.contains(name) || is_family(),
            "{name} is not in {written:?}"
        );
    }
    let is_shown = |name: &&String| {
        let bucket = name.replace("_sum", "_bucket").replace("_count", "_bucket");
        dashboard.contains(*name)
            || dashboard.contains(&bucket)
            || NOT_SHOWN.contains(&name.as_str())
    };
    let missing: Vec<_> = written.iter().filter(|name| !is_shown(name)).collect();
    assert!(missing.is_empty(), "not on the dashboard: {missing:?}");
}

#[test]
fn the_dashboard_has_a_data_source_and_devices_to_choose_and_panels_that_do_not_overlap() {
    let dashboard: Value = serde_json::from_str(&document("dashboard.json")).unwrap();
    // Grafana 10.
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 38);
    let list = |value: &Value| value.as_array().unwrap().clone();
    let variables = list(&dashboard["templating"]["list"]);
    let names: Vec<_> = variables
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["datasource", "instance", "client_id"]);
    let mut ids = BTreeSet::new();
    let mut cells = BTreeSet::new();
    for panel in list(&dashboard["panels"]) {
        let title = &panel["title"];
        assert!(
            ids.insert(panel["id"].as_u64().unwrap()),
            "{title}: the id is used twice"
        );
        let number = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        let columns = number("x")..number("x") + number("w");
        assert!(columns.end <= 24, "{title}");
        for row in number("y")..number("y") + number("h") {
            for cell in iter::repeat(row).zip(columns.clone()) {
                assert!(cells.insert(cell), "{title} overlaps another panel");
            }
        }
        let is_row = panel["type"] == "row";
        assert_eq!(is_row, panel["targets"].is_null(), "{title}");
        for target in panel["targets"].as_array().into_iter().flatten() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            let expression = target["expr"].as_str().unwrap();
            assert!(!metrics_in(expression).is_empty(), "{title}: {expression}");
        }
    }
}
