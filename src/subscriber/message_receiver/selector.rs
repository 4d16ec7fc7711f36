//! Decides which messages and readings are wanted, and counts repeats and missing numbers. PURE.

use std::collections::BTreeSet;

use crate::common::mqtt::publish::Received;
use crate::common::mqtt::topic_filter::topic_matches;
use crate::subscriber::sequence::fingerprint::{Fingerprint, FingerprintKey};
use crate::subscriber::sequence::numbers::NumberStatus;
use crate::subscriber::sequence::streams::Streams;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SelectionOptions {
    pub limit: Option<u64>,
    pub dedup: bool,
    pub retained: Retained,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retained {
    #[default]
    Include,
    Exclude,
    /// `--retained-only`: up to the first other message, because the broker sends the retained ones first.
    Only,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Deliver,
    Skip,
    Stop,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceCheckResult {
    pub status: NumberStatus,
    pub is_wanted: bool,
    /// None if the message has no number, or is a repeat, whose fingerprint is known.
    pub fingerprint: Option<Fingerprint>,
}

/// Topics whose removal is remembered.
const MAX_REMOVED: usize = 100_000;

#[derive(Default)]
pub struct MessageSelector {
    pub selection: SelectionOptions,
    pub(crate) taken: u64,
    pub duplicates: u64,
    pub streams: Streams,
    /// Filters of topics that are left out.
    pub exclude: Vec<String>,
    pub removes_retained: bool,
    /// Topics whose retained message was removed in this run: empty messages there are skipped.
    pub(crate) removed: BTreeSet<String>,
    /// What the fingerprints are made with. Without a key no repeats are found.
    pub key: Option<FingerprintKey>,
}

impl MessageSelector {
    pub fn action(&self, message: &Received<'_>) -> Action {
        if self.removes_retained && self.is_echo_of_removal(message) {
            return Action::Skip;
        }
        match (self.selection.retained, message.retained) {
            (Retained::Exclude, true) => Action::Skip,
            (Retained::Only, false) => Action::Stop,
            _ if self.is_excluded(message.topic) => Action::Skip,
            _ => Action::Deliver,
        }
    }

    fn is_excluded(&self, topic: &str) -> bool {
        self.exclude
            .iter()
            .any(|filter| topic_matches(filter, topic))
    }

    /// Whether the retained message is to be removed, now that all of it has been taken.
    pub fn mark_for_removal(&mut self, message: &Received<'_>) -> bool {
        let removes = self.removes_retained && message.retained;
        if removes && self.removed.len() < MAX_REMOVED {
            self.removed.insert(message.topic.to_owned());
        }
        removes
    }

    /// The empty message that removes a retained one comes back, once or more, because it matches the same filters.
    fn is_echo_of_removal(&self, message: &Received<'_>) -> bool {
        !message.retained && message.payload.is_empty() && self.removed.contains(message.topic)
    }

    /// Takes the number of a message. A repeat has the stream, number, time and topic
    /// of an earlier message: without the last two, messages of two publishers that use one stream,
    /// because a queue file was copied, would be taken for repeats of each other.
    pub fn check_sequence(&mut self, message: &Received<'_>) -> SequenceCheckResult {
        let Some(seq) = &message.seq else {
            return SequenceCheckResult {
                status: NumberStatus::Next,
                is_wanted: true,
                fingerprint: None,
            };
        };
        let fingerprint = self.key.map(|key| key.fingerprint(seq, message.topic));
        let streams = &mut self.streams;
        let new = fingerprint.filter(|new| streams.insert_fingerprint(&seq.stream, *new));
        let is_repeat = fingerprint.is_some() && new.is_none();
        self.duplicates += u64::from(is_repeat);
        SequenceCheckResult {
            status: self.streams.handle_number(seq, message.retained),
            is_wanted: !(is_repeat && self.selection.dedup),
            fingerprint: new,
        }
    }

    /// Takes the number of a message that is not delivered, so that it does not count as missing.
    pub fn record_undelivered_number(&mut self, message: &Received<'_>) -> NumberStatus {
        match &message.seq {
            Some(seq) => self.streams.handle_number(seq, message.retained),
            None => NumberStatus::Next,
        }
    }

    pub fn take_up_to_limit(&mut self, count: usize) -> usize {
        let limit = self.selection.limit.unwrap_or(u64::MAX);
        let left = limit.saturating_sub(self.taken);
        let taken = count.min(usize::try_from(left).unwrap_or(usize::MAX));
        self.taken += taken as u64;
        taken
    }

    pub fn is_limit_reached(&self) -> bool {
        let limit = self.selection.limit;
        limit.is_some_and(|limit| self.taken >= limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subscriber::render::tests::received;

    const KEY: FingerprintKey = FingerprintKey([1, 2]);

    fn message<'a>(topic: &'a str, seq: &str) -> Received<'a> {
        Received {
            seq: seq.parse().ok(),
            ..received(topic, b"x")
        }
    }

    fn selector(selection: SelectionOptions) -> MessageSelector {
        MessageSelector {
            selection,
            key: Some(KEY),
            ..MessageSelector::default()
        }
    }

    fn deduplicating(dedup: bool) -> MessageSelector {
        selector(SelectionOptions {
            dedup,
            ..SelectionOptions::default()
        })
    }

    #[test]
    fn the_limit_is_reached_exactly() {
        let mut selector = selector(SelectionOptions {
            limit: Some(2),
            ..SelectionOptions::default()
        });
        assert!(selector.take_up_to_limit(1) == 1 && !selector.is_limit_reached());
        assert!(selector.take_up_to_limit(7) == 1 && selector.is_limit_reached());
        assert_eq!(selector.take_up_to_limit(1), 0);
    }

    #[test]
    fn repeats_are_counted_and_dropped_only_with_dedup() {
        for dedup in [false, true] {
            let mut selector = deduplicating(dedup);
            for seq in [1, 2, 2, 4] {
                let check = selector.check_sequence(&message("t", &format!("s/{seq}/0")));
                let repeat = selector.duplicates == 1 && seq == 2;
                assert_eq!(check.is_wanted, !(dedup && repeat));
                assert_eq!(check.fingerprint.is_none(), repeat);
            }
            let unnumbered = selector.check_sequence(&message("t", ""));
            assert!(unnumbered.is_wanted && unnumbered.fingerprint.is_none());
            assert_eq!((selector.duplicates, selector.streams.missing()), (1, 1));
        }
    }

    #[test]
    fn a_message_with_another_time_or_topic_is_no_repeat() {
        let mut selector = deduplicating(true);
        for (topic, seq, wanted) in [
            ("a", "s/1/1000", true),
            ("b", "s/1/1000", true),
            ("a", "s/1/1001", true),
            ("a", "s/1/1000", false),
            ("b", "s/1/1000", false),
            ("a", "s/1/1001", false),
        ] {
            let check = selector.check_sequence(&message(topic, seq));
            assert_eq!(check.is_wanted, wanted, "{topic} {seq}");
        }
        assert_eq!((selector.duplicates, selector.streams.missing()), (3, 0));
    }

    #[test]
    fn a_skipped_message_is_not_missing_and_no_repeat_when_it_comes_again() {
        let mut selector = deduplicating(true);
        selector.check_sequence(&message("t", "s/1/0"));
        let mut retained = message("t", "s/2/0");
        retained.retained = true;
        selector.record_undelivered_number(&retained);
        let next = selector.check_sequence(&message("t", "s/3/0"));
        assert_eq!(next.status, NumberStatus::Next);
        assert!(selector.check_sequence(&message("t", "s/2/0")).is_wanted);
        assert_eq!(selector.streams.missing(), 0);
    }

    #[test]
    fn each_choice_of_retained_messages_decides_on_retained_and_other_messages() {
        let actions = |retained| {
            let selector = selector(SelectionOptions {
                retained,
                ..SelectionOptions::default()
            });
            [true, false].map(|retained| {
                let mut message = message("t", "");
                message.retained = retained;
                selector.action(&message)
            })
        };
        assert_eq!(actions(Retained::Include), [Action::Deliver; 2]);
        assert_eq!(actions(Retained::Exclude), [Action::Skip, Action::Deliver]);
        assert_eq!(actions(Retained::Only), [Action::Deliver, Action::Stop]);
    }

    #[test]
    fn excluded_messages_are_skipped_and_the_gap_before_one_is_found() {
        let mut selector = deduplicating(false);
        selector.exclude = vec!["x/#".into()];
        selector.check_sequence(&message("t", "s/5/0"));
        let excluded = message("x/y", "s/7/0");
        assert_eq!(selector.action(&excluded), Action::Skip);
        let status = selector.record_undelivered_number(&excluded);
        assert!(matches!(status, NumberStatus::Gap(_)), "{status:?}");
        assert_eq!(selector.action(&message("t", "s/8/0")), Action::Deliver);
    }

    #[test]
    fn only_the_empty_messages_of_removed_topics_are_skipped() {
        let mut selector = deduplicating(false);
        selector.removes_retained = true;
        let mut retained = message("t", "");
        retained.retained = true;
        let mut empty = message("t", "");
        empty.payload = b"";
        assert_eq!(selector.action(&empty), Action::Deliver);
        assert!(selector.mark_for_removal(&retained));
        for _ in 0..2 {
            assert_eq!(selector.action(&empty), Action::Skip);
        }
        assert_eq!(selector.action(&message("t", "")), Action::Deliver);
        empty.topic = "other";
        assert_eq!(selector.action(&empty), Action::Deliver);
    }
}
