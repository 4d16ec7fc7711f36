//! What the log says of an outage: why there is no connection, and when there is one again. PURE.

use std::fmt;
use std::time::{Duration, Instant};

use crate::common::fault::Fault;
use crate::common::runtime::duration_text::duration_text;
use crate::common::runtime::repeat_filter::{RepeatFilter, Repetition, without_numbers};

/// The end of an outage. It is displayed as the line to log, without the repetition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutageEnd {
    /// How many outages have ended since one was logged.
    pub repetition: Repetition,
    address: String,
    /// There was a connection before.
    again: bool,
    length: Duration,
    attempts: u32,
}

#[derive(Debug, Default)]
pub struct OutageLog {
    /// When the connection was lost, or the first one was tried.
    offline_since: Option<Instant>,
    has_failed: bool,
    /// A failure of this outage is in the log, so its end has to be.
    is_logged: bool,
    was_connected: bool,
    attempts: u32,
    failures: RepeatFilter,
    ends: RepeatFilter,
}

impl OutageLog {
    pub fn handle_attempt(&mut self, now: Instant) {
        self.offline_since.get_or_insert(now);
        self.attempts += 1;
    }

    /// A connection or an attempt has failed. Returns the line to log; the first of a cause has the remedy.
    pub fn handle_failure(
        &mut self,
        fault: &Fault,
        delay: Duration,
        now: Instant,
    ) -> (Repetition, String) {
        self.offline_since.get_or_insert(now);
        self.has_failed = true;
        let text = fault.to_string();
        let repetition = self.failures.filter(&without_numbers(&text), now);
        self.is_logged |= repetition != Repetition::Suppressed;
        let text = if repetition.is_first_line() {
            &text
        } else {
            &fault.message
        };
        let delay = delay.as_secs_f64();
        let line = format!("{text}; trying again in {delay:.1} s{repetition}");
        (repetition, line)
    }

    /// A connection can be used.
    pub fn handle_connected(&mut self, address: &str, now: Instant) -> Option<OutageEnd> {
        let offline_since = self.offline_since.take()?;
        let attempts = std::mem::take(&mut self.attempts);
        let again = std::mem::replace(&mut self.was_connected, true);
        self.failures.handle_success(now);
        let is_logged = std::mem::take(&mut self.is_logged);
        std::mem::take(&mut self.has_failed).then(|| OutageEnd {
            repetition: match self.ends.filter("", now) {
                Repetition::Suppressed if is_logged => Repetition::First,
                repetition => repetition,
            },
            address: address.to_owned(),
            again,
            length: now.saturating_duration_since(offline_since),
            attempts,
        })
    }
}

