//! What has been received: how many, which are repeats, what is missing, what is wanted, when to
//! stop. PURE.

pub mod retained;
pub mod sink;

use super::inbox::retained::{Retained, Verdict};
use super::sequence::fingerprint::{Fingerprint, Key};
use super::sequence::streams::{Streams, Told};
use crate::common::mqtt::message::{Received, SeqProperty};

/// Which messages are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// How many readings are enough.
    pub limit: Option<u64>,
    /// No repeats.
    pub dedup: bool,
    /// Retained ones, others, or both.
    pub retained: Retained,
}

/// What a message is to its receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// What its number says.
    pub told: Told,
    /// Whether it is to be handed over: it is no repeat, or repeats are wanted.
    pub wanted: bool,
    /// Its fingerprint; none if it has no number, or is a repeat, whose fingerprint is known.
    pub fingerprint: Option<Fingerprint>,
}

/// What is remembered of a message once it has been dealt with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    /// Its number.
    pub seq: SeqProperty,
    /// Whether it is a retained message.
    pub retained: bool,
    /// Its fingerprint, if that is new.
    pub fingerprint: Option<Fingerprint>,
}

impl Noted {
    /// What is remembered of this message; nothing if it has no number.
    pub fn of(message: &Received<'_>, fingerprint: Option<Fingerprint>) -> Option<Self> {
        Some(Self {
            seq: message.seq.clone()?,
            retained: message.retained,
            fingerprint,
        })
    }
}

/// The counters.
#[derive(Debug)]
pub struct Inbox {
    wanted: Wanted,
    taken: u64,
    duplicates: u64,
    streams: Streams,
    key: Option<Key>,
}

impl Inbox {
    /// Nothing received; `streams` is what earlier runs have, with fingerprints made with `key`. Without
    /// one nobody asks for repeats, and none is found.
    pub fn new(wanted: Wanted, streams: Streams, key: Option<Key>) -> Self {
        Self {
            wanted,
            taken: 0,
            duplicates: 0,
            streams,
            key,
        }
    }

    /// What is to be done with a message by its retain flag.
    pub fn judge(&self, retained: bool) -> Verdict {
        self.wanted.retained.judge(retained)
    }

    /// A message has come. A repeat is only what has stream, number, time of acceptance and topic of
    /// one that came before: without the last two, messages of two publishers that use one stream,
    /// because a queue file was copied, would be taken for repeats of each other.
    pub fn arrive(&mut self, message: &Received<'_>) -> Arrival {
        let Some(seq) = &message.seq else {
            return Arrival {
                told: Told::Next,
                wanted: true,
                fingerprint: None,
            };
        };
        let fingerprint = self.key.map(|key| key.fingerprint(seq, message.topic));
        let streams = &mut self.streams;
        let new = fingerprint.filter(|fingerprint| !streams.meet(&seq.stream, *fingerprint));
        let repeat = fingerprint.is_some() && new.is_none();
        self.duplicates += u64::from(repeat);
        Arrival {
            told: self.streams.take(seq, message.retained),
            wanted: !(repeat && self.wanted.dedup),
            fingerprint: new,
        }
    }

    /// A message has come that nobody wants to see. Its number is not missing, all the same.
    pub fn pass_over(&mut self, message: &Received<'_>) {
        if let Some(seq) = &message.seq {
            self.streams.take(seq, message.retained);
        }
    }

    /// Takes the readings of a message that has this number of them: how many are wanted.
    pub fn take(&mut self, readings: usize) -> usize {
        let left = self
            .wanted
            .limit
            .map(|limit| limit.saturating_sub(self.taken));
        let left = left.map_or(usize::MAX, |left| {
            usize::try_from(left).unwrap_or(usize::MAX)
        });
        let taken = readings.min(left);
        self.taken += taken as u64;
        taken
    }

    pub fn is_full(&self) -> bool {
        self.wanted.limit.is_some_and(|limit| self.taken >= limit)
    }

    /// Messages whose stream and number had been received before.
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Numbers that are missing between those received.
    pub fn gaps(&self) -> u64 {
        self.streams.missing()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::mqtt::message::Qos;

    const KEY: Key = Key([1, 2]);

    fn message<'a>(topic: &'a str, seq: &str) -> Received<'a> {
        Received {
            topic,
            payload: b"x",
            qos: Qos::AtLeastOnce,
            retained: false,
            packet_id: 1,
            seq: seq.parse().ok(),
            properties: None,
        }
    }

    fn inbox(wanted: Wanted) -> Inbox {
        Inbox::new(wanted, Streams::default(), Some(KEY))
    }

    #[test]
    fn it_is_full_at_its_limit_and_not_before() {
        let mut inbox = inbox(Wanted {
            limit: Some(2),
            ..Wanted::default()
        });
        assert!(inbox.take(1) == 1 && !inbox.is_full());
        assert!(inbox.take(7) == 1 && inbox.is_full());
        assert_eq!(inbox.take(1), 0);
    }

    #[test]
    fn repeats_are_counted_and_dropped_only_if_asked_for() {
        for dedup in [false, true] {
            let mut inbox = inbox(Wanted {
                dedup,
                ..Wanted::default()
            });
            for seq in [1, 2, 2, 4] {
                let arrival = inbox.arrive(&message("t", &format!("s/{seq}/0")));
                let repeat = inbox.duplicates() == 1 && seq == 2;
                assert_eq!(arrival.wanted, !(dedup && repeat));
                assert_eq!(arrival.fingerprint.is_none(), repeat);
            }
            let unnumbered = inbox.arrive(&message("t", ""));
            assert!(unnumbered.wanted && unnumbered.fingerprint.is_none());
            assert_eq!((inbox.duplicates(), inbox.gaps()), (1, 1));
        }
    }

    #[test]
    fn another_time_or_another_topic_is_no_repeat() {
        let mut inbox = inbox(Wanted {
            dedup: true,
            ..Wanted::default()
        });
        for (topic, seq, wanted) in [
            ("a", "s/1/1000", true),
            ("b", "s/1/1000", true),
            ("a", "s/1/1001", true),
            ("a", "s/1/1000", false),
            ("b", "s/1/1000", false),
            ("a", "s/1/1001", false),
        ] {
            assert_eq!(
                inbox.arrive(&message(topic, seq)).wanted,
                wanted,
                "{topic} {seq}"
            );
        }
        assert_eq!((inbox.duplicates(), inbox.gaps()), (3, 0));
    }

    #[test]
    fn what_is_passed_over_is_not_missing_and_no_repeat_later() {
        let mut inbox = inbox(Wanted {
            dedup: true,
            ..Wanted::default()
        });
        inbox.arrive(&message("t", "s/1/0"));
        let mut retained = message("t", "s/2/0");
        retained.retained = true;
        inbox.pass_over(&retained);
        assert_eq!(inbox.arrive(&message("t", "s/3/0")).told, Told::Next);
        assert!(inbox.arrive(&message("t", "s/2/0")).wanted);
        assert_eq!(inbox.gaps(), 0);
    }
}
