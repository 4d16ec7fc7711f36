//! What a series of ends says that no single one does. PURE.
//!
//! Some brokers close a connection without a word: AWS IoT Core does so with MQTT 3.1.1 when it
//! denies a publish, and when another client comes with the same identifier. Each hint is given
//! once a run.

use std::time::Duration;

/// An accepted connection has ended, and nobody said why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// How long it had lasted.
    pub lasted: Duration,
}

/// So soon after a connect an end is suspicious.
const WITHIN: Duration = Duration::from_secs(5);

/// So many suspicious ends in a row are a pattern; with a message under way fewer are enough.
const OFTEN: u32 = 3;
const OFTEN_WITH_A_MESSAGE: u32 = 2;

/// The ends so far.
#[derive(Debug)]
pub struct Patterns {
    host: String,
    client_id: String,
    drops: u32,
    drops_with_a_message: u32,
    told_twin: bool,
    told_message: bool,
}

impl Patterns {
    /// No end yet.
    #[must_use]
    pub fn new(host: String, client_id: String) -> Self {
        Self {
            host,
            client_id,
            drops: 0,
            drops_with_a_message: 0,
            told_twin: false,
            told_message: false,
        }
    }

    /// A connection was dropped, with this message under way: its topic and its bytes. What to
    /// tell the user about it.
    pub fn dropped(&mut self, dropped: Dropped, message: Option<(&str, usize)>) -> Option<String> {
        if dropped.lasted >= WITHIN {
            self.drops = 0;
            self.drops_with_a_message = 0;
            return None;
        }
        let host = &self.host;
        if let Some((topic, bytes)) = message {
            self.drops_with_a_message += 1;
            if self.told_message || self.drops_with_a_message < OFTEN_WITH_A_MESSAGE {
                return None;
            }
            self.told_message = true;
            return Some(format!(
                "{host}: the broker closes the connection right after a message for {topic:?} \
                 ({bytes} bytes), without a word; does its policy allow this client to publish \
                 there (iot:Publish), and is the message within its limits?"
            ));
        }
        self.drops_with_a_message = 0;
        self.drops += 1;
        if self.told_twin || self.drops < OFTEN {
            return None;
        }
        self.told_twin = true;
        Some(format!(
            "{host}: the broker has dropped {OFTEN} good connections within seconds, without a \
             word; is another client connected with the client id {:?}? give each its own \
             --client-id",
            self.client_id
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn patterns() -> Patterns {
        Patterns::new("h:8883".into(), "me".into())
    }

    #[test]
    fn three_drops_within_seconds_point_to_a_twin_and_are_told_once() {
        let mut patterns = patterns();
        let mut told = Vec::new();
        for _ in 0..10 {
            told.push(patterns.dropped(Dropped { lasted: SECOND }, None).is_some());
        }
        assert_eq!(told.iter().filter(|told| **told).count(), 1);
        assert!(told[2]);
    }

    #[test]
    fn a_connection_that_lasted_ends_the_series() {
        let mut patterns = patterns();
        for _ in 0..10 {
            for lasted in [SECOND, SECOND, SECOND * 5] {
                assert_eq!(patterns.dropped(Dropped { lasted }, None), None);
            }
        }
    }

    #[test]
    fn a_message_under_way_twice_points_to_the_message() {
        let mut patterns = patterns();
        let message = Some(("a/b", 7));
        assert_eq!(patterns.dropped(Dropped { lasted: SECOND }, message), None);
        let hint = patterns
            .dropped(Dropped { lasted: SECOND }, message)
            .unwrap();
        assert!(hint.contains("\"a/b\" (7 bytes)"), "{hint}");
        assert_eq!(patterns.dropped(Dropped { lasted: SECOND }, message), None);
    }
}
