//! The state of the connection, and its outages. PURE.

use super::zoom::Ms;
use crate::common::connection::state::{ConnectionState, ConnectionStateMachine};
use crate::common::escape::one_line;

const MAX_OUTAGES: usize = 100;

#[derive(Debug, Default)]
pub(super) struct ConnectionHistory {
    pub(super) state: ConnectionState,
    /// Why there is no connection, or why the attempt before this one failed.
    pub(super) why_offline: Option<String>,
    pub(super) reconnects: u64,
    pub(super) down_since: Option<Ms>,
    pub(super) outages: Vec<(Ms, Ms)>,
}

impl ConnectionHistory {
    pub(super) fn update(&mut self, connection: &ConnectionStateMachine, now: Ms) -> bool {
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
    use crate::subscriber::plot::chart_data::tests::chart;
    use std::time::Duration;

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
    fn the_state_and_the_outages_of_the_connection_are_shown() {
        let (mut chart, now) = chart();
        let mut connection = connection("h");
        connection.start(now);
        chart.update_connection(&connection, now);
        let view = chart.view(now);
        let is_connecting = |state| matches!(state, ConnectionState::Connecting { .. });
        assert!(is_connecting(view.connection) && view.why_offline.is_none());
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
        let until = lost + SECOND;
        assert_eq!(view.connection, ConnectionState::Waiting { until });
        assert_eq!(view.why_offline.as_deref(), Some("h: gone\\u{1b}[2J"));
        assert_eq!(view.outages, [(-0.5, 0.0)]);
        let back = lost + SECOND;
        connection.handle_timeout(back, 0.0);
        chart.update_connection(&connection, back);
        let view = chart.view(back);
        assert!(is_connecting(view.connection) && view.why_offline.is_some());
        assert!(connection.handle_connected(connection.generation(), back));
        chart.update_connection(&connection, back);
        let view = chart.view(back + SECOND);
        assert_eq!(view.connection, ConnectionState::Online { since: back });
        assert_eq!(view.why_offline, None);
        assert_eq!(view.outages, [(-2.0, -1.0)]);
        assert_eq!(view.reconnects, 1);
        assert!(chart.view(back + SECOND * 100).outages.is_empty());
    }
}
