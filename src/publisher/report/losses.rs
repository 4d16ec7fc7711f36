//! How many messages were lost during an outage. PURE.

use super::exit_status::Summary;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Losses {
    dropped: u64,
    expired: u64,
    rejected: u64,
}

impl Losses {
    /// Of the run so far.
    pub(super) fn of(summary: &Summary) -> Self {
        Self {
            dropped: summary.dropped,
            expired: summary.expired,
            rejected: summary.rejected,
        }
    }

    pub(super) fn since(self, before: Self) -> Self {
        Self {
            dropped: self.dropped.saturating_sub(before.dropped),
            expired: self.expired.saturating_sub(before.expired),
            rejected: self.rejected.saturating_sub(before.rejected),
        }
    }

    /// Continues a line: `; 12 messages dropped, 1 expired, 1000 wait`.
    pub(super) fn describe(self, waiting: usize) -> String {
        let waits = if waiting == 1 { "waits" } else { "wait" };
        let counts = [
            (self.dropped, "dropped"),
            (self.expired, "expired"),
            (self.rejected, "rejected"),
            (waiting as u64, waits),
        ];
        let counts = counts.into_iter().filter(|(count, _)| *count > 0);
        let parts = counts
            .enumerate()
            .map(|(n, (count, fate))| match (n, count) {
                (0, 1) => format!("; 1 message {fate}"),
                (0, _) => format!("; {count} messages {fate}"),
                _ => format!(", {count} {fate}"),
            });
        parts.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_happened_is_named() {
        let losses = |dropped, expired, rejected| Losses {
            dropped,
            expired,
            rejected,
        };
        let before = losses(5, 0, 2);
        let after = losses(17, 1, 2).since(before);
        let text = "; 12 messages dropped, 1 expired, 1000 wait";
        assert_eq!(after.describe(1_000), text);
        assert_eq!(before.since(before).describe(0), "");
        assert_eq!(before.since(before).describe(1), "; 1 message waits");
        assert_eq!(losses(0, 0, 1).describe(0), "; 1 message rejected");
    }
}
