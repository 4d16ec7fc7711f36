//! Which version of MQTT the next CONNECT speaks, where the user leaves it open. PURE.
//!
//! Most brokers that know no MQTT 5 say so. Some close the connection instead, as `RabbitMQ` 3.10 does, or keep silent. That
//! looks like a broker that is being restarted, or like a dead network; so 3.1.1 is tried only after MQTT 5 was not
//! answered several times in a row, then MQTT 5 again, and so on. What was accepted is tried first from
//! then on, and once in a while MQTT 5 again: the broker may have been replaced, or 3.1.1 accepted by chance.

use std::time::{Duration, Instant};

use super::Version;

/// CONNECTs of MQTT 5 in a row that are not answered, until 3.1.1 is tried.
const ENOUGH: u32 = 2;

/// The same where the broker has accepted MQTT 5 before.
const ENOUGH_IF_IT_WORKED: u32 = 5;

/// The first connection that is made so long after 3.1.1 was found to be what works begins with MQTT 5.
const AGAIN_AFTER: Duration = Duration::from_secs(3_600);

/// What was answered so far.
#[derive(Debug)]
pub(super) struct Versions {
    wanted: Version,
    /// Whether no answer may mean an older broker.
    falls_back: bool,
    /// CONNECTs of MQTT 5 in a row that were not answered, since 3.1.1 was tried last.
    unanswered: u32,
    /// CONNECTs in a row that were not answered, whatever they spoke.
    in_a_row: u32,
    /// MQTT 5 has been accepted.
    five_worked: bool,
    /// It is the turn of 3.1.1.
    try_older: bool,
    /// 3.1.1 was accepted where MQTT 5 was not answered, and comes first until then.
    older_until: Option<Instant>,
}

impl Versions {
    /// Nothing was answered yet. `falls_back` is whether MQTT 5 without an answer may mean an older broker.
    pub(super) fn new(wanted: Version, falls_back: bool) -> Self {
        Self {
            wanted,
            falls_back: falls_back && wanted == Version::Any,
            unanswered: 0,
            in_a_row: 0,
            five_worked: false,
            try_older: false,
            older_until: None,
        }
    }

    /// Whether an attempt that begins now begins with MQTT 5.
    pub(super) fn begins_with_five(&self, now: Instant) -> bool {
        match self.wanted {
            Version::V5 => true,
            Version::V311 => false,
            Version::Any => !self.try_older && self.older_until.is_none_or(|until| now >= until),
        }
    }

    /// Whether the next CONNECT speaks 3.1.1 if one of MQTT 5 is not answered now.
    pub(super) fn would_try_older(&self) -> bool {
        let enough = match (self.older_until, self.five_worked) {
            (Some(_), _) => 1,
            (None, true) => ENOUGH_IF_IT_WORKED,
            (None, false) => ENOUGH,
        };
        self.falls_back && self.unanswered + 1 >= enough
    }

    /// A CONNECT was not answered: the other end closed the connection, or kept silent. `five` is whether it spoke
    /// MQTT 5. Gives how many of them it were in a row.
    pub(super) fn unanswered(&mut self, five: bool, now: Instant) -> u32 {
        self.in_a_row = self.in_a_row.saturating_add(1);
        if !five {
            self.try_older = false;
            self.older_until = self.older_until.map(|_| now);
        } else if self.would_try_older() {
            self.unanswered = 0;
            self.try_older = true;
        } else {
            self.unanswered += 1;
        }
        self.in_a_row
    }

    /// The broker has accepted a CONNECT. Whether it speaks 3.1.1 because MQTT 5 was not answered.
    pub(super) fn accepted(&mut self, five: bool, now: Instant) -> bool {
        self.in_a_row = 0;
        self.unanswered = 0;
        if five {
            self.five_worked = true;
            self.older_until = None;
        } else if std::mem::take(&mut self.try_older) {
            self.older_until = Some(now + AGAIN_AFTER);
        }
        self.try_older = false;
        self.older_until.is_some()
    }

    /// The broker does not speak this version, and says so. Whether the other one is to be tried at once.
    pub(super) fn refused(&mut self, five: bool) -> bool {
        let by_fallback = self.try_older || self.older_until.is_some();
        self.interrupted();
        self.older_until = None;
        self.wanted == Version::Any && (five || by_fallback)
    }

