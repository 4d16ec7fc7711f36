//! Detects a stream of which the filters match only some topics: its numbers come in steps of the
//! same width from the first message on, as with several topics in turn, and none comes late. PURE.

/// Equal steps after which a stream counts as seen in part.
const ENOUGH: u32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepRegularity {
    /// Numbers that are skipped are missing.
    Irregular,
    /// From here on the stream counts as seen in part: only multiples of this width are expected.
    Established(u64),
    /// The stream is seen in part. The number of expected numbers that this step skipped.
    Regular(u64),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartialStreamDetector {
    last: Option<u64>,
    width: u64,
    count: u32,
    /// Two steps differed, or were of one number.
    is_irregular: bool,
}

impl PartialStreamDetector {
    pub fn handle_number(&mut self, seq: u64) -> StepRegularity {
        let Some(last) = self.last.replace(seq) else {
            return StepRegularity::Irregular;
        };
        let step = seq.saturating_sub(last);
        if self.width == 0 {
            self.width = step;
        }
        let established = self.count >= ENOUGH;
        let fits = step == self.width || established && step.is_multiple_of(self.width);
        self.is_irregular |= self.width < 2 || !fits;
        if self.is_irregular {
            return StepRegularity::Irregular;
        }
        self.count = self.count.saturating_add(1);
        match self.count {
            ENOUGH => StepRegularity::Established(self.width),
            _ if established => StepRegularity::Regular(step / self.width - 1),
            _ => StepRegularity::Irregular,
        }
    }

    /// A number that was missing has come. Returns whether it had been excused as not expected.
    pub fn handle_late(&mut self) -> bool {
        self.is_irregular = true;
        self.count >= ENOUGH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strides(numbers: &[u64]) -> Vec<StepRegularity> {
        let mut detector = PartialStreamDetector::default();
        let each = numbers.iter().map(|seq| detector.handle_number(*seq));
        each.collect()
    }

    #[test]
    fn every_third_number_from_the_first_on_is_a_part() {
        let seen = strides(&[2, 5, 8, 11, 14, 17, 20, 29, 32]);
        assert_eq!(seen[..5], [StepRegularity::Irregular; 5]);
        let [regular, skipped] = [StepRegularity::Regular(0), StepRegularity::Regular(2)];
        assert_eq!(
            seen[5..],
            [StepRegularity::Established(3), regular, skipped, regular]
        );
    }

    #[test]
    fn with_irregular_steps_skipped_numbers_are_missing() {
        for numbers in [
            &[1, 2, 3, 4, 5, 6, 7, 8][..],
            &[1, 2, 4, 6, 8, 10, 12, 14, 16],
            &[1, 3, 5, 9, 11, 13, 15, 17, 19],
        ] {
            let expected = vec![StepRegularity::Irregular; numbers.len()];
            assert_eq!(strides(numbers), expected);
        }
        let broken = strides(&[1, 3, 5, 7, 9, 11, 12, 14, 16]);
        assert_eq!(broken[6..], [StepRegularity::Irregular; 3]);
    }

    #[test]
    fn a_late_number_shows_that_all_topics_are_matched() {
        let mut detector = PartialStreamDetector::default();
        detector.handle_number(1);
        assert!(!detector.handle_late());
        assert!((1..20).all(|n| detector.handle_number(1 + 2 * n) == StepRegularity::Irregular));
    }
}
