//! Looks for the program of a command line as the system does, before anything is run.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::unistd::{AccessFlags, eaccess};

use crate::common::fault::{Exit, Fault};

/// Where programs are looked for if `PATH` is not set (`confstr(_CS_PATH)` of the GNU C library).
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// The most of a first line that the kernel reads (`BINPRM_BUF_SIZE` of linux/binfmts.h).
const FIRST_LINE: u64 = 256;

enum NotExecutable {
    NoSuchFile,
    /// Cause and remedy.
    Other(String, &'static str),
}

/// A fault unless there is a program of this name that can be executed.
pub(super) fn check(name: &OsStr) -> Result<(), Fault> {
    let fault = |cause: &str, remedy: &str| {
        let message = format!("--exec {}: {cause}", name.to_string_lossy());
        Fault::permanent(Exit::NoInput, message).with_remedy(remedy)
    };
    let has_spaces = name.as_bytes().iter().any(u8::is_ascii_whitespace);
    let no_such_remedy = if has_spaces {
        "there is no shell: give every argument as a separate word"
    } else {
        "install it, or give the path of the program"
    };
    if name.is_empty() {
        return Err(fault("the name of the program is empty", "name one"));
    }
    if name.as_bytes().contains(&b'/') {
        return check_file(Path::new(name)).map_err(|error| match error {
            NotExecutable::NoSuchFile => fault("there is no such file", no_such_remedy),
            NotExecutable::Other(cause, remedy) => fault(&cause, remedy),
        });
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let mut first = None;
    for directory in std::env::split_paths(&path) {
        let file = directory.join(name);
        match check_file(&file) {
            Ok(()) => return Ok(()),
            Err(NotExecutable::NoSuchFile) => {}
            Err(NotExecutable::Other(cause, remedy)) => {
                first.get_or_insert((format!("{}: {cause}", file.display()), remedy));
            }
        }
    }
    Err(match first {
        Some((cause, remedy)) => fault(&cause, remedy),
        None => fault("there is no such program in PATH", no_such_remedy),
    })
}

fn check_file(file: &Path) -> Result<(), NotExecutable> {
    use io::ErrorKind::{NotADirectory, NotFound};
    let other = |cause: String, remedy| Err(NotExecutable::Other(cause, remedy));
    match fs::metadata(file) {
        Ok(data) if data.is_file() => {}
        Ok(_) => return other("it is not a file".into(), "give the path of a program"),
        Err(e) if matches!(e.kind(), NotFound | NotADirectory) => {
            return Err(NotExecutable::NoSuchFile);
        }
        Err(e) => return other(e.to_string(), "look at the modes of its directories"),
    }
    if let Err(e) = eaccess(file, AccessFlags::X_OK) {
        let cause = format!("it cannot be executed: {}", io::Error::from(e));
        return other(cause, "make it executable with chmod +x");
    }
    let mut head = Vec::new();
    let read = File::open(file).and_then(|file| file.take(FIRST_LINE).read_to_end(&mut head));
    // An executable file need not be readable.
    let Some(line) = head.strip_prefix(b"#!").filter(|_| read.is_ok()) else {
        return Ok(());
    };
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let mut words = line.split(u8::is_ascii_whitespace);
    let interpreter = words.find(|word| !word.is_empty()).unwrap_or_default();
    let interpreter = Path::new(OsStr::from_bytes(interpreter));
    if fs::metadata(interpreter).is_ok_and(|data| data.is_file()) {
        return Ok(());
    }
    let name = interpreter.display();
    let cause = format!("its first line names the interpreter {name}, which does not exist");
    other(cause, "correct the line, or install the interpreter")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn fault(name: impl AsRef<OsStr>) -> String {
        let fault = check(name.as_ref()).unwrap_err();
        assert_eq!(fault.exit, Exit::NoInput);
        fault.to_string()
    }

    #[test]
    fn a_program_that_cannot_be_executed_is_named_with_cause_and_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str, mode: u32| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        check(OsStr::new("sh")).unwrap();
        check(file("good", "#!/bin/sh\n", 0o755).as_os_str()).unwrap();
        check(file("arguments", "#! /usr/bin/env sh\n", 0o755).as_os_str()).unwrap();
        for (name, parts) in [
            ("".into(), ["--exec", "empty"]),
            ("no-such-program-here".into(), ["in PATH", "install it"]),
            ("echo one two".into(), ["echo one two", "no shell"]),
            (dir.path().join("missing"), ["no such file", "install it"]),
            (
                dir.path().join("good/below"),
                ["no such file", "install it"],
            ),
            (dir.path().to_owned(), ["not a file", "path of a program"]),
            (file("plain", "", 0o644), ["Permission denied", "chmod +x"]),
            (
                file("alien", "#!/no/such/sh -e\n", 0o755),
                ["/no/such/sh", "interpreter"],
            ),
        ] {
            let text = fault(name);
            for part in parts {
                assert!(text.contains(part), "{text}");
            }
        }
    }
}
