//! How certificate, key, CA and password differ from those of the last connection.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialChange {
    Nothing,
    /// Only what the broker is verified with.
    Authorities,
    /// What the client shows to the broker.
    Identity,
}
