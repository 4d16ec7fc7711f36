//! A wall clock that programs see, and that can be set while they run (libfaketime). The clocks
//! that nobody sets stay as they are.

use std::{fs, path::PathBuf, sync::OnceLock};

use tempfile::TempDir;

use super::{process::command, program::Program, temp_dir};

/// The clock.
pub(crate) struct Clock {
    dir: TempDir,
}

/// The library that pretends, where this system has it.
fn library() -> &'static str {
    static LIBRARY: OnceLock<String> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let mut faketime = command("faketime");
        faketime.args(["-m", "-f", "+0", "printenv", "LD_PRELOAD"]);
        let found = faketime
            .output()
            .expect("faketime, as scripts/setup installs it");
        String::from_utf8(found.stdout).unwrap().trim().to_owned()
    })
}

impl Clock {
    /// So much before or after the right time (`-3h`, `+1d`), or at a moment (`@1970-01-01 00:01:00`).
    pub(crate) fn at(time: &str) -> Self {
        let clock = Self { dir: temp_dir() };
        clock.set(time);
        clock
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("time")
    }

    /// Sets it, under running programs too.
    pub(crate) fn set(&self, time: &str) {
        let new = self.dir.path().join("new");
        fs::write(&new, format!("{time}\n")).unwrap();
        fs::rename(new, self.file()).unwrap();
    }

    /// A program all of whose clocks in the C library are so much before or after the right time.
    pub(crate) fn all_shifted(program: Program, by: &str) -> Program {
        program.env("LD_PRELOAD", library()).env("FAKETIME", by)
    }

    /// The program that sees it.
    pub(crate) fn seen_by(&self, program: Program) -> Program {
        program
            .env("LD_PRELOAD", library())
            .env("FAKETIME_TIMESTAMP_FILE", self.file().to_str().unwrap())
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1")
    }
}
