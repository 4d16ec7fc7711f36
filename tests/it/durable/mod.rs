//! The durable queue: what `--queue` promises, and everything that may happen to the process,
//! the machine and the disk meanwhile.
//!
//! | module         | what is in there                                                 |
//! | -------------- | ---------------------------------------------------------------- |
//! | `promise`      | accepted, kept, sent later in order; what is written and when     |
//! | `limits`       | how much may wait, how long, and what cannot be delivered         |
//! | `shared`       | several publishers on one file                                   |
//! | `clock`        | `--expiry`, and a wall clock that is set                            |
//! | `crash`        | killed at random, over and over                                  |
//! | `crash_points` | killed before every single write and sync                        |
//! | `power_cut`    | a file system shut down without flushing                         |
//! | `full_disk`    | no space, and space again                                        |
//! | `failing_disk` | every sync failing, read-only, a limit on the size of files      |
//! | `damage`       | cut short, bits flipped, not ours, from the future               |
//! | `format`       | the file itself: golden data, the schema, an older version       |
//! | `gathering`    | written together, with `--commit-interval`                        |
//! | `gone`         | removed, moved or replaced under a running publisher              |
//! | `backlog`      | many messages: memory                                            |

mod backlog;
mod clock;
mod crash;
mod crash_points;
mod damage;
mod failing_disk;
mod format;
mod full_disk;
mod gathering;
mod gone;
mod limits;
mod power_cut;
mod promise;
mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::harness::peer::Witness;
use crate::harness::{Broker, SOON, wait_until};

/// The numbers of the receipts that begin with `what`.
fn receipts(lines: &[String], what: &str) -> Vec<u64> {
    let found = lines.iter().filter_map(|line| line.strip_prefix(what));
    let number = |rest: &str| rest.split_whitespace().next()?.parse().ok();
    found.map(|rest| number(rest).expect(rest)).collect()
}

/// How many lines of its input a publisher has accepted: receipts come in their order.
fn accepted(lines: &[String]) -> usize {
    receipts(lines, "accepted ").len()
}

/// Somebody who has been listening all along, and wrote down what came with which number.
struct Listener {
    witness: Witness,
}

/// What arrived.
#[derive(Debug, Default)]
struct Arrived {
    /// Payloads in the order in which each came for the first time.
    first: Vec<String>,
    /// How many came again.
    repeats: usize,
    /// Each payload's stream and number.
    numbers: BTreeMap<String, (String, u64)>,
}

impl Listener {
    fn start(broker: &Broker) -> Self {
        Self {
            witness: Witness::with_format(broker, "t", "%p %P"),
        }
    }

    /// Waits until all of these have arrived, and says which have not if it has to.
    fn wait_for(&self, payloads: &[String]) -> Arrived {
        let missing = || {
            let arrived: BTreeSet<_> = self.arrived().first.into_iter().collect();
            let missing = payloads.iter().filter(|p| !arrived.contains(*p));
            missing.cloned().collect::<Vec<_>>()
        };
        self.witness.lines.wait_count(payloads.len(), SOON * 30);
        let enough = || self.witness.lines.count() >= payloads.len();
        let complete = wait_until(SOON, || enough() && missing().is_empty());
        assert!(complete, "accepted and lost: {:?}", missing());
        self.arrived()
    }

    /// Waits until nothing more comes.
    fn settle(&self, quiet: Duration) {
        let lines = &self.witness.lines;
        while lines.wait_count(lines.count() + 1, quiet) {}
    }

    /// What has arrived so far. No payload may come under two numbers, and no number with two
    /// payloads.
    fn arrived(&self) -> Arrived {
        let mut arrived = Arrived::default();
        let mut payload_of = BTreeMap::new();
        for line in self.witness.lines.texts() {
            let (payload, property) = line.split_once(" seq:").expect(&line);
            let mut parts = property.split('/');
            let stream = parts.next().unwrap().to_owned();
            let number: u64 = parts.next().unwrap().parse().unwrap();
            let name = (stream, number);
            let other = payload_of.insert(name.clone(), payload.to_owned());
            assert!(other.is_none_or(|other| other == payload), "{line}");
            match arrived.numbers.insert(payload.to_owned(), name.clone()) {
                None => arrived.first.push(payload.to_owned()),
                Some(before) => {
                    assert_eq!(before, name, "{line}");
                    arrived.repeats += 1;
                }
            }
        }
        arrived
    }
}
