//! The chart on the terminal. The event loop draws; another thread reads the keys.
//!
//! While the chart is shown it uses the alternate screen. When it ends, in any way and on any thread,
//! the terminal is restored, and the last frame is printed as ordinary output.

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

use super::chart_content::{ChartContent, LogLevel, LogLine};
use super::chart_data::{ChartData, ZoomCommand};
use super::draw::{draw_frame, snapshot};
use super::style::Theme;
use crate::common::fault::{Exit, Fault};
use crate::common::runtime::clock::wall_clock;
use crate::common::runtime::stdio::{self, Blocking};
use crate::common::runtime::{logging, signals};

const MIN_FRAME_INTERVAL: Duration = Duration::from_millis(100);

const MAX_FRAME_AGE: Duration = Duration::from_secs(1);

/// Without the standard library's lock: restoring must not wait for a write that is stuck.
type Out = BufWriter<Blocking<File>>;

struct ChartTerminal {
    terminal: Terminal<CrosstermBackend<Out>>,
    theme: Theme,
    last_view: Option<ChartContent>,
}

static ACTIVE: Mutex<Option<ChartTerminal>> = Mutex::new(None);

#[derive(Debug)]
pub struct Screen {
    chart: Arc<Mutex<ChartData>>,
    next_frame: Instant,
    drawn: Option<(Instant, u64, Size)>,
    /// The number of the last line of the log, and when it was first seen.
    log: Option<(u64, Instant)>,
}

impl Screen {
    /// Takes the terminal and starts reading keys: q, Esc and Ctrl-C raise SIGINT, + and - change
    /// the window of the chart.
    pub fn start(chart: Arc<Mutex<ChartData>>, now: Instant) -> Result<Self, Fault> {
        check_terminal()?;
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
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        *ACTIVE.lock() = Some(ChartTerminal {
            terminal: Terminal::with_options(backend, options).map_err(unusable)?,
            theme: Theme { colour },
            last_view: None,
        });
        // From here on the terminal is restored on every path.
        let screen = Self {
            chart: Arc::clone(&chart),
            next_frame: now,
            drawn: None,
            log: None,
        };
        signals::set_exit_hook(restore_terminal);
        restore_on_panic();
        logging::hold_lines();
        // Without a terminal to read from there are no keys, and a signal ends it.
        if enable_raw_mode().is_ok() {
            let keys = std::thread::Builder::new().name("keys".into());
            keys.spawn(move || run_key_loop(&chart)).map_err(unusable)?;
        }
        if let Some(active) = &mut *ACTIVE.lock() {
            execute!(active.terminal.backend_mut(), EnterAlternateScreen, Hide)
                .map_err(unusable)?;
        }
        Ok(screen)
    }

    pub fn wake_at(&self) -> Instant {
        self.next_frame
    }

    pub fn handle_timeout(&mut self, now: Instant) -> io::Result<()> {
        if now < self.next_frame {
            return Ok(());
        }
        self.next_frame = now + MIN_FRAME_INTERVAL;
        let size = size()?;
        let revision = self.chart.lock().revision();
        let has_changed = self.drawn.is_none_or(|(at, drawn, on)| {
            drawn != revision || on != size || now.saturating_duration_since(at) >= MAX_FRAME_AGE
        });
        if has_changed {
            self.drawn = Some((now, revision, size));
            self.draw(now)?;
        }
        Ok(())
    }

    pub fn draw_last(mut self, now: Instant) {
        let _ = self.draw(now);
    }

