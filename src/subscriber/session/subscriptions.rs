//! The wanted filters, and what the broker said to each on the present connection. PURE.
//!
//! The set belongs to the run, not to a connection: each new connection asks for all of it
//! anew, and every answer is looked at. An unanswered request is repeated with the backoff's
//! delays; in the end the connection is taken for dead. A refused filter is asked for again
//! likewise: policies change.

use std::time::{Duration, Instant};

use crate::common::connection::backoff::Policy;

/// Requests without an answer after which the connection counts as dead.
const MAX_UNANSWERED: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be asked for at this time.
    Due(Instant),
    /// Asked for; the answer has until then.
    Asked(Instant),
    /// The broker granted this QoS.
    Granted(u8),
}

#[derive(Clone, Debug)]
struct Wanted {
    filter: String,
    state: State,
    refusals: u32,
    unanswered: u32,
}

/// What time has brought about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Send SUBSCRIBE for these filters, by their numbers.
    Ask(Vec<usize>),
    /// A filter got no answer, several times over.
    Dead {
        /// Its number.
        filter: usize,
    },
}

/// The wanted filters.
#[derive(Debug)]
pub struct Subscriptions {
    wanted: Vec<Wanted>,
    policy: Policy,
    operation_timeout: Duration,
    online: bool,
}

impl Subscriptions {
    /// Filters to be asked for on every connection. `policy` gives the delays between
    /// repeated requests.
    pub fn new(
        filters: Vec<String>,
        policy: Policy,
        operation_timeout: Duration,
        now: Instant,
    ) -> Self {
        let wanted = filters.into_iter().map(|filter| Wanted {
            filter,
            state: State::Due(now),
            refusals: 0,
            unanswered: 0,
        });
        Self {
            wanted: wanted.collect(),
            policy,
            operation_timeout,
            online: false,
        }
    }

    /// The text of a filter.
    pub fn filter(&self, number: usize) -> &str {
        self.wanted.get(number).map_or("", |wanted| &wanted.filter)
    }

    /// A filter that was asked for on the present connection and not answered.
    pub fn unanswered(&self) -> Option<&str> {
        let mut wanted = self.wanted.iter().filter(|_| self.online);
        wanted
            .find(|wanted| matches!(wanted.state, State::Asked(_)))
            .map(|wanted| wanted.filter.as_str())
    }

    /// Whether the broker has granted every filter on the present connection.
    pub fn all_granted(&self) -> bool {
        self.online
            && self
                .wanted
                .iter()
                .all(|wanted| matches!(wanted.state, State::Granted(_)))
    }

    /// A new connection: nothing is subscribed.
    pub fn connected(&mut self, now: Instant) {
        self.online = true;
        for wanted in &mut self.wanted {
            wanted.state = State::Due(now);
            wanted.refusals = 0;
            wanted.unanswered = 0;
        }
    }

    /// The connection is gone.
    pub fn disconnected(&mut self) {
        self.online = false;
    }

    /// Something comes from the broker, behind which answers may stand: they have more time.
    pub fn extend(&mut self, now: Instant) {
        for wanted in &mut self.wanted {
            if matches!(wanted.state, State::Asked(_)) {
                wanted.state = State::Asked(now + self.operation_timeout);
            }
        }
    }

    /// The broker granted a QoS. A late answer to an earlier request counts as well.
    pub fn granted(&mut self, filter: usize, qos: u8) {
        if let Some(wanted) = self.wanted.get_mut(filter) {
            wanted.state = State::Granted(qos);
        }
    }

    /// The broker refused; says when it is asked again.
    pub fn refused(&mut self, filter: usize, now: Instant) -> Duration {
        let Some(wanted) = self.wanted.get_mut(filter) else {
            return Duration::ZERO;
        };
        let delay = self.policy.delay(wanted.refusals);
        wanted.refusals = wanted.refusals.saturating_add(1);
        wanted.state = State::Due(now + delay);
        delay
    }

