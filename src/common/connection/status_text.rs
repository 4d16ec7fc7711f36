//! The state of the connection in words, for the service manager. PURE.

use super::state::{ConnectionState, ConnectionStateMachine};
use crate::common::escape::one_line;

/// The longest cause that is shown, in characters.
const MAX_CAUSE: usize = 200;

/// "connected to HOST", or why not. It is the same for all attempts that fail for the same cause.
pub fn describe(connection: &ConnectionStateMachine) -> String {
    let host = connection.authority();
    match (connection.state(), connection.last_fault()) {
        (ConnectionState::Online { .. }, _) => format!("connected to {host}"),
        (ConnectionState::Idle, _) => "another publisher sends".into(),
        (_, Some(fault)) => {
            let cause: String = one_line(&fault.message).chars().take(MAX_CAUSE).collect();
            format!("not connected: {cause}")
        }
        (_, None) => format!("connecting to {host}"),
    }
}

/// A number with its thousands separated: 1,234,567.
pub fn group_thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_separated() {
        for (number, expected) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (12_345, "12,345"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(group_thousands(number), expected);
        }
    }
}
