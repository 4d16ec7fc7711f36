//! Which sides of a bridge can be read from and written to.

/// What is worth trying: what was not possible is not until it is reported to be.
pub(super) struct Ready {
    pub(super) wire_read: bool,
    pub(super) local_read: bool,
    pub(super) local_write: bool,
}

impl Default for Ready {
    fn default() -> Self {
        Self {
            wire_read: true,
            local_read: true,
            local_write: true,
        }
    }
}
