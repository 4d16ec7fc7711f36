//! The chart or the table on the terminal. The event loop draws; another thread reads the keys.
//!
//! While it is shown it uses the alternate screen. When it ends, in any way and on any thread,
//! the terminal is restored, and the last frame is printed as ordinary output.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
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

use super::chart::chart_data::HideCommand;
use super::chart::zoom::ZoomCommand;
use super::display_content::DisplayContent;
use super::display_data::{DisplayCommand, DisplayData};
use super::frame::{draw_frame, snapshot};
use super::run_status::{LogLevel, LogLine};
use super::style::Theme;
use super::table::table_data::ScrollCommand;
use crate::common::fault::{Exit, Fault};
use crate::common::runtime::clock::wall_clock;
use crate::common::runtime::stdio::{self, Blocking};
use crate::common::runtime::{logging, signals};

const MIN_FRAME_INTERVAL: Duration = Duration::from_millis(100);

const MAX_FRAME_AGE: Duration = Duration::from_secs(1);

/// Without the standard library's lock: restoring must not wait for a write that is stuck.
type Out = BufWriter<Blocking<File>>;

struct DisplayTerminal {
    terminal: Terminal<CrosstermBackend<Out>>,
    theme: Theme,
    last_content: Option<DisplayContent>,
}

static ACTIVE: Mutex<Option<DisplayTerminal>> = Mutex::new(None);

#[derive(Debug)]
pub struct Screen {
    data: Arc<Mutex<DisplayData>>,
    next_frame: Instant,
    drawn: Option<(Instant, u64, Size)>,
    /// The number of the last line of the log, and when it was first seen.
    log: Option<(u64, Instant)>,
    zone: TimeZone,
}

