//! Carries packets between the broker and the client library, which holds the other end of a
//! local socket and believes that it is connected.
//!
//! One thread per connection, which has dialled it before: it sleeps in `poll(2)` until there is
//! something to carry. The `guard` looks at each packet of the broker; what the client library
//! sends passes as it is. Each direction holds little: whoever is slow holds the other up, as on any
//! connection.
//!
//! * `carrier` carries, `guard` decides what becomes of a packet, `incoming` finds the packets;
//! * `receiver` is who is handed messages, `end` how a connection ends;
//! * `wire` is the broker's side of the bridge, `line` whether what is sent gets through.

mod carrier;
mod end;
mod guard;
mod incoming;
mod line;
#[cfg(test)]
mod packets;
mod ready;
mod receiver;
pub(super) mod wire;

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::{ConnectionHandle, DialedConnection, send_queue, tls_error};
use carrier::Carrier;
pub use end::{Direction, End, Reached, Report, Severed};
pub use guard::Agreement;
use guard::Guard;
pub use receiver::{Ended, OnEnded, OnMessage, OnSkipped, OutOfMemory, Receiver, Skipped};
use wire::linger;

/// How long the next PUBREL may take, when the connection of a subscriber is to end and its PUBREC has gone out, and how
/// long all of them may.
const PUBREL_TIMEOUT: Duration = Duration::from_secs(1);
const ALL_PUBRELS_TIMEOUT: Duration = Duration::from_millis(2_500);

/// How long a broker that has been sent DISCONNECT may take to close the connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The same for one that breaks the protocol.
const VIOLATION_CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// How long the connection of a subscriber takes to end in order, at most.
pub const END_TIMEOUT: Duration = ALL_PUBRELS_TIMEOUT.saturating_add(CLOSE_TIMEOUT);

/// Carries packets until either side has ended the connection.
pub fn carry(
    connected: DialedConnection,
    local: &UnixStream,
    handle: &ConnectionHandle,
    agreement: Agreement,
    receiver: Option<&Receiver>,
    report: &mut dyn FnMut(Report),
) {
    let DialedConnection {
        endpoint,
        wire,
        credentials,
    } = connected;
    let guard = Guard::new(agreement, receiver);
    let mut bridge = Carrier::new(wire, local, handle, guard, report);
    let ended = bridge.set_up().and_then(|()| bridge.run());
    let in_order = matches!(&ended, Ok(End::Lost | End::Disconnected(_)));
    let severed = Severed {
        reached: in_order.then(|| bridge.reached()),
        fault: ended
            .as_ref()
            .err()
            .and_then(|error| tls_error::closing_fault(&endpoint, &credentials, error)),
        cause: ended.as_ref().err().map(ToString::to_string),
        end: ended.unwrap_or(End::Lost),
        in_order: bridge.closed && bridge.incoming.expected() == 0,
        in_packet: bridge.incoming.expected() > 0,
    };
    let by_us = severed.end == End::ByUs;
    let code = severed.end.code();
    if let Some(code) = code.filter(|_| agreement.v5) {
        let is_for_memory = matches!(severed.end, End::NoMemory(_));
        bridge.send_disconnect(code, is_for_memory);
    }
    bridge.wire.close();
    if by_us && receiver.is_some() && bridge.guard.is_connected() {
        linger(bridge.wire.stream().tcp(), CLOSE_TIMEOUT);
    }
    (bridge.report)(Report::Severed(severed));
    // What it has been sent it still reads.
    let _ = local.shutdown(Shutdown::Both);
    if code.is_some() {
        linger(bridge.wire.stream().tcp(), VIOLATION_CLOSE_TIMEOUT);
    }
}
