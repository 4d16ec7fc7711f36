//! The summary of a run, its exit status, and the last line of the log. PURE.

use std::path::Path;

use serde::Serialize;

use crate::common::fault::{Exit, Fault};

/// The number of messages by what happened to them, as `--summary` prints it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    pub accepted: u64,
    pub delivered: u64,
    /// Taken, and neither delivered nor given up when the run ended.
    pub queued: u64,
    /// Read or taken, not delivered when the run ended, and not on disk.
    pub lost: u64,
    pub dropped: u64,
    /// Never accepted.
    pub rejected: u64,
    /// Too old to be sent; only a run with an expiry has any.
    pub expired: u64,
    pub dead: u64,
    pub reconnects: u64,
    pub elapsed_s: f64,
    /// Readings in the accepted messages; none without batches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readings: Option<u64>,
    /// Failed commands; none without `--exec`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct ExitStatus<'a> {
    pub summary: &'a Summary,
    pub lost: usize,
    pub kept: usize,
    pub queue: Option<&'a Path>,
    pub gone: bool,
    pub offline: Option<Fault>,
    pub ended_by: Option<&'a Fault>,
    pub worst: Exit,
    pub first_reason: Option<&'a str>,
}

impl ExitStatus<'_> {
    pub fn worst_exit(&self) -> Exit {
        let summary = self.summary;
        let given_up = summary.dropped + summary.rejected + summary.dead + summary.expired;
        let offline = self.offline_fault().map(|why| why.exit);
        let causes = [
            (given_up > 0).then_some(Exit::Data),
            (self.lost > 0).then_some(Exit::Unavailable),
            (self.kept > 0).then_some(Exit::Deferred),
            offline.filter(|exit| *exit != Exit::Unavailable),
            self.ended_by.map(|fault| fault.exit),
        ];
        let causes = causes.into_iter().flatten();
        causes.fold(self.worst, Exit::or_worse)
    }

    /// Nothing is lost: what was not delivered waits in the queue file.
    pub fn is_only_deferred(&self) -> bool {
        let summary = self.summary;
        let given_up = summary.dropped + summary.rejected + summary.dead + summary.expired;
        given_up == 0 && self.worst_exit() == Exit::Deferred
    }

    fn offline_fault(&self) -> Option<&Fault> {
        self.offline.as_ref().filter(|_| self.lost + self.kept > 0)
    }

    /// Why the exit code is not 0, on one line.
    pub fn explanation(&self) -> Option<String> {
        let summary = self.summary;
        let why = self.ended_by.or(self.offline_fault());
        let mut parts: Vec<_> = why.map(ToString::to_string).into_iter().collect();
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
            (summary.dropped, "dropped from a full queue"),
            (summary.rejected, "rejected"),
            (summary.expired, "expired"),
            (summary.dead, dead),
        ] {
            match count {
                0 => {}
                1 => parts.push(format!("1 message {fate}")),
                n => parts.push(format!("{n} messages {fate}")),
            }
        }
        if let (1.., Some(queue)) = (self.kept, self.queue) {
            let queue = queue.display();
            let was = if self.gone { "what was " } else { "" };
            parts.push(match self.kept {
                1 => format!("1 message waits in {was}{queue} for a later run"),
                n => format!("{n} messages wait in {was}{queue} for a later run"),
            });
        }
        let first = self.first_reason;
        parts.extend(first.map(|reason| format!("the first: {reason}")));
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_of_what_happened_is_the_exit_code() {
        let mut summary = Summary::default();
        let offline = Fault::passing(Exit::Unavailable, "h: closed");
        let refused = Fault::permanent(Exit::Refused, "h: not authorised");
        let code = |summary: &Summary, undelivered, offline: Option<&Fault>, ended_by| {
            let status = ExitStatus {
                summary,
                lost: undelivered,
                kept: 0,
                queue: None,
                gone: false,
                offline: offline.cloned(),
                ended_by,
                worst: Exit::Success,
                first_reason: None,
            };
            let explanation = status.explanation().unwrap_or_default();
            assert!(!status.is_only_deferred());
            (status.worst_exit().code(), explanation)
        };
        assert_eq!(code(&summary, 0, Some(&offline), None), (0, String::new()));
        let lost = "h: closed; 2 messages lost: in memory only";
        assert_eq!(code(&summary, 2, Some(&offline), None), (69, lost.into()));
        summary.dropped = 1;
        let dropped = "1 message dropped from a full queue";
        assert_eq!(code(&summary, 0, None, None), (65, dropped.into()));
        assert_eq!(code(&summary, 2, Some(&offline), Some(&refused)).0, 77);
    }

    #[test]
    fn a_run_that_has_lost_messages_is_not_only_deferred() {
        for (dropped, expected) in [(0, true), (1, false)] {
            let summary = Summary {
                dropped,
                ..Summary::default()
            };
            let status = ExitStatus {
                summary: &summary,
                lost: 0,
                kept: 1,
                queue: None,
                gone: false,
                offline: None,
                ended_by: None,
                worst: Exit::Success,
                first_reason: None,
            };
            assert_eq!(status.worst_exit(), Exit::Deferred);
            assert_eq!(status.is_only_deferred(), expected);
        }
    }
}
