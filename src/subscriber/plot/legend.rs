//! The table below the graph: one row a line, with its numbers. PURE.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::look::{Look, put, quiet};
use super::scale::{number, places_for};
use super::text::{count, cut, cut_middle, time, width};
use super::view::{Line, View};

/// Between two columns.
const SPACE: usize = 2;

/// A topic is not shortened below this for the sake of a column.
const TOPIC: usize = 12;

/// The columns and, the less needed the greater, when they go.
const COLUMNS: [(&str, usize); 6] = [
    ("last", 0),
    ("min", 2),
    ("mean", 3),
    ("max", 2),
    ("readings", 4),
    ("age", 1),
];

/// The rows it wants, if it may take so many.
pub(super) fn rows(view: &View, most: u16) -> u16 {
    let wanted = match rows_below(view) {
        0 => 0,
        below => below + usize::from(most > 3),
    };
    u16::try_from(wanted).unwrap_or(u16::MAX).min(most)
}

/// The rows below the heading, if there is room for all.
fn rows_below(view: &View) -> usize {
    let more = view.more > 0 && !view.lines.is_empty();
    view.lines.len() + usize::from(more)
}

pub(super) fn draw(buffer: &mut Buffer, area: Rect, view: &View, look: Look) {
    let height = usize::from(area.height);
    let heading = usize::from(height > 3 || height > rows_below(view));
    let room = height.saturating_sub(heading);
    let hidden = |shown: usize| view.lines.len() - shown + view.more;
    let mut shown = view.lines.len().min(room);
    // The last row tells of what has none of its own.
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
        numbers(buffer, (area, row), topic, (&names, &wide, &kept), quiet());
        let over = format!("over {}", time(view.span));
        put(buffer, area.x + 4, row, &cut(&over, topic), quiet());
        row += 1;
    }
    for (n, (line, cells)) in view.lines.iter().zip(&table).enumerate() {
        put(buffer, area.x + 1, row, &look.sample(n), look.ink(n));
        let label = cut_middle(&line.label, topic);
        put(buffer, area.x + 4, row, &label, Style::new());
        numbers(
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
        let note = format!("and {}", count(more, "more topic"));
        put(buffer, area.x + 4, row, &note, quiet());
    }
}

/// How wide the topic may be, and which columns stay.
fn fit(room: usize, topic: usize, wide: &[usize]) -> (usize, Vec<bool>) {
    let room = room.saturating_sub(4 + 1);
    let mut kept = vec![true; wide.len()];
    for rank in (1..=4).rev() {
        let taken: usize = wide
            .iter()
            .zip(&kept)
            .filter(|(_, kept)| **kept)
            .map(|(wide, _)| wide + SPACE)
            .sum();
        if topic.min(TOPIC) + taken <= room {
            return (topic.min(room - taken), kept);
        }
        for (kept, (_, goes)) in kept.iter_mut().zip(COLUMNS) {
            *kept &= goes < rank;
        }
    }
    let last = wide.first().copied().unwrap_or(0) + SPACE;
    (topic.min(room.saturating_sub(last)), kept)
}

/// The numbers of a row, each below the other.
fn numbers(
    buffer: &mut Buffer,
    (area, row): (Rect, u16),
    topic: usize,
    (cells, wide, kept): (&[String], &[usize], &[bool]),
    style: Style,
) {
    let mut right = 4 + topic;
    for ((cell, wide), kept) in cells.iter().zip(wide).zip(kept) {
        if *kept {
            right += SPACE + wide;
            let column = right - cell.len();
            if right <= area.width.into() {
                put(
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

/// The numbers of a line; ASCII.
fn cells(line: &Line) -> Vec<String> {
    let stats = line.stats;
    let mut values = vec![line.last];
    values.extend(stats.iter().flat_map(|s| [s.min, s.max]));
    let places = places_for(&values, line.places);
    let of = |pick: fn(super::view::Stats) -> f64, places| {
        stats.map_or("-".into(), |stats| number(pick(stats), places))
    };
    // The mean of whole numbers is none.
    let mean_places = if places == 0 { 1 } else { places };
    vec![
        number(line.last, places),
        of(|s| s.min, places),
        of(|s| s.mean, mean_places),
        of(|s| s.max, places),
        stats.map_or(0, |stats| stats.count).to_string(),
        time(line.age),
    ]
}
