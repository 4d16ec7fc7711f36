//! How a run went: the exit code and the last line of the log. PURE.

use std::path::Path;

use serde::Serialize;

use crate::common::fault::{Exit, Fault};

/// What became of everything that was offered, as `--summary` prints it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Counters {
    /// The publisher answered for so many.
    pub accepted: u64,
    /// Acknowledged by the broker.
    pub delivered: u64,
    /// Accepted and neither delivered nor given up when the run ended.
    pub queued: u64,
    /// Of what was read, saved nowhere and not delivered when the run ended.
    pub lost: u64,
    /// Lost to a full queue.
    pub dropped: u64,
    /// Never accepted.
    pub rejected: u64,
    /// Too old to be sent; only a run with an expiry has any.
    pub expired: u64,
    /// Refused by the broker, for good.
    pub dead: u64,
    /// Connections after the first.
    pub reconnects: u64,
    /// The length of the run in seconds.
    pub elapsed_s: f64,
    /// Readings in the messages accepted; none where each message is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readings: Option<u64>,
    /// Commands that failed; none where there is no command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<u64>,
}

/// What the exit code depends on.
#[derive(Clone, Debug)]
pub struct Verdict<'a> {
    /// What became of the messages.
    pub counters: &'a Counters,
    /// Messages read or accepted that have come to no end and are kept nowhere.
    pub lost: usize,
    /// Messages that wait in the queue file.
    pub kept: usize,
    /// The queue file, if there is one.
    pub queue: Option<&'a Path>,
    pub gone: bool,
    /// Why there is no connection, if there is none.
    pub offline: Option<Fault>,
    /// What ended the run before its work was done.
    pub ended_by: Option<&'a Fault>,
    /// The worst that was met on the way.
    pub refused: Exit,
    /// Why the first message was rejected or died.
    pub reason: Option<&'a str>,
}

impl Verdict<'_> {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        let counters = self.counters;
        let mut exit = self.refused;
        if counters.dropped + counters.rejected + counters.dead > 0 {
            exit = exit.or_worse(Exit::Data);
        }
        if counters.expired > 0 {
            exit = exit.or_worse(Exit::Data);
        }
        if self.lost > 0 {
            exit = exit.or_worse(Exit::Unavailable);
        }
        if self.kept > 0 {
            exit = exit.or_worse(Exit::Deferred);
        }
        if self.lost + self.kept > 0
            && let Some(why) = self
                .offline
                .as_ref()
                .filter(|why| why.exit != Exit::Unavailable)
        {
            exit = exit.or_worse(why.exit);
        }
        self.ended_by
            .map_or(exit, |fault| exit.or_worse(fault.exit))
    }

    /// Why the exit code is not 0, on one line.
    pub fn last_words(&self) -> Option<String> {
        let counters = self.counters;
        let offline = self.offline.as_ref().filter(|_| self.lost + self.kept > 0);
        let mut words: Vec<String> = Vec::new();
        words.extend(self.ended_by.or(offline).map(ToString::to_string));
        let lost = if self.gone {
            "lost: saved nowhere"
        } else {
            "lost: in memory only"
        };
        let dead = match self.queue {
            Some(_) if !self.gone => "among the dead letters",
            _ => "refused by the broker",
        };
        for (count, fate) in [
            (self.lost as u64, lost),
            (counters.dropped, "dropped from a full queue"),
            (counters.rejected, "rejected"),
            (counters.expired, "expired"),
            (counters.dead, dead),
        ] {
            match count {
                0 => {}
                1 => words.push(format!("1 message {fate}")),
                n => words.push(format!("{n} messages {fate}")),
            }
        }
        if let (1.., Some(queue)) = (self.kept, self.queue) {
            let queue = queue.display();
            let queue = if self.gone {
                format!("what was {queue}")
            } else {
                queue.to_string()
            };
            words.push(match self.kept {
                1 => format!("1 message waits in {queue} for a later run"),
                n => format!("{n} messages wait in {queue} for a later run"),
            });
        }
        if let Some(reason) = self.reason {
            words.push(format!("the first: {reason}"));
        }
        (!words.is_empty()).then(|| words.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_of_what_happened_is_the_exit_code() {
        let mut counters = Counters::default();
        let offline = Fault::passing(Exit::Unavailable, "h: closed");
        let refused = Fault::permanent(Exit::Refused, "h: not authorised");
        let code = |counters: &Counters, undelivered, offline: Option<&Fault>, ended_by| {
            let verdict = Verdict {
                counters,
                lost: undelivered,
                kept: 0,
                queue: None,
                gone: false,
                offline: offline.cloned(),
                ended_by,
                refused: Exit::Success,
                reason: None,
            };
            (
                verdict.exit().code(),
                verdict.last_words().unwrap_or_default(),
            )
        };
        assert_eq!(code(&counters, 0, Some(&offline), None), (0, String::new()));
        let lost = "h: closed; 2 messages lost: in memory only";
        assert_eq!(code(&counters, 2, Some(&offline), None), (69, lost.into()));
        counters.dropped = 1;
        assert_eq!(
            code(&counters, 0, None, None),
            (65, "1 message dropped from a full queue".into())
        );
        assert_eq!(code(&counters, 2, Some(&offline), Some(&refused)).0, 77);
    }
}
