//! The legend: one row per line, with its numbers. PURE.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::scale::{format_number, shared_places};
use super::style::{Theme, dim, put_text};
use super::text::{format_time, plural, truncate, truncate_middle, width};
use super::view::{ChartLine, ChartView};

/// Between two columns.
const GAP: usize = 2;

/// Columns are dropped before a topic gets shorter than this.
const MIN_TOPIC: usize = 12;

/// The columns with their ranks. The highest rank is dropped first, rank 0 never.
const COLUMNS: [(&str, usize); 6] = [
    ("last", 0),
    ("min", 2),
    ("mean", 3),
    ("max", 2),
    ("readings", 4),
    ("age", 1),
];

/// The height of the legend, `max` at most.
pub(super) fn height(view: &ChartView, max: u16) -> u16 {
    let wanted = match body_rows(view) {
        0 => 0,
        rows => rows + usize::from(max > 3),
    };
    u16::try_from(wanted).unwrap_or(u16::MAX).min(max)
}

/// The rows without the heading, if all are shown.
fn body_rows(view: &ChartView) -> usize {
    let more = view.more > 0 && !view.lines.is_empty();
    view.lines.len() + usize::from(more)
}

pub(super) fn draw(buffer: &mut Buffer, area: Rect, view: &ChartView, theme: Theme) {
    let height = usize::from(area.height);
    let heading = usize::from(height > 3 || height > body_rows(view));
    let room = height.saturating_sub(heading);
    let hidden = |shown: usize| view.lines.len() - shown + view.more;
    let mut shown = view.lines.len().min(room);
    // The last row counts the topics that are not shown.
    let note = hidden(shown) > 0 && room > 1;
    if note {
        shown = shown.min(room - 1);
    }
    let table: Vec<_> = view.lines.iter().take(shown).map(cells).collect();
    let topics = view.lines.iter().take(shown);
    let topic = topics.map(|line| width(&line.label)).max().unwrap_or(0);
    let wide: Vec<_> = COLUMNS
        .iter()
        .enumerate()
        .map(|(n, (name, _))| {
            let cells = table.iter().filter_map(|row| row.get(n)).map(String::len);
            cells.max().unwrap_or(0).max(name.len() * heading)
        })
        .collect();
    let (topic, kept) = fit(area.width.into(), topic, &wide);
    let mut row = area.y;
    if heading > 0 {
        let names: Vec<_> = COLUMNS.iter().map(|(name, _)| (*name).to_owned()).collect();
        draw_numbers(buffer, (area, row), topic, (&names, &wide, &kept), dim());
        let over = format!("over {}", format_time(view.span));
        put_text(buffer, area.x + 4, row, &truncate(&over, topic), dim());
        row += 1;
    }
    for (n, (line, cells)) in view.lines.iter().zip(&table).enumerate() {
        put_text(
            buffer,
            area.x + 1,
            row,
            &theme.legend_mark(n),
            theme.line_style(n),
        );
        let label = truncate_middle(&line.label, topic);
        put_text(buffer, area.x + 4, row, &label, Style::new());
        draw_numbers(
            buffer,
            (area, row),
            topic,
            (cells, &wide, &kept),
            Style::new(),
        );
        row += 1;
    }
    if note {
        let more = u64::try_from(hidden(shown)).unwrap_or(u64::MAX);
        let note = format!("and {}", plural(more, "more topic"));
        put_text(buffer, area.x + 4, row, &note, dim());
    }
}

/// The width of the topics, and which columns are kept.
fn fit(room: usize, topic: usize, wide: &[usize]) -> (usize, Vec<bool>) {
    let room = room.saturating_sub(4 + 1);
    let mut kept = vec![true; wide.len()];
    for rank in (1..=4).rev() {
        let taken: usize = wide
            .iter()
            .zip(&kept)
            .filter(|(_, kept)| **kept)
            .map(|(wide, _)| wide + GAP)
            .sum();
        if topic.min(MIN_TOPIC) + taken <= room {
            return (topic.min(room - taken), kept);
        }
        for (kept, (_, column_rank)) in kept.iter_mut().zip(COLUMNS) {
            *kept &= column_rank < rank;
        }
    }
    let last = wide.first().copied().unwrap_or(0) + GAP;
    (topic.min(room.saturating_sub(last)), kept)
}

/// The numbers of a row, aligned at the right.
fn draw_numbers(
    buffer: &mut Buffer,
    (area, row): (Rect, u16),
    topic: usize,
    (cells, wide, kept): (&[String], &[usize], &[bool]),
    style: Style,
) {
    let mut right = 4 + topic;
    for ((cell, wide), kept) in cells.iter().zip(wide).zip(kept) {
        if *kept {
            right += GAP + wide;
            let column = right - cell.len();
            if right <= area.width.into() {
                put_text(
                    buffer,
                    area.x + u16::try_from(column).unwrap_or(0),
                    row,
                    cell,
                    style,
                );
            }
        }
    }
}

/// The numbers of a line, in ASCII.
fn cells(line: &ChartLine) -> Vec<String> {
    let stats = line.stats;
    let mut values = vec![line.last];
    values.extend(stats.iter().flat_map(|s| [s.min, s.max]));
    let places = shared_places(&values, line.places);
    let of = |pick: fn(super::view::Stats) -> f64, places| {
        stats.map_or("-".into(), |stats| format_number(pick(stats), places))
    };
    // The mean of integers is shown with a fraction.
    let mean_places = if places == 0 { 1 } else { places };
    vec![
        format_number(line.last, places),
        of(|s| s.min, places),
        of(|s| s.mean, mean_places),
        of(|s| s.max, places),
        stats.map_or(0, |stats| stats.count).to_string(),
        format_time(line.age),
    ]
}
