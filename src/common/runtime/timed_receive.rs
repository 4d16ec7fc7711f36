//! How event loops wait for events. Unlike the standard library's functions, these keep their
//! deadlines under a C library whose clock is replaced (libfaketime).

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::{Duration, Instant};

use super::clock::{CLOCKS_AGREE, instant_now, sleep};

/// How often to look for an event where the two clocks do not agree.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// As [`Receiver::recv_timeout`].
pub fn receive_within<E>(inbox: &Receiver<E>, within: Duration) -> Result<E, RecvTimeoutError> {
    if *CLOCKS_AGREE {
        return inbox.recv_timeout(within);
    }
    let until = instant_now() + within;
    loop {
        match inbox.try_recv() {
            Ok(event) => return Ok(event),
            Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
            Err(TryRecvError::Empty) if instant_now() >= until => {
                return Err(RecvTimeoutError::Timeout);
            }
            Err(TryRecvError::Empty) => sleep(POLL_INTERVAL),
        }
    }
}

/// The next event; `None` at the deadline, or when there is no sender any more.
pub fn receive_until<E>(inbox: &Receiver<E>, deadline: Option<Instant>) -> Option<E> {
    match deadline {
        Some(at) => receive_within(inbox, at.saturating_duration_since(instant_now())).ok(),
        None => inbox.recv().ok(),
    }
}

/// Sends an event to a loop. It is lost if the loop has ended: then the process is ending.
pub fn send<E>(events: &Sender<E>, event: E) {
    let _ = events.send(event);
}
