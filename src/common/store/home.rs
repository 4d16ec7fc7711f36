//! Where a queue file lives. A copy of a queue file has the stream of the original, and the same
//! next number: two machines, or one before and after a backup was put back, would give one number to two
//! messages. So the file remembers
//!
//! * **its place**: the machine (`/etc/machine-id`, and the serial number of the board where the
//!   device tree has one), device, inode and time of birth of the file; and the boot, where the root
//!   file system or the file's own begins from the same image at every boot;
//! * **a token** that each process that drains draws anew and writes into `FILE-lock` as well: an older copy
//!   that is written over the file in its place has another one.
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
    /// The token that was found in `FILE-lock`.
    found: Option<String>,
    /// The one of this process.
    token: String,
}

impl Home {
    /// The home of a queue file; `found` is the token beside it, `token` the one of this process.
    pub(super) fn of(queue: &Path, found: Option<String>, token: &str) -> Self {
        Self {
            place: place(queue),
            found,
            token: token.to_owned(),
        }
    }

    /// Whether the process that drained last did so here. If none ever has, or only one that did
    /// not note where, the file is taken for what it was.
    pub(super) fn was_here(&self, connection: &Connection) -> rusqlite::Result<bool> {
        let before: Option<(String, String)> = connection
            .query_row("SELECT place, token FROM home", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?;
        Ok(before.is_none_or(|(place, token)| {
            place == self.place && self.found.as_ref() == Some(&token)
        }))
    }

    /// Notes it.
    pub(super) fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO home (one, place, token) VALUES (1, ?1, ?2)";
        connection.execute(sql, params![self.place, self.token])?;
        Ok(())
    }
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
    use crate::common::store::schema;

    fn file() -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::migrate(&mut connection).unwrap();
        connection
    }

    fn home(place: &str, found: Option<&str>, token: &str) -> Home {
        Home {
            place: place.into(),
            found: found.map(Into::into),
            token: token.into(),
        }
    }

    #[test]
    fn a_file_is_at_home_with_its_place_and_its_token() {
        let file = file();
        let first = home("here", None, "a");
        assert!(first.was_here(&file).unwrap(), "nobody has drained it");
        first.write(&file).unwrap();
        assert!(home("here", Some("a"), "b").was_here(&file).unwrap());
        for (place, found) in [
            ("there", Some("a")),
            ("here", Some("0")),
            ("here", None),
            ("", Some("a")),
        ] {
            let moved = home(place, found, "b");
            assert!(!moved.was_here(&file).unwrap(), "{place} {found:?}");
        }
        home("here", Some("a"), "b").write(&file).unwrap();
        assert!(!home("here", Some("a"), "c").was_here(&file).unwrap());
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
