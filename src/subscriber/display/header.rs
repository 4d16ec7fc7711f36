//! The first rows: the state of the connection, and counts. PURE.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::run_status::RunStatus;
use super::style::{DIM, ERROR, NORMAL, OK, Theme, WARNING, put_text};
use super::text_format::{
    format_duration, format_plural, format_rate, format_time_left, truncate, width,
};
use crate::common::connection::state::ConnectionState;

/// The counts go into the second row or to the right, as many as fit.
pub fn draw(buffer: &mut Buffer, area: Rect, status: &RunStatus, theme: Theme) {
    let (symbol, style, state) = state_text(status, theme);
    let mut counts = counts(status, theme);
    let space = usize::from(area.width) - 2;
    let below = area.height > 1;
    // Includes the separators.
    let wide = |counts: &[(String, Style)]| counts.iter().map(|(text, _)| width(text) + 3).sum();
    let beside = if below { 3 } else { width(&state) + 2 };
    while counts.len() > 1 && beside + wide(&counts) > space + 3 {
        counts.pop();
    }
    // A long error leaves space for one count.
    if beside.min(space / 2) + wide(&counts) > space + 3 {
        counts.clear();
    }
    let counts_width: usize = wide(&counts);
    let (left, mut column) = if below {
        (space, 3)
    } else {
        (space - counts_width.min(space), space + 4 - counts_width)
    };
    put_text(buffer, area.x + 1, area.y, symbol, style);
    let shown = truncate(&state, left.saturating_sub(2));
    put_text(buffer, area.x + 3, area.y, &shown, NORMAL);
    for (n, (text, style)) in counts.iter().enumerate() {
        let at = area.x + u16::try_from(column).unwrap_or(u16::MAX);
        if n > 0 {
            put_text(buffer, at - 2, area.bottom() - 1, "·", DIM);
        }
        put_text(buffer, at, area.bottom() - 1, text, *style);
        column += width(text) + 3;
    }
}

fn state_text(status: &RunStatus, theme: Theme) -> (&'static str, Style, String) {
    let RunStatus { broker, now, .. } = status;
    if status.ended.is_some() {
        let text = format!("{broker}, after {}", format_duration(status.elapsed));
        return ("■", DIM.into(), text);
    }
    let why = status.why_offline.as_deref();
    let (symbol, color, text) = match status.connection {
        ConnectionState::Idle | ConnectionState::Connecting { .. } => match why {
            None => ("○", WARNING, format!("connecting to {broker}")),
            Some(why) => ("○", ERROR, format!("connecting again: {why}")),
        },
        ConnectionState::Online { since } => {
            let uptime = format_duration(now.saturating_duration_since(since));
            ("●", OK, format!("{broker}, connected for {uptime}"))
        }
        ConnectionState::Waiting { until } => {
            let left = format_time_left(until.saturating_duration_since(*now));
            let why = why.unwrap_or_default();
            let text = format!("offline, trying again in {left}: {why}");
            ("○", ERROR, text)
        }
        ConnectionState::Stopped => return ("■", DIM.into(), format!("{broker}, ended")),
    };
    (symbol, theme.color_if_enabled(color).into(), text)
}

fn counts(status: &RunStatus, theme: Theme) -> Vec<(String, Style)> {
    let mut counts = vec![(format_rate(status.rate), NORMAL.into())];
    let mut add_problem = |count: u64, color, text: String| {
        if count > 0 {
            counts.push((text, theme.color_if_enabled(color).into()));
        }
    };
    let (missing, without) = (status.missing, status.without_value);
    add_problem(missing, ERROR, format!("{missing} missing"));
    add_problem(without, WARNING, format!("{without} without a value"));
    let reconnects = format_plural(status.reconnects, "reconnect");
    add_problem(status.reconnects, WARNING, reconnects);
    counts.push((format!("{} received", status.received), NORMAL.into()));
    counts
}
