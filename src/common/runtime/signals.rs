//! SIGINT, SIGTERM and SIGHUP: the first asks the event loop to finish, the second ends the
//! process, and so does the first if the loop has not come to its end in time. SIGHUP may be made
//! to mean something else; where the program was started with SIGHUP ignored (`nohup`), it is.
//!
//! The loop can be stuck: in a write to a blocked pipe, say. So the end does not depend on
//! it; it only keeps the exit code up to date.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::error;
use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{SIGHUP, SIGTERM};
use signal_hook::iterator::Signals;

use super::affinity;
use super::clock::{clock, receive_within};
use crate::common::fault::Exit;

/// The exit code that would be right if the process ended now.
#[derive(Clone, Debug)]
pub struct ExitNow(Arc<AtomicU8>);

impl ExitNow {
    /// Says what the exit code would be now.
    pub fn set(&self, exit: Exit) {
        self.0.store(exit.code(), Ordering::Relaxed);
    }
}

/// What has to be done before the process ends without its loop: a terminal is given back.
static BEFORE_EXIT: Mutex<Option<fn()>> = Mutex::new(None);

/// How long that may take: it may be stuck as well.
const BEFORE_EXIT_TIMEOUT: Duration = Duration::from_millis(500);

/// Has this done before the process ends without its loop, on whichever thread.
pub fn before_exit(act: fn()) {
    *BEFORE_EXIT.lock().unwrap_or_else(PoisonError::into_inner) = Some(act);
}

/// Ends the process.
fn leave(code: i32) -> ! {
    let act = *BEFORE_EXIT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(act) = act {
        try_to(act);
    }
    std::process::exit(code);
}

/// Does something that may be stuck, and does not wait for it then.
fn try_to(act: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let thread = std::thread::Builder::new().spawn(move || {
        act();
        let _ = done.send(());
    });
    if thread.is_ok() {
        let _ = receive_within(&wait, BEFORE_EXIT_TIMEOUT);
    }
}

/// Ends the process after so long, if the loop has not: it may be stuck in a write.
///
/// # Errors
///
/// The operating system's, if there are no more threads to be had.
pub fn end_at_latest(after: Duration, exit: ExitNow) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name("deadline".into())
        .spawn(move || {
            affinity::spread();
            let (_never, wait) = mpsc::channel::<()>();
            let _ = receive_within(&wait, after);
            leave(i32::from(exit.0.load(Ordering::Relaxed)));
        })
        .map(drop)
}

/// Makes a write above the limit on the size of files (`ulimit -f`) an error, where it would
/// end the process with SIGXFSZ. For the calling thread and all that it starts.
pub fn survive_file_size_limit() {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    // A valid set has no way to fail.
    let _ = signals.thread_block();
}

/// What is to be done when something happens.
pub type Call = Box<dyn Fn() + Send>;

/// What comes this soon after the first signal is the same wish: `timeout` signals its child and then the group to
/// which that belongs, and so do a shell and a terminal together.
const SAME_WISH: Duration = Duration::from_millis(500);

/// Calls `stop` at the first signal; at a second one that comes more than half a second later, or `patience` after the first, calls
/// `last` and ends the process. With `hang_up`, SIGHUP calls that and ends nothing.
///
/// # Errors
///
/// The operating system's, if the handlers cannot be installed.
pub fn watch(
    patience: Duration,
    stop: impl Fn() + Send + 'static,
    hang_up: Option<Call>,
    last: Option<Call>,
) -> io::Result<ExitNow> {
    let exit = ExitNow(Arc::new(AtomicU8::new(Exit::Success.code())));
    let stopping = Arc::new(Stopping {
        patience,
        code: exit.clone(),
        again: Mutex::default(),
        stop: Mutex::new(Box::new(stop)),
        last: Mutex::new(last),
    });
    let mut wanted = vec![SIGTERM];
    if hang_up.is_some() || !ignores_hang_up() {
        wanted.push(SIGHUP);
    }
    let mut signals = Signals::new(wanted)?;
    let on_signal = Arc::clone(&stopping);
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            // Whatever a core is busy with.
            affinity::spread();
            for signal in signals.forever() {
                match &hang_up {
                    Some(hang_up) if signal == SIGHUP => hang_up(),
                    _ => on_signal.signal(),
                }
            }
        })?;
    ctrlc::set_handler(move || stopping.signal()).map_err(io::Error::other)?;
    Ok(exit)
}

/// Whether the program was started with SIGHUP ignored: bit 0 of `SigIgn` (proc(5)).
fn ignores_hang_up() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 == 1)
}

/// What the signals that end the program do.
struct Stopping {
    patience: Duration,
    code: ExitNow,
    /// When the first signal came, and who waits for a second one.
    again: Mutex<Option<(Instant, mpsc::Sender<()>)>>,
    stop: Mutex<Call>,
    last: Mutex<Option<Call>>,
}

impl Stopping {
    fn signal(&self) {
        let mut second = self.again.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((first, again)) = second.as_ref() {
            if clock() >= *first + SAME_WISH {
                let _ = again.send(());
            }
            return;
        }
        let (again, wait) = mpsc::channel();
        *second = Some((clock(), again));
        let code = self.code.clone();
        let patience = self.patience;
        let last = self.last.lock();
        let last = last.unwrap_or_else(PoisonError::into_inner).take();
        let guard = std::thread::Builder::new()
            .name("stop-timeout".into())
            .spawn(move || {
                affinity::spread();
                let again = receive_within(&wait, patience).is_ok();
                let code = code.0.load(Ordering::Relaxed);
                let why = if again {
                    "a second signal"
                } else {
                    "the stop timeout"
                };
                if let Some(last) = last {
                    last();
                }
                // Nobody may be reading standard error.
                if code == Exit::Deferred.code() {
                    try_to(move || {
                        error!("ended at once by {why}: what was not delivered waits in the queue");
                    });
                } else if code != Exit::Success.code() {
                    try_to(move || {
                        error!("ended at once by {why}: what was not delivered is lost");
                    });
                }
                leave(i32::from(code));
            });
        (self.stop.lock().unwrap_or_else(PoisonError::into_inner))();
        // Without a guard nothing would end a stuck loop.
        if guard.is_err() {
            leave(i32::from(Exit::Io.code()));
        }
    }
}
