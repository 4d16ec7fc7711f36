//! Which lines a message came on. PURE.

use std::ops::RangeInclusive;

/// Lines in ascending order, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lines {
    first: RangeInclusive<u64>,
    /// The runs behind gaps.
    more: Vec<RangeInclusive<u64>>,
}

impl Lines {
    /// This one only.
    pub fn new(line: u64) -> Self {
        Self {
            first: line..=line,
            more: Vec::new(),
        }
    }

    /// One more, behind all others.
    pub fn add(&mut self, line: u64) {
        let last = self.more.last_mut().unwrap_or(&mut self.first);
        if last.end().checked_add(1) == Some(line) {
            *last = *last.start()..=line;
        } else {
            self.more.push(line..=line);
        }
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        let runs = std::iter::once(&self.first).chain(&self.more);
        runs.flat_map(RangeInclusive::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_remembered_with_their_gaps() {
        let mut lines = Lines::new(1);
        for line in [2, 5, 7, 8] {
            lines.add(line);
        }
        assert_eq!(lines.iter().collect::<Vec<_>>(), [1, 2, 5, 7, 8]);
        assert_eq!(lines.more.len(), 2);
    }
}
