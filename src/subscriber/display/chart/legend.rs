//! The legend: one row per line, with its numbers. PURE.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Modifier;

use super::axis_division::Axis;
use super::chart_content::{ChartContent, ChartCurve, Stats};
use crate::subscriber::display::number_format::{format_number, limit_places};
use crate::subscriber::display::style::{DIM, NORMAL, Theme, put_text};
use crate::subscriber::display::text_format::{
    common_levels, format_duration, format_plural, truncate, truncate_topic, width,
};

/// Between two columns.
const GAP: usize = 2;

const MIN_TOPIC: usize = 12;

/// Only if there are two axes.
const AXIS: &str = "axis";

/// The columns with their ranks. The highest rank is dropped first, rank 0 never.
const COLUMNS: [(&str, usize); 7] = [
    (AXIS, 0),
    ("last", 0),
    ("min", 2),
    ("mean", 3),
    ("max", 2),
    ("readings", 4),
    ("age", 1),
];

pub fn height(chart: &ChartContent, max: u16) -> u16 {
    let wanted = match body_rows(chart) {
        0 => 0,
        rows => rows + usize::from(max > 3),
    };
    u16::try_from(wanted).unwrap_or(u16::MAX).min(max)
}

fn body_rows(chart: &ChartContent) -> usize {
    let more = chart.more_lines > 0 && !chart.curves.is_empty();
    chart.curves.len() + usize::from(more)
}

pub fn draw(buffer: &mut Buffer, area: Rect, chart: &ChartContent, theme: Theme) {
    let height = usize::from(area.height);
    let heading = usize::from(height > 3 || height > body_rows(chart));
    let space = height.saturating_sub(heading);
    let hidden = |shown: usize| chart.curves.len() - shown + chart.more_lines;
    let mut shown = chart.curves.len().min(space);
    // The last row counts the topics that are not shown.
    let note = hidden(shown) > 0 && space > 1;
    if note {
        shown = shown.min(space - 1);
    }
    let lines = chart.curves.iter().take(shown);
    let table: Vec<_> = lines.clone().map(format_stat_cells).collect();
    let widths = std::array::from_fn(|n| {
        let widest = table.iter().map(|row| row[n].len()).max().unwrap_or(0);
        let name = COLUMNS[n].0;
        let is_shown = name != AXIS || chart.has_two_axes();
        is_shown.then(|| widest.max(name.len() * heading))
    });
    let topic = lines.clone().map(|line| width(&line.label)).max();
    let (topic, columns) = fit_columns(area.width.into(), topic.unwrap_or(0), widths);
    let mut row = area.y;
    if heading > 0 {
        let names = COLUMNS.map(|(name, _)| name.to_owned());
        draw_numbers(buffer, (area.x, row), &names, &columns, DIM);
        let over = format!("over {}", format_duration(chart.span));
        put_text(buffer, area.x + 4, row, &truncate(&over, topic), DIM);
        row += 1;
    }
    let common = common_levels(chart.curves.iter().map(|line| &*line.label));
    for (n, (line, cells)) in lines.zip(&table).enumerate() {
        let style = if line.is_hidden { DIM } else { NORMAL };
        let mark = if line.is_hidden {
            format!("{} ", n + 1)
        } else {
            theme.legend_mark(n)
        };
        put_text(buffer, area.x + 1, row, &mark, theme.line_color(n));
        let label = truncate_topic(&line.label, common, topic);
        put_text(buffer, area.x + 4, row, &label, style);
        draw_numbers(buffer, (area.x, row), cells, &columns, style);
        row += 1;
    }
    if note {
        let more = u64::try_from(hidden(shown)).unwrap_or(u64::MAX);
        let note = format!("and {}", format_plural(more, "more line"));
        put_text(buffer, area.x + 4, row, &note, DIM);
    }
}

/// The width of the topics, and the columns that fit: index and right end.
fn fit_columns(
    space: usize,
    topic: usize,
    widths: [Option<usize>; 7],
) -> (usize, Vec<(usize, usize)>) {
    let for_rows = space.saturating_sub(4 + 1);
    let kept = |max_rank| {
        let columns = widths.iter().zip(COLUMNS).enumerate();
        columns.filter_map(move |(n, (width, (_, rank)))| {
            width.filter(|_| rank <= max_rank).map(|width| (n, width))
        })
    };
    let taken = |max_rank| kept(max_rank).map(|(_, width)| width + GAP).sum::<usize>();
    // Mean and count are left out before topics are cut.
    let least = |max_rank| match max_rank {
        3.. => topic.min(for_rows / 2),
        _ => topic.min(MIN_TOPIC),
    };
    let fits = |max_rank: &usize| least(*max_rank) + taken(*max_rank) <= for_rows;
    let max_rank = (1..=4).rev().find(fits).unwrap_or(0);
    let topic = topic.min(for_rows.saturating_sub(taken(max_rank)));
    let mut right = 4 + topic;
    let columns = kept(max_rank).map(|(n, width)| {
        right += GAP + width;
        (n, right)
    });
    (
        topic,
        columns.filter(|(_, right)| *right <= space).collect(),
    )
}

fn draw_numbers(
    buffer: &mut Buffer,
    (left, row): (u16, u16),
    cells: &[String; 7],
    columns: &[(usize, usize)],
    style: Modifier,
) {
    for (n, right) in columns {
        let column = u16::try_from(right - cells[*n].len()).unwrap_or(0);
        put_text(buffer, left + column, row, &cells[*n], style);
    }
}

fn format_stat_cells(line: &ChartCurve) -> [String; 7] {
    let stats = line.stats;
    let mut values = vec![line.last];
    values.extend(stats.iter().flat_map(|s| [s.min, s.max]));
    let places = limit_places(&values, line.decimal_places);
    let of = |pick: fn(Stats) -> f64, places| {
        stats.map_or("-".into(), |stats| format_number(pick(stats), places))
    };
    // The mean of integers is shown with a fraction.
    let mean_places = if places == 0 { 1 } else { places };
    let axis = match line.axis {
        Some(Axis::Left) => "left",
        Some(Axis::Right) => "right",
        None => "-",
    };
    [
        axis.into(),
        format_number(line.last, places),
        of(|s| s.min, places),
        of(|s| s.mean, mean_places),
        of(|s| s.max, places),
        stats.map_or(0, |stats| stats.count).to_string(),
        format_duration(line.age),
    ]
}
