//! The file of `--tls-session`. Only its owner may be able to read and write it. A session of another binding is not used,
//! and is replaced; anything else is left alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::libc::O_NONBLOCK;
use nix::unistd::geteuid;

use super::session_binding::SessionBinding;
use super::session_record::SessionRecord;
use crate::common::runtime::replaced_file;

/// The form of the file. Another form gets another number.
const MAGIC: &[u8] = b"iot-pubsub TLS session 1\n";

/// In bytes. A session is some 2 KB, with a chain of certificates 10.
const MAX_SIZE: u64 = 256 * 1024;

const MODE: u32 = 0o600;

#[derive(Debug)]
pub(super) struct SessionFile {
    path: PathBuf,
}

/// Whether there is something that is not to be replaced: a device, a directory, a file with other content, or that cannot
/// be read. A power cut may leave zeros.
pub fn is_foreign(path: &Path) -> bool {
    let file = match open(path) {
        Err(cause) => return cause.kind() != io::ErrorKind::NotFound,
        Ok(file) => file,
    };
    let mut head = Vec::new();
    let read = file.take(MAGIC.len() as u64).read_to_end(&mut head);
    let is_zero = head.iter().all(|byte| *byte == 0);
    replaced_file::is_unsuitable(path) || read.is_err() || !(is_zero || MAGIC.starts_with(&head))
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // A pipe is not waited for.
    options.read(true).custom_flags(O_NONBLOCK).open(path)
}

impl SessionFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// None if there is no session for this binding. The error says why a file is not used.
    pub(super) fn read(&self, binding: &SessionBinding) -> io::Result<Option<SessionRecord>> {
        let file = match open(&self.path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let found = file.metadata()?;
        if !found.is_file() || found.len() > MAX_SIZE {
            return Ok(None);
        }
        if found.uid() != geteuid().as_raw() {
            return Err(io::Error::other("it belongs to another user"));
        }
        if found.mode() & 0o077 != 0 {
            return Err(io::Error::other("others can read or write it"));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(found.len()).unwrap_or(0));
        file.take(MAX_SIZE).read_to_end(&mut bytes)?;
        let sealed = bytes.strip_prefix(MAGIC);
        let plain = sealed.and_then(|sealed| binding.open(sealed));
        Ok(plain.and_then(|plain| SessionRecord::decode(&plain)))
    }

    pub(super) fn write(&self, binding: &SessionBinding, record: &SessionRecord) -> io::Result<()> {
        let Some(sealed) = binding.seal(&record.encode()) else {
            return Err(io::Error::other(
                "there is no private key to encrypt it with",
            ));
        };
        if is_foreign(&self.path) {
            return Err(io::Error::other("it is another file"));
        }
        let bytes = [MAGIC, &sealed?].concat();
        replaced_file::replace(&self.path, &bytes, MODE)
    }

    pub(super) fn remove(&self) {
        // A symbolic link stays. What cannot be removed is replaced by the next session.
        if let Ok(target) = fs::canonicalize(&self.path)
            && !is_foreign(&target)
        {
            let _ = fs::remove_file(target);
        }
    }
}
