//! A file that is replaced as a whole, if need be by one program at a time.
//!
//! What is new goes to `FILE.tmp`, which then takes the place of `FILE`, so that a reader never sees half of it. Nothing is
//! synced: after a power cut the next run writes it again. With [`ReplacedFile`] the program that has written `FILE`
//! keeps it open and locked (flock(2)), so that another one that is given the same path leaves it alone. The kernel releases the lock of a program
//! that was killed. On a file system without locks nothing is noticed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// How often the file may be replaced by others while this program opens it.
const MAX_TRIES: usize = 10;

#[derive(Debug)]
pub struct ReplacedFile {
    path: PathBuf,
    mode: u32,
    /// What is at the path, locked.
    current: Option<File>,
}

impl ReplacedFile {
    /// `mode` is that of the file, whatever the umask.
    pub fn new(path: &Path, mode: u32) -> Self {
        Self {
            path: path.to_owned(),
            mode,
            current: None,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn replace(&mut self, content: &[u8]) -> io::Result<()> {
        let target = find_target(&self.path)?;
        self.lock(&target)?;
        self.current = Some(replace_target(&target, content, self.mode)?);
        Ok(())
    }

    /// Locks what is at the path, unless this program has written it. An error if another running program has.
    fn lock(&mut self, target: &Path) -> io::Result<()> {
        for _ in 0..MAX_TRIES {
            if let Some(current) = &self.current
                && is_at(current, target)
            {
                return Ok(());
            }
            // Over NFS, only a file that is open for writing can be locked.
            let writable = OpenOptions::new().read(true).write(true).open(target);
            let Ok(found) = writable.or_else(|_| File::open(target)) else {
                self.current = None;
                return Ok(());
            };
            match found.try_lock() {
                // It may have been replaced since it was opened.
                Ok(()) => self.current = Some(found),
                Err(TryLockError::WouldBlock) => break,
                Err(TryLockError::Error(_)) => return Ok(()),
            }
        }
        self.current = None;
        let what = "another running program writes it; give each program a separate file";
        Err(io::Error::other(what))
    }
}

/// Replaces a file whoever else may do so; the last one wins. `mode` is that of the file, whatever the umask.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    replace_target(&find_target(path)?, content, mode).map(drop)
}

/// A symbolic link stays one.
fn find_target(path: &Path) -> io::Result<PathBuf> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if is_unsuitable(&target) {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(target)
}

fn replace_target(target: &Path, content: &[u8], mode: u32) -> io::Result<File> {
    let temporary = temporary_path(target);
    let written = write_new(&temporary, content, mode).and_then(|file| {
        fs::rename(&temporary, target)?;
        Ok(file)
    });
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// An existing file that cannot be replaced by a regular one: a device, a directory.
pub fn is_unsuitable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !found.is_file())
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// `node_exporter` reads only names that end with `.prom`. An earlier run that was killed may have left the file.
fn temporary_path(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

/// Others may be able to write to the directory: what is there is never written to.
fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => return Err(cause),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
    // Nobody else knows it yet, so this fails only without locks.
    let _ = file.try_lock();
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(content)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODE: u32 = 0o644;

    #[test]
    fn the_file_is_replaced_and_readable_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.prom");
        let names = || {
            let entries = fs::read_dir(dir.path()).unwrap();
            entries
                .map(|entry| entry.unwrap().file_name())
                .collect::<Vec<_>>()
        };
        fs::write(temporary_path(&file), "left by a run that was killed").unwrap();
        let mut replaced = ReplacedFile::new(&file, MODE);
        for text in ["one\n", "two\n"] {
            replaced.replace(text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
            assert_eq!(names(), ["a.prom"]);
        }
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
    }

    #[test]
    fn what_is_no_regular_file_is_not_replaced_and_a_symbolic_link_stays() {
        let dir = tempfile::tempdir().unwrap();
        let replace = |path: &Path| ReplacedFile::new(path, MODE).replace(b"x");
        assert!(replace(Path::new("/dev/null")).is_err());
        assert!(replace(dir.path()).is_err());
        let (file, alias) = (dir.path().join("a.prom"), dir.path().join("b.prom"));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &alias).unwrap();
        replace(&alias).unwrap();
        assert!(fs::symlink_metadata(&alias).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "x");
    }

    #[test]
    fn of_two_programs_the_first_writes_the_file_and_the_second_one_after_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.prom");
        fs::write(&file, "of a run that was killed").unwrap();
        let (mut first, mut second) = (
            ReplacedFile::new(&file, MODE),
            ReplacedFile::new(&file, MODE),
        );
        for text in [b"one", b"two"] {
            first.replace(text).unwrap();
            let refused = second.replace(b"no").unwrap_err().to_string();
            assert!(
                refused.starts_with("another running program writes it;"),
                "{refused}"
            );
            assert_eq!(fs::read(&file).unwrap(), text);
        }
        drop(first);
        second.replace(b"second").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"second");
        // A user has removed it.
        fs::remove_file(&file).unwrap();
        second.replace(b"again").unwrap();
        assert!(ReplacedFile::new(&file, MODE).replace(b"no").is_err());
    }
}
