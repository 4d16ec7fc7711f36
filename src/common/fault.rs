//! What can go wrong, as one value: the exit code it leads to, whether trying again can
//! help, and one line for the person who has to mend it.
//!
//! PURE: it does not print, log or end anything; the edge does.

use std::fmt;

/// How a run ends, as the shell sees it. The codes follow `sysexits.h` where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// All that was accepted is delivered.
    Success = 0,
    /// The subscriber's `--timeout` ran out.
    TimedOut = 27,
    /// A bad flag, value or topic.
    Usage = 64,
    /// Some input was rejected, dropped, expired or dead-lettered.
    Data = 65,
    /// A named input file cannot be read.
    NoInput = 66,
    /// The broker was not reached and messages that were only in memory are lost.
    Unavailable = 69,
    /// Queue or output cannot be created or opened.
    CannotCreate = 73,
    /// An I/O error.
    Io = 74,
    /// Not delivered, but safe in the queue.
    Deferred = 75,
    /// The broker broke the protocol, or speaks another.
    Protocol = 76,
    /// The broker refused: not authorised, bad credentials.
    Refused = 77,
    /// The configuration cannot work: keys, certificates, file modes, trust.
    Config = 78,
}

impl Exit {
    /// Every code but success and usage, the one that wins first.
    const PRECEDENCE: [Exit; 10] = [
        Exit::Io,
        Exit::CannotCreate,
        Exit::Config,
        Exit::Refused,
        Exit::Protocol,
        Exit::NoInput,
        Exit::Unavailable,
        Exit::Deferred,
        Exit::Data,
        Exit::TimedOut,
    ];

    /// The number the shell sees.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Of two codes that both apply, the one to report. Usage errors come before anything
    /// has run, so they win; success loses to everything.
    pub fn or_worse(self, other: Exit) -> Exit {
        let rank = |exit: Exit| match exit {
            Exit::Usage => 0,
            Exit::Success => usize::MAX,
            _ => {
                1 + Self::PRECEDENCE
                    .iter()
                    .position(|e| *e == exit)
                    .unwrap_or(0)
            }
        };
        if rank(other) < rank(self) {
            other
        } else {
            self
        }
    }
}

/// What a fault is about, for code that acts on it. The text is for people only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Nothing in the program depends on which fault it is.
    #[default]
    Other,
    /// A stored file is damaged.
    Damaged,
    /// CONNECT was sent and not answered: the other end closed the connection, or kept silent.
    Unanswered,
    /// The other end closed an accepted connection in order, and gave no reason.
    Closed,
    /// The broker has ended the connection because another client has the same client identifier.
    TakenOver,
    /// A certificate is not valid yet, or the clock is behind.
    NotYetValid,
}

/// One cause of failure. It is displayed as one line without a full stop: `message; remedy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What it is about.
    pub kind: Kind,
    /// The exit code if the run ends because of it.
    pub exit: Exit,
    /// No retry can cure it: somebody has to change something first.
    pub permanent: bool,
    /// The file, flag or host, a colon, and the cause.
    pub message: String,
    /// What to do about it.
    pub remedy: Option<Box<str>>,
}

impl Fault {
    /// A fault that ends a finite run at once.
    pub fn permanent(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Other,
            exit,
            permanent: true,
            message: message.into(),
            remedy: None,
        }
    }

    /// A fault that may be gone at the next attempt.
    pub fn passing(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            permanent: false,
            ..Self::permanent(exit, message)
        }
    }

    /// The same fault with what to do about it.
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into().into());
        self
    }

    /// The same fault of this kind.
    pub fn of_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// A bad flag, value or topic.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::permanent(Exit::Usage, message)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_code_of_the_documented_order_wins_whichever_way_round() {
        let order = [74u8, 73, 78, 77, 76, 66, 69, 75, 65];
        let codes: Vec<u8> = Exit::PRECEDENCE.iter().map(|e| e.code()).collect();
        assert_eq!(codes[..9], order);
        assert_eq!(Exit::Data.or_worse(Exit::Refused), Exit::Refused);
        assert_eq!(Exit::Refused.or_worse(Exit::Data), Exit::Refused);
        assert_eq!(Exit::Success.or_worse(Exit::TimedOut), Exit::TimedOut);
        assert_eq!(Exit::Io.or_worse(Exit::Success), Exit::Io);
    }
}
