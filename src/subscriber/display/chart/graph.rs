//! The graph: axes, labels, lines. PURE.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Color;
use ratatui::symbols::Marker;
use ratatui::widgets::Widget as _;
use ratatui::widgets::canvas::{Canvas, Context, Line, Points};

use super::chart_content::{ChartContent, Point};
use super::time_axis;
use super::value_scale::Scale;
use crate::subscriber::display::run_status::RunStatus;
use crate::subscriber::display::style::{DIM, ERROR, NORMAL, Theme, line_mark, put_text};
use crate::subscriber::display::text_format::{format_duration, format_plural, truncate, width};

const MIN_ROWS_PER_TICK: u16 = 3;

const OFFLINE: &str = " offline ";

pub fn draw(
    buffer: &mut Buffer,
    area: Rect,
    chart: &ChartContent,
    status: &RunStatus,
    theme: Theme,
) {
    let Some((min, max)) = value_range(chart) else {
        let why = truncate(&why_empty(chart, status), area.width.into());
        let left = (usize::from(area.width) - width(&why)) / 2;
        let column = area.x + u16::try_from(left).unwrap_or_default();
        put_text(buffer, column, area.y + area.height / 2, &why, DIM);
        return;
    };
    let axis_rows = match area.height {
        ..3 => 0,
        3..6 => 1,
        _ => 2,
    };
    let rows = area.height - axis_rows;
    let ticks = (rows / MIN_ROWS_PER_TICK).clamp(1, 8);
    let scale = Scale::new(min, max, ticks.into());
    let label = scale.ticks().iter().map(|(_, label)| width(label)).max();
    let label = u16::try_from(label.unwrap_or_default()).unwrap_or(u16::MAX);
    let has_value_axis = label.saturating_mul(3) <= area.width;
    let gutter = if has_value_axis { label + 2 } else { 0 };
    let plot = Rect::new(area.x + gutter, area.y, area.width - gutter, rows);
    if has_value_axis {
        draw_value_axis(buffer, plot, scale, theme);
    }
    if axis_rows > 0 {
        draw_time_axis(buffer, plot, chart, theme, axis_rows > 1);
    }
    draw_lines(buffer, plot, (chart, status), scale, theme);
}

fn why_empty(chart: &ChartContent, status: &RunStatus) -> String {
    if status.received == 0 {
        "no message yet".into()
    } else if chart.curves.is_empty() {
        let messages = format_plural(status.received, "message");
        format!("no number in {messages}: see --value")
    } else if chart.curves.iter().all(|line| line.is_hidden) {
        "all lines are hidden".into()
    } else {
        format!("no reading in the last {}", format_duration(chart.span))
    }
}

fn value_range(chart: &ChartContent) -> Option<(f64, f64)> {
    let shown = chart.curves.iter().filter(|line| !line.is_hidden);
    let stats = shown.filter_map(|line| line.stats);
    stats.fold(None, |all, stats| {
        let (min, max) = all.unwrap_or((stats.min, stats.max));
        Some((min.min(stats.min), max.max(stats.max)))
    })
}

fn draw_value_axis(buffer: &mut Buffer, plot: Rect, scale: Scale, theme: Theme) {
    let axis = plot.x - 1;
    for row in plot.top()..plot.bottom() {
        put_text(buffer, axis, row, "│", DIM);
    }
    let dots = f64::from(plot.height) * theme.dots_per_cell().1 - 1.0;
    for (value, label) in scale.ticks() {
        let dot = ((scale.high - value) / (scale.high - scale.low) * dots).round();
        let row = plot.y + truncate_to_u16(dot / theme.dots_per_cell().1).min(plot.height - 1);
        let column = axis - u16::try_from(width(&label)).unwrap_or_default();
        put_text(buffer, column.saturating_sub(1), row, &label, NORMAL);
        put_text(buffer, axis, row, "┤", DIM);
    }
}

fn draw_time_axis(
    buffer: &mut Buffer,
    plot: Rect,
    chart: &ChartContent,
    theme: Theme,
    labels: bool,
) {
    let axis = plot.bottom();
    if plot.x > 0 {
        put_text(buffer, plot.x - 1, axis, "└", DIM);
    }
    let line = "─".repeat(plot.width.into());
    put_text(buffer, plot.x, axis, &line, DIM);
    let error = theme.color_if_enabled(ERROR);
    for (down, up) in &chart.outages {
        let (from, to) = (column(plot, chart, *down), column(plot, chart, *up));
        for column in from..=to {
            put_text(buffer, column, axis, "━", error);
        }
        let space = usize::from(to - from);
        if space > OFFLINE.len() {
            let left = u16::try_from((space - OFFLINE.len()) / 2).unwrap_or_default();
            put_text(buffer, from + left + 1, axis, OFFLINE, error);
        }
    }
    let mut end = 0;
    for (at, label) in time_axis::ticks(chart.span, plot.width, chart.clock) {
        let column = column(plot, chart, at);
        let cell = buffer.cell((column, axis));
        if cell.is_some_and(|cell| cell.symbol() == "─") {
            put_text(buffer, column, axis, "┬", DIM);
        }
        let wide = u16::try_from(width(&label)).unwrap_or_default();
        let last = plot.right().saturating_sub(wide);
        let column = column.saturating_sub(wide / 2).min(last);
        if labels && column >= end {
            put_text(buffer, column, axis + 1, &label, NORMAL);
            end = column + wide + 1;
        }
    }
}

fn column(plot: Rect, chart: &ChartContent, at: f64) -> u16 {
    let part = 1.0 + at / chart.span.as_secs_f64();
    let column = truncate_to_u16(part.clamp(0.0, 1.0) * (f64::from(plot.width) - 1.0));
    plot.x + column
}

fn draw_lines(
    buffer: &mut Buffer,
    plot: Rect,
    (chart, status): (&ChartContent, &RunStatus),
    scale: Scale,
    theme: Theme,
) {
    let span = chart.span.as_secs_f64();
    // The chart moves by whole dots, otherwise the lines would flicker.
    let dot = span / (f64::from(plot.width) * theme.dots_per_cell().0 - 1.0).max(1.0);
    let rest = dot - status.elapsed.as_secs_f64() % dot;
    let paint = |context: &mut Context<'_>| {
        for (number, line) in chart.curves.iter().enumerate() {
            if line.is_hidden {
                continue;
            }
            if !theme.has_dots() {
                context.marker(Marker::Custom(line_mark(number)));
            }
            for segment in &line.segments {
                draw_polyline(context, segment, rest, theme.line_color(number));
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

fn draw_polyline(context: &mut Context<'_>, segment: &[Point], rest: f64, color: Color) {
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
fn truncate_to_u16(number: f64) -> u16 {
    number as u16
}
