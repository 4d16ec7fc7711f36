//! Conditions on the packets that a scripted broker received.

use super::{
    lines::Lines,
    packet::{Connect, Publish},
    scripted::{Event, ScriptedBroker},
};

impl Lines {
    /// The lines so far without their times.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.all().into_iter().map(|line| line.text).collect()
    }
}

impl ScriptedBroker {
    /// Every CONNECT so far.
    pub(crate) fn connects(&self) -> Vec<Connect> {
        let connects = self.events().into_iter().filter_map(|event| match event {
            Event::Connect(connect) => Some(connect),
            _ => None,
        });
        connects.collect()
    }
}

/// The identifiers of the messages that were acknowledged, in order.
pub(crate) fn acknowledged(events: &[Event]) -> Vec<u16> {
    let ids = events.iter().filter_map(|event| match event {
        Event::Puback(id) => Some(*id),
        _ => None,
    });
    ids.collect()
}

impl Publish {
    /// What its `seq` property says: stream, number and Unix time in milliseconds.
    pub(crate) fn seq(&self) -> Option<(String, u64, u64)> {
        let mut properties = self.user_properties.iter();
        let (_, value) = properties.find(|(name, _)| name == "seq")?;
        let parts: Vec<_> = value.split('/').collect();
        let [stream, number, taken] = parts[..] else {
            panic!("not STREAM/SEQ/MS: {value}");
        };
        let number = number.parse().expect("a number");
        let taken = taken.parse().expect("milliseconds");
        Some((stream.to_owned(), number, taken))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
}
