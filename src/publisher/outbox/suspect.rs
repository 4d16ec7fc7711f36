//! Which message keeps ending the connection. PURE.
//!
//! Some brokers close the connection on a message that they do not want, and say nothing.
//! The one at the head of what is in flight is suspected. From the second loss on it is sent
//! alone, so that no other is blamed for it; after so many in a row it is found guilty.

/// The suspicion.
#[derive(Debug)]
pub struct Suspect {
    max_attempts: u32,
    /// The message and the connections lost with it at the head.
    head: Option<(u64, u32)>,
}

impl Suspect {
    /// Nobody is suspected. `max_attempts` connections lost in a row are proof.
    #[must_use]
    pub fn new(max_attempts: u32) -> Self {
        Self {
            max_attempts,
            head: None,
        }
    }

    /// The other end has closed a connection with this message at the head; `before` are the
    /// connections that earlier runs lost with it. Gives the number of all of them.
    pub fn lost_with(&mut self, key: u64, before: u32) -> u32 {
        let so_far = match self.head {
            Some((same, attempts)) if same == key => attempts,
            _ => before,
        };
        let attempts = so_far.saturating_add(1);
        self.head = Some((key, attempts));
        attempts
    }

    /// Whether so many are enough.
    #[must_use]
    pub fn is_guilty(&self, attempts: u32) -> bool {
        attempts >= self.max_attempts
    }

    /// A message has come to its end: if it was the one, nobody is suspected any more.
    pub fn settled(&mut self, key: u64) {
        self.head = self.head.filter(|(suspected, _)| *suspected != key);
    }

    /// Whether the head has to go alone.
    #[must_use]
    pub fn goes_alone(&self) -> bool {
        self.head.is_some_and(|(_, attempts)| attempts >= 2)
    }
}
