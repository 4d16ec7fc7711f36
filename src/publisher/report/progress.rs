//! How far a backlog has drained: a bar on a terminal, in a log a line every ten seconds.

use std::time::{Duration, Instant};
use std::{fmt, io};

use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use log::{Level, info, log_enabled};

use crate::common::runtime::{logging, stdio};

/// A backlog of fewer messages is not worth a word.
const WORTH_IT: usize = 200;

/// Between two lines in the log.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The bar: done, left, rate, time left.
const TEMPLATE: &str = "{bar:30} {human_pos} of {human_len} sent, {rate} a second, {eta} left";

#[derive(Debug)]
struct Draining {
    since: Instant,
    /// What had been delivered before.
    delivered: u64,
    log_at: Instant,
    bar: Option<ProgressBar>,
}

#[derive(Debug)]
pub struct Progress {
    on_terminal: bool,
    draining: Option<Draining>,
}

impl Progress {
    /// Nothing drains yet. `prints` is whether lines about messages go to a terminal: then a
    /// bar would be in their way.
    pub fn new(prints: bool) -> Self {
        Self {
            on_terminal: !prints && logging::on_terminal() && log_enabled!(Level::Warn),
            draining: None,
        }
    }

    /// Things stand like this now: so many messages wait, so many have been delivered.
    pub fn update(&mut self, online: bool, waiting: usize, delivered: u64, now: Instant) {
        if !online || waiting == 0 {
            self.stop();
            return;
        }
        if self.draining.is_none() && waiting >= WORTH_IT {
            self.draining = Some(Draining {
                since: now,
                delivered,
                log_at: now + LOG_EVERY,
                bar: self.on_terminal.then(bar),
            });
        }
        let Some(draining) = &mut self.draining else {
            return;
        };
        let done = delivered.saturating_sub(draining.delivered);
        if let Some(bar) = &draining.bar {
            bar.set_length(done + waiting as u64);
            bar.set_position(done);
        } else if now >= draining.log_at {
            draining.log_at = now + LOG_EVERY;
            info!("{}", line(done, waiting, now - draining.since));
        }
    }

    /// When there is something to say by time alone.
    pub fn wake_at(&self) -> Option<Instant> {
        let draining = self.draining.as_ref()?;
        draining.bar.is_none().then_some(draining.log_at)
    }

    /// It has drained, or cannot go on.
    pub fn stop(&mut self) {
        if let Some(Draining { bar: Some(bar), .. }) = self.draining.take() {
            logging::beside(None);
            bar.finish_and_clear();
        }
    }
}

fn bar() -> ProgressBar {
    // It asks the second for its size, and writes to it.
    let terminal = Term::read_write_pair(io::stdin(), stdio::stderr());
    let target = ProgressDrawTarget::term(terminal, 10);
    let bar = ProgressBar::with_draw_target(Some(0), target);
    if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
        bar.set_style(
            style.with_key("rate", |state: &ProgressState, out: &mut dyn fmt::Write| {
                // What cannot be drawn is not drawn.
                let _ = write!(out, "{:.0}", state.per_sec());
            }),
        );
    }
    logging::beside(Some(bar.clone()));
    bar
}

/// The line for a log.
fn line(done: u64, left: usize, elapsed: Duration) -> String {
    #[allow(clippy::cast_precision_loss, reason = "a rate, not a count")]
    let rate = done as f64 / elapsed.as_secs_f64().max(1e-3);
    #[allow(clippy::cast_precision_loss, reason = "an estimate")]
    let seconds = left as f64 / rate;
    let time = match Duration::try_from_secs_f64(seconds.ceil()) {
        Ok(time) => humantime::format_duration(time).to_string(),
        Err(_) => "nobody knows how long".into(),
    };
    format!("draining: {done} sent, {left} left, {rate:.0} a second, {time} to go")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_is_done_and_how_long_the_rest_takes() {
        let tens = Duration::from_secs(10);
        assert_eq!(
            line(20_000, 180_000, tens),
            "draining: 20000 sent, 180000 left, 2000 a second, 1m 30s to go"
        );
        assert!(line(0, 5, tens).ends_with("nobody knows how long to go"));
    }
}
