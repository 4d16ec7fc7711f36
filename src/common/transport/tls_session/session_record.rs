//! A TLS session with the server's certificates, as kept for the next connection, and how long it may be used.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openssl::error::ErrorStack;
use openssl::ssl::{SslSession, SslSessionRef};
use openssl::stack::{Stack, StackRef};
use openssl::x509::store::X509StoreRef;
use openssl::x509::{X509, X509Ref, X509StoreContext, X509StoreContextRef};

use crate::common::transport::credentials::der;

/// No session is used longer than this, whatever the server says, nor longer than this after the last full handshake
/// (RFC 8446, section 4.6.1).
const MAX_LIFE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SessionRecord {
    /// `SSL_SESSION` of OpenSSL, in DER.
    session: Vec<u8>,
    /// When a full handshake verified both sides, in seconds of Unix time.
    verified_s: u64,
    /// In DER, the certificates between the server's own, which is in the session, and that of the trusted CA.
    intermediates: Vec<Vec<u8>>,
}

impl SessionRecord {
    /// `chain` leads from the server's certificate to that of the trusted CA.
    pub(crate) fn new(
        session: &SslSessionRef,
        now: SystemTime,
        chain: &StackRef<X509>,
    ) -> Result<Self, ErrorStack> {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let below_ca = chain.iter().take(chain.len().saturating_sub(1));
        Ok(Self {
            session: session.to_der()?,
            verified_s: since.as_secs(),
            intermediates: below_ca
                .skip(1)
                .map(X509Ref::to_der)
                .collect::<Result<_, _>>()?,
        })
    }

    /// A newer session with the same server.
    pub(crate) fn renewed(&self, session: &SslSessionRef) -> Result<Self, ErrorStack> {
        Ok(Self {
            session: session.to_der()?,
            verified_s: self.verified_s,
            intermediates: self.intermediates.clone(),
        })
    }

    pub(crate) fn session(&self) -> Result<SslSession, ErrorStack> {
        SslSession::from_der(&self.session)
    }

    pub(crate) fn has_session(&self, session: &SslSessionRef) -> bool {
        session.to_der().is_ok_and(|der| der == self.session)
    }

    /// In seconds of Unix time.
    pub(crate) fn made_s(&self) -> Option<u64> {
        der::session_life(&self.session).map(|life| life.made_s)
    }

    /// Whether the session has not ended by `now`. One from the future is not used either: a clock is wrong.
    pub(crate) fn is_current(&self, now: SystemTime) -> bool {
        let Some(life) = der::session_life(&self.session) else {
            return false;
        };
        let is_younger = |from_s, most| {
            let from = UNIX_EPOCH.checked_add(Duration::from_secs(from_s));
            from.is_some_and(|from| now.duration_since(from).is_ok_and(|age| age < most))
        };
        let life_time = Duration::from_secs(life.seconds).min(MAX_LIFE);
        is_younger(life.made_s, life_time) && is_younger(self.verified_s, MAX_LIFE)
    }

    /// Whether the server's certificates would be accepted today: in date, and of a CA that is trusted. The host name
    /// needs no check: it was verified when the session was made, and is part of the binding.
    pub(crate) fn is_trusted(
        &self,
        server: &X509Ref,
        trusted: &X509StoreRef,
    ) -> Result<bool, ErrorStack> {
        let mut chain = Stack::new()?;
        for der in &self.intermediates {
            chain.push(X509::from_der(der)?)?;
        }
        X509StoreContext::new()?.init(trusted, server, &chain, X509StoreContextRef::verify_cert)
    }

    /// As bytes for a file: each part after its length, four bytes, the most significant first.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let verified_s = self.verified_s.to_be_bytes();
        let parts = [&self.session[..], &verified_s];
        for part in parts
            .into_iter()
            .chain(self.intermediates.iter().map(Vec::as_slice))
        {
            // Nothing that a handshake transfers is larger than 16 MiB.
            let length = u32::try_from(part.len()).unwrap_or(0);
            bytes.extend(length.to_be_bytes());
            bytes.extend(part);
        }
        bytes
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut parts = Vec::new();
        while !bytes.is_empty() {
            let (length, rest) = bytes.split_first_chunk()?;
            let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
            let (part, rest) = rest.split_at_checked(length)?;
            parts.push(part.to_vec());
            bytes = rest;
        }
        let mut parts = parts.into_iter();
        Some(Self {
            session: parts.next()?,
            verified_s: u64::from_be_bytes(parts.next()?.try_into().ok()?),
            intermediates: parts.collect(),
        })
    }
}

