//! The service manager that has started this program, systemd for example: reports to it through the socket that
//! `NOTIFY_SOCKET` names. Without that variable nothing is done.
//!
//! Only the event loop reports, so a loop that is stuck is silent, and the watchdog restarts the service.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use log::{debug, warn};
use nix::errno::Errno;

use super::clock::monotonic_us;
use super::service_notifications::ServiceNotifications;

const SOCKET: &str = "NOTIFY_SOCKET";
const WATCHDOG_TIME: &str = "WATCHDOG_USEC";
const WATCHDOG_PROCESS: &str = "WATCHDOG_PID";

/// The variables of the protocol, which are for this process only.
pub const VARIABLES: [&str; 3] = [SOCKET, WATCHDOG_TIME, WATCHDOG_PROCESS];

/// When to send again what the service manager did not take.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Whether SIGHUP is a request to reload. Below a terminal it says that the terminal is gone.
pub fn is_reloadable_service() -> bool {
    let is_service = std::env::var_os(SOCKET).is_some_and(|name| !name.is_empty());
    is_service && std::fs::File::open("/dev/tty").is_err()
}

#[derive(Debug, Default)]
pub struct ServiceManager(Option<Reports>);

#[derive(Debug)]
struct Reports {
    socket: UnixDatagram,
    address: SocketAddr,
    notifications: ServiceNotifications,
    unsent: UnsentLines,
}

#[derive(Debug, Default)]
struct UnsentLines {
    /// At most one of each kind.
    lines: Vec<String>,
    retry_at: Option<Instant>,
}

impl ServiceManager {
    pub fn from_environment(now: Instant) -> Self {
        let Some(name) = std::env::var_os(SOCKET).filter(|name| !name.is_empty()) else {
            return Self(None);
        };
        match open_socket(&name) {
            Ok((socket, address)) => Self(Some(Reports {
                socket,
                address,
                notifications: ServiceNotifications::new(watchdog_time(), now),
                unsent: UnsentLines::default(),
            })),
            Err(cause) => {
                let name = name.to_string_lossy();
                warn!(
                    "{SOCKET}={name:?} cannot be used: {cause}; nothing is reported to the service manager"
                );
                Self(None)
            }
        }
    }

    /// Reports a step of the start that may take a while.
    pub fn begin_step(&mut self, status: &str, now: Instant) {
        self.act(now, |notifications| notifications.begin_step(status, now));
    }

    /// Call it whenever the event loop has waited. `is_ready`: the first connection stands, or the first reading is
    /// safe in the queue.
    pub fn update(&mut self, is_ready: bool, status: impl FnOnce() -> String, now: Instant) {
        self.act(now, |notifications| {
            notifications.update(is_ready, status, now);
        });
    }

    /// For a loop that waits for something else than events. Only the thread of the event loop may call it.
    pub fn feed_watchdog(&mut self, now: Instant) {
        self.act(now, |notifications| notifications.feed_watchdog(now));
    }

    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.0.as_ref()?.notifications.watchdog_interval()
    }

    pub fn begin_reload(&mut self, now: Instant) {
        self.act(now, |notifications| {
            notifications.begin_reload(monotonic_us());
        });
    }

    pub fn is_reloading(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|reports| reports.notifications.is_reloading())
    }

    pub fn end_reload(&mut self, now: Instant) {
        self.act(now, |notifications| notifications.end_reload(now));
    }

    /// `within`: how long the end may take.
    pub fn stop(&mut self, status: &str, within: Duration, now: Instant) {
        self.act(now, |notifications| notifications.stop(status, within, now));
    }

    pub fn wake_at(&self) -> Option<Instant> {
        let reports = self.0.as_ref()?;
        let wake_at = reports.notifications.wake_at();
        wake_at.into_iter().chain(reports.unsent.retry_at).min()
    }

    fn act(&mut self, now: Instant, change: impl FnOnce(&mut ServiceNotifications)) {
        if let Some(reports) = &mut self.0 {
            change(&mut reports.notifications);
            let (socket, address) = (&reports.socket, &reports.address);
            let send = |text: &str| socket.send_to_addr(text.as_bytes(), address);
            reports
                .unsent
                .send(reports.notifications.take_lines(), now, send);
        }
    }
}

impl UnsentLines {
    /// Sends these lines after those that could not be sent.
    fn send(
        &mut self,
        new: Vec<String>,
        now: Instant,
        send: impl FnOnce(&str) -> io::Result<usize>,
    ) {
        for line in new {
            let kind = |line: &str| line.split('=').next().map(str::to_owned);
            let latest = kind(&line);
            self.lines.retain(|earlier| kind(earlier) != latest);
            self.lines.push(line);
        }
        if self.lines.is_empty() || self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        self.retry_at = None;
        match send(&self.lines.join("\n")) {
            Ok(_) => self.lines.clear(),
            Err(e) if is_passing(&e) => self.retry_at = Some(now + RETRY_INTERVAL),
            Err(e) => {
                debug!("the service manager cannot be reached: {e}");
                self.lines.clear();
            }
        }
    }
}

/// The queue of the service manager is full, because it is busy or stopped; or the kernel has no memory just now.
fn is_passing(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    let passing = [Errno::EAGAIN, Errno::ENOBUFS, Errno::ENOMEM, Errno::EINTR];
    errno.is_some_and(|errno| passing.contains(&errno))
}

/// A path, or an abstract address after `@`.
fn open_socket(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        _ => {
            return Err(io::Error::other(
                "it is neither a path nor an abstract socket",
            ));
        }
    };
    let socket = UnixDatagram::unbound()?;
    // A service manager that does not read must not stop the loop.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

/// After which time of silence the service manager restarts this process.
fn watchdog_time() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let is_ours = |pid: u64| pid == u64::from(std::process::id());
    if std::env::var_os(WATCHDOG_PROCESS).is_some()
        && !number(WATCHDOG_PROCESS).is_some_and(is_ours)
    {
        return None;
    }
    let time = number(WATCHDOG_TIME).filter(|time| *time > 0);
    time.map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::runtime::clock::instant_now;

    /// What is sent a second after an error, with a line that came meanwhile.
    fn sent_after(errno: Errno) -> String {
        let start = instant_now();
        let mut unsent = UnsentLines::default();
        let fail = |_: &str| Err(io::Error::from(errno));
        let lines = ["READY=1", "STATUS=a", "STOPPING=1"].map(str::to_owned);
        unsent.send(lines.into(), start, fail);
        let early = start + RETRY_INTERVAL / 2;
        unsent.send(vec!["STATUS=b".into()], early, fail);
        let mut sent = String::new();
        for _ in 0..2 {
            unsent.send(Vec::new(), start + RETRY_INTERVAL, |text| {
                sent.push_str(text);
                Ok(text.len())
            });
        }
        sent
    }

    #[test]
    fn what_could_not_be_sent_just_now_is_sent_once_a_second_later() {
        for errno in [Errno::EAGAIN, Errno::ENOBUFS, Errno::ENOMEM, Errno::EINTR] {
            assert_eq!(
                sent_after(errno),
                "READY=1\nSTOPPING=1\nSTATUS=b",
                "{errno}"
            );
        }
        // Nobody is there: only what comes later is tried.
        assert_eq!(sent_after(Errno::ENOENT), "");
    }
}
