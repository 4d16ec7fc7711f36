//! SIGINT, SIGTERM and SIGHUP. The first asks the event loop to stop; a second one ends the process, and so does the
//! end of a grace period: the loop may be stuck, in a write to a blocked pipe, say, so this does not depend on it.
//! SIGHUP can have another meaning, and stays ignored if the program was started that way (`nohup`).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use log::{Level, log};
use parking_lot::Mutex;
use signal_hook::consts::{SIGHUP, SIGTERM};
use signal_hook::iterator::Signals;

use super::affinity;
use super::c_library::is_signal_ignored;
use super::clock::instant_now;
use super::timed_receive::receive_within;
use crate::common::fault::Exit;

pub type Callback = Box<dyn Fn() + Send>;

/// How long the exit hook or a last log line may take: it may be stuck as well.
const LAST_ACTION_TIMEOUT: Duration = Duration::from_millis(500);

/// Signals this soon after the first one are the same request: `timeout` signals its child and then
/// the group to which that belongs, and so do a shell and a terminal together.
const SAME_REQUEST: Duration = Duration::from_millis(500);

/// The exit code that would be right if the process ended now. The loop keeps it up to date.
#[derive(Clone, Debug)]
pub struct CurrentExitCode(Arc<AtomicU8>);

impl CurrentExitCode {
    pub fn set(&self, exit: Exit) {
        self.0.store(exit.code(), Ordering::Relaxed);
    }

    fn code(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}

static EXIT_HOOK: Mutex<Option<fn()>> = Mutex::new(None);

/// Sets what is done, on any thread, before the process ends without its loop, such as restoring the terminal.
pub fn set_exit_hook(hook: fn()) {
    *EXIT_HOOK.lock() = Some(hook);
}

fn run_hook_and_exit(code: u8) -> ! {
    let hook = *EXIT_HOOK.lock();
    if let Some(hook) = hook {
        run_with_time_limit(hook);
    }
    std::process::exit(i32::from(code));
}

fn run_with_time_limit(act: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let thread = std::thread::Builder::new().spawn(move || {
        act();
        let _ = done.send(());
    });
    if thread.is_ok() {
        let _ = receive_within(&wait, LAST_ACTION_TIMEOUT);
    }
}

fn spawn_unpinned(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let builder = std::thread::Builder::new().name(name.into());
    let thread = builder.spawn(move || {
        affinity::unpin();
        run();
    });
    thread.map(drop)
}

/// Ends the process after this time, if the loop has not: it may be stuck in a write.
pub fn exit_after(time: Duration, current: CurrentExitCode) -> io::Result<()> {
    spawn_unpinned("deadline", move || {
        let (_never, wait) = mpsc::channel::<()>();
        let _ = receive_within(&wait, time);
        run_hook_and_exit(current.code());
    })
}

/// Calls `stop` at the first signal. At a second one more than half a second later, or `grace_period` after the first,
/// calls `last` and ends the process. SIGHUP calls `hang_up` instead, if that is given.
pub fn watch_stop_signals(
    grace_period: Duration,
    stop: impl Fn() + Send + 'static,
    hang_up: Option<Callback>,
    last: Option<Callback>,
) -> io::Result<CurrentExitCode> {
    let current = CurrentExitCode(Arc::new(AtomicU8::new(Exit::Success.code())));
    let handler = Arc::new(StopHandler {
        grace_period,
        current: current.clone(),
        first: Mutex::default(),
        stop: Mutex::new(Box::new(stop)),
        last: Mutex::new(last),
    });
    let mut wanted = vec![SIGTERM];
    if hang_up.is_some() || !is_signal_ignored(SIGHUP) {
        wanted.push(SIGHUP);
    }
    let mut signals = Signals::new(wanted)?;
    let on_signal = Arc::clone(&handler);
    spawn_unpinned("signals", move || {
        for signal in signals.forever() {
            match &hang_up {
                Some(hang_up) if signal == SIGHUP => hang_up(),
                _ => on_signal.handle_signal(),
            }
        }
    })?;
    ctrlc::set_handler(move || handler.handle_signal()).map_err(io::Error::other)?;
    Ok(current)
}

struct StopHandler {
    grace_period: Duration,
    current: CurrentExitCode,
    first: Mutex<Option<(Instant, mpsc::Sender<()>)>>,
    stop: Mutex<Callback>,
    last: Mutex<Option<Callback>>,
}

impl StopHandler {
    fn handle_signal(&self) {
        let mut first = self.first.lock();
        if let Some((at, second)) = first.as_ref() {
            if instant_now() >= *at + SAME_REQUEST {
                let _ = second.send(());
            }
            return;
        }
        let (second, wait) = mpsc::channel();
        *first = Some((instant_now(), second));
        let current = self.current.clone();
        let grace_period = self.grace_period;
        let last = self.last.lock().take();
        let guard = spawn_unpinned("stop-timeout", move || {
            let why = match receive_within(&wait, grace_period) {
                Ok(()) => "a second signal",
                Err(_) => "the stop timeout",
            };
            let code = current.code();
            if let Some(last) = last {
                last();
            }
            let is_queued = code == Exit::Deferred.code();
            let fate = if is_queued {
                "waits in the queue"
            } else {
                "is lost"
            };
            if code != Exit::Success.code() {
                // Standard error may be blocked.
                run_with_time_limit(move || {
                    let level = if is_queued { Level::Warn } else { Level::Error };
                    log!(level, code; "ended at once by {why}: what was not delivered {fate}");
                });
            }
            run_hook_and_exit(code);
        });
        (self.stop.lock())();
        // Without that thread nothing would end a stuck loop.
        if guard.is_err() {
            run_hook_and_exit(Exit::Io.code());
        }
    }
}
