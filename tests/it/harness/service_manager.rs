//! The end of a service manager: what programs report to the socket of `NOTIFY_SOCKET`.

use std::{
    io::Read,
    net::Shutdown,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    time::Duration,
};

use tempfile::TempDir;

use super::{lines::Lines, program::Program, temp_dir};

/// A socket that collects reports; the lines of one report come together.
pub(crate) struct ServiceManager {
    pub(crate) reports: Lines,
    socket: UnixDatagram,
    name: String,
    _dir: Option<TempDir>,
}

struct Datagrams(UnixDatagram);

impl Read for Datagrams {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.0.recv(&mut buffer[1..])?;
        if length == 0 {
            return Ok(0);
        }
        buffer.copy_within(1..=length, 0);
        buffer[length] = b'\n';
        Ok(length + 1)
    }
}

impl ServiceManager {
    pub(crate) fn start() -> Self {
        let dir = temp_dir();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Self::collect(socket, path.to_str().unwrap().to_owned(), Some(dir))
    }

    /// At an abstract address, which is no file.
    pub(crate) fn start_abstract() -> Self {
        let name = format!("iot-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        Self::collect(socket, format!("@{name}"), None)
    }

    fn collect(socket: UnixDatagram, name: String, dir: Option<TempDir>) -> Self {
        let reports = Lines::default();
        reports.collect(Datagrams(socket.try_clone().unwrap()));
        Self {
            reports,
            socket,
            name,
            _dir: dir,
        }
    }

    /// The program becomes a service of this manager.
    pub(crate) fn service(&self, program: Program) -> Program {
        program.env("NOTIFY_SOCKET", &self.name)
    }

    /// As [`service`](Self::service), with a watchdog.
    pub(crate) fn watched_service(&self, program: Program, watchdog: Duration) -> Program {
        let time = watchdog.as_micros().to_string();
        self.service(program).env("WATCHDOG_USEC", &time)
    }

    /// The first report that fits, so far or from now on.
    pub(crate) fn wait(&self, within: Duration, fits: impl Fn(&str) -> bool) -> String {
        self.wait_from(0, within, fits)
    }

    pub(crate) fn wait_from(
        &self,
        skip: usize,
        within: Duration,
        fits: impl Fn(&str) -> bool,
    ) -> String {
        let found = self.reports.wait_from(skip, within, fits);
        let found = found.unwrap_or_else(|| panic!("no such report:\n{}", self.reports.text()));
        found.text
    }

    pub(crate) fn count(&self, report: &str) -> usize {
        self.reports.count_of(|line| line == report)
    }
}

impl Drop for ServiceManager {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}
