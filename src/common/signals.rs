//! SIGINT, SIGTERM and SIGHUP: the first asks the event loop to finish, the second ends the
//! process, and so does the first if the loop has not come to its end in time.
//!
//! The loop can be stuck: in a write to a blocked pipe, say. So the end does not depend on
//! it; it only keeps the exit code up to date.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use log::error;
use nix::sys::signal::{SigSet, Signal};

use super::fault::Exit;

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
        let (done, wait) = mpsc::channel();
        let thread = std::thread::Builder::new().spawn(move || {
            act();
            let _ = done.send(());
        });
        if thread.is_ok() {
            let _ = wait.recv_timeout(BEFORE_EXIT_TIMEOUT);
        }
    }
    std::process::exit(code);
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
            let (_never, wait) = mpsc::channel::<()>();
            let _ = wait.recv_timeout(after);
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

/// Calls `stop` at the first signal; at a second one, or `patience` after the first, ends
/// the process.
///
/// # Errors
///
/// The operating system's, if the handlers cannot be installed.
pub fn watch(
    patience: Duration,
    stop: impl Fn() + Send + 'static,
) -> Result<ExitNow, ctrlc::Error> {
    let exit = ExitNow(Arc::new(AtomicU8::new(Exit::Success.code())));
    let code = exit.clone();
    let second: Mutex<Option<mpsc::Sender<()>>> = Mutex::new(None);
    ctrlc::set_handler(move || {
        let mut second = second.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(again) = second.as_ref() {
            let _ = again.send(());
            return;
        }
        let (again, wait) = mpsc::channel();
        *second = Some(again);
        let code = code.clone();
        let guard = std::thread::Builder::new()
            .name("stop-timeout".into())
            .spawn(move || {
                let again = wait.recv_timeout(patience).is_ok();
                let code = code.0.load(Ordering::Relaxed);
                let why = if again {
                    "a second signal"
                } else {
                    "the stop timeout"
                };
                if code == Exit::Deferred.code() {
                    error!("ended at once by {why}: what was not delivered waits in the queue");
                } else if code != Exit::Success.code() {
                    error!("ended at once by {why}: what was not delivered is lost");
                }
                leave(i32::from(code));
            });
        stop();
        // Without a guard nothing would end a stuck loop.
        if guard.is_err() {
            leave(i32::from(Exit::Io.code()));
        }
    })?;
    Ok(exit)
}
