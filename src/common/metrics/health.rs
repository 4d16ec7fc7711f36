//! Whether a program is well, by its metrics file. PURE.

use serde::Serialize;

use super::exposition::ParsedMetrics;
use crate::common::fault::Exit;

/// A file that is older has missed three writes: the program hangs, or was killed.
const MAX_AGE_S: f64 = 60.0;

const DAY_S: f64 = 86_400.0;

/// What `status --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Health {
    pub ok: bool,
    pub exit: u8,
    pub program: String,
    pub client_id: String,
    pub running: bool,
    /// None if this process adds to a queue file that another one drains.
    pub connected: Option<bool>,
    /// The age of the metrics file.
    pub age_s: f64,
    /// Messages that the publisher has taken and not delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog: Option<u64>,
    /// Until the certificate ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub days_left: Option<i64>,
    /// Why it is not well; empty if it is.
    pub causes: Vec<String>,
}

impl Health {
    /// `now_s` is the Unix time.
    pub fn of(metrics: &ParsedMetrics, now_s: f64) -> (Self, Exit) {
        let is_set = |name: &str| metrics.get(name).map(|value| value > 0.0);
        let written = metrics.get("written_timestamp_seconds").unwrap_or(0.0);
        let age_s = (now_s - written).max(0.0);
        let running = is_set("running") == Some(true);
        let adds_only = is_set("adds_only") == Some(true);
        let connected = is_set("connected").filter(|_| !adds_only);
        let ends = metrics.get("certificate_not_after_timestamp_seconds");
        let days_left = ends.map(|ends| floor_to_i64((ends - now_s) / DAY_S));
        let mut causes = Vec::new();
        let mut exit = Exit::Success;
        let mut add = |worse: Exit, cause: String| {
            exit = exit.or_worse(worse);
            causes.push(cause);
        };
        if !running {
            let code = metrics.get("exit_code").map(floor_to_i64);
            let code = code.and_then(|code| u8::try_from(code).ok());
            let worse = code.and_then(Exit::from_code).unwrap_or(Exit::Unavailable);
            if worse != Exit::Success {
                let code = worse.code();
                add(worse, format!("the run has ended with exit code {code}"));
            }
        } else if age_s > MAX_AGE_S {
            let message = format!("nothing written for {age_s:.0} s: it hangs or was killed");
            add(Exit::Unavailable, message);
        } else if written > now_s + MAX_AGE_S {
            let message =
                "its metrics file is from the future: the system clock is wrong, or it was killed";
            add(Exit::Unavailable, message.into());
        } else if connected == Some(false) {
            add(Exit::Unavailable, "not connected".into());
        }
        if running && is_set("queue_disk_full") == Some(true) {
            add(Exit::Io, "the disk of the queue file is full".into());
        }
        if ends.is_some_and(|ends| ends <= now_s) {
            add(Exit::Config, "the certificate has expired".into());
        }
        let backlog = metrics.get("backlog_messages");
        let health = Self {
            ok: exit == Exit::Success,
            exit: exit.code(),
            program: metrics.program.clone(),
            client_id: metrics.client_id.clone(),
            running,
            connected,
            age_s: (age_s * 10.0).round() / 10.0,
            backlog: backlog.map(|count| floor_to_i64(count).unsigned_abs()),
            days_left,
            causes,
        };
        (health, exit)
    }

    /// One line.
    pub fn to_text(&self) -> String {
        let state = match (self.running, self.connected) {
            (false, _) => "has ended",
            (true, Some(true)) => "connected",
            (true, Some(false)) => "not connected",
            (true, None) => "another publisher drains the queue",
        };
        let mut parts = vec![state.to_owned()];
        parts.extend(self.causes.iter().filter(|cause| **cause != state).cloned());
        parts.extend(self.backlog.map(|count| format!("{count} messages wait")));
        parts.extend(
            self.days_left
                .map(|days| format!("{days} days until the certificate ends")),
        );
        let word = if self.ok { "ok" } else { "NOT WELL" };
        format!(
            "{word}: {} {}: {}",
            self.program,
            self.client_id,
            parts.join(", ")
        )
    }
}

#[allow(clippy::cast_possible_truncation, reason = "saturates")]
fn floor_to_i64(value: f64) -> i64 {
    value.floor() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(values: &[(&str, f64)]) -> (Health, Exit) {
        let line = |(name, value): &(&str, f64)| {
            format!("iot_publisher_{name}{{client_id=\"c\"}} {value}\n")
        };
        let text: String = values.iter().map(line).collect();
        Health::of(&ParsedMetrics::parse(&text).unwrap(), 1_000_000.0)
    }

    #[test]
    fn each_thing_that_is_wrong_has_its_exit_code() {
        let well = [
            ("running", 1.0),
            ("connected", 1.0),
            ("written_timestamp_seconds", 999_990.0),
            ("certificate_not_after_timestamp_seconds", 1_200_000.0),
            ("backlog_messages", 7.0),
        ];
        for (name, value, expected) in [
            ("backlog_messages", 100.0, 0),
            ("connected", 0.0, 69),
            ("written_timestamp_seconds", 999_939.0, 69),
            ("written_timestamp_seconds", 1_000_059.0, 0),
            ("written_timestamp_seconds", 1_000_061.0, 69),
            ("queue_disk_full", 1.0, 74),
            ("certificate_not_after_timestamp_seconds", 999_999.0, 78),
        ] {
            let mut values = well.to_vec();
            values.retain(|(other, _)| *other != name);
            values.push((name, value));
            let (health, exit) = health(&values);
            assert_eq!(exit.code(), expected, "{name} {health:?}");
            assert_eq!(health.ok, expected == 0);
            assert_eq!(health.causes.is_empty(), expected == 0, "{health:?}");
        }
        let text = health(&well).0.to_text();
        let expected =
            "ok: publisher c: connected, 7 messages wait, 2 days until the certificate ends";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_run_that_has_ended_is_as_well_as_its_exit_code() {
        for code in [0, 75] {
            let values = [
                ("running", 0.0),
                ("connected", 0.0),
                ("exit_code", f64::from(code)),
            ];
            assert_eq!(i32::from(health(&values).1.code()), code);
        }
    }

    #[test]
    fn a_publisher_that_only_adds_to_a_queue_needs_no_connection() {
        let now = ("written_timestamp_seconds", 1_000_000.0);
        let values = [
            ("running", 1.0),
            ("connected", 0.0),
            ("adds_only", 1.0),
            now,
        ];
        let (health, exit) = health(&values);
        assert_eq!((exit, health.connected), (Exit::Success, None));
    }
}
