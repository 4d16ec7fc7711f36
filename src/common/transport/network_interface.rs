//! Network interfaces by name.

use std::io;

use nix::net::if_::if_nametoindex;

/// The index of an interface, which may also be given as a number (RFC 4007, section 11.2).
pub(super) fn index(name: &str) -> io::Result<u32> {
    match (if_nametoindex(name), name.parse()) {
        (Ok(index), _) | (Err(_), Ok(index)) => Ok(index),
        (Err(errno), Err(_)) => Err(errno.into()),
    }
}
