//! Finds damage in SQLite's write-ahead log that SQLite does not report.
//!
//! SQLite ends the log at the first frame whose checksum is wrong. That is right after a crash: the rest is a
//! transaction that was never completed. But if a bit flips in an older frame, the log ends there as well, and SQLite
//! silently drops all later transactions.
//!
//! The checksum of each frame covers that of the frame before. Each commit is synced before the next one begins, so a
//! crash leaves at most one commit behind the end; several crashes may leave several, but they do not form one chain.
//! Two commits in one unbroken chain behind the end are damage.
//!
//! Format: <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
const MAGIC: u32 = 0x377f_0682;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WalDamage {
    Header,
    /// At least this many commits lie behind a damaged frame.
    Commits(u64),
}

impl fmt::Display for WalDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WalDamage::Header => f.write_str("its log does not begin as it should"),
            WalDamage::Commits(lost) => write!(f, "{lost} commits in its log cannot be read"),
        }
    }
}

/// None if the log is sound or does not exist. Nobody may write to it meanwhile.
pub(super) fn find_damage(path: &Path) -> io::Result<Option<WalDamage>> {
    match File::open(path) {
        Ok(file) => read(BufReader::with_capacity(1 << 16, file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn read(mut log: impl Read) -> io::Result<Option<WalDamage>> {
    let mut header = [0; HEADER];
    if read_full(&mut log, &mut header)? < HEADER {
        return Ok(None);
    }
    let magic = word(&header, 0);
    let page_size = word(&header, 8) as usize;
    let big_endian = magic == MAGIC | 1;
    let sum = Checksum::default().add(&header[..24], big_endian);
    let known =
        magic & !1 == MAGIC && page_size.is_power_of_two() && (512..=1 << 16).contains(&page_size);
    if !known || !sum.matches(&header[24..]) {
        let more = read_full(&mut log, &mut header)? > 0;
        return Ok(more.then_some(WalDamage::Header));
    }
    let mut frame = vec![0; FRAME_HEADER + page_size];
    let salt = &header[16..24];
    let mut before = sum;
    let mut whole = true;
    let mut chain = 0;
    let mut longest = 0;
    while read_full(&mut log, &mut frame)? == frame.len() {
        let (head, content) = frame.split_at(FRAME_HEADER);
        // Frames with other salts are left over from before the last checkpoint.
        let ours = &head[8..16] == salt;
        let sum = before.add(&head[..8], big_endian).add(content, big_endian);
        let follows = ours && sum.matches(&head[16..]);
        // The stored checksum: the next frame can be valid behind a damaged one.
        before = Checksum(word(head, 16), word(head, 20));
        whole &= follows;
        if !follows {
            chain = 0;
        }
        if !whole && ours && word(head, 4) != 0 {
            chain += 1;
            longest = longest.max(chain);
        }
    }
    Ok((longest > 1).then_some(WalDamage::Commits(longest)))
}

fn read_full(log: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match log.read(&mut buffer[length..])? {
            0 => break,
            more => length += more,
        }
    }
    Ok(length)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(word)
}

/// The log's checksum: two sums over words, each of which includes the other.
#[derive(Clone, Copy, Default)]
struct Checksum(u32, u32);

impl Checksum {
    fn add(self, bytes: &[u8], big_endian: bool) -> Self {
        let Self(mut first, mut second) = self;
        for pair in bytes.chunks_exact(8) {
            let at = |at| {
                let word = word(pair, at);
                if big_endian { word } else { word.swap_bytes() }
            };
            first = first.wrapping_add(at(0)).wrapping_add(second);
            second = second.wrapping_add(at(4)).wrapping_add(first);
        }
        Self(first, second)
    }

    fn matches(self, stored: &[u8]) -> bool {
        word(stored, 0) == self.0 && word(stored, 4) == self.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;
    use rusqlite::config::DbConfig;

    fn log_of(commits: usize) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let connection = Connection::open(&path).unwrap();
        let keep_log = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
        connection.set_db_config(keep_log, true).unwrap();
        let begin = "PRAGMA journal_mode = WAL; CREATE TABLE t (x)";
        connection.execute_batch(begin).unwrap();
        for _ in 1..commits {
            let insert = "INSERT INTO t VALUES (zeroblob(100))";
            connection.execute_batch(insert).unwrap();
        }
        drop(connection);
        std::fs::read(dir.path().join("a.db-wal")).unwrap()
    }

    #[test]
    fn a_log_of_sqlite_is_sound_wherever_it_was_cut_off() {
        let log = log_of(4);
        assert!(log.len() > 4 * 4096);
        for length in (0..log.len()).step_by(97).chain([log.len()]) {
            assert_eq!(read(&log[..length]).unwrap(), None, "{length}");
        }
    }

    #[test]
    fn a_flipped_bit_is_damage_unless_only_the_last_commit_is_behind_it() {
        let log = log_of(4);
        let frame = FRAME_HEADER + 4096;
        // Two commits of one frame each lie behind these bytes.
        let sure = log.len() - 2 * frame;
        for at in (0..log.len()).step_by(61).chain(0..HEADER + FRAME_HEADER) {
            let mut flipped = log.clone();
            flipped[at] ^= 1 << (at % 8);
            let found = read(&flipped[..]).unwrap();
            if at < HEADER {
                assert_eq!(found, Some(WalDamage::Header), "{at}");
            } else if at < sure {
                let detected = matches!(found, Some(WalDamage::Commits(2..)));
                assert!(detected, "{at}: {found:?}");
            }
        }
    }

    #[test]
    fn frames_from_before_a_checkpoint_are_no_damage() {
        // One commit was written over four: the rest of these has other salts.
        let (earlier, later) = (log_of(4), log_of(1));
        let log = [&later[..], &earlier[later.len()..]].concat();
        assert_eq!(read(&log[..]).unwrap(), None);
    }
}
