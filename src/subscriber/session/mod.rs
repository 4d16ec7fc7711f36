//! `--persistent`: tracks whether the broker still has the session of this client, and which of its
//! subscriptions are no longer wanted. PURE.

pub mod state_file;
pub mod subscriptions;

use crate::common::mqtt::limits::check_topic_filter;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resumption {
    New,
    Lost,
    /// With these filters, which are no longer wanted.
    Resumed(Vec<String>),
}

#[derive(Clone, Debug)]
pub struct SessionTracker {
    is_persistent: bool,
    filters: Vec<String>,
    /// The filters of the session that the broker should have, if any.
    expected: Option<Vec<String>>,
    saved: Option<Vec<String>>,
}

impl SessionTracker {
    /// `earlier`: the filters of the session that an earlier run has left, if known.
    pub fn new(is_persistent: bool, filters: Vec<String>, earlier: Option<Vec<String>>) -> Self {
        Self {
            is_persistent,
            filters,
            saved: earlier.clone(),
            expected: earlier,
        }
    }

    pub fn handle_connected(&mut self, session_present: bool) -> Resumption {
        if !self.is_persistent {
            return Resumption::New;
        }
        match (session_present, self.expected.take()) {
            (true, expected) => {
                let mut stale = expected.clone().unwrap_or_default();
                // Another program may have written filters to the file that no broker accepts.
                stale.retain(|filter| {
                    !self.filters.contains(filter) && check_topic_filter(filter).is_ok()
                });
                self.expected = expected.or_else(|| Some(self.filters.clone()));
                Resumption::Resumed(stale)
            }
            (false, Some(_)) => Resumption::Lost,
            (false, None) => Resumption::New,
        }
    }

    pub fn handle_all_granted(&mut self) -> bool {
        if !self.is_persistent {
            return false;
        }
        self.expected = Some(self.filters.clone());
        let is_changed = self.saved != self.expected;
        self.saved.clone_from(&self.expected);
        is_changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(filters: &[&str]) -> Vec<String> {
        filters.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_session_is_lost_only_if_there_was_one() {
        let mut session = SessionTracker::new(true, list(&["a"]), None);
        assert_eq!(session.handle_connected(false), Resumption::New);
        let never_subscribed = session.handle_connected(false);
        assert_eq!(never_subscribed, Resumption::New);
        assert!(session.handle_all_granted());
        assert!(!session.handle_all_granted());
        assert_eq!(session.handle_connected(true), Resumption::Resumed(vec![]));
        assert_eq!(session.handle_connected(false), Resumption::Lost);
        let reported_once = session.handle_connected(false);
        assert_eq!(reported_once, Resumption::New);
    }

    #[test]
    fn a_session_of_an_earlier_run_can_be_lost_and_its_old_filters_are_stale() {
        let earlier = Some(list(&["a", "old"]));
        let mut session = SessionTracker::new(true, list(&["a", "new"]), earlier.clone());
        assert_eq!(session.handle_connected(false), Resumption::Lost);
        let mut session = SessionTracker::new(true, list(&["a", "new"]), earlier);
        let stale = Resumption::Resumed(list(&["old"]));
        assert_eq!(session.handle_connected(true), stale);
        assert!(session.handle_all_granted());
        assert_eq!(session.handle_connected(true), Resumption::Resumed(vec![]));
    }

    #[test]
    fn an_unknown_session_is_saved_once() {
        let mut session = SessionTracker::new(true, list(&["a"]), None);
        assert_eq!(session.handle_connected(true), Resumption::Resumed(vec![]));
        assert!(session.handle_all_granted());
        assert!(!session.handle_all_granted());
    }

    #[test]
    fn without_persistence_no_session_is_lost_or_saved() {
        let mut session = SessionTracker::new(false, list(&["a"]), None);
        assert_eq!(session.handle_connected(false), Resumption::New);
        assert!(!session.handle_all_granted());
        assert_eq!(session.handle_connected(false), Resumption::New);
    }
}
