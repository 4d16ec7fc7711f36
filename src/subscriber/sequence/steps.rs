//! Whether a stream is seen only in part, because its publisher sends to topics that the filters do not
//! match: then its numbers come in steps of the same width from the first message on, as with several topics
//! in turn, and none comes late. PURE.

/// After so many equal steps it is taken for seen in part.
const ENOUGH: u32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: what is missing is missing.
    Uneven,
    /// The stream is seen in part from here on. Only each number of this distance comes.
    Established(u64),
    /// The stream is seen in part, and of those numbers so many are missing in this step.
    Even(u64),
}

/// The steps of one stream in this run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    last: Option<u64>,
    /// How wide each has been so far; 0 before the first.
    width: u64,
    count: u32,
    /// Two differed, or were of one number.
    uneven: bool,
}

impl Steps {
    /// A number higher than all before it has come.
    pub fn take(&mut self, seq: u64) -> Step {
        let Some(last) = self.last.replace(seq) else {
            return Step::Uneven;
        };
        let step = seq.saturating_sub(last);
        if self.width == 0 {
            self.width = step;
        }
        let established = self.count >= ENOUGH;
        let fits = step == self.width || established && step.is_multiple_of(self.width);
        self.uneven |= self.width < 2 || !fits;
        if self.uneven {
            return Step::Uneven;
        }
        self.count = self.count.saturating_add(1);
        match self.count {
            ENOUGH => Step::Established(self.width),
            _ if established => Step::Even(step / self.width - 1),
            _ => Step::Uneven,
        }
    }

    /// One that was missing has come. Whether it had not been counted as missing.
    pub fn late(&mut self) -> bool {
        self.uneven = true;
        self.count >= ENOUGH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(numbers: &[u64]) -> Vec<Step> {
        let mut steps = Steps::default();
        numbers.iter().map(|seq| steps.take(*seq)).collect()
    }

    #[test]
    fn every_third_number_from_the_first_on_is_a_part() {
        let seen = steps(&[2, 5, 8, 11, 14, 17, 20, 29, 32]);
        assert_eq!(seen[..5], [Step::Uneven; 5]);
        let rest = [
            Step::Established(3),
            Step::Even(0),
            Step::Even(2),
            Step::Even(0),
        ];
        assert_eq!(seen[5..], rest);
    }

    #[test]
    fn what_is_not_even_is_missing() {
        for numbers in [
            &[1, 2, 3, 4, 5, 6, 7, 8][..],
            &[1, 2, 4, 6, 8, 10, 12, 14, 16],
            &[1, 3, 5, 9, 11, 13, 15, 17, 19],
        ] {
            assert!(steps(numbers).iter().all(|step| *step == Step::Uneven));
        }
        let broken = steps(&[1, 3, 5, 7, 9, 11, 12, 14, 16]);
        assert_eq!(broken[6..], [Step::Uneven; 3]);
    }

    #[test]
    fn where_one_comes_late_all_were_sent_here() {
        let mut steps = Steps::default();
        steps.take(1);
        assert!(!steps.late());
        assert!((1..20).all(|n| steps.take(1 + 2 * n) == Step::Uneven));
    }
}
