//! How far a backlog has drained: a bar on a terminal, otherwise one log line every ten seconds.

use std::time::{Duration, Instant};
use std::{fmt, io};

use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use log::{Level, info, log_enabled};

use crate::common::runtime::{logging, stdio};

const MIN_BACKLOG: usize = 200;

const LOG_INTERVAL: Duration = Duration::from_secs(10);

const TEMPLATE: &str = "{bar:30} {human_pos} of {human_len} sent, {rate} per second, {eta} left";

#[derive(Debug)]
struct Draining {
    since: Instant,
    delivered_before: u64,
    log_at: Instant,
    bar: Option<ProgressBar>,
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
                log_at: now + LOG_INTERVAL,
                bar: self.show_bar.then(create_bar),
            });
        }
        let Some(draining) = &mut self.draining else {
            return;
        };
        let done = delivered.saturating_sub(draining.delivered_before);
        if let Some(bar) = &draining.bar {
            bar.set_length(done + waiting as u64);
            bar.set_position(done);
        } else if now >= draining.log_at {
            draining.log_at = now + LOG_INTERVAL;
            info!("{}", format_progress(done, waiting, now - draining.since));
        }
    }

    pub fn wake_at(&self) -> Option<Instant> {
        let draining = self.draining.as_ref()?;
        draining.bar.is_none().then_some(draining.log_at)
    }

    pub fn stop(&mut self) {
        if let Some(Draining { bar: Some(bar), .. }) = self.draining.take() {
            logging::set_progress_bar(None);
            bar.finish_and_clear();
        }
    }
}

fn create_bar() -> ProgressBar {
    // The size is that of the second one, which is written to.
    let terminal = Term::read_write_pair(io::stdin(), stdio::blocking_stderr());
    let target = ProgressDrawTarget::term(terminal, 10);
    let bar = ProgressBar::with_draw_target(Some(0), target);
    if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
        let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
            let _ = write!(out, "{:.0}", state.per_sec());
        };
        bar.set_style(style.with_key("rate", rate));
    }
    logging::set_progress_bar(Some(bar.clone()));
    bar
}

#[allow(clippy::cast_precision_loss, reason = "estimates, not counts")]
fn format_progress(done: u64, left: usize, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(1e-3);
    let seconds = left as f64 / rate;
    let time = match Duration::try_from_secs_f64(seconds.ceil()) {
        Ok(time) => humantime::format_duration(time).to_string(),
        Err(_) => "unknown time".into(),
    };
    format!("draining: {done} sent, {left} left, {rate:.0} per second, {time} to go")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_line_says_what_is_done_and_how_long_the_rest_takes() {
        let tens = Duration::from_secs(10);
        let line = "draining: 20000 sent, 180000 left, 2000 per second, 1m 30s to go";
        assert_eq!(format_progress(20_000, 180_000, tens), line);
        assert!(format_progress(0, 5, tens).ends_with("unknown time to go"));
    }
}
