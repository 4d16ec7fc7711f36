//! The terminal: taken, drawn on, given back. Drawing is up to the event loop; the keys have
//! a thread of their own.
//!
//! While the chart is up it has the alternate screen. When it ends, in whatever way and by
//! whichever thread, the terminal is as it was before, and a last frame stays on it as
//! ordinary output.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;
use nix::sys::signal::{Signal, raise};
use parking_lot::Mutex;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::crossterm::{execute, terminal};
use ratatui::layout::{Position, Rect, Size};
use ratatui::{Terminal, TerminalOptions, Viewport};

use super::draw::frame;
use super::look::Look;
use super::model::{Chart, Zoom};
use super::still::still;
use super::view::{Gravity, Note, View};
use crate::common::fault::{Exit, Fault};
use crate::common::runtime::clock::wall_clock;
use crate::common::runtime::stdio::{self, Blocking};
use crate::common::runtime::{logging, signals};

/// Between two frames, at least.
const FRAME: Duration = Duration::from_millis(100);

/// Between two frames without news, at most: time goes by in them.
const IDLE: Duration = Duration::from_secs(1);

/// Standard output without the standard library's lock: whoever gives the terminal back must
/// not wait for a write that is stuck.
type Out = BufWriter<Blocking<File>>;

/// What has to be given back.
struct Up {
    terminal: Terminal<CrosstermBackend<Out>>,
    look: Look,
    /// What was drawn last.
    view: Option<View>,
}

static UP: Mutex<Option<Up>> = Mutex::new(None);

/// The chart on the terminal. Dropped, it gives the terminal back.
#[derive(Debug)]
pub struct Screen {
    chart: Arc<Mutex<Chart>>,
    next: Instant,
    /// What was drawn last: when, at what revision, at what size.
    drawn: Option<(Instant, u64, Size)>,
    /// The number of the last line of the log, and since when it has been the last.
    log: Option<(u64, Instant)>,
}

impl Screen {
    /// Takes the terminal, and keys from now on: q, Esc and Ctrl-C are SIGINT to this
    /// process, + and - change the window of the chart.
    ///
    /// # Errors
    ///
    /// A fault, if standard output is no terminal or cannot be used.
    pub fn start(chart: Arc<Mutex<Chart>>, now: Instant) -> Result<Self, Fault> {
        check()?;
        let unusable = |cause| {
            let message = format!("--plot: the terminal cannot be used: {cause}");
            Fault::permanent(Exit::Io, message)
        };
        let out = io::stdout().as_fd().try_clone_to_owned();
        let out = Blocking(File::from(out.map_err(unusable)?));
        let backend = CrosstermBackend::new(BufWriter::new(out));
        let options = TerminalOptions {
            viewport: Viewport::Fixed(Rect::ZERO),
        };
        let up = Up {
            terminal: Terminal::with_options(backend, options).map_err(unusable)?,
            look: Look {
                colour: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            },
            view: None,
        };
        *UP.lock() = Some(up);
        // From here on it is given back whatever happens.
        let screen = Self {
            chart: Arc::clone(&chart),
            next: now,
            drawn: None,
            log: None,
        };
        signals::set_exit_hook(restore);
        restore_on_panic();
        logging::hold_lines();
        // Without a terminal to read from there are no keys, and a signal ends it.
        if enable_raw_mode().is_ok() {
            let keys = std::thread::Builder::new().name("keys".into());
            keys.spawn(move || read_keys(&chart)).map_err(unusable)?;
        }
        if let Some(up) = &mut *UP.lock() {
            execute!(up.terminal.backend_mut(), EnterAlternateScreen, Hide).map_err(unusable)?;
        }
        Ok(screen)
    }

    /// When [`tick`](Self::tick) has something to do.
    pub fn wake_at(&self) -> Instant {
        self.next
    }

    /// Draws, if it is time and something has changed.
    ///
    /// # Errors
    ///
    /// The operating system's, if the terminal is gone.
    pub fn tick(&mut self, now: Instant) -> io::Result<()> {
        if now < self.next {
            return Ok(());
        }
        self.next = now + FRAME;
        let size = size()?;
        let revision = self.chart.lock().revision();
        let is_news = self.drawn.is_none_or(|(at, drawn, on)| {
            drawn != revision || on != size || now.saturating_duration_since(at) >= IDLE
        });
        if is_news {
            self.drawn = Some((now, revision, size));
            self.draw(now)?;
        }
        Ok(())
    }

    /// Gives the terminal back; the chart as it is now stays on it.
    pub fn finish(mut self, now: Instant) {
        // What cannot be drawn any more is not.
        let _ = self.draw(now);
    }

