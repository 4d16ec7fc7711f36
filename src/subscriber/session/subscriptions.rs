//! The wanted filters, and the state of each on the present connection. PURE.
//!
//! Each new connection subscribes to all filters, and every answer is examined. An unanswered
//! request is repeated with the delays of the backoff, and finally the connection is closed. A
//! refused filter is requested again likewise, because access rules change.

use std::time::{Duration, Instant};

use crate::common::broker::endpoint::Endpoint;
use crate::common::connection::backoff::Policy;
use crate::common::fault::{Exit, Fault, FaultCause};
use crate::common::metrics::metric_family::{MetricFamily, to_f64};

/// Requests without an answer after which the connection is closed.
const MAX_UNANSWERED: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FilterState {
    Due(Instant),
    Requested(Instant),
    Granted,
}

#[derive(Clone, Debug)]
struct WantedFilter {
    text: String,
    state: FilterState,
    refusals: u32,
    unanswered: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubscribeAction {
    Subscribe(Vec<usize>),
    CloseConnection { filter: usize },
}

#[derive(Debug)]
pub struct Subscriptions {
    filters: Vec<WantedFilter>,
    policy: Policy,
    operation_timeout: Duration,
    is_online: bool,
}

impl Subscriptions {
    pub fn new(
        filters: Vec<String>,
        policy: Policy,
        operation_timeout: Duration,
        now: Instant,
    ) -> Self {
        let wanted = |text| WantedFilter {
            text,
            state: FilterState::Due(now),
            refusals: 0,
            unanswered: 0,
        };
        Self {
            filters: filters.into_iter().map(wanted).collect(),
            policy,
            operation_timeout,
            is_online: false,
        }
    }

    pub fn filter(&self, index: usize) -> &str {
        self.filters.get(index).map_or("", |filter| &filter.text)
    }

    /// Why the connection is closed.
    pub fn no_suback_fault(&self, filter: usize, broker: &Endpoint) -> Fault {
        let (filter, limit) = (self.filter(filter), self.operation_timeout);
        let message = format!(
            "{broker}: no SUBACK for {filter:?} within --operation-timeout {limit:?}, three times; closing the \
             connection"
        );
        Fault::passing(Exit::Unavailable, message).with_kind(FaultCause::TimedOut)
    }

    /// A filter whose request on the present connection awaits its answer.
    pub fn unanswered_filter(&self) -> Option<&str> {
        let mut filters = self.filters.iter().filter(|_| self.is_online);
        let filter = filters.find(|filter| matches!(filter.state, FilterState::Requested(_)));
        filter.map(|filter| filter.text.as_str())
    }

    pub fn all_granted(&self) -> bool {
        let mut filters = self.filters.iter();
        self.is_online && filters.all(|filter| filter.state == FilterState::Granted)
    }

    /// On the present connection; without one, on the last.
    pub fn metric_families(&self, is_online: bool) -> [MetricFamily; 2] {
        let states = self.filters.iter().map(|filter| filter.state);
        let granted = states.filter(|state| is_online && *state == FilterState::Granted);
        let gauge = |name, help, count| MetricFamily::gauge(name, help, to_f64(count as u64));
        [
            gauge(
                "subscriptions_wanted",
                "Topic filters of this run.",
                self.filters.len(),
            ),
            gauge(
                "subscriptions_granted",
                "Topic filters that the broker has granted on the present connection.",
                granted.count(),
            ),
        ]
    }

    pub fn handle_connected(&mut self, now: Instant) {
        self.is_online = true;
        for filter in &mut self.filters {
            filter.state = FilterState::Due(now);
            filter.refusals = 0;
            filter.unanswered = 0;
        }
    }

    pub fn handle_disconnected(&mut self) {
        self.is_online = false;
    }

    /// Bytes arrive from the broker, which may precede answers: these get more time.
    pub fn handle_progress(&mut self, now: Instant) {
        for filter in &mut self.filters {
            if matches!(filter.state, FilterState::Requested(_)) {
                filter.state = FilterState::Requested(now + self.operation_timeout);
            }
        }
    }

    /// A late answer to an earlier request counts as well.
    pub fn handle_granted(&mut self, index: usize) {
        if let Some(filter) = self.filters.get_mut(index) {
            filter.state = FilterState::Granted;
        }
    }

    pub fn handle_refused(&mut self, index: usize, now: Instant) -> Duration {
        let Some(filter) = self.filters.get_mut(index) else {
            return Duration::ZERO;
        };
        let delay = self.policy.nominal_delay(filter.refusals);
        filter.refusals = filter.refusals.saturating_add(1);
        filter.state = FilterState::Due(now + delay);
        delay
    }

