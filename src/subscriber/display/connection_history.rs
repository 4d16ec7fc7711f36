//! The state of the connection, and its outages. PURE.

use super::ms::Ms;
use crate::common::connection::state::{ConnectionState, ConnectionStateMachine};
use crate::common::escape::one_line;

const MAX_OUTAGES: usize = 100;

#[derive(Debug, Default)]
pub struct ConnectionHistory {
    pub state: ConnectionState,
    /// Why there is no connection, or why the attempt before this one failed.
    pub why_offline: Option<String>,
    pub reconnects: u64,
    pub down_since: Option<Ms>,
    pub outages: Vec<(Ms, Ms)>,
}

impl ConnectionHistory {
    pub fn update(&mut self, connection: &ConnectionStateMachine, now: Ms) -> bool {
        let was_up = matches!(self.state, ConnectionState::Online { .. });
        let state = connection.state();
        if state == self.state {
            return false;
        }
        self.state = state;
        self.reconnects = connection.reconnect_count();
        match state {
            ConnectionState::Idle | ConnectionState::Connecting { .. } => {}
            ConnectionState::Online { .. } | ConnectionState::Stopped => self.why_offline = None,
            ConnectionState::Waiting { .. } => {
                let why = connection.why_offline();
                self.why_offline = why.map(|fault| one_line(&fault.to_string()));
            }
        }
        let is_up = matches!(state, ConnectionState::Online { .. });
        if was_up && !is_up && state != ConnectionState::Stopped {
            self.down_since = Some(now);
        }
        if is_up && let Some(since) = self.down_since.take() {
            if self.outages.len() == MAX_OUTAGES {
                self.outages.remove(0);
            }
            self.outages.push((since, now));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::connection::backoff::{Backoff, Policy};
    use crate::common::connection::state::{AttemptSettings, FiniteOrEndless};
    use crate::common::fault::{Exit, Fault};
    use crate::subscriber::display::status_tracker::StatusTracker;
    use std::time::{Duration, Instant};

    const SECOND: Duration = Duration::from_secs(1);

    fn connection(host: &str) -> ConnectionStateMachine {
        let settings = AttemptSettings {
            host: host.into(),
            run: FiniteOrEndless::Endless,
            connect_timeout: SECOND * 10,
            interval: Duration::ZERO,
        };
        let policy = Policy::new(SECOND, SECOND, SECOND * 20, 0.0).unwrap();
        ConnectionStateMachine::new(settings, Backoff::new(policy))
    }

    #[test]
    fn the_state_and_the_outages_of_the_connection_are_recorded() {
        #[allow(
            clippy::disallowed_methods,
            reason = "an origin; the test moves it by hand"
        )]
        let now = Instant::now();
        let mut tracker = StatusTracker::new("broker\u{1b}", now);
        let mut connection = connection("h");
        connection.start(now);
        tracker.update_connection(&connection, now);
        let status = tracker.status(now, None);
        assert_eq!(status.broker, "broker\\u{1b}");
        let is_connecting = |state| matches!(state, ConnectionState::Connecting { .. });
        assert!(is_connecting(status.connection) && status.why_offline.is_none());
        assert!(connection.handle_connected(connection.generation(), now));
        tracker.update_connection(&connection, now);
        let revision = tracker.revision();
        tracker.update_connection(&connection, now + SECOND);
        assert_eq!(tracker.revision(), revision);
        let lost = now + SECOND * 5;
        let fault = Fault::passing(Exit::Unavailable, "h: gone\u{1b}[2J");
        connection.handle_ended(connection.generation(), fault, lost, 0.0);
        tracker.update_connection(&connection, lost);
        let status = tracker.status(lost + SECOND / 2, None);
        let until = lost + SECOND;
        assert_eq!(status.connection, ConnectionState::Waiting { until });
        assert_eq!(status.why_offline.as_deref(), Some("h: gone\\u{1b}[2J"));
        assert_eq!(tracker.connection.down_since, Some(5000));
        let back = lost + SECOND;
        connection.handle_timeout(back, 0.0);
        tracker.update_connection(&connection, back);
        let status = tracker.status(back, None);
        assert!(is_connecting(status.connection) && status.why_offline.is_some());
        assert!(connection.handle_connected(connection.generation(), back));
        tracker.update_connection(&connection, back);
        let status = tracker.status(back + SECOND, None);
        assert_eq!(status.connection, ConnectionState::Online { since: back });
        assert_eq!(status.uptime(), Some(SECOND));
        assert_eq!(status.why_offline, None);
        assert_eq!(status.reconnects, 1);
        assert_eq!(tracker.connection.outages, [(5000, 6000)]);
    }
}