#[cfg(test)]
pub(super) mod examples {
    use super::SessionRecord;

    pub(super) fn record(session: Vec<u8>, verified_s: u64) -> SessionRecord {
        SessionRecord {
            session,
            verified_s,
            intermediates: Vec::new(),
        }
    }

    /// An `SSL_SESSION` with its times, and what stands before and between them.
    pub(super) fn session(made_s: u32, timeout_s: u8, ticket_s: Option<u8>) -> Vec<u8> {
        let number = |tag: u8, bytes: &[u8]| {
            let length = u8::try_from(bytes.len()).unwrap();
            [&[tag, length + 2, 0x02, length], bytes].concat()
        };
        let made = [&[0], &made_s.to_be_bytes()[..]].concat();
        let mut parts = vec![0x02, 1, 1, 0x04, 2, 0x13, 0x02];
        parts.extend(number(0xa1, &made));
        parts.extend(number(0xa2, &[timeout_s]));
        parts.extend([0xa4, 2, 0x04, 0]);
        parts.extend(ticket_s.iter().flat_map(|s| number(0xa9, &[*s])));
        let length = u8::try_from(parts.len()).unwrap();
        [&[0x30, length], &parts[..]].concat()
    }

    /// Valid for 127 s.
    pub(in super::super) fn made_at(made_s: u32) -> SessionRecord {
        record(session(made_s, 127, None), made_s.into())
    }
}

#[cfg(test)]
mod tests {
    use super::examples::{record, session};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_session_is_current_from_when_it_was_made_for_the_time_that_the_server_set() {
        const MADE: u32 = 3_000_000_000;
        let at = |s: i64| {
            let since = u64::try_from(i64::from(MADE) + s).unwrap();
            UNIX_EPOCH + Duration::from_secs(since)
        };
        for (ticket, life) in [(Some(100), 100), (Some(0), 50), (None, 50)] {
            let record = record(session(MADE, 50, ticket), u64::from(MADE) - 60);
            assert_eq!(record.made_s(), Some(MADE.into()));
            assert!(!record.is_current(at(-1)));
            assert!(record.is_current(at(0)));
            assert!(record.is_current(at(life - 1)));
            assert!(!record.is_current(at(life)));
        }
    }

    #[test]
    fn whatever_the_server_says_a_session_ends_after_a_week() {
        let mut bytes = session(1_000, 1, None);
        bytes.extend([0xa9, 6, 0x02, 4, 0x7f, 0xff, 0xff, 0xff]);
        bytes[1] += 8;
        let record = record(bytes.clone(), 1_000);
        let at = |s| UNIX_EPOCH + Duration::from_secs(s);
        assert!(record.is_current(at(1_000 + 604_799)));
        assert!(!record.is_current(at(1_000 + 604_800)));
    }

    #[test]
    fn a_session_that_follows_from_another_one_ends_a_week_after_the_full_handshake() {
        let record = record(session(1_000_000, 50, None), 1_000_000 - 604_800 + 10);
        let at = |s| UNIX_EPOCH + Duration::from_secs(s);
        assert!(record.is_current(at(1_000_009)));
        assert!(!record.is_current(at(1_000_010)));
    }

    #[test]
    fn without_its_times_a_session_is_not_current() {
        let whole = session(1_000, 50, None);
        for end in 0..whole.len() {
            assert!(!record(whole[..end].to_vec(), 0).is_current(UNIX_EPOCH));
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            session in proptest::collection::vec(any::<u8>(), 0..40),
            verified_s in any::<u64>(),
            intermediates in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..4),
        ) {
            let record = SessionRecord { session, verified_s, intermediates };
            prop_assert!(SessionRecord::decode(&record.encode()) == Some(record));
        }

        #[test]
        fn any_bytes_are_decoded_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Some(record) = SessionRecord::decode(&bytes) {
                prop_assert_eq!(record.encode(), bytes);
                record.is_current(UNIX_EPOCH);
            }
        }
    }
}
