//! Which message the broker closes connections for. PURE.
//!
//! Some brokers close the connection on a message that they do not want, and give no reason. When a
//! connection ends in a way that may be for a message, the first one in flight is suspected: it is sent alone
//! on the next connection. Only a close that follows while it is alone counts against it. Ends that have
//! nothing to do with a message neither count nor clear it.

/// The message that is suspected.
#[derive(Debug)]
pub struct Suspect {
    max_attempts: u32,
    /// Its id, and the connections that were closed while it was alone.
    head: Option<(u64, u32)>,
}

impl Suspect {
    /// No message is suspected. After `max_attempts` closes one is given up.
    pub fn new(max_attempts: u32) -> Self {
        Self {
            max_attempts,
            head: None,
        }
    }

    /// The end of a connection may have been for this message. `before` are the closes that earlier runs
    /// counted.
    pub fn suspect(&mut self, id: u64, before: u32) {
        if self.head.is_none_or(|(suspected, _)| suspected != id) {
            self.head = Some((id, before));
        }
    }

    /// A connection was closed while the suspected message was alone; how many that makes.
    pub fn closed(&mut self) -> u32 {
        self.head.as_mut().map_or(0, |(_, attempts)| {
            *attempts = attempts.saturating_add(1);
            *attempts
        })
    }

    /// Whether so many closes are enough to give a message up.
    pub fn is_enough(&self, attempts: u32) -> bool {
        attempts >= self.max_attempts
    }

    /// A message is done with: if it was the suspected one, none is any more.
    pub fn settled(&mut self, id: u64) {
        self.head = self.head.filter(|(suspected, _)| *suspected != id);
    }

    /// Whether a message is suspected: it is sent alone.
    pub fn goes_alone(&self) -> bool {
        self.head.is_some()
    }
}