impl Screen {
    /// Takes the terminal and starts reading keys: q, Esc and Ctrl-C raise SIGINT, the others are commands to `data`.
    pub fn start(data: Arc<Mutex<DisplayData>>, now: Instant) -> Result<Self, Fault> {
        let unusable = |cause| {
            let message = format!("the terminal cannot be used: {cause}");
            Fault::permanent(Exit::Io, message)
        };
        let out = io::stdout().as_fd().try_clone_to_owned();
        let out = Blocking(File::from(out.map_err(unusable)?));
        let backend = CrosstermBackend::new(BufWriter::new(out));
        let options = TerminalOptions {
            viewport: Viewport::Fixed(Rect::ZERO),
        };
        *ACTIVE.lock() = Some(DisplayTerminal {
            terminal: Terminal::with_options(backend, options).map_err(unusable)?,
            theme: Theme::from_environment(|name| {
                std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
            }),
            last_content: None,
        });
        // From here on the terminal is restored on every path.
        let screen = Self {
            data: Arc::clone(&data),
            next_frame: now,
            drawn: None,
            log: None,
            // Without a zone that can be read the times are in UTC.
            zone: TimeZone::try_system().unwrap_or(TimeZone::UTC),
        };
        signals::set_exit_hook(restore_terminal);
        restore_on_panic();
        logging::hold_lines();
        // Without a terminal to read from there are no keys, and a signal ends it.
        if enable_raw_mode().is_ok() {
            let keys = std::thread::Builder::new().name("keys".into());
            keys.spawn(move || run_key_loop(&data)).map_err(unusable)?;
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
        let revision = self.data.lock().revision();
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

    /// The time by the clock on the wall, in milliseconds since a midnight.
    fn clock(&self) -> i64 {
        let now = Timestamp::try_from(wall_clock()).unwrap_or_default();
        let offset = self.zone.to_offset(now).seconds();
        now.as_millisecond() + i64::from(offset) * 1000
    }

    fn draw(&mut self, now: Instant) -> io::Result<()> {
        let log = logging::last_held_line().map(|(number, level, text)| {
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
        let size = size()?;
        let clock = self.clock();
        let content = self
            .data
            .lock()
            .content(now, clock, (size.width, size.height), log);
        // None if another thread has restored the terminal.
        if let Some(active) = &mut *ACTIVE.lock() {
            let theme = active.theme;
            let area = Rect::from((Position::ORIGIN, size));
            if active.terminal.get_frame().area() != area {
                active.terminal.resize(area)?;
            }
            active.terminal.draw(|f| draw_frame(f, &content, theme))?;
            active.last_content = Some(content);
        }
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore_terminal();
    }
}

/// Fails if standard output is not a terminal, or one that cannot move its cursor. `flag` needs it.
pub fn check_terminal(flag: &str) -> Result<(), Fault> {
    if !io::stdout().is_terminal() {
        return Err(Fault::usage(format!(
            "{flag} draws on a terminal, and standard output is none: leave {flag} out, or do not \
             redirect the output"
        )));
    }
    if std::env::var_os("TERM").is_some_and(|term| term == "dumb") {
        return Err(Fault::usage(format!(
            "{flag} needs a terminal that can move its cursor, and TERM is dumb: leave {flag} out"
        )));
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

fn print_last_frame(active: &mut DisplayTerminal) -> io::Result<()> {
    let (earlier, errors) = logging::take_held_lines();
    let out = active.terminal.backend_mut();
    execute!(out, LeaveAlternateScreen, Show)?;
    stdio::blocking_stderr().write_all(earlier.as_bytes())?;
    if let Some(content) = &mut active.last_content {
        content.status.ended = Some(humantime::format_rfc3339_seconds(wall_clock()).to_string());
        // The last row is left for the prompt.
        let Size { width, height } = size()?;
        let text = snapshot(content, (width, height.saturating_sub(1)), active.theme);
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

fn run_key_loop(data: &Mutex<DisplayData>) {
    while let Ok(event) = event::read() {
        let Event::Key(key) = event else { continue };
        match key_command(key) {
            // As Ctrl-C without raw mode, with the stop timeout and the effect of a second signal.
            Some(KeyCommand::End) => {
                let _ = raise(Signal::SIGINT);
            }
            Some(KeyCommand::Display(command)) => data.lock().handle_command(command),
            None => {}
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyCommand {
    End,
    Display(DisplayCommand),
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
        code => display_command(code).map(KeyCommand::Display),
    }
}

fn display_command(code: KeyCode) -> Option<DisplayCommand> {
    let scroll = |command| Some(DisplayCommand::Scroll(command));
    match code {
        // A shorter window magnifies the line.
        KeyCode::Char('+' | '=') => Some(DisplayCommand::Zoom(ZoomCommand::In)),
        KeyCode::Char('-' | '_') => Some(DisplayCommand::Zoom(ZoomCommand::Out)),
        KeyCode::Char('0') => Some(DisplayCommand::Zoom(ZoomCommand::Auto)),
        KeyCode::Char('l') => Some(DisplayCommand::Hide(HideCommand::ShowNextAlone)),
        KeyCode::Char(digit @ '1'..='8') => {
            let position = usize::from(digit as u8 - b'1');
            Some(DisplayCommand::Hide(HideCommand::Toggle(position)))
        }
        KeyCode::Up | KeyCode::Char('k') => scroll(ScrollCommand::Up),
        KeyCode::Down | KeyCode::Char('j') => scroll(ScrollCommand::Down),
        KeyCode::PageUp | KeyCode::Char('b') => scroll(ScrollCommand::PageUp),
        KeyCode::PageDown | KeyCode::Char(' ') => scroll(ScrollCommand::PageDown),
        KeyCode::Char('g') => scroll(ScrollCommand::First),
        KeyCode::Char('G') => scroll(ScrollCommand::Last),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_end_the_display_zoom_and_scroll() {
        let press = |code, modifiers| key_command(KeyEvent::new(code, modifiers));
        let none = KeyModifiers::NONE;
        for code in [KeyCode::Char('q'), KeyCode::Esc] {
            assert_eq!(press(code, none), Some(KeyCommand::End));
        }
        let c = KeyCode::Char('c');
        assert_eq!(press(c, KeyModifiers::CONTROL), Some(KeyCommand::End));
        assert_eq!(press(c, none), None);
        let minus = press(KeyCode::Char('-'), none);
        let out = DisplayCommand::Zoom(ZoomCommand::Out);
        assert_eq!(minus, Some(KeyCommand::Display(out)));
        let hide = DisplayCommand::Hide(HideCommand::Toggle(1));
        assert_eq!(
            press(KeyCode::Char('2'), none),
            Some(KeyCommand::Display(hide))
        );
        let down = DisplayCommand::Scroll(ScrollCommand::Down);
        assert_eq!(press(KeyCode::Down, none), Some(KeyCommand::Display(down)));
    }
}
