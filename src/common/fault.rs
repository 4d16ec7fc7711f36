//! One value for whatever can go wrong: the exit code, whether retrying can help, and one line for the user. PURE.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    Success = 0,
    TimedOut = 27,
    Usage = 64,
    Data = 65,
    NoInput = 66,
    Unavailable = 69,
    CannotCreate = 73,
    Io = 74,
    Deferred = 75,
    Protocol = 76,
    Refused = 77,
    Config = 78,
}

impl Exit {
    const PRECEDENCE: [Exit; 12] = [
        Exit::Usage,
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
        Exit::Success,
    ];

    pub const fn code(self) -> u8 {
        self as u8
    }

    pub fn from_code(code: u8) -> Option<Self> {
        Self::PRECEDENCE
            .into_iter()
            .find(|exit| exit.code() == code)
    }

    pub fn or_worse(self, other: Exit) -> Exit {
        let mut all = Self::PRECEDENCE.into_iter();
        all.find(|exit| [self, other].contains(exit))
            .unwrap_or(self)
    }
}

/// What a fault is about, for code that depends on it. The text is for people only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FaultCause {
    #[default]
    Other,
    /// A stored file is damaged.
    Damaged,
    /// CONNECT was sent and not answered: the peer closed the connection, or sent nothing.
    Unanswered,
    /// The peer closed an accepted connection in order, without a reason.
    Closed,
    /// Nothing came within a time limit of ours.
    TimedOut,
    /// The broker closed the connection because another client uses the same client identifier.
    TakenOver,
    /// A certificate is not valid yet, or the clock is behind.
    NotYetValid,
}

/// One cause of failure. It is displayed as one line without a full stop: `message; remedy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: FaultCause,
    pub exit: Exit,
    /// Retrying cannot help: somebody has to change something first.
    pub permanent: bool,
    /// The file, flag or host, a colon, and the cause.
    pub message: String,
    pub remedy: Option<Box<str>>,
}

impl Fault {
    /// A fault that ends a finite run at once.
    pub fn permanent(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            kind: FaultCause::Other,
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

    pub fn usage(message: impl Into<String>) -> Self {
        Self::permanent(Exit::Usage, message)
    }

    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into().into());
        self
    }

    pub fn with_kind(mut self, kind: FaultCause) -> Self {
        self.kind = kind;
        self
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
    fn the_first_code_in_the_documented_order_wins() {
        let order = [74u8, 73, 78, 77, 76, 66, 69, 75, 65];
        let codes: Vec<u8> = Exit::PRECEDENCE.iter().map(|e| e.code()).collect();
        assert_eq!(codes[1..10], order);
        assert_eq!(Exit::Data.or_worse(Exit::Refused), Exit::Refused);
        assert_eq!(Exit::Refused.or_worse(Exit::Data), Exit::Refused);
        assert_eq!(Exit::Success.or_worse(Exit::TimedOut), Exit::TimedOut);
        assert_eq!(Exit::Io.or_worse(Exit::Success), Exit::Io);
    }
}