    /// What is to be asked for now, or which filter shows that nobody answers. `held_up` is whether
    /// answers may stand behind messages that nobody takes: then they are waited for.
    pub fn due(&mut self, now: Instant, held_up: bool) -> Due {
        let mut ask = Vec::new();
        if !self.online {
            return Due::Ask(ask);
        }
        for (filter, wanted) in self.wanted.iter_mut().enumerate() {
            match wanted.state {
                State::Due(at) if now >= at => {
                    wanted.state = State::Asked(now + self.operation_timeout);
                    ask.push(filter);
                }
                State::Asked(until) if now >= until && held_up => {
                    wanted.state = State::Asked(now + self.operation_timeout);
                }
                State::Asked(until) if now >= until => {
                    wanted.unanswered += 1;
                    if wanted.unanswered >= MAX_UNANSWERED {
                        return Due::Dead { filter };
                    }
                    wanted.state = State::Due(now + self.policy.delay(wanted.unanswered - 1));
                }
                State::Due(_) | State::Asked(_) | State::Granted(_) => {}
            }
        }
        Due::Ask(ask)
    }

    /// When [`due`](Self::due) has something to say.
    pub fn wake_at(&self) -> Option<Instant> {
        let times = self.wanted.iter().filter_map(|wanted| match wanted.state {
            State::Due(at) | State::Asked(at) => Some(at),
            State::Granted(_) => None,
        });
        times.min().filter(|_| self.online)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[allow(
        clippy::disallowed_methods,
        reason = "an origin; the tests move it by hand"
    )]
    fn subscriptions() -> (Subscriptions, Instant) {
        let now = Instant::now();
        let policy = Policy::new(SECOND, SECOND * 32, SECOND * 20, 0.0).unwrap();
        let filters = vec!["a".into(), "b".into()];
        (Subscriptions::new(filters, policy, SECOND * 5, now), now)
    }

    #[test]
    fn every_connection_asks_for_every_filter_anew() {
        let (mut subscriptions, now) = subscriptions();
        assert_eq!(subscriptions.due(now, false), Due::Ask(vec![]));
        for _ in 0..3 {
            subscriptions.connected(now);
            assert_eq!(subscriptions.due(now, false), Due::Ask(vec![0, 1]));
            subscriptions.granted(0, 1);
            assert!(!subscriptions.all_granted());
            assert_eq!(subscriptions.unanswered(), Some("b"));
            subscriptions.granted(1, 0);
            assert_eq!(subscriptions.unanswered(), None);
            assert!(subscriptions.all_granted());
            assert_eq!(subscriptions.wake_at(), None);
            subscriptions.disconnected();
            assert!(!subscriptions.all_granted());
        }
    }

    #[test]
    fn an_unanswered_request_is_repeated_and_then_condemns_the_connection() {
        let (mut subscriptions, now) = subscriptions();
        subscriptions.connected(now);
        assert_eq!(subscriptions.due(now, false), Due::Ask(vec![0, 1]));
        subscriptions.granted(1, 1);
        let mut asked = Vec::new();
        let end = loop {
            let at = subscriptions.wake_at().unwrap();
            match subscriptions.due(at, false) {
                Due::Ask(filters) if filters.is_empty() => {}
                Due::Ask(filters) => asked.push((filters, (at - now).as_secs())),
                Due::Dead { filter } => break (filter, (at - now).as_secs()),
            }
        };
        assert_eq!(asked, [(vec![0], 6), (vec![0], 13)]);
        assert_eq!(end, (0, 18));
    }

    #[test]
    fn an_answer_behind_messages_that_nobody_takes_is_waited_for() {
        let (mut subscriptions, now) = subscriptions();
        subscriptions.connected(now);
        subscriptions.due(now, false);
        for n in 1..9 {
            let at = now + SECOND * 5 * n;
            assert_eq!(subscriptions.wake_at(), Some(at));
            assert_eq!(subscriptions.due(at, true), Due::Ask(vec![]));
        }
        // From then on the clock runs as ever.
        let at = now + SECOND * 45;
        assert_eq!(subscriptions.due(at, false), Due::Ask(vec![]));
        assert_eq!(subscriptions.due(at + SECOND, false), Due::Ask(vec![0, 1]));
    }

    #[test]
    fn a_refused_filter_is_asked_for_again_with_growing_delays() {
        let (mut subscriptions, now) = subscriptions();
        subscriptions.connected(now);
        subscriptions.due(now, false);
        subscriptions.granted(1, 1);
        let delays: Vec<_> = (0..7)
            .map(|_| subscriptions.refused(0, now).as_secs())
            .collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 32]);
        assert_eq!(
            subscriptions.due(now + SECOND * 32, false),
            Due::Ask(vec![0])
        );
    }
}
