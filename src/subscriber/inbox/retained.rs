//! Which messages are wanted, by the flag that tells a retained one. PURE.

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retained {
    /// All messages.
    #[default]
    All,
    /// Only those that were published while somebody listened: `--no-retained`.
    Without,
    /// Only those that the broker had kept, up to the first other: `--retained-only`.
    Only,
}

/// What is to be done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To be written and counted.
    Print,
    /// To be acknowledged, and nothing else.
    Skip,
    /// Not to be written: the run ends here, with success. The broker sends what it has
    /// kept first.
    Stop,
}

impl Retained {
    /// Judges a message by its retain flag.
    pub fn judge(self, retained: bool) -> Verdict {
        match (self, retained) {
            (Retained::All, _) | (Retained::Without, false) | (Retained::Only, true) => {
                Verdict::Print
            }
            (Retained::Without, true) => Verdict::Skip,
            (Retained::Only, false) => Verdict::Stop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flag_has_a_word_on_each_kind() {
        let judged = |wanted: Retained| [wanted.judge(true), wanted.judge(false)];
        assert_eq!(judged(Retained::All), [Verdict::Print, Verdict::Print]);
        assert_eq!(judged(Retained::Without), [Verdict::Skip, Verdict::Print]);
        assert_eq!(judged(Retained::Only), [Verdict::Print, Verdict::Stop]);
    }
}
