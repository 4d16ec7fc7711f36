//! A file that holds one secret, such as a password: one line of text that only its owner can read.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, getegid, getgroups};

use super::small_file::{invalid_file, read_for};
use crate::common::fault::{Exit, Fault};
use crate::common::mqtt::limits::check_text;

/// It is read each time the secret is needed, so that a new one is used at once.
#[derive(Clone)]
pub struct SecretSource {
    path: PathBuf,
    flag: &'static str,
    allow_readable: bool,
    /// The secret from a pipe, which can be read only once.
    from_pipe: Option<String>,
}

impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}

impl SecretSource {
    /// The file that `flag` names. `allow_readable`: others may be able to read it.
    pub fn new(path: PathBuf, flag: &'static str, allow_readable: bool) -> Self {
        Self {
            path,
            flag,
            allow_readable,
            from_pipe: None,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn keep_pipe_content(&mut self) -> Result<(), Fault> {
        let (secret, is_regular) = self.read_file()?;
        self.from_pipe = (!is_regular).then_some(secret);
        Ok(())
    }

    /// The line, without the line end and the byte order mark that editors add. It is a fault if
    /// the file cannot be read, others can read it, or it does not hold one line of text.
    pub fn read(&self) -> Result<String, Fault> {
        match &self.from_pipe {
            Some(secret) => Ok(secret.clone()),
            None => self.read_file().map(|(secret, _)| secret),
        }
    }

    fn read_file(&self) -> Result<(String, bool), Fault> {
        let (flag, path) = (self.flag, self.path());
        let content = read_for(flag, path)?;
        let invalid = |cause: &str| {
            invalid_file(flag, path, cause).with_remedy("write one line of UTF-8 text into it")
        };
        let text = String::from_utf8(content.bytes).map_err(|_| invalid("is not UTF-8 text"))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() {
            return Err(invalid("is empty"));
        }
        if text.contains(['\n', '\r']) {
            return Err(invalid("holds more than one line"));
        }
        check_text(text).map_err(|e| {
            let message = format!("{}: {flag}: its line {e}", path.display());
            Fault::permanent(Exit::Config, message)
        })?;
        check_private(flag, path, &content.metadata, self.allow_readable)?;
        Ok((text.to_owned(), content.metadata.is_file()))
    }
}

/// A fault if others than the owner, root and a group of this process can read a file with a secret. Only the reader of
/// a pipe can read from it.
pub fn check_private(
    flag: &str,
    path: &Path,
    metadata: &Metadata,
    allow_readable: bool,
) -> Result<(), Fault> {
    let mode = metadata.permissions().mode() & 0o7777;
    let others = if is_systemd_credential(path) {
        0o007
    } else if metadata.uid() == 0 && is_own_group(metadata.gid()) {
        // Root lets a service read it: the group may read, and no more.
        0o037
    } else {
        0o077
    };
    if allow_readable || !metadata.is_file() || mode & others == 0 {
        return Ok(());
    }
    let cause = format!("can be read by others (mode {mode:04o})");
    Err(invalid_file(flag, path, cause).with_remedy("chmod 600 it, or give --allow-readable-key"))
}

/// Whether the process is in the group, supplementary groups included.
fn is_own_group(group: u32) -> bool {
    let group = Gid::from_raw(group);
    getegid() == group || getgroups().is_ok_and(|groups| groups.contains(&group))
}

/// Whether systemd passed this file to the service (`LoadCredential`). Root owns it, and an access
/// control list gives only the service's user access; the list shows as the group's right to read.
fn is_systemd_credential(path: &Path) -> bool {
    let canonical = |path: &Path| path.canonicalize().ok();
    std::env::var_os("CREDENTIALS_DIRECTORY")
        .and_then(|dir| canonical(Path::new(&dir)))
        .zip(canonical(path))
        .is_some_and(|(dir, file)| file.starts_with(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<String, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, bytes).unwrap();
        let secret = SecretSource::new(path, "--password-file", true);
        assert!(!format!("{secret:?}").contains("p!w"));
        secret.read().map_err(|fault| fault.message)
    }

    #[test]
    fn a_secret_is_one_line_as_an_editor_leaves_it() {
        for text in ["p!w", "p!w\n", "p!w\r\n", "\u{feff}p!w\n"] {
            assert_eq!(read(text.as_bytes()).unwrap(), "p!w", "{text:?}");
        }
        assert_eq!(read(b" p w \n").unwrap(), " p w ");
        for (bytes, cause) in [
            (&b""[..], "is empty"),
            (b"\n", "is empty"),
            (b"p!w\nother\n", "more than one line"),
            (b"p\0w", "NUL"),
            (b"p\xffw", "is not UTF-8"),
        ] {
            let why = read(bytes).unwrap_err();
            assert!(why.contains(cause) && !why.contains("p!w"), "{why}");
        }
    }
}
