//! Writes messages to standard output, or to a file that is rotated and can be reopened.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Stdout, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use log::{debug, info};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::common::runtime::stdio::Blocking;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The most bytes of a file, unless a single message is longer.
    pub size: u64,
    /// How many full files are kept: `FILE.1`, the youngest, to `FILE.N`.
    pub keep: u32,
}

#[derive(Debug)]
pub enum WriterDestination {
    /// Standard output, without the standard library's line buffer.
    Stdout(Blocking<Stdout>),
    File(OutputFile),
}

impl WriterDestination {
    pub fn reopen(&mut self) -> io::Result<()> {
        if let Self::File(file) = self {
            file.reopen()?;
            debug!("{}: reopened", file.path.display());
        }
        Ok(())
    }

    /// Writes readings, which end at `ends`. After an error some of them may have been written.
    pub fn write(&mut self, bytes: &[u8], ends: &[usize]) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.write_all(bytes),
            Self::File(file) => file.write_and_rotate(bytes, ends),
        }
    }
}

#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    rotation: Option<Rotation>,
    lines: bool,
    /// The first line of a new or empty file.
    header: Option<&'static [u8]>,
    file: File,
    size: u64,
    regular: bool,
}

/// Opens a file to append to. A pipe that nobody reads is an error instead of a wait.
fn open_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    options.custom_flags(OFlag::O_NONBLOCK.bits());
    let file = options.open(path).map_err(|e| match e.raw_os_error() {
        Some(code) if code == Errno::ENXIO as i32 => io::Error::other("nobody reads this pipe"),
        _ => e,
    })?;
    // Writes wait.
    let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
    fcntl(&file, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(file)
}

impl OutputFile {
    /// If `lines`, adds the newline that a last line lacks because an earlier run was interrupted.
    pub fn open(
        path: &Path,
        rotation: Option<Rotation>,
        lines: bool,
        header: Option<&'static [u8]>,
    ) -> io::Result<Self> {
        let mut file = open_file(path)?;
        let regular = file.metadata()?.is_file();
        let mut size = if regular { file.metadata()?.len() } else { 0 };
        if lines && size > 0 && !ends_in_newline(path)? {
            file.write_all(b"\n")?;
            size += 1;
        }
        if let Some(header) = header.filter(|_| size == 0) {
            file.write_all(header)?;
            size += header.len() as u64;
        }
        Ok(Self {
            path: path.to_owned(),
            rotation,
            lines,
            header,
            file,
            size,
            regular,
        })
    }

    fn reopen(&mut self) -> io::Result<()> {
        // A pipe or a device goes on where it was.
        let header = self.header.filter(|_| self.regular);
        let opened = Self::open(&self.path, self.rotation, self.lines, header)?;
        *self = Self {
            header: self.header,
            ..opened
        };
        Ok(())
    }

    fn write_and_rotate(&mut self, bytes: &[u8], ends: &[usize]) -> io::Result<()> {
        if self.regular {
            let open = self.file.metadata()?;
            if self.is_at_path(&open) {
                // Others may append to it too, or empty it.
                self.size = open.len();
                if let Some(header) = self.header.filter(|_| self.size == 0) {
                    self.append_bytes(header)?;
                }
            } else {
                self.recreate()?;
            }
        }
        let Some(rotation) = self.rotation.filter(|_| self.regular) else {
            return self.append_bytes(bytes);
        };
        let mut from = 0;
        let mut until = 0;
        for &end in ends {
            let grown = self.size.saturating_add((end - from) as u64);
            let is_empty = self.size <= self.header.map_or(0, <[u8]>::len) as u64;
            if grown > rotation.size && (until > from || !is_empty) {
                self.append_bytes(bytes.get(from..until).unwrap_or_default())?;
                self.rotate(rotation)?;
                from = until;
            }
            until = end;
        }
        self.append_bytes(bytes.get(from..).unwrap_or_default())
    }

    fn is_at_path(&self, open: &Metadata) -> bool {
        use io::ErrorKind::{NotADirectory, NotFound};
        match fs::metadata(&self.path) {
            Ok(named) => (named.dev(), named.ino()) == (open.dev(), open.ino()),
            // After another error it may be there.
            Err(e) => !matches!(e.kind(), NotFound | NotADirectory),
        }
    }

    fn recreate(&mut self) -> io::Result<()> {
        self.reopen().map_err(|e| {
            let why =
                format!("the file was removed or renamed, and a new one cannot be created: {e}");
            io::Error::new(e.kind(), why)
        })?;
        let path = self.path.display();
        info!("{path}: the file was removed or renamed; continuing in a new one");
        Ok(())
    }

