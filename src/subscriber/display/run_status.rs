//! What the chart and the table show of the run. Texts have no control characters. PURE.

use std::time::{Duration, Instant};

use crate::common::connection::state::ConnectionState;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warning,
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    pub level: LogLevel,
    pub text: String,
    pub age: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MessageRate {
    pub per_second: f64,
    pub per_minute: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RunStatus {
    pub now: Instant,
    pub broker: String,
    pub connection: ConnectionState,
    /// Why there is no connection, or why the attempt before this one failed.
    pub why_offline: Option<String>,
    pub elapsed: Duration,
    pub received: u64,
    pub without_value: u64,
    pub missing: u64,
    pub reconnects: u64,
    pub rate: MessageRate,
    pub log: Option<LogLine>,
    /// When the display was closed, in UTC; until then the keys are shown.
    pub ended: Option<String>,
}

/// How long a line of the log stays when all is well again: it was logged before there was a connection.
const SETTLED: Duration = Duration::from_secs(5);

/// How long a line stays that was logged while there was a connection.
const MAX_AGE_ONLINE: Duration = Duration::from_secs(60);

impl RunStatus {
    /// The last line of the log, unless what it says is over.
    pub fn current_log_line(&self) -> Option<&LogLine> {
        let is_over = |line: &LogLine| match self.uptime() {
            Some(uptime) if line.age > uptime => uptime >= SETTLED,
            Some(_) => line.age >= MAX_AGE_ONLINE,
            None => false,
        };
        let line = self.log.as_ref();
        line.filter(|line| self.ended.is_some() || !is_over(line))
    }

    /// How long there has been a connection, if there is one.
    pub fn uptime(&self) -> Option<Duration> {
        match self.connection {
            ConnectionState::Online { since } => Some(self.now.saturating_duration_since(since)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_the_log_goes_when_all_is_well() {
        #[allow(
            clippy::disallowed_methods,
            reason = "an origin; the test moves it by hand"
        )]
        let since = Instant::now();
        let second = Duration::from_secs(1);
        let until = since + second;
        let waiting = ConnectionState::Waiting { until };
        let online = ConnectionState::Online { since };
        for (connection, uptime, age, is_shown) in [
            (waiting, 0, 1, true),
            (waiting, 0, 10_000, true),
            (online, 4, 9, true),
            (online, 5, 9, false),
            (online, 500, 59, true),
            (online, 500, 60, false),
        ] {
            let status = RunStatus {
                now: since + second * uptime,
                broker: String::new(),
                connection,
                why_offline: None,
                elapsed: second,
                received: 0,
                without_value: 0,
                missing: 0,
                reconnects: 0,
                rate: MessageRate::default(),
                log: Some(LogLine {
                    level: LogLevel::Warning,
                    text: "gone".into(),
                    age: second * age,
                }),
                ended: None,
            };
            let shown = status.current_log_line().is_some();
            assert_eq!(shown, is_shown, "{connection:?} {uptime} {age}");
        }
    }
}
