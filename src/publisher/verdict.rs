//! How a run went: the exit code and the last line of the log. PURE.

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
}

/// What the exit code depends on.
#[derive(Clone, Copy, Debug)]
pub struct Verdict<'a> {
    /// What became of the messages.
    pub counters: &'a Counters,
    /// Messages read or accepted that have come to no end.
    pub undelivered: usize,
    /// Why there is no connection, if there is none.
    pub offline: Option<&'a Fault>,
    /// What ended the run before its work was done.
    pub ended_by: Option<&'a Fault>,
    /// The worst that was met on the way.
    pub refused: Exit,
}

impl Verdict<'_> {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        let counters = self.counters;
        let mut exit = self.refused;
        if counters.dropped + counters.rejected + counters.dead > 0 {
            exit = exit.or_worse(Exit::Data);
        }
        if self.undelivered > 0 {
            exit = exit.or_worse(self.offline.map_or(Exit::Unavailable, |fault| fault.exit));
        }
        self.ended_by
            .map_or(exit, |fault| exit.or_worse(fault.exit))
    }

    /// Why the run ended early and what is lost, on one line.
    #[must_use]
    pub fn last_words(&self) -> Option<String> {
        let lost = match self.undelivered {
            0 => None,
            1 => Some("1 message is lost: it was in memory only".to_owned()),
            n => Some(format!("{n} messages are lost: they were in memory only")),
        };
        let why = self.ended_by.or(self.offline.filter(|_| lost.is_some()));
        match (why, lost) {
            (Some(why), Some(lost)) => Some(format!("{why}; {lost}")),
            (Some(why), None) => Some(why.to_string()),
            (None, lost) => lost,
        }
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
        let code = |counters: &Counters, undelivered, offline, ended_by| {
            let verdict = Verdict {
                counters,
                undelivered,
                offline,
                ended_by,
                refused: Exit::Success,
            };
            (
                verdict.exit().code(),
                verdict.last_words().unwrap_or_default(),
            )
        };
        assert_eq!(code(&counters, 0, Some(&offline), None), (0, String::new()));
        let lost = "h: closed; 2 messages are lost: they were in memory only";
        assert_eq!(code(&counters, 2, Some(&offline), None), (69, lost.into()));
        counters.dropped = 1;
        assert_eq!(code(&counters, 0, None, None), (65, String::new()));
        assert_eq!(code(&counters, 2, Some(&offline), Some(&refused)).0, 77);
    }
}
