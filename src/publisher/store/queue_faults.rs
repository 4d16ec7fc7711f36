//! Faults of a queue file: what an error means at which time, and what to do about it.

use std::io;
use std::path::Path;

use super::sqlite::{is_damage, is_full};
use crate::common::fault::{Exit, Fault, FaultCause};

const DAMAGED: &str = "is damaged";

/// `why` continues "the queue ...".
pub(super) fn fault_with_reason(queue: &Path, why: &str) -> Fault {
    let message = format!("{}: the queue {why}", queue.display());
    Fault::permanent(Exit::CannotCreate, message)
}

pub(super) fn cannot_open(queue: &Path, why: &str) -> Fault {
    fault_with_reason(queue, &format!("cannot be opened: {why}"))
}

pub(super) fn open_io_fault(queue: &Path, error: &io::Error) -> Fault {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => "; nothing was ever queued there, or the name is another",
        io::ErrorKind::PermissionDenied => "; run this as the user of the publisher",
        _ => "",
    };
    cannot_open(queue, &format!("{error}{remedy}"))
}

pub(super) fn damaged(queue: &Path, how: &str) -> Fault {
    fault_with_reason(queue, &format!("{DAMAGED}: {how}"))
        .with_remedy(damage_remedy(queue))
        .with_kind(FaultCause::Damaged)
}

fn damage_remedy(queue: &Path) -> String {
    let name = queue.display();
    format!(
        "`publisher queue export --queue {name}` saves what can be read, `publisher queue purge --queue {name}` moves it aside"
    )
}

pub(super) fn open_error(queue: &Path, error: &rusqlite::Error) -> Fault {
    if is_damage(error) || is_full(error) {
        damage_or_write_error(queue, error)
    } else {
        cannot_open(queue, &error.to_string())
    }
}

pub(super) fn damage_or_write_error(queue: &Path, error: &rusqlite::Error) -> Fault {
    if is_damage(error) {
        damaged(queue, &error.to_string())
    } else {
        write_error(queue, error)
    }
}

/// Nothing more may be written.
pub(super) fn write_error(queue: &Path, error: &rusqlite::Error) -> Fault {
    let (what, remedy) = if is_damage(error) {
        (DAMAGED, damage_remedy(queue))
    } else {
        let remedy = "what was accepted before is on disk; check the disk";
        ("cannot be written", remedy.into())
    };
    let message = format!("{}: the queue {what}: {error}; {remedy}", queue.display());
    Fault::permanent(Exit::Io, message)
}
