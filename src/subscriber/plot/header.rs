//! The first rows: the state of the connection, and counts. PURE.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::style::{ERROR, OK, Theme, WARNING, dim, put_text};
use super::text::{format_rate, format_time, format_time_left, plural, truncate, width};
use super::view::{ChartView, ConnectionStatus};

/// The counts go into the second row or to the right, as many as fit.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, view: &ChartView, theme: Theme) {
    let (symbol, style, state) = state(view, theme);
    let mut counts = counts(view, theme);
    let room = usize::from(area.width) - 2;
    let below = area.height > 1;
    // Includes the separators.
    let wide = |counts: &[(String, Style)]| counts.iter().map(|(text, _)| width(text) + 3).sum();
    let beside = if below { 3 } else { width(&state) + 2 };
    while counts.len() > 1 && beside + wide(&counts) > room + 3 {
        counts.pop();
    }
    // A long error leaves space for one count.
    if beside.min(room / 2) + wide(&counts) > room + 3 {
        counts.clear();
    }
    let counts_width: usize = wide(&counts);
    let (left, mut column) = if below {
        (room, 3)
    } else {
        (room - counts_width.min(room), room + 4 - counts_width)
    };
    put_text(buffer, area.x + 1, area.y, symbol, style);
    let shown = truncate(&state, left.saturating_sub(2));
    put_text(buffer, area.x + 3, area.y, &shown, Style::new());
    for (n, (text, style)) in counts.iter().enumerate() {
        let at = area.x + u16::try_from(column).unwrap_or(u16::MAX);
        if n > 0 {
            put_text(buffer, at - 2, area.bottom() - 1, "·", dim());
        }
        put_text(buffer, at, area.bottom() - 1, text, *style);
        column += width(text) + 3;
    }
}

fn state(view: &ChartView, theme: Theme) -> (&'static str, Style, String) {
    let broker = &view.broker;
    if view.ended.is_some() {
        let text = format!("{broker}, after {}", format_time(view.elapsed));
        return ("■", dim(), text);
    }
    match &view.connection {
        ConnectionStatus::Connecting { why: None } => {
            let text = format!("connecting to {broker}");
            ("○", theme.color(WARNING), text)
        }
        ConnectionStatus::Connecting { why: Some(why) } => {
            ("○", theme.color(ERROR), format!("connecting again: {why}"))
        }
        ConnectionStatus::Connected { uptime } => {
            let text = format!("{broker}, connected for {}", format_time(*uptime));
            ("●", theme.color(OK), text)
        }
        ConnectionStatus::Waiting { why, left } => {
            let text = format!(
                "offline, trying again in {}: {why}",
                format_time_left(*left)
            );
            ("○", theme.color(ERROR), text)
        }
        ConnectionStatus::Ended => ("■", dim(), format!("{broker}, ended")),
    }
}

/// The most important count first.
fn counts(view: &ChartView, theme: Theme) -> Vec<(String, Style)> {
    let mut counts = vec![(format_rate(view.rate), Style::new())];
    if view.missing > 0 {
        counts.push((format!("{} missing", view.missing), theme.color(ERROR)));
    }
    if view.without_value > 0 {
        let text = format!("{} without a value", view.without_value);
        counts.push((text, theme.color(WARNING)));
    }
    if view.reconnects > 0 {
        let text = plural(view.reconnects, "reconnect");
        counts.push((text, theme.color(WARNING)));
    }
    counts.push((format!("{} received", view.received), Style::new()));
    counts
}
