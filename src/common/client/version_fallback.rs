//! Chooses the version of MQTT for the next CONNECT if the user leaves it open. PURE.
//!
//! Most brokers without MQTT 5 say so. Some close the connection (`RabbitMQ` 3.10) or do not answer,
//! which looks like a broker that restarts or a network that is down. So 3.1.1 is tried only after
//! several CONNECTs of MQTT 5 in a row were not answered, and MQTT 5 again after that. A version that
//! was accepted is tried first from then on. After an hour of 3.1.1 MQTT 5 is tried again: the broker
//! may have been replaced, or may have been restarting when MQTT 5 was not answered.

use std::time::{Duration, Instant};

use super::MqttVersion;

/// Unanswered CONNECTs of MQTT 5 in a row before 3.1.1 is tried.
const MAX_UNANSWERED: u32 = 2;
const MAX_UNANSWERED_IF_V5_WORKED: u32 = 5;

const OLDER_FIRST_FOR: Duration = Duration::from_secs(3_600);

#[derive(Debug, Default)]
pub(super) struct VersionFallback {
    wanted: MqttVersion,
    is_enabled: bool,
    /// Unanswered CONNECTs of MQTT 5 in a row, since 3.1.1 was last tried.
    v5_unanswered: u32,
    in_a_row: u32,
    v5_worked: bool,
    try_older: bool,
    /// 3.1.1 was accepted after MQTT 5 was not answered, and is the first choice until then.
    older_until: Option<Instant>,
}

impl VersionFallback {
    /// `is_enabled` is whether the broker may be one that does not answer MQTT 5.
    pub(super) fn new(wanted: MqttVersion, is_enabled: bool) -> Self {
        Self {
            wanted,
            is_enabled: is_enabled && wanted == MqttVersion::Any,
            ..Self::default()
        }
    }

    pub(super) fn is_v5_next(&self, now: Instant) -> bool {
        match self.wanted {
            MqttVersion::V5 => true,
            MqttVersion::V311 => false,
            MqttVersion::Any => {
                !self.try_older && self.older_until.is_none_or(|until| now >= until)
            }
        }
    }

    pub(super) fn would_try_older(&self) -> bool {
        let max = match (self.older_until, self.v5_worked) {
            (Some(_), _) => 1,
            (None, true) => MAX_UNANSWERED_IF_V5_WORKED,
            (None, false) => MAX_UNANSWERED,
        };
        self.is_enabled && self.v5_unanswered + 1 >= max
    }

    /// The server closed the connection or sent nothing. Returns the number of such CONNECTs in a row.
    pub(super) fn handle_unanswered(&mut self, v5: bool, now: Instant) -> u32 {
        self.in_a_row = self.in_a_row.saturating_add(1);
        if !v5 {
            self.try_older = false;
            self.older_until = self.older_until.map(|_| now);
        } else if self.would_try_older() {
            self.v5_unanswered = 0;
            self.try_older = true;
        } else {
            self.v5_unanswered += 1;
        }
        self.in_a_row
    }

    /// Returns whether 3.1.1 is used because MQTT 5 was not answered.
    pub(super) fn handle_accepted(&mut self, v5: bool, now: Instant) -> bool {
        self.in_a_row = 0;
        self.v5_unanswered = 0;
        if v5 {
            self.v5_worked = true;
            self.older_until = None;
        } else if std::mem::take(&mut self.try_older) {
            self.older_until = Some(now + OLDER_FIRST_FOR);
        }
        self.try_older = false;
        self.older_until.is_some()
    }

    /// The broker has refused this version. Returns whether to try the other one at once.
    pub(super) fn handle_refused(&mut self, v5: bool) -> bool {
        let by_fallback = self.try_older || self.older_until.is_some();
        self.handle_unrelated_end();
        self.older_until = None;
        self.wanted == MqttVersion::Any && (v5 || by_fallback)
    }

