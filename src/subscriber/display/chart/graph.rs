//! The graph: axes, labels, lines. PURE.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style};
use ratatui::symbols::Marker;
use ratatui::widgets::Widget as _;
use ratatui::widgets::canvas::{Canvas, Context, Line, Points};

use super::axis_division::Axis;
use super::chart_content::{ChartContent, ChartCurve, Point};
use super::time_axis::{TimeScale, TimeTick};
use super::value_scale::{Scale, ValueTick};
use crate::subscriber::display::run_status::RunStatus;
use crate::subscriber::display::style::{DIM, ERROR, NORMAL, Theme, line_mark, put_text};
use crate::subscriber::display::text_format::{format_duration, format_plural, truncate, width};

const OFFLINE: &str = " offline ";

/// Between the labels of a value axis and the lines: a blank and the axis.
const GUTTER: u16 = 2;

pub fn draw(
    buffer: &mut Buffer,
    area: Rect,
    chart: &ChartContent,
    status: &RunStatus,
    theme: Theme,
) {
    let axis_rows = match area.height {
        ..3 => 0,
        3..6 => 1,
        _ => 2,
    };
    let rows = area.height - axis_rows;
    let (per_column, per_row) = theme.dots_per_cell();
    let scale = |axis| {
        let (min, max) = value_range(chart, axis)?;
        Some(Scale::new(min, max, rows, per_row))
    };
    let Some(left) = scale(Axis::Left) else {
        let why = truncate(&why_empty(chart, status), area.width.into());
        let left = (usize::from(area.width) - width(&why)) / 2;
        let column = area.x + u16::try_from(left).unwrap_or_default();
        put_text(buffer, column, area.y + area.height / 2, &why, DIM);
        return;
    };
    let right = scale(Axis::Right);
    let ticks = [Some(left), right].map(|scale| scale.map_or_else(Vec::new, |s| s.ticks()));
    let gutters = gutters(area.width, &ticks);
    let plot = Rect::new(
        area.x + gutters[0],
        area.y,
        area.width - gutters[0] - gutters[1],
        rows,
    );
    let sides = [Axis::Left, Axis::Right].into_iter().zip(gutters);
    for ((axis, gutter), ticks) in sides.zip(&ticks) {
        if gutter > 0 {
            let color = axis_color(chart, axis, theme);
            draw_value_axis(buffer, plot, axis, ticks, color);
        }
    }
    let time = TimeScale::new(chart.span, plot.width, per_column, status.elapsed);
    if axis_rows > 0 {
        let corners = (gutters[0] > 0, gutters[1] > 0);
        draw_time_axis(buffer, plot, (chart, &time), theme, corners);
    }
    if axis_rows > 1 {
        draw_time_labels(buffer, area, plot, &time.ticks(chart.clock));
    }
    draw_lines(buffer, plot, chart, (&time, left, right), theme);
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

fn curves_of(chart: &ChartContent, axis: Axis) -> impl Iterator<Item = (usize, &ChartCurve)> {
    let curves = chart.curves.iter().enumerate();
    curves.filter(move |(_, curve)| curve.axis == Some(axis))
}

/// Of the window, and of what the columns show before it.
fn value_range(chart: &ChartContent, axis: Axis) -> Option<(f64, f64)> {
    let ranges = curves_of(chart, axis).flat_map(|(_, curve)| {
        let stats = curve.stats.map(|stats| (stats.min, stats.max));
        let points = curve.segments.iter().flatten();
        stats
            .into_iter()
            .chain(points.map(|(_, value)| (*value, *value)))
    });
    ranges.reduce(|all, range| (all.0.min(range.0), all.1.max(range.1)))
}

/// The widths of the labels on both sides with their axes. Narrow charts have none.
fn gutters(space: u16, ticks: &[Vec<ValueTick>; 2]) -> [u16; 2] {
    let labels = ticks.each_ref().map(|ticks| {
        let widest = ticks.iter().map(|tick| width(&tick.label)).max();
        widest.map_or(0, |widest| u16::try_from(widest).unwrap_or(u16::MAX))
    });
    let together = labels[0].saturating_add(labels[1]);
    if together.saturating_mul(3) > space {
        return [0, 0];
    }
    labels.map(|label| if label > 0 { label + GUTTER } else { 0 })
}

/// The colour of the only line of an axis, if there are two axes.
fn axis_color(chart: &ChartContent, axis: Axis, theme: Theme) -> Style {
    let mut curves = curves_of(chart, axis);
    match (curves.next(), curves.next()) {
        (Some((number, _)), None) if chart.has_two_axes() => theme.line_color(number).into(),
        _ => NORMAL.into(),
    }
}

fn draw_value_axis(buffer: &mut Buffer, plot: Rect, axis: Axis, ticks: &[ValueTick], color: Style) {
    let (column, mark) = match axis {
        Axis::Left => (plot.x - 1, "┤"),
        Axis::Right => (plot.right(), "├"),
    };
    for row in plot.top()..plot.bottom() {
        put_text(buffer, column, row, "│", DIM);
    }
    for ValueTick { row, label } in ticks {
        let row = plot.y + row;
        let label_column = match axis {
            Axis::Left => column.saturating_sub(1 + u16::try_from(width(label)).unwrap_or(0)),
            Axis::Right => column + GUTTER,
        };
        put_text(buffer, label_column, row, label, color);
        put_text(buffer, column, row, mark, DIM);
    }
}

fn draw_time_axis(
    buffer: &mut Buffer,
    plot: Rect,
    (chart, time): (&ChartContent, &TimeScale),
    theme: Theme,
    corners: (bool, bool),
) {
    let axis = plot.bottom();
    if corners.0 {
        put_text(buffer, plot.x - 1, axis, "└", DIM);
    }
    if corners.1 {
        put_text(buffer, plot.right(), axis, "┘", DIM);
    }
    let line = "─".repeat(plot.width.into());
    put_text(buffer, plot.x, axis, &line, DIM);
    for tick in time.ticks(chart.clock) {
        put_text(buffer, plot.x + tick.column, axis, "┬", DIM);
    }
    let error = theme.color_if_enabled(ERROR);
    for (down, up) in &chart.outages {
        let (from, to) = (plot.x + time.column(*down), plot.x + time.column(*up));
        for column in from..=to {
            put_text(buffer, column, axis, "━", error);
        }
        let space = usize::from(to - from);
        if space > OFFLINE.len() {
            let left = u16::try_from((space - OFFLINE.len()) / 2).unwrap_or_default();
            put_text(buffer, from + left + 1, axis, OFFLINE, error);
        }
    }
}

/// A label that cannot be in the middle below its tick is left out, so that the labels are equally far apart as well.
fn draw_time_labels(buffer: &mut Buffer, area: Rect, plot: Rect, ticks: &[TimeTick]) {
    for TimeTick { column, label } in ticks {
        let wide = u16::try_from(width(label)).unwrap_or(u16::MAX);
        let left = (plot.x + column).checked_sub(wide / 2);
        let left = left.filter(|left| *left >= area.x && left + wide <= area.right());
        if let Some(left) = left {
            put_text(buffer, left, plot.bottom() + 1, label, NORMAL);
        }
    }
}

fn draw_lines(
    buffer: &mut Buffer,
    plot: Rect,
    chart: &ChartContent,
    (time, left, right): (&TimeScale, Scale, Option<Scale>),
    theme: Theme,
) {
    let (per_column, per_row) = theme.dots_per_cell();
    let last = |cells: u16, dots: u16| f64::from(cells) * f64::from(dots) - 1.0;
    let paint = |context: &mut Context<'_>| {
        for (number, curve) in chart.curves.iter().enumerate() {
            let scale = match curve.axis {
                None => continue,
                Some(Axis::Left) => left,
                Some(Axis::Right) => right.unwrap_or(left),
            };
            if !theme.has_dots() {
                context.marker(Marker::Custom(line_mark(number)));
            }
            for segment in &curve.segments {
                let to_dots = |(at, value): &Point| (time.dot(*at), -scale.dot(*value));
                let dots: Vec<_> = segment.iter().map(to_dots).collect();
                draw_polyline(context, &dots, theme.line_color(number));
            }
        }
    };
    // One unit is one dot.
    Canvas::default()
        .marker(Marker::Braille)
        .x_bounds([0.0, last(plot.width, per_column)])
        .y_bounds([-last(plot.height, per_row), 0.0])
        .paint(paint)
        .render(plot, buffer);
}

fn draw_polyline(context: &mut Context<'_>, dots: &[(f64, f64)], color: Color) {
    if let [dot] = dots {
        let coords = &[*dot];
        context.draw(&Points { coords, color });
    }
    for pair in dots.windows(2) {
        if let [(x1, y1), (x2, y2)] = pair {
            context.draw(&Line::new(*x1, *y1, *x2, *y2, color));
        }
    }
}
