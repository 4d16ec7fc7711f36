//! Detects a queue file that was copied, moved or restored. A copy has the stream and the next
//! sequence number of the original: two machines, or one before and after a backup was restored,
//! would give one number to two messages. So the file remembers
//!
//! * **its location**: the machine (`/etc/machine-id`, and the serial number of the board where the
//!   device tree has one), device, inode and time of birth of the file; and the boot, where the root
//!   file system or the file's begins from the same image at every boot;
//! * **a token**, drawn with each stream. `FILE-lock` has it too and, behind it, the next number at the
//!   end of the run: an older copy that is written over the file has another one. (The number is not
//!   kept here because rewriting a database page at each start wears out flash memory.)
//!
//! A difference costs a new stream and nothing else. What cannot be detected in this way (the image
//! of a card, with machine-id, in two machines) the receiver detects by time and topic.

use std::fmt::Write as _;
use std::hash::Hasher as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::UNIX_EPOCH;

use nix::sys::statfs::statfs;
use rusqlite::{Connection, OptionalExtension as _, params};
use siphasher::sip::SipHasher13;

/// Types of file systems (`statfs(2)`) in memory or over an image: overlayfs, aufs, tmpfs, ramfs, squashfs.
const RESET_AT_BOOT: [u32; 5] = [
    0x794c_7630,
    0x6175_6673,
    0x0102_1994,
    0x8584_58f6,
    0x7371_7368,
];

pub(super) struct FileLocation {
    description: String,
    /// From `FILE-lock`.
    note: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum CopyCheckResult {
    Unknown,
    Original(String),
    Copy,
}

impl FileLocation {
    pub(super) fn of(queue: &Path, note: Option<String>) -> Self {
        Self {
            description: describe_location(queue),
            note,
        }
    }

    /// Compares with what the last process to drain the file has written into it.
    pub(super) fn check(
        &self,
        connection: &Connection,
        next_seq: u64,
    ) -> rusqlite::Result<CopyCheckResult> {
        let query = "SELECT place, token FROM home";
        let before = connection.query_row(query, [], |row| <(String, String)>::try_from(row));
        let Some((location, token)) = before.optional()? else {
            return Ok(CopyCheckResult::Unknown);
        };
        if location == self.description && self.has_matching_token(&token, next_seq) {
            return Ok(CopyCheckResult::Original(token));
        }
        Ok(CopyCheckResult::Copy)
    }

    fn has_matching_token(&self, token: &str, next_seq: u64) -> bool {
        let note = self.note.as_deref();
        let number = note.and_then(|note| note.strip_prefix(token));
        number.and_then(|number| number.parse().ok()) == Some(next_seq)
    }

    pub(super) fn write(&self, connection: &Connection, token: &str) -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO home (one, place, token) VALUES (1, ?1, ?2)";
        connection.execute(sql, params![self.description, token])?;
        Ok(())
    }
}

fn describe_location(queue: &Path) -> String {
    let machine = ["/etc/machine-id", "/proc/device-tree/serial-number"]
        .map(|file| std::fs::read(file).unwrap_or_default());
    let mut text = format!("machine {:016x}", hash(&machine));
    // Writing to a string cannot fail.
    if let Ok(file) = queue.metadata() {
        let born = file.created().ok();
        let born = born.and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        let born = born.map_or(0, |born| born.as_nanos());
        let (device, inode) = (file.dev(), file.ino());
        let _ = write!(text, " device {device} inode {inode} born {born}");
    }
    if is_reset_at_boot(Path::new("/")) || is_reset_at_boot(queue) {
        let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let _ = write!(text, " boot {:016x}", hash(&[boot]));
    }
    text
}

fn is_reset_at_boot(path: &Path) -> bool {
    // The width of the type depends on the architecture.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    statfs(path).is_ok_and(|found| RESET_AT_BOOT.contains(&(found.filesystem_type().0 as u32)))
}

/// machine-id(5): the identifier must not be passed on with the file, only a hash of it.
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
    use super::super::schema;
    use super::*;

    #[test]
    fn an_original_has_its_location_its_token_and_its_number() {
        let mut file = Connection::open_in_memory().unwrap();
        schema::migrate(&mut file).unwrap();
        let check = |location: &str, note: Option<&str>, next_seq| {
            let location = FileLocation {
                description: location.into(),
                note: note.map(Into::into),
            };
            let found = location.check(&file, next_seq).unwrap();
            (location, found)
        };
        let (first, found) = check("here", None, 1);
        assert_eq!(found, CopyCheckResult::Unknown);
        first.write(&file, "token").unwrap();
        let note = Some("token00000000000000000007");
        let original = CopyCheckResult::Original("token".into());
        assert_eq!(check("here", note, 7).1, original);
        for (location, note, next_seq) in [
            ("there", note, 7),
            ("", note, 7),
            ("here", note, 6),
            ("here", None, 7),
            ("here", Some("other00000000000000000007"), 7),
            ("here", Some("token--------------------"), 7),
            ("here", Some("to"), 7),
        ] {
            let found = check(location, note, next_seq).1;
            assert_eq!(
                found,
                CopyCheckResult::Copy,
                "{location} {note:?} {next_seq}"
            );
        }
    }

    #[test]
    fn a_location_names_machine_and_file_but_no_identifier_of_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        std::fs::write(&one, "x").unwrap();
        std::fs::copy(&one, &two).unwrap();
        let location = describe_location(&one);
        assert_eq!(location, describe_location(&one));
        assert_ne!(location, describe_location(&two));
        let id = std::fs::read_to_string("/etc/machine-id").unwrap_or_else(|_| "none".into());
        assert!(location.starts_with("machine ") && !location.contains(id.trim()));
    }
}
