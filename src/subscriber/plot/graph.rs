//! The graph: axes, their labels, the lines. PURE.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::symbols::Marker;
use ratatui::widgets::Widget as _;
use ratatui::widgets::canvas::{Canvas, Context, Line, Points};

use super::look::{Look, mark, put, quiet};
use super::scale::Scale;
use super::text::{count, cut, time, width};
use super::view::View;

/// Rows between two ticks, at least.
const ROWS: u16 = 3;

/// Columns between two ticks, at least.
const COLUMNS: u64 = 12;

/// What stands on the axis where there was no connection, if there is room.
const OFFLINE: &str = " offline ";

/// Draws the graph.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, view: &View, look: Look) {
    let Some((min, max)) = range(view) else {
        let why = nothing(view);
        let why = cut(&why, area.width.into());
        let left = (usize::from(area.width) - width(&why)) / 2;
        let column = area.x + u16::try_from(left).unwrap_or_default();
        put(buffer, column, area.y + area.height / 2, &why, quiet());
        return;
    };
    let axis_rows = match area.height {
        ..3 => 0,
        3..6 => 1,
        _ => 2,
    };
    let rows = area.height - axis_rows;
    let scale = Scale::new(min, max, usize::from((rows / ROWS).clamp(1, 8)));
    let ticks = scale.ticks();
    let label = ticks.iter().map(|(_, label)| width(label)).max();
    let label = u16::try_from(label.unwrap_or_default()).unwrap_or(u16::MAX);
    let gutter = if label.saturating_mul(3) > area.width {
        0
    } else {
        label + 2
    };
    let plot = Rect::new(area.x + gutter, area.y, area.width - gutter, rows);
    if gutter > 0 {
        values(buffer, plot, &ticks, scale, look);
    }
    if axis_rows > 0 {
        times(buffer, plot, view, look, axis_rows > 1);
    }
    lines(buffer, plot, view, scale, look);
}

/// Why there is no line.
fn nothing(view: &View) -> String {
    if view.received == 0 {
        "no message yet".into()
    } else if view.lines.is_empty() {
        let messages = count(view.received, "message");
        format!("no number in {messages}: see --value")
    } else {
        format!("no reading in the last {}", time(view.span))
    }
}

/// The least and the greatest value to be seen.
fn range(view: &View) -> Option<(f64, f64)> {
    let stats = view.lines.iter().filter_map(|line| line.stats);
    stats.fold(None, |all, stats| {
        let (min, max) = all.unwrap_or((stats.min, stats.max));
        Some((min.min(stats.min), max.max(stats.max)))
    })
}

/// The axis of values, on the left.
fn values(buffer: &mut Buffer, plot: Rect, ticks: &[(f64, String)], scale: Scale, look: Look) {
    let axis = plot.x - 1;
    for row in plot.top()..plot.bottom() {
        put(buffer, axis, row, "│", quiet());
    }
    let dots = f64::from(plot.height) * look.dots().1 - 1.0;
    for (value, label) in ticks {
        let dot = ((scale.high - value) / (scale.high - scale.low) * dots).round();
        let row = plot.y + whole(dot / look.dots().1).min(plot.height - 1);
        let column = axis - u16::try_from(width(label)).unwrap_or_default();
        put(buffer, column.saturating_sub(1), row, label, Style::new());
        put(buffer, axis, row, "┤", quiet());
    }
}

/// The axis of time, below: its line, where there was no connection, and the labels.
fn times(buffer: &mut Buffer, plot: Rect, view: &View, look: Look, labels: bool) {
    let axis = plot.bottom();
    if plot.x > 0 {
        put(buffer, plot.x - 1, axis, "└", quiet());
    }
    let line = "─".repeat(plot.width.into());
    put(buffer, plot.x, axis, &line, quiet());
    for (down, up) in &view.outages {
        let (from, to) = (column(plot, view, *down), column(plot, view, *up));
        for column in from..=to {
            put(buffer, column, axis, "━", look.bad());
        }
        let room = usize::from(to - from);
        if room > OFFLINE.len() {
            let left = u16::try_from((room - OFFLINE.len()) / 2).unwrap_or_default();
            put(buffer, from + left + 1, axis, OFFLINE, look.bad());
        }
    }
    let (number, unit) = match view.span.as_secs() {
        seconds @ ..120 => (seconds, "s"),
        seconds @ ..7200 => (seconds / 60, "min"),
        seconds => (seconds / 3600, "h"),
    };
    let room = u64::from(plot.width) / COLUMNS;
    let parts = (1..=6).rev().find(|n| number % n == 0 && *n <= room);
    let parts = parts.unwrap_or(1);
    let mut end = 0;
    for part in 0..=parts {
        let ago = number / parts * (parts - part);
        #[allow(clippy::cast_precision_loss, reason = "six at most")]
        let at = view.span.mul_f64((parts - part) as f64 / parts as f64);
        let column = column(plot, view, -at.as_secs_f64());
        if buffer
            .cell((column, axis))
            .is_some_and(|cell| cell.symbol() == "─")
        {
            put(buffer, column, axis, "┬", quiet());
        }
        let label = match ago {
            0 => "now".into(),
            _ => format!("-{ago} {unit}"),
        };
        let wide = u16::try_from(width(&label)).unwrap_or_default();
        let column = column
            .saturating_sub(wide / 2)
            .min(plot.right().saturating_sub(wide));
        if labels && column >= end {
            put(buffer, column, axis + 1, &label, Style::new());
            end = column + wide + 1;
        }
    }
}

/// The column of a time, in seconds before now.
fn column(plot: Rect, view: &View, at: f64) -> u16 {
    let part = 1.0 + at / view.span.as_secs_f64();
    let column = whole(part.clamp(0.0, 1.0) * (f64::from(plot.width) - 1.0));
    plot.x + column
}

fn lines(buffer: &mut Buffer, plot: Rect, view: &View, scale: Scale, look: Look) {
    let span = view.span.as_secs_f64();
    // The chart moves on by whole dots, else lines would shimmer.
    let dot = span / (f64::from(plot.width) * look.dots().0 - 1.0).max(1.0);
    let rest = dot - view.elapsed.as_secs_f64() % dot;
    let paint = |context: &mut Context<'_>| {
        for (number, line) in view.lines.iter().enumerate() {
            if !look.colour {
                context.marker(Marker::Custom(mark(number)));
            }
            for segment in &line.segments {
                paint_segment(context, segment, rest, look.line(number));
            }
        }
    };
    Canvas::default()
        .marker(Marker::Braille)
        .x_bounds([-span, 0.0])
        .y_bounds([scale.low, scale.high])
        .paint(paint)
        .render(plot, buffer);
}

fn paint_segment(
    context: &mut Context<'_>,
    segment: &[(f64, f64)],
    rest: f64,
    color: ratatui::style::Color,
) {
    if let [(at, value)] = segment {
        let coords = &[(at - rest, *value)];
        context.draw(&Points { coords, color });
    }
    for pair in segment.windows(2) {
        if let [(x1, y1), (x2, y2)] = pair {
            context.draw(&Line::new(x1 - rest, *y1, x2 - rest, *y2, color));
        }
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a column or a row"
)]
fn whole(number: f64) -> u16 {
    number as u16
}