impl fmt::Display for OutageEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let again = if self.again { " again" } else { "" };
        let length = duration_text(self.length);
        write!(f, "connected to {}{again} after {length} ", self.address)?;
        match self.attempts {
            1 => write!(f, "(1 attempt)"),
            n => write!(f, "({n} attempts)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::connection::backoff::{Backoff, Policy};
    use crate::common::connection::state::{
        AttemptSettings, ConnectionAction, ConnectionStateMachine, FiniteOrEndless,
    };
    use crate::common::fault::Exit;
    use crate::common::runtime::clock::instant_now;

    const SECOND: Duration = Duration::from_secs(1);
    const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

    fn fault(message: &str) -> Fault {
        Fault::passing(Exit::Unavailable, message).with_remedy("look")
    }

    /// The lines of a run with the default delays, whose connections and attempts fail with these faults by turns. Each
    /// attempt takes `attempt`. If `works`, every other attempt makes a connection, which lasts as long.
    fn lines(faults: &[Fault], attempt: Duration, works: bool) -> Vec<String> {
        let policy = Policy::new(SECOND, SECOND * 32, SECOND * 20, 0.5).unwrap();
        let settings = AttemptSettings {
            host: "h:8883".into(),
            run: FiniteOrEndless::Endless,
            connect_timeout: SECOND * 60,
            interval: Duration::ZERO,
        };
        let mut connection = ConnectionStateMachine::new(settings, Backoff::new(policy));
        let mut log = OutageLog::default();
        let mut lines = Vec::new();
        let mut add = |repetition, line: String| {
            if repetition != Repetition::Suppressed {
                lines.push(line);
            }
        };
        let start = instant_now();
        let mut now = start;
        let mut random = (0..10).map(|n| f64::from(n) / 10.0).cycle();
        let mut actions = connection.start(now);
        let mut number = 0;
        while now < start + WEEK {
            for action in std::mem::take(&mut actions) {
                match action {
                    ConnectionAction::Connect { .. } => log.handle_attempt(now),
                    ConnectionAction::Retry { fault, delay } => {
                        let (repetition, line) = log.handle_failure(&fault, delay, now);
                        add(repetition, line);
                    }
                    _ => {}
                }
            }
            match connection.wake_at() {
                // Before the connect timeout the attempt ends.
                Some(at) if at < now + SECOND * 33 => {
                    now = at;
                    actions = connection.handle_timeout(now, 0.0);
                }
                _ => {
                    now += attempt;
                    let generation = connection.generation();
                    if works && number % 2 == 1 {
                        connection.handle_connected(generation, now);
                        if let Some(end) = log.handle_connected("h:8883", now) {
                            add(end.repetition, format!("{end}{}", end.repetition));
                        }
                        now += attempt;
                    }
                    let fault = faults[number % faults.len()].clone();
                    let random = random.next().unwrap();
                    actions = connection.handle_ended(generation, fault, now, random);
                    number += 1;
                }
            }
        }
        assert!(number > 10_000, "{number}");
        lines
    }

    #[test]
    fn a_week_without_a_connection_is_less_than_two_hundred_lines() {
        let lines = lines(&[fault("h:8883: closed")], SECOND / 10, false);
        assert!((160..200).contains(&lines.len()), "{}", lines.len());
        assert!(lines[0].starts_with("h:8883: closed; look; trying again in "));
        assert!(lines.last().unwrap().contains("closed; trying again in "));
        assert!(lines.last().unwrap().contains(" times in 1h"));
    }

    #[test]
    fn causes_that_alternate_for_a_week_are_less_than_a_thousand_lines() {
        let faults: Vec<_> = (0..40).map(|n| fault(&format!("h: port {n}"))).collect();
        let same = lines(&faults, SECOND, false);
        assert!(same.len() < 200, "{}", same.len());
        let letters = "abcdefghijklmnopqrstuvwxyz".split("").collect::<Vec<_>>();
        let faults: Vec<_> = letters.into_iter().map(fault).collect();
        let different = lines(&faults, SECOND, false);
        assert!(different.len() < 1_000, "{}", different.len());
    }

    #[test]
    fn a_connection_that_fails_at_once_for_a_week_is_less_than_a_thousand_lines() {
        let lines = lines(&[fault("h: closed")], SECOND / 10, true);
        assert!(lines.len() < 1_000, "{}", lines.len());
        let last = lines.iter().rfind(|line| line.starts_with("connected"));
        assert!(last.unwrap().contains(" times in "), "{last:?}");
    }

    #[test]
    fn the_end_of_an_outage_has_its_length_and_attempts() {
        let start = instant_now();
        let mut log = OutageLog::default();
        let failure = fault("h: closed");
        log.handle_attempt(start);
        assert_eq!(log.handle_connected("h:8883", start + SECOND), None);
        let lost = start + SECOND * 3_600;
        log.handle_failure(&failure, SECOND, lost);
        log.handle_attempt(lost + SECOND);
        log.handle_failure(&failure, SECOND, lost + SECOND * 2);
        log.handle_attempt(lost + SECOND * 30);
        let end = log.handle_connected("h:443", lost + SECOND * 32).unwrap();
        let text = "connected to h:443 again after 32 s (2 attempts)";
        assert_eq!(end.to_string(), text);
        assert_eq!(end.repetition, Repetition::First);
    }

    #[test]
    fn an_outage_whose_cause_is_new_is_logged_to_its_end() {
        let start = instant_now();
        let mut log = OutageLog::default();
        for (second, cause) in [(0, "h: closed"), (10, "h: no route"), (20, "h: no route")] {
            let lost = start + SECOND * second;
            let (failure, _) = log.handle_failure(&fault(cause), SECOND, lost);
            log.handle_attempt(lost + SECOND);
            let end = log.handle_connected("h:8883", lost + SECOND).unwrap();
            assert_eq!(failure, end.repetition, "{second}");
        }
    }

    #[test]
    fn a_run_that_begins_without_a_connection_says_when_it_has_one() {
        let start = instant_now();
        let mut log = OutageLog::default();
        log.handle_attempt(start);
        log.handle_failure(&fault("h: closed"), SECOND, start);
        log.handle_attempt(start + SECOND);
        let end = log.handle_connected("h:8883", start + SECOND * 2).unwrap();
        let text = "connected to h:8883 after 2.0 s (2 attempts)";
        assert_eq!(end.to_string(), text);
    }
}