    /// An attempt has ended for a reason that says nothing about versions.
    pub(super) fn interrupted(&mut self) {
        self.in_a_row = 0;
        self.unanswered = 0;
        self.try_older = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[allow(
        clippy::disallowed_methods,
        reason = "an origin; the tests move it by hand"
    )]
    fn start() -> (Versions, Instant) {
        (Versions::new(Version::Any, true), Instant::now())
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// Makes attempts that are not answered; the versions of their CONNECTs.
    fn attempts(versions: &mut Versions, count: usize, now: Instant) -> String {
        let mut spoken = String::new();
        for _ in 0..count {
            let five = versions.begins_with_five(now);
            spoken.push(if five { '5' } else { '3' });
            versions.unanswered(five, now);
        }
        spoken
    }

    #[test]
    fn without_any_answer_both_versions_have_their_turns() {
        let (mut versions, now) = start();
        assert_eq!(attempts(&mut versions, 7, now), "5535535");
        let mut aws = Versions::new(Version::Any, false);
        assert_eq!(attempts(&mut aws, 5, now), "55555");
        let mut only = Versions::new(Version::V311, true);
        assert_eq!(attempts(&mut only, 3, now), "333");
    }

    #[test]
    fn what_was_accepted_comes_first_and_five_again_an_hour_later() {
        let (mut versions, now) = start();
        assert_eq!(versions.unanswered(true, now), 1);
        assert!(versions.begins_with_five(now));
        assert_eq!(versions.unanswered(true, now), 2);
        assert!(!versions.begins_with_five(now));
        assert!(versions.accepted(false, now));
        let (before, later) = (now + AGAIN_AFTER / 2, now + AGAIN_AFTER);
        assert!(!versions.begins_with_five(before));
        assert!(versions.accepted(false, before));
        assert!(versions.begins_with_five(later));
        // Once is enough now.
        versions.unanswered(true, later);
        assert!(!versions.begins_with_five(later));
        assert!(versions.accepted(false, later));
        assert!(!versions.begins_with_five(later + SECOND));
        // A broker that is replaced.
        versions.unanswered(false, later + SECOND);
        assert!(versions.begins_with_five(later + SECOND));
        assert!(!versions.accepted(true, later + SECOND));
        assert!(versions.begins_with_five(later + SECOND * 9));
    }

    #[test]
    fn a_broker_that_speaks_five_is_not_taken_for_an_older_one_soon() {
        let (mut versions, now) = start();
        versions.accepted(true, now);
        assert_eq!(attempts(&mut versions, 6, now), "555553");
    }

    #[test]
    fn only_a_row_counts() {
        let (mut versions, now) = start();
        for _ in 0..9 {
            assert_eq!(versions.unanswered(true, now), 1);
            assert!(versions.begins_with_five(now));
            versions.interrupted();
        }
    }

    #[test]
    fn a_broker_that_names_the_version_is_believed_at_once() {
        let (mut versions, now) = start();
        assert!(versions.refused(true));
        assert!(!versions.accepted(false, now));
        assert!(versions.begins_with_five(now));
        assert!(!versions.refused(false), "it speaks neither");
        versions.unanswered(true, now);
        versions.unanswered(true, now);
        assert!(versions.refused(false), "it has been replaced");
        assert!(!Versions::new(Version::V5, true).refused(true));
    }

    proptest! {
        /// Whatever happened, a broker that answers one of the versions is reached after a few attempts.
        #[test]
        fn a_broker_is_reached_whichever_version_it_answers(
            past in proptest::collection::vec((0..4, any::<bool>(), 0u64..9_000), 0..40),
            answers_five in any::<bool>(),
        ) {
            let (mut versions, mut now) = start();
            for (what, five, seconds) in past {
                now += SECOND * u32::try_from(seconds).unwrap();
                match what {
                    0 => { versions.accepted(five, now); }
                    1 => { versions.unanswered(five, now); }
                    2 => { versions.refused(five); }
                    _ => versions.interrupted(),
                }
            }
            let mut reached = None;
            for attempt in 0..9 {
                let five = versions.begins_with_five(now);
                if five == answers_five {
                    reached = Some(attempt);
                    break;
                }
                versions.unanswered(five, now);
                now += SECOND;
            }
            prop_assert!(reached.is_some_and(|attempt| attempt <= ENOUGH_IF_IT_WORKED), "{reached:?}");
        }
    }
}
