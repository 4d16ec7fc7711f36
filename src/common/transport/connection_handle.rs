//! Closes a connection from another thread.

use std::io;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::socket::Socket;

/// Shared by the thread that dials, or relays a connection's bytes, and the one that may end it.
#[derive(Debug, Default)]
pub struct ConnectionHandle {
    /// Changes under the lock of `stream`.
    cancelled: AtomicBool,
    stream: Mutex<Option<Socket>>,
    /// SUBSCRIBEs that the broker has refused with MQTT 3.1.1.
    pub(super) refused_subscriptions: AtomicUsize,
}

impl ConnectionHandle {
    pub fn cancel(&self) {
        let mut attached = self.stream.lock();
        self.cancelled.store(true, Ordering::Release);
        if let Some(stream) = attached.take() {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Whether there is a refused SUBSCRIBE that has not been taken yet. The client library does
    /// not distinguish a refusal with MQTT 3.1.1 from a SUBSCRIBE that could not be sent.
    pub fn take_refused_subscribe(&self) -> bool {
        let take = |refused: usize| refused.checked_sub(1);
        let counter = &self.refused_subscriptions;
        counter
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, take)
            .is_ok()
    }

    pub(super) fn attach(&self, stream: &Socket) -> io::Result<()> {
        let stream = stream.try_clone()?;
        let mut attached = self.stream.lock();
        if self.is_cancelled() {
            let _ = stream.shutdown(Shutdown::Both);
        } else {
            *attached = Some(stream);
        }
        Ok(())
    }
}
