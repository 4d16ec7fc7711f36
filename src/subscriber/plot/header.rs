//! The first rows: how the connection is, and what has come. PURE.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::look::{BAD, GOOD, Look, POOR, put, quiet};
use super::text::{count, cut, rate, time, time_left, width};
use super::view::{Link, View};

/// How the connection is, and what has come: in the row below, or on the right, as much as
/// there is room.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, view: &View, look: Look) {
    let (symbol, style, state) = state(view, look);
    let mut counts = counts(view, look);
    let room = usize::from(area.width) - 2;
    let below = area.height > 1;
    // To each belongs what separates it from its neighbour.
    let wide = |counts: &[(String, Style)]| counts.iter().map(|(text, _)| width(text) + 3).sum();
    let beside = if below { 3 } else { width(&state) + 2 };
    while counts.len() > 1 && beside + wide(&counts) > room + 3 {
        counts.pop();
    }
    // A long cause leaves room for one.
    if beside.min(room / 2) + wide(&counts) > room + 3 {
        counts.clear();
    }
    let counts_wide: usize = wide(&counts);
    let (left, mut column) = if below {
        (room, 3)
    } else {
        (room - counts_wide.min(room), room + 4 - counts_wide)
    };
    put(buffer, area.x + 1, area.y, symbol, style);
    let shown = cut(&state, left.saturating_sub(2));
    put(buffer, area.x + 3, area.y, &shown, Style::new());
    for (n, (text, style)) in counts.iter().enumerate() {
        let at = area.x + u16::try_from(column).unwrap_or(u16::MAX);
        if n > 0 {
            put(buffer, at - 2, area.bottom() - 1, "·", quiet());
        }
        put(buffer, at, area.bottom() - 1, text, *style);
        column += width(text) + 3;
    }
}

fn state(view: &View, look: Look) -> (&'static str, Style, String) {
    let broker = &view.broker;
    if view.ended.is_some() {
        let text = format!("{broker}, after {}", time(view.elapsed));
        return ("■", quiet(), text);
    }
    match &view.link {
        Link::Connecting { why: None } => {
            let text = format!("connecting to {broker}");
            ("○", look.state(POOR), text)
        }
        Link::Connecting { why: Some(why) } => {
            ("○", look.state(BAD), format!("connecting again: {why}"))
        }
        Link::Connected { since } => {
            let text = format!("{broker}, connected for {}", time(*since));
            ("●", look.state(GOOD), text)
        }
        Link::Waiting { why, left } => {
            let text = format!("offline, trying again in {}: {why}", time_left(*left));
            ("○", look.state(BAD), text)
        }
        Link::Ended => ("■", quiet(), format!("{broker}, ended")),
    }
}

/// The counts, the most important first.
fn counts(view: &View, look: Look) -> Vec<(String, Style)> {
    let mut counts = vec![(rate(view.rate), Style::new())];
    if view.missing > 0 {
        counts.push((format!("{} missing", view.missing), look.bad()));
    }
    if view.without_value > 0 {
        let text = format!("{} without a value", view.without_value);
        counts.push((text, look.state(POOR)));
    }
    if view.reconnects > 0 {
        let text = count(view.reconnects, "reconnect");
        counts.push((text, look.state(POOR)));
    }
    counts.push((format!("{} received", view.received), Style::new()));
    counts
}
