//! The write-ahead log, looked at before it is believed.
//!
//! SQLite ends the log at the first frame whose checksum does not fit. That is right after a
//! crash: what follows is a transaction that was never completed. But a bit that flips in an
//! older frame ends the log there as well, and every transaction behind it is gone without a
//! word.
//!
//! The checksum of each frame takes in that of the one before it. Each commit is synced before
//! the next one begins, so what a crash leaves behind the end is one commit at most; several
//! crashes may leave several, but they do not follow from one another. Two commits in one
//! unbroken chain behind the break are damage.
//!
//! The format is that of <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
const MAGIC: u32 = 0x377f_0682;

/// What is wrong with a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// Its header: none of what it holds would be read.
    Header,
    /// So many commits, at least, lie behind a frame that is not what was written.
    Commits(u64),
}

/// Looks at a log; none if it is sound, or not there. Nobody may write to it meanwhile.
pub(super) fn inspect(path: &Path) -> io::Result<Option<Damage>> {
    match File::open(path) {
        Ok(file) => read(BufReader::with_capacity(1 << 16, file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn read(mut log: impl Read) -> io::Result<Option<Damage>> {
    let mut header = [0; HEADER];
    if fill(&mut log, &mut header)? < HEADER {
        // Shorter than a header it holds nothing.
        return Ok(None);
    }
    let magic = word(&header, 0);
    let page = word(&header, 8) as usize;
    let big_endian = magic == MAGIC | 1;
    let sum = Checksum::default().add(&header[..24], big_endian);
    let known = magic & !1 == MAGIC && page.is_power_of_two() && (512..=1 << 16).contains(&page);
    let sound = known && sum.is(&header[24..]);
    let mut frame = vec![0; FRAME_HEADER + if sound { page } else { 0 }];
    if !sound {
        let more = fill(&mut log, &mut frame)? > 0;
        return Ok(more.then_some(Damage::Header));
    }
    let salt = &header[16..24];
    let mut before = sum;
    let mut whole = true;
    let mut chain = 0;
    let mut longest = 0;
    while fill(&mut log, &mut frame)? == frame.len() {
        let (head, content) = frame.split_at(FRAME_HEADER);
        // Other salts: left over from an earlier round through the file.
        let ours = &head[8..16] == salt;
        let sum = before.add(&head[..8], big_endian).add(content, big_endian);
        let follows = ours && sum.is(&head[16..]);
        // What stands there, so that the next frame can follow one that is damaged.
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
    Ok((longest > 1).then_some(Damage::Commits(longest)))
}

/// Reads until the buffer is full or there is no more; gives how much there was.
fn fill(log: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
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

/// The log's own checksum: two sums over words, each of which takes in the other.
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

    fn is(self, stored: &[u8]) -> bool {
        word(stored, 0) == self.0 && word(stored, 4) == self.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;
    use rusqlite::config::DbConfig;

    /// The log of so many commits, as SQLite leaves it after a crash.
    fn a_log(commits: usize) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let connection = Connection::open(&path).unwrap();
        connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .unwrap();
        connection
            .pragma_update(None, "journal_mode", "WAL")
            .unwrap();
        for n in 0..commits {
            let statement = if n == 0 {
                "CREATE TABLE t (x)"
            } else {
                "INSERT INTO t VALUES (zeroblob(100))"
            };
            connection.execute_batch(statement).unwrap();
        }
        drop(connection);
        std::fs::read(dir.path().join("a.db-wal")).unwrap()
    }

    #[test]
    fn what_sqlite_wrote_is_sound_wherever_it_was_cut_off() {
        let log = a_log(4);
        assert!(log.len() > 4 * 4096);
        for length in (0..log.len()).step_by(97).chain([log.len()]) {
            assert_eq!(read(&log[..length]).unwrap(), None, "{length}");
        }
    }

    #[test]
    fn a_flipped_bit_is_damage_unless_only_the_last_commit_is_behind_it() {
        let log = a_log(4);
        let frame = FRAME_HEADER + 4096;
        // Behind these bytes there are two commits of one frame each.
        let sure = log.len() - 2 * frame;
        for at in (0..log.len()).step_by(61).chain(0..HEADER + FRAME_HEADER) {
            let mut flipped = log.clone();
            flipped[at] ^= 1 << (at % 8);
            let found = read(&flipped[..]).unwrap();
            if at < HEADER {
                assert_eq!(found, Some(Damage::Header), "{at}");
            } else if at < sure {
                assert!(
                    matches!(found, Some(Damage::Commits(2..))),
                    "{at}: {found:?}"
                );
            }
        }
    }

    #[test]
    fn frames_of_an_earlier_round_are_no_damage() {
        // A round of one commit over one of four: other salts in what is left of it.
        let (earlier, later) = (a_log(4), a_log(1));
        let log = [&later[..], &earlier[later.len()..]].concat();
        assert_eq!(read(&log[..]).unwrap(), None);
    }
}