    /// An attempt has ended for a reason that has nothing to do with versions.
    pub(super) fn handle_unrelated_end(&mut self) {
        self.in_a_row = 0;
        self.v5_unanswered = 0;
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
    fn start() -> (VersionFallback, Instant) {
        (VersionFallback::new(MqttVersion::Any, true), Instant::now())
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn attempts(versions: &mut VersionFallback, count: usize, now: Instant) -> String {
        let mut spoken = String::new();
        for _ in 0..count {
            let v5 = versions.is_v5_next(now);
            spoken.push(if v5 { '5' } else { '3' });
            versions.handle_unanswered(v5, now);
        }
        spoken
    }

    #[test]
    fn without_any_answer_both_versions_are_tried_in_turn_and_one_that_worked_more_often() {
        let (mut versions, now) = start();
        assert_eq!(attempts(&mut versions, 7, now), "5535535");
        let mut aws = VersionFallback::new(MqttVersion::Any, false);
        assert_eq!(attempts(&mut aws, 5, now), "55555");
        let mut only = VersionFallback::new(MqttVersion::V311, true);
        assert_eq!(attempts(&mut only, 3, now), "333");
        let (mut with_v5, now) = start();
        with_v5.handle_accepted(true, now);
        assert_eq!(attempts(&mut with_v5, 6, now), "555553");
    }

    #[test]
    fn an_accepted_version_is_tried_first_and_mqtt_5_again_an_hour_later() {
        let (mut versions, now) = start();
        assert_eq!(versions.handle_unanswered(true, now), 1);
        assert!(versions.is_v5_next(now));
        assert_eq!(versions.handle_unanswered(true, now), 2);
        assert!(!versions.is_v5_next(now));
        assert!(versions.handle_accepted(false, now));
        let (before, later) = (now + OLDER_FIRST_FOR / 2, now + OLDER_FIRST_FOR);
        assert!(!versions.is_v5_next(before));
        assert!(versions.handle_accepted(false, before));
        assert!(versions.is_v5_next(later));
        versions.handle_unanswered(true, later);
        assert!(!versions.is_v5_next(later));
        assert!(versions.handle_accepted(false, later));
        assert!(!versions.is_v5_next(later + SECOND));
        versions.handle_unanswered(false, later + SECOND);
        assert!(versions.is_v5_next(later + SECOND));
        assert!(!versions.handle_accepted(true, later + SECOND));
        assert!(versions.is_v5_next(later + SECOND * 9));
    }

    #[test]
    fn an_interrupted_series_does_not_count() {
        let (mut versions, now) = start();
        for _ in 0..9 {
            assert_eq!(versions.handle_unanswered(true, now), 1);
            assert!(versions.is_v5_next(now));
            versions.handle_unrelated_end();
        }
    }

    #[test]
    fn a_broker_that_refuses_the_version_leads_to_the_other_one_at_once() {
        let (mut versions, now) = start();
        assert!(versions.handle_refused(true));
        assert!(!versions.handle_accepted(false, now));
        assert!(versions.is_v5_next(now));
        assert!(!versions.handle_refused(false), "it speaks neither");
        versions.handle_unanswered(true, now);
        versions.handle_unanswered(true, now);
        assert!(versions.handle_refused(false), "it has been replaced");
        assert!(!VersionFallback::new(MqttVersion::V5, true).handle_refused(true));
    }

    proptest! {
        #[test]
        fn whatever_happened_before_a_broker_is_reached_whichever_version_it_answers(
            past in proptest::collection::vec((0..4, any::<bool>(), 0u64..9_000), 0..40),
            answers_v5 in any::<bool>(),
        ) {
            let (mut versions, mut now) = start();
            for (what, v5, seconds) in past {
                now += SECOND * u32::try_from(seconds).unwrap();
                match what {
                    0 => { versions.handle_accepted(v5, now); }
                    1 => { versions.handle_unanswered(v5, now); }
                    2 => { versions.handle_refused(v5); }
                    _ => versions.handle_unrelated_end(),
                }
            }
            let reached = (0..=MAX_UNANSWERED_IF_V5_WORKED).any(|_| {
                let v5 = versions.is_v5_next(now);
                if v5 != answers_v5 {
                    versions.handle_unanswered(v5, now);
                    now += SECOND;
                }
                v5 == answers_v5
            });
            prop_assert!(reached, "{versions:?}");
        }
    }
}