    fn draw(&mut self, now: Instant) -> io::Result<()> {
        let mut view = self.chart.lock().view(now);
        view.log = logging::last_held_line().map(|(number, level, text)| {
            if self.log.is_none_or(|(seen, _)| seen != number) {
                self.log = Some((number, now));
            }
            let since = self.log.map_or(now, |(_, since)| since);
            Note {
                gravity: match level {
                    Level::Error => Gravity::Error,
                    Level::Warn => Gravity::Warning,
                    Level::Info | Level::Debug | Level::Trace => Gravity::Note,
                },
                text,
                age: now.saturating_duration_since(since),
            }
        });
        // Nobody is there once the terminal has been given back, by another thread.
        if let Some(up) = &mut *UP.lock() {
            let look = up.look;
            let area = Rect::from((Position::ORIGIN, size()?));
            if up.terminal.get_frame().area() != area {
                up.terminal.resize(area)?;
            }
            up.terminal.draw(|f| frame(f, &view, look))?;
            up.view = Some(view);
        }
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Whether there is a terminal to draw on.
///
/// # Errors
///
/// A usage fault, if standard output is none, or one that cannot move its cursor.
pub fn check() -> Result<(), Fault> {
    if !io::stdout().is_terminal() {
        return Err(Fault::usage(
            "--plot draws on a terminal, and standard output is none: leave --plot out, or do not \
             redirect the output",
        ));
    }
    if std::env::var_os("TERM").is_some_and(|term| term == "dumb") {
        return Err(Fault::usage(
            "--plot needs a terminal that can move its cursor, and TERM is dumb: leave --plot out",
        ));
    }
    Ok(())
}

/// Gives the terminal back, with the last frame on it. May be called by any thread, as often
/// as one likes.
pub fn restore() {
    // First what cannot block: the terminal may take no output any more.
    let _ = disable_raw_mode();
    let Some(mut up) = UP.lock().take() else {
        return;
    };
    // A terminal that is gone needs nothing.
    let _ = give_back(&mut up);
}

fn give_back(up: &mut Up) -> io::Result<()> {
    let (earlier, errors) = logging::take_held_lines();
    let out = up.terminal.backend_mut();
    execute!(out, LeaveAlternateScreen, Show)?;
    stdio::stderr().write_all(earlier.as_bytes())?;
    if let Some(view) = &mut up.view {
        view.ended = Some(humantime::format_rfc3339_seconds(wall_clock()).to_string());
        // The prompt takes the last row.
        let Size { width, height } = size()?;
        let still = still(view, (width, height.saturating_sub(1)), up.look);
        out.write_all(still.as_bytes())?;
        out.flush()?;
    }
    stdio::stderr().write_all(errors.as_bytes())
}

/// The size of the terminal. A serial line does not know its own.
fn size() -> io::Result<Size> {
    match terminal::size()? {
        (0, _) | (_, 0) => Ok(Size::new(80, 24)),
        (columns, rows) => Ok(Size::new(columns, rows)),
    }
}

fn restore_on_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // Whoever panics may be the one who draws.
        if UP.is_locked() {
            let _ = disable_raw_mode();
            let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
        } else {
            restore();
        }
        tell(panic);
    }));
}

/// Reads keys until there are none any more.
fn read_keys(chart: &Mutex<Chart>) {
    while let Ok(event) = event::read() {
        let Event::Key(key) = event else { continue };
        match meaning(key) {
            // As if it had been typed to a program that leaves the terminal alone: the stop
            // timeout and the second signal are the signals' affair.
            Some(Asked::End) => {
                let _ = raise(Signal::SIGINT);
            }
            Some(Asked::Zoom(zoom)) => chart.lock().zoom(zoom),
            None => {}
        }
    }
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    End,
    Zoom(Zoom),
}

fn meaning(key: KeyEvent) -> Option<Asked> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Asked::End),
        KeyCode::Char('q') | KeyCode::Esc => Some(Asked::End),
        // More of the time is a longer window: the line gets smaller.
        KeyCode::Char('+' | '=') => Some(Asked::Zoom(Zoom::In)),
        KeyCode::Char('-' | '_') => Some(Asked::Zoom(Zoom::Out)),
        KeyCode::Char('0') => Some(Asked::Zoom(Zoom::Auto)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_end_it_or_change_the_window() {
        let press = |code, modifiers| meaning(KeyEvent::new(code, modifiers));
        let none = KeyModifiers::NONE;
        for code in [KeyCode::Char('q'), KeyCode::Esc] {
            assert_eq!(press(code, none), Some(Asked::End));
        }
        let c = KeyCode::Char('c');
        assert_eq!(press(c, KeyModifiers::CONTROL), Some(Asked::End));
        assert_eq!(press(c, none), None);
        assert_eq!(
            press(KeyCode::Char('-'), none),
            Some(Asked::Zoom(Zoom::Out))
        );
    }
}
