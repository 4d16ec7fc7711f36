//! How the connection is, and when there was none. PURE.

use std::collections::VecDeque;
use std::time::Instant;

use super::timing::Ms;
use super::view;
use crate::common::connection::state::{Connection, ConnectionState};
use crate::common::escape::one_line;

/// Outages remembered.
const MAX_OUTAGES: usize = 100;

/// Where the connection stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Now {
    Connecting { why: Option<String> },
    Connected { since: Instant },
    Waiting { why: String, until: Instant },
    Ended,
}

/// The connection as the chart sees it.
#[derive(Debug)]
pub(super) struct Link {
    now: Now,
    reconnects: u64,
    down_since: Option<Ms>,
    outages: VecDeque<(Ms, Ms)>,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            now: Now::Connecting { why: None },
            reconnects: 0,
            down_since: None,
            outages: VecDeque::new(),
        }
    }
}

impl Link {
    /// Looks at the connection; whether anything has changed.
    pub(super) fn follow(&mut self, connection: &Connection, now: Ms) -> bool {
        let next = match connection.state() {
            ConnectionState::Idle | ConnectionState::Connecting { .. } => Now::Connecting {
                why: match &self.now {
                    Now::Waiting { why, .. } => Some(why.clone()),
                    Now::Connecting { why } => why.clone(),
                    Now::Connected { .. } | Now::Ended => None,
                },
            },
            ConnectionState::Online { since } => Now::Connected { since },
            ConnectionState::Waiting { until } => Now::Waiting {
                why: connection
                    .why_offline()
                    .map(|fault| one_line(&fault.to_string()))
                    .unwrap_or_default(),
                until,
            },
            ConnectionState::Stopped => Now::Ended,
        };
        if next == self.now {
            return false;
        }
        self.reconnects = connection.reconnects();
        let was_up = matches!(self.now, Now::Connected { .. });
        let is_up = matches!(next, Now::Connected { .. });
        if was_up && !is_up && next != Now::Ended {
            self.down_since = Some(now);
        }
        if is_up && let Some(since) = self.down_since.take() {
            self.outages.push_back((since, now));
            if self.outages.len() > MAX_OUTAGES {
                self.outages.pop_front();
            }
        }
        self.now = next;
        true
    }

    /// When it was down, from and to.
    pub(super) fn outages(&self) -> Vec<(Ms, Ms)> {
        self.outages.iter().copied().collect()
    }

    /// Since when it has been down.
    pub(super) fn down_since(&self) -> Option<Ms> {
        self.down_since
    }

    /// Connections after the first.
    pub(super) fn reconnects(&self) -> u64 {
        self.reconnects
    }

    /// How it is to be shown.
    pub(super) fn view(&self, now: Instant) -> view::Link {
        match &self.now {
            Now::Connecting { why } => view::Link::Connecting { why: why.clone() },
            Now::Connected { since } => view::Link::Connected {
                since: now.saturating_duration_since(*since),
            },
            Now::Waiting { why, until } => view::Link::Waiting {
                why: why.clone(),
                left: until.saturating_duration_since(now),
            },
            Now::Ended => view::Link::Ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::connection::backoff::{Backoff, Policy};
    use crate::common::connection::state::{ConnectionSettings, RunKind};
    use crate::common::fault::{Exit, Fault};
    use crate::subscriber::plot::model::Chart;
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
    fn it_follows_the_connection_and_remembers_when_it_was_down() {
        let (mut chart, now) = chart();
        let mut connection = connection("h");
        connection.start(now);
        chart.follow(&connection, now);
        assert_eq!(chart.view(now).link, view::Link::Connecting { why: None });
        assert!(connection.handle_connected(connection.generation(), now));
        chart.follow(&connection, now);
        let revision = chart.revision();
        chart.follow(&connection, now + SECOND);
        assert_eq!(chart.revision(), revision);
        let lost = now + SECOND * 5;
        let fault = Fault::passing(Exit::Unavailable, "h: gone\u{1b}[2J");
        connection.handle_ended(connection.generation(), fault, lost, 0.0);
        chart.follow(&connection, lost);
        let view = chart.view(lost + SECOND / 2);
        assert_eq!(
            view.link,
            view::Link::Waiting {
                why: "h: gone\\u{1b}[2J".into(),
                left: SECOND / 2
            }
        );
        assert_eq!(view.outages, [(-0.5, 0.0)]);
        let back = lost + SECOND;
        connection.handle_timeout(back, 0.0);
        chart.follow(&connection, back);
        let trying = chart.view(back).link;
        assert!(matches!(trying, view::Link::Connecting { why: Some(_) }));
        assert!(connection.handle_connected(connection.generation(), back));
        chart.follow(&connection, back);
        let view = chart.view(back + SECOND);
        assert_eq!(view.link, view::Link::Connected { since: SECOND });
        assert_eq!(view.outages, [(-2.0, -1.0)]);
        assert_eq!(view.reconnects, 1);
        assert!(chart.view(back + SECOND * 100).outages.is_empty());
    }
}
