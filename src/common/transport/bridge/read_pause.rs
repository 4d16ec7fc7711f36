//! For how long the broker is not read from while its packets come fast one by one. PURE.
//!
//! Each packet that is read alone wakes several threads, and the broker waits for a moment to wake the first of them.
//! What has come by the end of a pause costs hardly more than a single packet would.

use std::time::Duration;

/// There is a pause only if the last two reads were less than that apart.
const BURST: Duration = Duration::from_millis(1);

const MESSAGE_PAUSE: Duration = Duration::from_micros(200);

/// Shorter, because what is to be sent waits as well. The kernel may add another 50 µs.
const PUBACK_PAUSE: Duration = Duration::from_micros(50);

/// With fewer PUBACK due, the broker might have nothing to do before the pause is over. At QoS 2 it waits for each
/// PUBREL.
const MIN_AWAITED: usize = 32;

/// Where more PUBACK are read at once, there are few wake-ups already, and a pause would add to the round trip.
const MAX_PUBACKS: usize = 16;

/// What the connection receives from the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    Messages,
    /// How many of these the last read brought, and how many are due still.
    Pubacks {
        read: usize,
        awaited: usize,
    },
}

/// The pause before the next read, `since_last` being the time between the last two; none if it is worth nothing.
pub(super) fn read_pause(since_last: Option<Duration>, received: Received) -> Option<Duration> {
    since_last.filter(|since_last| *since_last < BURST)?;
    match received {
        Received::Messages => Some(MESSAGE_PAUSE),
        Received::Pubacks { read, awaited } => {
            (awaited >= MIN_AWAITED && read <= MAX_PUBACKS).then_some(PUBACK_PAUSE)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pubacks(read: usize, awaited: usize) -> Received {
        Received::Pubacks { read, awaited }
    }

    #[test]
    fn what_comes_seldom_is_read_at_once() {
        for received in [Received::Messages, pubacks(1, 99)] {
            assert_eq!(read_pause(None, received), None);
            assert_eq!(read_pause(Some(BURST), received), None);
        }
    }

    #[test]
    fn a_burst_is_gathered_except_where_the_broker_would_run_dry_or_pubacks_come_many_at_once() {
        let fast = Some(BURST / 2);
        assert_eq!(read_pause(fast, Received::Messages), Some(MESSAGE_PAUSE));
        assert_eq!(
            read_pause(fast, pubacks(MAX_PUBACKS, MIN_AWAITED)),
            Some(PUBACK_PAUSE)
        );
        assert_eq!(read_pause(fast, pubacks(1, MIN_AWAITED - 1)), None);
        assert_eq!(read_pause(fast, pubacks(MAX_PUBACKS + 1, 99)), None);
    }
}