    /// `is_delayed`: answers, which may be behind messages that wait for the output, get more time.
    pub fn next_action(&mut self, now: Instant, is_delayed: bool) -> SubscribeAction {
        let mut due = Vec::new();
        if !self.is_online {
            return SubscribeAction::Subscribe(due);
        }
        for (index, filter) in self.filters.iter_mut().enumerate() {
            match filter.state {
                FilterState::Due(at) if now >= at => {
                    filter.state = FilterState::Requested(now + self.operation_timeout);
                    due.push(index);
                }
                FilterState::Requested(until) if now >= until && is_delayed => {
                    filter.state = FilterState::Requested(now + self.operation_timeout);
                }
                FilterState::Requested(until) if now >= until => {
                    filter.unanswered += 1;
                    if filter.unanswered >= MAX_UNANSWERED {
                        return SubscribeAction::CloseConnection { filter: index };
                    }
                    let delay = self.policy.nominal_delay(filter.unanswered - 1);
                    filter.state = FilterState::Due(now + delay);
                }
                _ => {}
            }
        }
        SubscribeAction::Subscribe(due)
    }

    pub fn wake_at(&self) -> Option<Instant> {
        let times = self.filters.iter().filter_map(|filter| match filter.state {
            FilterState::Due(at) | FilterState::Requested(at) => Some(at),
            FilterState::Granted => None,
        });
        times.min().filter(|_| self.is_online)
    }
}

#[cfg(test)]
mod tests {
    use super::SubscribeAction::{CloseConnection, Subscribe};
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
    fn each_connection_subscribes_to_all_filters() {
        let (mut subscriptions, now) = subscriptions();
        assert_eq!(subscriptions.next_action(now, false), Subscribe(vec![]));
        for _ in 0..3 {
            subscriptions.handle_connected(now);
            assert_eq!(subscriptions.next_action(now, false), Subscribe(vec![0, 1]));
            subscriptions.handle_granted(0);
            assert!(!subscriptions.all_granted());
            assert_eq!(subscriptions.unanswered_filter(), Some("b"));
            subscriptions.handle_granted(1);
            assert_eq!(subscriptions.unanswered_filter(), None);
            assert!(subscriptions.all_granted());
            assert_eq!(subscriptions.wake_at(), None);
            subscriptions.handle_disconnected();
            assert!(!subscriptions.all_granted());
        }
    }

    #[test]
    fn an_unanswered_request_is_repeated_and_then_closes_the_connection() {
        let (mut subscriptions, now) = subscriptions();
        subscriptions.handle_connected(now);
        assert_eq!(subscriptions.next_action(now, false), Subscribe(vec![0, 1]));
        subscriptions.handle_granted(1);
        let mut asked = Vec::new();
        let end = loop {
            let at = subscriptions.wake_at().unwrap();
            match subscriptions.next_action(at, false) {
                Subscribe(filters) if filters.is_empty() => {}
                Subscribe(filters) => asked.push((filters, (at - now).as_secs())),
                CloseConnection { filter } => break (filter, (at - now).as_secs()),
            }
        };
        assert_eq!(asked, [(vec![0], 6), (vec![0], 13)]);
        assert_eq!(end, (0, 18));
    }

    #[test]
    fn an_answer_delayed_by_the_output_gets_more_time() {
        let (mut subscriptions, now) = subscriptions();
        subscriptions.handle_connected(now);
        subscriptions.next_action(now, false);
        for n in 1..9 {
            let at = now + SECOND * 5 * n;
            assert_eq!(subscriptions.wake_at(), Some(at));
            assert_eq!(subscriptions.next_action(at, true), Subscribe(vec![]));
        }
        // From then on the timeout counts.
        let at = now + SECOND * 45;
        assert_eq!(subscriptions.next_action(at, false), Subscribe(vec![]));
        let again = subscriptions.next_action(at + SECOND, false);
        assert_eq!(again, Subscribe(vec![0, 1]));
    }

    #[test]
    fn a_refused_filter_is_requested_again_with_growing_delays() {
        let (mut subscriptions, now) = subscriptions();
        subscriptions.handle_connected(now);
        subscriptions.next_action(now, false);
        subscriptions.handle_granted(1);
        let delays: Vec<_> = (0..7)
            .map(|_| subscriptions.handle_refused(0, now).as_secs())
            .collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 32]);
        let again = subscriptions.next_action(now + SECOND * 32, false);
        assert_eq!(again, Subscribe(vec![0]));
    }
}
