//! How much a queue holds, and what it does when it is full. PURE.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageCountLimit {
    /// A message that comes while offline is refused.
    Disabled,
    Messages(usize),
    /// Only the byte limit counts.
    Unlimited,
}

impl MessageCountLimit {
    /// The convention of the AWS IoT Device SDK: 0 is disabled, a negative number unlimited.
    pub fn from_aws_queue_size(size: i64) -> Self {
        match size {
            0 => MessageCountLimit::Disabled,
            ..0 => MessageCountLimit::Unlimited,
            _ => MessageCountLimit::Messages(usize::try_from(size).unwrap_or(usize::MAX)),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropBehavior {
    Newest,
    Oldest,
    /// The source waits until there is space.
    Block,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub capacity: MessageCountLimit,
    /// In bytes of topics and payloads.
    pub max_bytes: u64,
    pub behavior: DropBehavior,
}

impl Limits {
    /// How many more messages fit beside `len` messages of `bytes`, as far as their number goes.
    pub fn remaining_messages(&self, len: usize, bytes: u64) -> usize {
        match self.capacity {
            MessageCountLimit::Messages(n) if bytes < self.max_bytes => n.saturating_sub(len),
            MessageCountLimit::Unlimited if bytes < self.max_bytes => usize::MAX,
            _ => 0,
        }
    }

    pub fn admit(&self, len: usize, bytes: u64, size: u64) -> Admission {
        let fits =
            self.remaining_messages(len, bytes) > 0 && bytes.saturating_add(size) <= self.max_bytes;
        match (self.capacity, self.behavior) {
            (MessageCountLimit::Disabled, _) => Admission::Disabled,
            _ if fits => Admission::Fits,
            (_, DropBehavior::Block) => Admission::Wait,
            (_, DropBehavior::Newest) => Admission::Drop,
            (_, DropBehavior::Oldest) if size > self.max_bytes => Admission::Drop,
            (_, DropBehavior::Oldest) => Admission::EvictOldest,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Fits,
    /// It fits once the oldest message is gone, or not yet; ask again then.
    EvictOldest,
    Drop,
    Wait,
    Disabled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadAllowance {
    pub messages: usize,
    /// Bytes of topics and payloads. The last message may exceed it.
    pub bytes: u64,
}
