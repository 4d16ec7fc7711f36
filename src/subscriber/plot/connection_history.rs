//! The state of the connection, and its outages. PURE.

use std::collections::VecDeque;
use std::time::Instant;

use super::view;
use super::window::Ms;
use crate::common::connection::state::{Connection, ConnectionState};
use crate::common::escape::one_line;

const MAX_OUTAGES: usize = 100;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Status {
    Connecting { why: Option<String> },
    Connected { since: Instant },
    Waiting { why: String, until: Instant },
    Ended,
}

#[derive(Debug)]
pub(super) struct ConnectionHistory {
    status: Status,
    reconnects: u64,
    down_since: Option<Ms>,
    outages: VecDeque<(Ms, Ms)>,
}

impl Default for ConnectionHistory {
    fn default() -> Self {
        Self {
            status: Status::Connecting { why: None },
            reconnects: 0,
            down_since: None,
            outages: VecDeque::new(),
        }
    }
}

impl ConnectionHistory {
    /// Returns whether anything has changed.
    pub(super) fn update(&mut self, connection: &Connection, now: Ms) -> bool {
        let next = match connection.state() {
            ConnectionState::Idle | ConnectionState::Connecting { .. } => Status::Connecting {
                why: match &self.status {
                    Status::Waiting { why, .. } => Some(why.clone()),
                    Status::Connecting { why } => why.clone(),
                    Status::Connected { .. } | Status::Ended => None,
                },
            },
            ConnectionState::Online { since } => Status::Connected { since },
            ConnectionState::Waiting { until } => Status::Waiting {
                why: connection
                    .why_offline()
                    .map(|fault| one_line(&fault.to_string()))
                    .unwrap_or_default(),
                until,
            },
            ConnectionState::Stopped => Status::Ended,
        };
        if next == self.status {
            return false;
        }
        self.reconnects = connection.reconnects();
        let was_up = matches!(self.status, Status::Connected { .. });
        let is_up = matches!(next, Status::Connected { .. });
        if was_up && !is_up && next != Status::Ended {
            self.down_since = Some(now);
        }
        if is_up && let Some(since) = self.down_since.take() {
            self.outages.push_back((since, now));
            if self.outages.len() > MAX_OUTAGES {
                self.outages.pop_front();
            }
        }
        self.status = next;
        true
    }

    pub(super) fn outages(&self) -> Vec<(Ms, Ms)> {
        self.outages.iter().copied().collect()
    }

    pub(super) fn down_since(&self) -> Option<Ms> {
        self.down_since
    }

    pub(super) fn reconnects(&self) -> u64 {
        self.reconnects
    }

    pub(super) fn view(&self, now: Instant) -> view::ConnectionStatus {
        match &self.status {
            Status::Connecting { why } => view::ConnectionStatus::Connecting { why: why.clone() },
            Status::Connected { since } => view::ConnectionStatus::Connected {
                uptime: now.saturating_duration_since(*since),
            },
            Status::Waiting { why, until } => view::ConnectionStatus::Waiting {
                why: why.clone(),
                left: until.saturating_duration_since(now),
            },
            Status::Ended => view::ConnectionStatus::Ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::connection::backoff::{Backoff, Policy};
    use crate::common::connection::state::{ConnectionSettings, RunKind};
    use crate::common::fault::{Exit, Fault};
    use crate::subscriber::plot::chart::Chart;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    fn connection(host: &str) -> Connection {
        let settings = ConnectionSettings {
            host: host.into(),
            run: RunKind::Endless,
            connect_timeout: SECOND * 10,
            interval: Duration::ZERO,
        };
        let policy = Policy::new(SECOND, SECOND, SECOND * 20, 0.0).unwrap();
        Connection::new(settings, Backoff::new(policy))
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "an origin; the tests move it by hand"
    )]
    fn chart() -> (Chart, Instant) {
        let now = Instant::now();
        (Chart::new("broker", now), now)
    }

    #[test]
    fn the_state_and_the_outages_of_the_connection_are_shown() {
        let (mut chart, now) = chart();
        let mut connection = connection("h");
        connection.start(now);
        chart.update_connection(&connection, now);
        assert_eq!(
            chart.view(now).connection,
            view::ConnectionStatus::Connecting { why: None }
        );
        assert!(connection.handle_connected(connection.generation(), now));
        chart.update_connection(&connection, now);
        let revision = chart.revision();
        chart.update_connection(&connection, now + SECOND);
        assert_eq!(chart.revision(), revision);
        let lost = now + SECOND * 5;
        let fault = Fault::passing(Exit::Unavailable, "h: gone\u{1b}[2J");
        connection.handle_ended(connection.generation(), fault, lost, 0.0);
        chart.update_connection(&connection, lost);
        let view = chart.view(lost + SECOND / 2);
        assert_eq!(
            view.connection,
            view::ConnectionStatus::Waiting {
                why: "h: gone\\u{1b}[2J".into(),
                left: SECOND / 2
            }
        );
        assert_eq!(view.outages, [(-0.5, 0.0)]);
        let back = lost + SECOND;
        connection.handle_timeout(back, 0.0);
        chart.update_connection(&connection, back);
        let trying = chart.view(back).connection;
        assert!(matches!(
            trying,
            view::ConnectionStatus::Connecting { why: Some(_) }
        ));
        assert!(connection.handle_connected(connection.generation(), back));
        chart.update_connection(&connection, back);
        let view = chart.view(back + SECOND);
        assert_eq!(
            view.connection,
            view::ConnectionStatus::Connected { uptime: SECOND }
        );
        assert_eq!(view.outages, [(-2.0, -1.0)]);
        assert_eq!(view.reconnects, 1);
        assert!(chart.view(back + SECOND * 100).outages.is_empty());
    }
}