    fn draw(&mut self, now: Instant) -> io::Result<()> {
        let mut view = self.chart.lock().view(now);
        view.log = logging::last_held_line().map(|(number, level, text)| {
            if self.log.is_none_or(|(seen, _)| seen != number) {
                self.log = Some((number, now));
            }
            let since = self.log.map_or(now, |(_, since)| since);
            LogLine {
                level: match level {
                    Level::Error => LogLevel::Error,
                    Level::Warn => LogLevel::Warning,
                    _ => LogLevel::Other,
                },
                text,
                age: now.saturating_duration_since(since),
            }
        });
        // None if another thread has restored the terminal.
        if let Some(active) = &mut *ACTIVE.lock() {
            let theme = active.theme;
            let area = Rect::from((Position::ORIGIN, size()?));
            if active.terminal.get_frame().area() != area {
                active.terminal.resize(area)?;
            }
            active.terminal.draw(|f| draw_frame(f, &view, theme))?;
            active.last_view = Some(view);
        }
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore_terminal();
    }
}

/// Fails if standard output is not a terminal, or one that cannot move its cursor.
pub fn check_terminal() -> Result<(), Fault> {
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

pub fn restore_terminal() {
    // This comes first because it cannot block: the terminal may accept no output.
    let _ = disable_raw_mode();
    let Some(mut active) = ACTIVE.lock().take() else {
        return;
    };
    // Fails if the terminal is gone.
    let _ = print_last_frame(&mut active);
}

fn print_last_frame(active: &mut ChartTerminal) -> io::Result<()> {
    let (earlier, errors) = logging::take_held_lines();
    let out = active.terminal.backend_mut();
    execute!(out, LeaveAlternateScreen, Show)?;
    stdio::blocking_stderr().write_all(earlier.as_bytes())?;
    if let Some(view) = &mut active.last_view {
        view.ended = Some(humantime::format_rfc3339_seconds(wall_clock()).to_string());
        // The last row is left for the prompt.
        let Size { width, height } = size()?;
        let text = snapshot(view, (width, height.saturating_sub(1)), active.theme);
        out.write_all(text.as_bytes())?;
        out.flush()?;
    }
    stdio::blocking_stderr().write_all(errors.as_bytes())
}

fn size() -> io::Result<Size> {
    match terminal::size()? {
        (0, _) | (_, 0) => Ok(Size::new(80, 24)),
        (columns, rows) => Ok(Size::new(columns, rows)),
    }
}

fn restore_on_panic() {
    let previous_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // The thread that panics may hold the lock, in the middle of drawing.
        if ACTIVE.is_locked() {
            let _ = disable_raw_mode();
            let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
        } else {
            restore_terminal();
        }
        previous_hook(panic);
    }));
}

fn run_key_loop(chart: &Mutex<ChartData>) {
    while let Ok(event) = event::read() {
        let Event::Key(key) = event else { continue };
        match key_command(key) {
            // As Ctrl-C without raw mode, with the stop timeout and the effect of a second signal.
            Some(KeyCommand::End) => {
                let _ = raise(Signal::SIGINT);
            }
            Some(KeyCommand::Zoom(zoom)) => chart.lock().zoom(zoom),
            None => {}
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyCommand {
    End,
    Zoom(ZoomCommand),
}

fn key_command(key: KeyEvent) -> Option<KeyCommand> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
            Some(KeyCommand::End)
        }
        KeyCode::Char('q') | KeyCode::Esc => Some(KeyCommand::End),
        // A shorter window magnifies the line.
        KeyCode::Char('+' | '=') => Some(KeyCommand::Zoom(ZoomCommand::In)),
        KeyCode::Char('-' | '_') => Some(KeyCommand::Zoom(ZoomCommand::Out)),
        KeyCode::Char('0') => Some(KeyCommand::Zoom(ZoomCommand::Auto)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_end_the_chart_or_change_the_window() {
        let press = |code, modifiers| key_command(KeyEvent::new(code, modifiers));
        let none = KeyModifiers::NONE;
        for code in [KeyCode::Char('q'), KeyCode::Esc] {
            assert_eq!(press(code, none), Some(KeyCommand::End));
        }
        let c = KeyCode::Char('c');
        assert_eq!(press(c, KeyModifiers::CONTROL), Some(KeyCommand::End));
        assert_eq!(press(c, none), None);
        let minus = press(KeyCode::Char('-'), none);
        assert_eq!(minus, Some(KeyCommand::Zoom(ZoomCommand::Out)));
    }
}
