//! Where a queue file lives. A copy of a queue file has the stream of the original, and the same
//! next number: two machines, or one before and after a backup was put back, would give one number to two
//! messages. So the file remembers
//!
//! * **its place**: the machine (`/etc/machine-id`, and the serial number of the board where the
//!   device tree has one), device, inode and time of birth of the file; and the boot, where the root
//!   file system or the file's own begins from the same image at every boot;
//! * **a token**, drawn with each stream. `FILE-lock` has it too and, behind it, the next number at the end of
//!   the run: an older copy that is written over the file in its place has another one. (The number stands there
//!   and not here because a page that is written at each start wears out flash memory.)
//!
//! What differs costs a new stream and nothing else. What cannot be told apart in this way (the image of
//! a card, with machine-id, in two machines) the receiver tells apart by time of acceptance and topic.

use std::fmt::Write as _;
use std::hash::Hasher as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::UNIX_EPOCH;

use nix::sys::statfs::statfs;
use rusqlite::{Connection, OptionalExtension as _, params};
use siphasher::sip::SipHasher13;

/// Types of file systems (`statfs(2)`) that lie in memory, or over an image: overlayfs, aufs, tmpfs,
/// ramfs, squashfs.
const RESET_AT_BOOT: [u32; 5] = [
    0x794c_7630,
    0x6175_6673,
    0x0102_1994,
    0x8584_58f6,
    0x7371_7368,
];

/// Where a file lives now.
pub(super) struct Home {
    place: String,
    /// The note that was found in `FILE-lock`.
    note: Option<String>,
}

impl Home {
    /// The home of a queue file; `note` is what `FILE-lock` says.
    pub(super) fn of(queue: &Path, note: Option<String>) -> Self {
        Self {
            place: place(queue),
            note,
        }
    }

    /// The token of the file, if the process that drained last did so here and went as far as the
    /// file says.
    pub(super) fn token(&self, connection: &Connection, next_seq: u64) -> rusqlite::Result<Found> {
        let before: Option<(String, String)> = connection
            .query_row("SELECT place, token FROM home", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?;
        Ok(match before {
            None => Found::New,
            Some((place, token)) if place == self.place && self.has_noted(&token, next_seq) => {
                Found::Here(token)
            }
            Some(_) => Found::Elsewhere,
        })
    }

    fn has_noted(&self, token: &str, next_seq: u64) -> bool {
        let note = self.note.as_deref();
        let number = note.and_then(|note| note.strip_prefix(token));
        number.and_then(|number| number.parse().ok()) == Some(next_seq)
    }

    /// Notes it, with a new token.
    pub(super) fn write(&self, connection: &Connection, token: &str) -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO home (one, place, token) VALUES (1, ?1, ?2)";
        connection.execute(sql, params![self.place, token])?;
        Ok(())
    }
}

/// What a file says of where it was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nobody has drained it, or only a program that did not note where: it is taken for what it was.
    New,
    /// Here, with this token.
    Here(String),
    /// It is a copy, or has been moved.
    Elsewhere,
}

/// The place in words. What cannot be found out is left empty.
fn place(queue: &Path) -> String {
    let machine = ["/etc/machine-id", "/proc/device-tree/serial-number"]
        .map(|file| std::fs::read(file).unwrap_or_default());
    let mut place = format!("machine {:016x}", hash(&machine));
    if let Ok(file) = queue.metadata() {
        let born = file.created().ok();
        let born = born.and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        let born = born.map_or(0, |born| born.as_nanos());
        // Writing to a string has no way to fail.
        let _ = write!(place, " device {} inode {}", file.dev(), file.ino());
        let _ = write!(place, " born {born}");
    }
    if is_reset_at_boot(Path::new("/")) || is_reset_at_boot(queue) {
        let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let _ = write!(place, " boot {:016x}", hash(&[boot]));
    }
    place
}

fn is_reset_at_boot(path: &Path) -> bool {
    // The type has another width on each architecture.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    statfs(path).is_ok_and(|found| RESET_AT_BOOT.contains(&(found.filesystem_type().0 as u32)))
}

/// A machine's identifier is not to be given away with the file (machine-id(5)): only a hash is.
fn hash(identifiers: &[Vec<u8>]) -> u64 {
    let mut hasher = SipHasher13::new();
    for identifier in identifiers {
        hasher.write(identifier);
        hasher.write_u8(0);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publisher::store::schema;

    fn file() -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::migrate(&mut connection).unwrap();
        connection
    }

    fn home(place: &str, note: Option<&str>) -> Home {
        Home {
            place: place.into(),
            note: note.map(Into::into),
        }
    }

    #[test]
    fn a_file_is_at_home_with_its_place_its_token_and_its_number() {
        let file = file();
        let first = home("here", None);
        assert_eq!(first.token(&file, 1).unwrap(), Found::New);
        first.write(&file, "token").unwrap();
        let found = |place, note, next_seq| home(place, note).token(&file, next_seq).unwrap();
        let note = Some("token00000000000000000007");
        assert_eq!(found("here", note, 7), Found::Here("token".into()));
        for (place, note, next_seq) in [
            ("there", note, 7),
            ("", note, 7),
            ("here", note, 6),
            ("here", None, 7),
            ("here", Some("other00000000000000000007"), 7),
            ("here", Some("token--------------------"), 7),
            ("here", Some("to"), 7),
        ] {
            let found = found(place, note, next_seq);
            assert_eq!(found, Found::Elsewhere, "{place} {note:?} {next_seq}");
        }
    }

    #[test]
    fn a_place_says_machine_and_file_and_no_identifier_of_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        std::fs::write(&one, "x").unwrap();
        std::fs::copy(&one, &two).unwrap();
        assert_eq!(place(&one), place(&one));
        assert_ne!(place(&one), place(&two));
        let id = std::fs::read_to_string("/etc/machine-id").unwrap_or_else(|_| "none".into());
        assert!(!place(&one).contains(id.trim()));
        assert!(place(&one).starts_with("machine "));
    }
}
