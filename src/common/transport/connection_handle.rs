//! Closes a connection from another thread.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// Shared by the thread that dials, or carries a connection's bytes, and the one that may end it.
#[derive(Debug, Default)]
pub struct ConnectionHandle {
    state: Mutex<State>,
    /// SUBSCRIBEs that the broker has refused with MQTT 3.1.1.
    pub(super) refused_subscriptions: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    cancelled: bool,
    stream: Option<TcpStream>,
}

impl ConnectionHandle {
    /// Closes the connection, or ends the dial.
    pub fn cancel(&self) {
        let mut state = self.state.lock();
        state.cancelled = true;
        if let Some(stream) = state.stream.take() {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn is_cancelled(&self) -> bool {
        self.state.lock().cancelled
    }

    /// Whether there is a refused SUBSCRIBE that has not been taken yet. The client library does
    /// not distinguish a refusal with MQTT 3.1.1 from a SUBSCRIBE that could not be sent.
    pub fn take_refused_subscription(&self) -> bool {
        self.refused_subscriptions
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |refused| {
                refused.checked_sub(1)
            })
            .is_ok()
    }

    /// From now on `cancel` closes this connection.
    pub(super) fn attach(&self, stream: &TcpStream) -> io::Result<()> {
        let stream = stream.try_clone()?;
        let mut state = self.state.lock();
        if state.cancelled {
            let _ = stream.shutdown(Shutdown::Both);
        } else {
            state.stream = Some(stream);
        }
        Ok(())
    }
}
