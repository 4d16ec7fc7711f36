//! The broker's refusal of a message or a subscription. PURE.

use crate::common::broker::profile::Profile;
use crate::common::fault::Exit;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRequest {
    /// The reason code; 0x80 with MQTT 3.1.1, which has no others.
    pub code: u8,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    Publish,
    Subscribe,
}

/// Quota exceeded, message rate too high, server busy, connection rate exceeded, packet identifier in use.
const TRANSIENT: [u8; 5] = [0x97, 0x96, 0x89, 0x9F, 0x91];

impl RefusedRequest {
    /// Whether the same message may be accepted later.
    pub(super) fn is_transient(&self) -> bool {
        TRANSIENT.contains(&self.code)
    }

    pub fn remedy(&self, profile: Profile, request: RequestKind) -> String {
        let (what, action) = match request {
            RequestKind::Publish => ("publish", "iot:Publish"),
            RequestKind::Subscribe => ("subscribe to", "iot:Subscribe"),
        };
        match self.code {
            0x80 | 0x83 | 0x87 => format!(
                "check what {} lets this client {what}{}",
                profile.access_rules(),
                profile.policy_action_suffix(action)
            ),
            0x97 => "it may accept later; see its quotas".into(),
            _ => "see the broker's log".into(),
        }
    }

    pub fn exit(&self) -> Exit {
        match self.code {
            0x80 | 0x83 | 0x87 => Exit::Refused,
            0x97 => Exit::Unavailable,
            _ => Exit::Protocol,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quota_exceeded_is_transient_and_not_authorized_is_not() {
        for (code, is_transient) in [(0x97, true), (0x87, false)] {
            let reason = String::new();
            assert_eq!(RefusedRequest { code, reason }.is_transient(), is_transient);
        }
    }
}