    fn append_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        let mut done = Ok(());
        while !rest.is_empty() && done.is_ok() {
            done = match Blocking(&self.file).write(rest) {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                written => written.map(|count| rest = rest.get(count..).unwrap_or_default()),
            };
        }
        let grown = self.size + (bytes.len() - rest.len()) as u64;
        if done.is_ok() || !self.regular {
            self.size = grown;
        } else if self.file.metadata().is_ok_and(|data| data.len() == grown) {
            // Half a message is useless, but what another program has written meanwhile must stay.
            let _ = self.file.set_len(self.size);
        }
        done
    }

    /// `FILE` becomes `FILE.1`, that `FILE.2`, and so on; the oldest goes.
    fn rotate(&mut self, rotation: Rotation) -> io::Result<()> {
        if self.size == 0 {
            return Ok(());
        }
        for number in (0..rotation.keep).rev() {
            match fs::rename(self.rotated_path(number), self.rotated_path(number + 1)) {
                // There were fewer files, or another program has moved it.
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        self.reopen()
    }

    fn rotated_path(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        if number > 0 {
            name.push(format!(".{number}"));
        }
        name.into()
    }
}

fn ends_in_newline(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(path: &Path) -> Vec<u8> {
        fs::read(path).unwrap_or_default()
    }

    fn message(number: usize, size: usize) -> Vec<u8> {
        format!("{number:0size$}\n").into_bytes()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn rotation_loses_nothing_and_cuts_no_message(
            sizes in proptest::collection::vec(1usize..80, 1..60),
            cut in 1usize..10,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("out");
            let rotation = Rotation { size: 100, keep: 100 };
            let mut file = OutputFile::open(&path, Some(rotation), true, None).unwrap();
            let messages: Vec<_> = sizes.iter().enumerate().map(|(n, size)| message(n, *size)).collect();
            for batch in messages.chunks(cut) {
                let ends = batch.iter().scan(0, |end, m| { *end += m.len(); Some(*end) });
                file.write_and_rotate(&batch.concat(), &ends.collect::<Vec<_>>()).unwrap();
            }
            let mut all = Vec::new();
            for number in (0..100).rev() {
                let held = read(&file.rotated_path(number));
                prop_assert!(held.len() <= 100);
                prop_assert!(held.is_empty() || held.ends_with(b"\n"));
                all.extend(held);
            }
            prop_assert_eq!(all, messages.concat());
        }
    }

    #[test]
    fn rotation_keeps_as_many_files_as_asked_for_and_no_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let mut file =
            OutputFile::open(&path, Some(Rotation { size: 4, keep: 2 }), true, None).unwrap();
        for text in [&b"one\n"[..], b"two\n", b"three\n", b"4\n"] {
            file.write_and_rotate(text, &[text.len()]).unwrap();
        }
        assert_eq!(read(&path), b"4\n");
        assert_eq!(read(&file.rotated_path(1)), b"three\n");
        assert_eq!(read(&file.rotated_path(2)), b"two\n");
        assert_eq!(read(&file.rotated_path(3)), b"");
    }

    #[test]
    fn a_file_that_was_removed_or_renamed_or_whose_directory_was_is_created_again() {
        let dir = tempfile::tempdir().unwrap();
        let (logs, moved) = (dir.path().join("logs"), dir.path().join("moved"));
        fs::create_dir(&logs).unwrap();
        let path = logs.join("out");
        let mut file = OutputFile::open(&path, None, true, None).unwrap();
        let mut write = |text: &str| file.write_and_rotate(text.as_bytes(), &[text.len()]);
        write("1\n").unwrap();
        fs::remove_file(&path).unwrap();
        write("2\n").unwrap();
        write("3\n").unwrap();
        assert_eq!(read(&path), b"2\n3\n");
        fs::rename(&path, logs.join("out.1")).unwrap();
        write("4\n").unwrap();
        assert_eq!(read(&path), b"4\n");
        fs::rename(&logs, &moved).unwrap();
        let error = write("5\n").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        fs::create_dir(&logs).unwrap();
        write("6\n").unwrap();
        assert_eq!(read(&path), b"6\n");
        assert_eq!(read(&moved.join("out")), b"4\n");
        // As logrotate's copytruncate does.
        fs::write(&path, "").unwrap();
        write("7\n").unwrap();
        assert_eq!(read(&path), b"7\n");
        // Another file under its name is appended to.
        fs::write(logs.join("new"), "begun\n").unwrap();
        fs::rename(logs.join("new"), &path).unwrap();
        write("8\n").unwrap();
        assert_eq!(read(&path), b"begun\n8\n");
    }

    #[test]
    fn an_incomplete_last_line_gets_its_newline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        fs::write(&path, "torn").unwrap();
        let mut file = OutputFile::open(&path, None, true, None).unwrap();
        file.write_and_rotate(b"whole\n", &[6]).unwrap();
        assert_eq!(read(&path), b"torn\nwhole\n");
        fs::write(&path, "as it is").unwrap();
        let mut file = OutputFile::open(&path, None, false, None).unwrap();
        file.write_and_rotate(b"!", &[1]).unwrap();
        assert_eq!(read(&path), b"as it is!");
    }
}
