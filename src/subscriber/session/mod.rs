//! The session that the broker keeps while we are away, with `--persistent`: whether it still has
//! it, and what is in it that nobody wants any more. PURE.

pub mod state_file;
pub mod subscriptions;

use crate::common::mqtt::limits::check_topic_filter;

/// What a new connection says about the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resumption {
    /// None is kept, or it begins now.
    New,
    /// There was one, and the broker does not have it any more.
    Lost,
    /// It goes on; these of its filters are not wanted any more.
    Resumed(Vec<String>),
}

#[derive(Clone, Debug)]
pub struct Session {
    persistent: bool,
    filters: Vec<String>,
    /// The filters of the session that there should be, if there should be one.
    left: Option<Vec<String>>,
    /// What an earlier run has remembered of it, or this one.
    remembered: Option<Vec<String>>,
}

impl Session {
    /// A session that is to have these filters; `left` are those of the one that an earlier run
    /// has left, if that is known.
    pub fn new(persistent: bool, filters: Vec<String>, left: Option<Vec<String>>) -> Self {
        Self {
            persistent,
            filters,
            remembered: left.clone(),
            left,
        }
    }

    /// There is a connection.
    pub fn connected(&mut self, present: bool) -> Resumption {
        if !self.persistent {
            return Resumption::New;
        }
        match (present, self.left.take()) {
            (true, left) => {
                let mut stale = left.clone().unwrap_or_default();
                // What no broker can have granted comes from a file that is not ours alone.
                stale.retain(|filter| {
                    !self.filters.contains(filter) && check_topic_filter(filter).is_ok()
                });
                self.left = left.or_else(|| Some(self.filters.clone()));
                Resumption::Resumed(stale)
            }
            (false, Some(_)) => Resumption::Lost,
            (false, None) => Resumption::New,
        }
    }

    /// The broker has granted all filters: there is a session now. `true` if that is worth
    /// remembering.
    pub fn subscribed(&mut self) -> bool {
        if !self.persistent {
            return false;
        }
        self.left = Some(self.filters.clone());
        let news = self.remembered != self.left;
        self.remembered.clone_from(&self.left);
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(filters: &[&str]) -> Vec<String> {
        filters.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_session_is_missed_only_if_there_was_one() {
        let mut session = Session::new(true, list(&["a"]), None);
        assert_eq!(session.connected(false), Resumption::New);
        assert_eq!(
            session.connected(false),
            Resumption::New,
            "never subscribed"
        );
        assert!(session.subscribed());
        assert!(!session.subscribed());
        assert_eq!(session.connected(true), Resumption::Resumed(vec![]));
        assert_eq!(session.connected(false), Resumption::Lost);
        assert_eq!(session.connected(false), Resumption::New, "said once");
    }

    #[test]
    fn one_of_an_earlier_run_is_missed_too_and_its_old_filters_go() {
        let left = Some(list(&["a", "old"]));
        let mut session = Session::new(true, list(&["a", "new"]), left.clone());
        assert_eq!(session.connected(false), Resumption::Lost);
        let mut session = Session::new(true, list(&["a", "new"]), left);
        assert_eq!(session.connected(true), Resumption::Resumed(list(&["old"])));
        assert!(session.subscribed());
        assert_eq!(session.connected(true), Resumption::Resumed(vec![]));
    }

    #[test]
    fn one_that_nobody_has_remembered_is_remembered_once_it_is_met() {
        let mut session = Session::new(true, list(&["a"]), None);
        assert_eq!(session.connected(true), Resumption::Resumed(vec![]));
        assert!(session.subscribed());
        assert!(!session.subscribed());
    }

    #[test]
    fn without_persistence_nothing_is_missed() {
        let mut session = Session::new(false, list(&["a"]), None);
        assert_eq!(session.connected(false), Resumption::New);
        assert!(!session.subscribed());
        assert_eq!(session.connected(false), Resumption::New);
    }
}
