//! Remembers for a day, across runs, that something about a file has been logged: in a file of a private directory.

use std::fs::{DirBuilder, File};
use std::hash::Hasher as _;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::geteuid;
use siphasher::sip::SipHasher13;

pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug)]
pub struct DailyStamp {
    directory: OwnedFd,
    name: String,
}

impl DailyStamp {
    /// The stamp for a file. An error if the directory cannot be made, or is not private.
    pub fn of(subject: &Path) -> io::Result<Self> {
        Self::in_directory(&directory(), subject)
    }

    fn in_directory(directory: &Path, subject: &Path) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let directory = open(directory, flags, Mode::empty())?;
        let stat = fstat(&directory)?;
        if stat.st_uid != geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut hasher = SipHasher13::new();
        hasher.write(std::path::absolute(subject)?.as_os_str().as_bytes());
        let name = format!("expiry-{:016x}", hasher.finish());
        Ok(Self { directory, name })
    }

    /// Whether it was set in the 24 hours before `now`.
    pub fn is_recent(&self, now: SystemTime) -> bool {
        let set_at = self.read().ok().and_then(|text| text.parse().ok());
        let set_at = set_at.and_then(|s| UNIX_EPOCH.checked_add(Duration::from_secs(s)));
        // One from the future was set by a wrong clock.
        set_at.is_some_and(|at| now.duration_since(at).is_ok_and(|age| age < DAY))
    }

    /// If that fails, the next run logs it again.
    pub fn set(&self, now: SystemTime) {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC;
        let _ = self
            .open(flags)
            .and_then(|mut file| write!(file, "{seconds}"));
    }

    fn read(&self) -> io::Result<String> {
        let mut text = String::new();
        self.open(OFlag::O_RDONLY)?
            .take(32)
            .read_to_string(&mut text)?;
        Ok(text)
    }

    fn open(&self, flags: OFlag) -> io::Result<File> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        Ok(openat(&self.directory, self.name.as_str(), flags, mode)?.into())
    }
}

fn directory() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let parent = runtime.filter(|path| path.is_absolute());
    let parent = parent.unwrap_or_else(std::env::temp_dir);
    parent.join(format!("iot-pubsub-{}", geteuid()))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::common::runtime::clock::wall_clock;

    #[test]
    fn a_stamp_is_recent_for_a_day_and_only_for_its_file() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("private");
        let stamp = |subject: &str| DailyStamp::in_directory(&directory, Path::new(subject));
        let now = wall_clock();
        assert!(!stamp("/a").unwrap().is_recent(now));
        stamp("/a").unwrap().set(now);
        let second = Duration::from_secs(1);
        for (at, expected) in [
            (now + second, true),
            (now + DAY - second, true),
            (now + DAY, false),
            (now - second * 2, false),
        ] {
            assert_eq!(stamp("/a").unwrap().is_recent(at), expected);
        }
        assert!(!stamp("/b").unwrap().is_recent(now + second));
        stamp("/a").unwrap().set(now + DAY);
        assert!(stamp("/a").unwrap().is_recent(now + DAY + second));
    }

    #[test]
    fn a_directory_that_others_can_use_and_a_symbolic_link_are_refused() {
        let parent = tempfile::tempdir().unwrap();
        let open = parent.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o750)).unwrap();
        assert!(DailyStamp::in_directory(&open, Path::new("/a")).is_err());
        fs::set_permissions(&open, Permissions::from_mode(0o700)).unwrap();
        let stamp = DailyStamp::in_directory(&open, Path::new("/a")).unwrap();
        let alias = parent.path().join("alias");
        symlink(&open, &alias).unwrap();
        assert!(DailyStamp::in_directory(&alias, Path::new("/a")).is_err());
        let target = parent.path().join("target");
        fs::write(&target, "kept").unwrap();
        symlink(&target, open.join(&stamp.name)).unwrap();
        stamp.set(wall_clock());
        assert_eq!(fs::read(&target).unwrap(), b"kept");
    }
}
