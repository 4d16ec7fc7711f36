//! Which of the messages received on one connection have been dealt with, and so which
//! acknowledgements may go out. PURE.
//!
//! The client library acknowledges in the order of arrival, one acknowledgement a message, and
//! long before the message has been dealt with; MQTT wants them in that order too (MQTT 5,
//! section 4.6). So counting is enough: the n-th may go out once the first n messages are done.

use std::collections::{BTreeSet, HashSet, VecDeque};

use super::framing::{Head, PUBLISH, PUBREL};

/// A message that the client library is about to hand over.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    id: u16,
    /// It has been handed over before: only its acknowledgement is to come.
    again: bool,
}

/// The books of a connection.
#[derive(Debug, Default)]
pub struct Books {
    arrivals: VecDeque<Arrival>,
    /// QoS 2 messages whose PUBREL has not come.
    in_progress: HashSet<u16>,
    /// The number of the last message handed over, from 1.
    handed: u64,
    /// All up to this number are done.
    done: u64,
    /// Done before their turn.
    ahead: BTreeSet<u64>,
}

impl Books {
    /// A packet is on its way to the client library.
    pub fn arrived(&mut self, head: Head) {
        match (head.kind, head.qos) {
            (PUBLISH, 1) => self.arrivals.push_back(Arrival {
                id: head.id,
                again: false,
            }),
            (PUBLISH, 2) => {
                let again = !self.in_progress.insert(head.id);
                self.arrivals.push_back(Arrival { id: head.id, again });
                self.pass_over();
            }
            (PUBREL, _) => {
                self.in_progress.remove(&head.id);
            }
            _ => {}
        }
    }

    /// The client library hands over a message above QoS 0: its number on the connection, and its
    /// packet identifier.
    pub fn hand_over(&mut self) -> (u64, u16) {
        self.pass_over();
        self.handed += 1;
        let id = self.arrivals.pop_front().map_or(0, |arrival| arrival.id);
        let number = self.handed;
        self.pass_over();
        (number, id)
    }

    /// These messages have been dealt with.
    pub fn settle(&mut self, numbers: std::ops::RangeInclusive<u64>) {
        for number in numbers {
            if number == self.done + 1 {
                self.done = number;
            } else if number > self.done {
                self.ahead.insert(number);
            }
        }
        while self.ahead.remove(&(self.done + 1)) {
            self.done += 1;
        }
    }

    /// How many acknowledgements may have gone out since the beginning.
    #[must_use]
    pub fn due(&self) -> u64 {
        self.done
    }

    /// What is not handed over a second time is acknowledged once its turn comes.
    fn pass_over(&mut self) {
        while self.arrivals.front().is_some_and(|next| next.again) {
            self.arrivals.pop_front();
            self.handed += 1;
            self.settle(self.handed..=self.handed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn publish(qos: u8, id: u16) -> Head {
        let kind = PUBLISH;
        Head { kind, qos, id }
    }

    #[test]
    fn acknowledgements_wait_for_their_turn() {
        let mut books = Books::default();
        for id in [7, 8, 9] {
            books.arrived(publish(1, id));
        }
        books.arrived(publish(0, 0));
        assert_eq!(books.hand_over(), (1, 7));
        assert_eq!(books.hand_over(), (2, 8));
        assert_eq!(books.hand_over(), (3, 9));
        books.settle(2..=3);
        assert_eq!(books.due(), 0);
        books.settle(1..=1);
        assert_eq!(books.due(), 3);
    }

    #[test]
    fn a_repeated_qos_2_message_costs_an_acknowledgement_and_no_message() {
        let mut books = Books::default();
        books.arrived(publish(2, 5));
        books.arrived(publish(2, 5));
        books.arrived(publish(1, 6));
        assert_eq!(books.hand_over(), (1, 5));
        assert_eq!(books.hand_over(), (3, 6));
        books.settle(1..=1);
        assert_eq!(books.due(), 2);
        books.settle(3..=3);
        assert_eq!(books.due(), 3);
        // After PUBREL the identifier is free.
        let (kind, qos, id) = (PUBREL, 0, 5);
        books.arrived(Head { kind, qos, id });
        books.arrived(publish(2, 5));
        assert_eq!(books.hand_over(), (4, 5));
    }

    proptest! {
        #[test]
        fn none_is_due_before_all_before_it_are_done(order in Just((1u64..=40).collect::<Vec<_>>()).prop_shuffle()) {
            let mut books = Books::default();
            for number in 1..=40u16 {
                books.arrived(publish(1, number));
                books.hand_over();
            }
            let mut done = BTreeSet::new();
            for number in order {
                books.settle(number..=number);
                done.insert(number);
                let expected = (1..=40).take_while(|n| done.contains(n)).count() as u64;
                prop_assert_eq!(books.due(), expected);
            }
        }
    }
}
