//! The file of `--tls-session`. Only its owner may be able to read and write it; whatever else is there is not used, and
//! replaced.

use std::fs::OpenOptions;
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

impl SessionFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// None if there is no session for this binding. The error says why a file is not used.
    pub(super) fn read(&self, binding: &SessionBinding) -> io::Result<Option<SessionRecord>> {
        let mut options = OpenOptions::new();
        // A pipe is not waited for.
        let opened = options.read(true).custom_flags(O_NONBLOCK).open(&self.path);
        let file = match opened {
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
            return Err(io::Error::other("others can read it"));
        }
        let mut bytes = Vec::new();
        file.take(MAX_SIZE).read_to_end(&mut bytes)?;
        let sealed = bytes.strip_prefix(MAGIC);
        let plain = sealed.and_then(|sealed| binding.open(sealed));
        Ok(plain.and_then(|plain| SessionRecord::decode(&plain)))
    }

    /// Whether it could be encrypted, and so was written.
    pub(super) fn write(
        &self,
        binding: &SessionBinding,
        record: &SessionRecord,
    ) -> io::Result<bool> {
        let Some(sealed) = binding.seal(&record.encode()) else {
            return Ok(false);
        };
        let bytes = [MAGIC, &sealed?].concat();
        replaced_file::replace(&self.path, &bytes, MODE).map(|()| true)
    }

    pub(super) fn remove(&self) {
        // Whatever cannot be removed is replaced by the next session, or not used.
        let _ = std::fs::remove_file(&self.path);
    }
}
