//! How far a backlog has drained: a bar on a terminal, otherwise one log line every ten seconds.

use std::time::{Duration, Instant};

use console::Term;
use log::{Level, info, log_enabled};

use crate::common::runtime::logging;

const MIN_BACKLOG: usize = 200;

const LOG_INTERVAL: Duration = Duration::from_secs(10);

const DRAW_INTERVAL: Duration = Duration::from_millis(100);

/// In characters.
const BAR_WIDTH: usize = 30;

#[derive(Debug)]
struct Draining {
    since: Instant,
    delivered_before: u64,
    /// When the next line of the log is due, or the bar may be drawn again.
    due_at: Instant,
}

#[derive(Debug)]
pub struct DrainReporter {
    show_bar: bool,
    draining: Option<Draining>,
}

impl DrainReporter {
    /// `prints` is whether receipts or messages go to a terminal: a bar would overwrite them.
    pub fn new(prints: bool) -> Self {
        Self {
            show_bar: !prints && logging::is_on_terminal() && log_enabled!(Level::Warn),
            draining: None,
        }
    }

    pub fn update(&mut self, online: bool, waiting: usize, delivered: u64, now: Instant) {
        if !online || waiting == 0 {
            self.stop();
            return;
        }
        if self.draining.is_none() && waiting >= MIN_BACKLOG {
            self.draining = Some(Draining {
                since: now,
                delivered_before: delivered,
                due_at: if self.show_bar {
                    now
                } else {
                    now + LOG_INTERVAL
                },
            });
        }
        let Some(draining) = &mut self.draining else {
            return;
        };
        if now < draining.due_at {
            return;
        }
        let done = delivered.saturating_sub(draining.delivered_before);
        let progress = format_progress(done, waiting, now - draining.since);
        if self.show_bar {
            draining.due_at = now + DRAW_INTERVAL;
            let line = format!("{} {progress}", format_bar(done, waiting));
            let columns = usize::from(Term::stderr().size().1);
            logging::show_progress(Some(line.chars().take(columns).collect()));
        } else {
            draining.due_at = now + LOG_INTERVAL;
            info!("draining: {progress}");
        }
    }

    /// None for the bar: it is drawn when something happens.
    pub fn wake_at(&self) -> Option<Instant> {
        let draining = self.draining.as_ref()?;
        (!self.show_bar).then_some(draining.due_at)
    }

    pub fn stop(&mut self) {
        if self.draining.take().is_some() && self.show_bar {
            logging::show_progress(None);
        }
    }
}

fn format_bar(done: u64, left: usize) -> String {
    let total = u128::from(done) + left as u128;
    let filled = u128::from(done) * BAR_WIDTH as u128 / total.max(1);
    let filled = usize::try_from(filled).unwrap_or(BAR_WIDTH);
    format!("{}{}", "█".repeat(filled), "░".repeat(BAR_WIDTH - filled))
}

#[allow(clippy::cast_precision_loss, reason = "estimates, not counts")]
fn format_progress(done: u64, left: usize, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(1e-3);
    let seconds = left as f64 / rate;
    let time = match Duration::try_from_secs_f64(seconds.ceil()) {
        Ok(time) => humantime::format_duration(time).to_string(),
        Err(_) => "unknown time".into(),
    };
    format!("{done} sent, {left} left, {rate:.0} per second, {time} to go")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_grows_with_what_is_done() {
        let filled = |done, left| format_bar(done, left).matches('█').count();
        assert_eq!(
            [filled(0, 200), filled(100, 100), filled(200, 0)],
            [0, 15, 30]
        );
        assert_eq!(format_bar(1, 9).chars().count(), BAR_WIDTH);
        assert_eq!(filled(u64::MAX, usize::MAX), 15);
    }

    #[test]
    fn the_log_line_says_what_is_done_and_how_long_the_rest_takes() {
        let tens = Duration::from_secs(10);
        let line = "20000 sent, 180000 left, 2000 per second, 1m 30s to go";
        assert_eq!(format_progress(20_000, 180_000, tens), line);
        assert!(format_progress(0, 5, tens).ends_with("unknown time to go"));
    }
}
