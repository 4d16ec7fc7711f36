//! A file that holds one secret, such as a password: one line of text that nobody else may read.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::small_file::{read_for, wrong};
use crate::common::fault::{Exit, Fault};
use crate::common::mqtt::limits::check_text;

/// A file with a secret. It is read each time the secret is needed, so that a new one is used at once.
#[derive(Clone)]
pub struct SecretFile {
    path: PathBuf,
    flag: &'static str,
    allow_readable: bool,
    /// What came out of a pipe, which can be read only once.
    kept: Option<String>,
}

impl fmt::Debug for SecretFile {
    /// Shows no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}

impl SecretFile {
    /// A file that `flag` names. `allow_readable` is whether others may read it.
    pub fn new(path: PathBuf, flag: &'static str, allow_readable: bool) -> Self {
        Self {
            path,
            flag,
            allow_readable,
            kept: None,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads it, and keeps what came out of a pipe for later.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn open(&mut self) -> Result<(), Fault> {
        let (secret, is_regular) = self.contents()?;
        self.kept = (!is_regular).then_some(secret);
        Ok(())
    }

    /// The secret: the line, without the line end and the byte order mark that editors add.
    ///
    /// # Errors
    ///
    /// A fault that names flag and file: it cannot be read, others can read it, or it does not hold one line of text.
    pub fn read(&self) -> Result<String, Fault> {
        match &self.kept {
            Some(kept) => Ok(kept.clone()),
            None => self.contents().map(|(secret, _)| secret),
        }
    }

    /// The secret, and whether it comes from a regular file.
    fn contents(&self) -> Result<(String, bool), Fault> {
        let content = read_for(self.flag, &self.path)?;
        let wrong = |cause: &str| {
            wrong(self.flag, &self.path, cause).with_remedy("write one line of UTF-8 text into it")
        };
        let text = String::from_utf8(content.bytes).map_err(|_| wrong("is not UTF-8 text"))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() {
            return Err(wrong("is empty"));
        }
        if text.contains(['\n', '\r']) {
            return Err(wrong("holds more than one line"));
        }
        if let Err(e) = check_text(text) {
            let message = format!("{}: {}: its line {e}", self.path.display(), self.flag);
            return Err(Fault::permanent(Exit::Config, message));
        }
        check_private(
            self.flag,
            &self.path,
            &content.metadata,
            self.allow_readable,
        )?;
        Ok((text.to_owned(), content.metadata.is_file()))
    }
}

/// Whether nobody but the owner, and root, can read a file with a secret. A pipe is its reader's.
///
/// # Errors
///
/// A fault with the mode.
pub fn check_private(
    flag: &str,
    path: &Path,
    metadata: &Metadata,
    allow_readable: bool,
) -> Result<(), Fault> {
    let mode = metadata.permissions().mode() & 0o7777;
    let others = if is_credential(path) { 0o007 } else { 0o077 };
    if allow_readable || !metadata.is_file() || mode & others == 0 {
        return Ok(());
    }
    let cause = format!("can be read by others (mode {mode:04o})");
    Err(wrong(flag, path, &cause).with_remedy("chmod 600 it, or give --allow-readable-key"))
}

/// Whether systemd has handed this file to the service (`LoadCredential`): it is root's then, and
/// an access control list, which shows as the group's right to read, lets only the service's user
/// at it.
fn is_credential(path: &Path) -> bool {
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
        let secret = SecretFile::new(path, "--password-file", true);
        assert!(!format!("{secret:?}").contains("pw"));
        secret.read().map_err(|fault| fault.message)
    }

    #[test]
    fn a_secret_is_one_line_as_an_editor_leaves_it() {
        for text in ["pw", "pw\n", "pw\r\n", "\u{feff}pw\n"] {
            assert_eq!(read(text.as_bytes()).unwrap(), "pw", "{text:?}");
        }
        assert_eq!(read(b" p w \n").unwrap(), " p w ");
        for (bytes, cause) in [
            (&b""[..], "is empty"),
            (b"\n", "is empty"),
            (b"pw\nother\n", "more than one line"),
            (b"p\0w", "NUL"),
            (b"p\xffw", "is not UTF-8"),
        ] {
            let why = read(bytes).unwrap_err();
            assert!(why.contains(cause) && !why.contains("pw"), "{why}");
        }
    }
}
