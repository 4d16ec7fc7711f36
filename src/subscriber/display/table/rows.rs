//! Draws the table: one row per topic. PURE.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::table_content::{TableContent, TableRow};
use super::table_data::{MAX_TOPICS, MAX_UNLISTED};
use crate::subscriber::display::style::{DIM, NORMAL, Theme, WARNING, put_text};
use crate::subscriber::display::text_format::{
    format_duration, format_plural, format_topic_rate, truncate, truncate_middle, truncate_topic,
    width,
};

/// Between two columns.
const GAP: usize = 2;

const MIN_TOPIC: usize = 8;

const MIN_VALUE: usize = 8;

/// Of several values side by side.
const MAX_VALUE_COLUMN: usize = 24;

/// The columns of numbers: their widths, which do not depend on the rows so that nothing moves, and their ranks. The
/// highest rank is dropped first.
const COLUMNS: [(&str, usize, usize); 4] = [
    ("age", 6, 1),
    ("rate", 8, 2),
    ("readings", 8, 4),
    ("change", 8, 3),
];

/// How many rows of topics fit into this many rows.
pub fn page(rows: u16) -> usize {
    usize::from(rows.saturating_sub(heading_rows(rows) + note_rows(rows)))
}

fn heading_rows(rows: u16) -> u16 {
    u16::from(rows > 3)
}

fn note_rows(rows: u16) -> u16 {
    u16::from(rows > 4)
}

pub fn draw(buffer: &mut Buffer, area: Rect, table: &TableContent, theme: Theme) {
    if table.rows.is_empty() {
        let text = truncate("no message yet", area.width.into());
        let left = (usize::from(area.width) - width(&text)) / 2;
        let column = area.x + u16::try_from(left).unwrap_or_default();
        put_text(buffer, column, area.y + area.height / 2, &text, DIM);
        return;
    }
    let columns = Columns::new(area.width.into(), table);
    let mut row = area.y;
    if heading_rows(area.height) > 0 {
        columns.draw_heading(buffer, (area.x, row), table);
        row += 1;
    }
    let page = page(area.height);
    for line in table.rows.iter().take(page) {
        let topic = truncate_topic(&line.topic, table.common_levels, columns.topic);
        put(buffer, (area.x, 1, row), &topic, NORMAL);
        columns.draw_row(buffer, (area.x, row), line, theme);
        row += 1;
    }
    if note_rows(area.height) > 0 {
        draw_note(buffer, area, table, page, theme);
    }
}

fn draw_note(buffer: &mut Buffer, area: Rect, table: &TableContent, page: usize, theme: Theme) {
    let last = table.above + table.rows.len().min(page);
    let mut column = area.x + 1;
    let mut put = |text: String, style: Style| {
        let space = usize::from(area.right().saturating_sub(column + 1));
        let text = truncate(&text, space);
        put_text(buffer, column, area.bottom() - 1, &text, style);
        column += u16::try_from(width(&text) + GAP).unwrap_or_default();
    };
    if table.topics > table.rows.len().min(page) {
        let (first, topics) = (table.above + 1, table.topics);
        put(format!("topics {first} to {last} of {topics}"), DIM.into());
    }
    if table.unlisted > 0 {
        let more = u64::try_from(table.unlisted).unwrap_or(u64::MAX);
        let or_more = if table.unlisted == MAX_UNLISTED {
            " or more"
        } else {
            ""
        };
        let topics = format_plural(more, "topic");
        let limit = if table.topics == MAX_TOPICS {
            format!("more than {MAX_TOPICS}")
        } else {
            "too long".into()
        };
        put(
            format!("{topics}{or_more} not listed: {limit}"),
            theme.color_if_enabled(WARNING).into(),
        );
    }
}

/// Where the columns are: numbers, between the topic and the values.
struct Columns {
    topic: usize,
    /// Index, and right end.
    numbers: Vec<(usize, usize)>,
    /// Left end and width.
    values: Vec<(usize, usize)>,
}

impl Columns {
    fn new(space: usize, table: &TableContent) -> Self {
        let for_row = space.saturating_sub(2);
        let headings = table.headings.len().max(1);
        let taken = |max_rank| {
            let kept = COLUMNS.iter().filter(|(.., rank)| *rank <= max_rank);
            kept.map(|(_, wide, _)| wide + GAP).sum::<usize>()
        };
        let wanted_topic = table.topic_width.max("topic".len());
        let least = wanted_topic.min(MIN_TOPIC) + (GAP + MIN_VALUE) * headings;
        // Counts and changes are left out before topics are cut.
        let comfortable = |max_rank: usize| match max_rank {
            3.. => wanted_topic.min(for_row / 2) + (GAP + MIN_VALUE * 3) * headings,
            _ => least,
        };
        let fits = |max_rank: &usize| comfortable(*max_rank) + taken(*max_rank) <= for_row;
        let max_rank = (1..=4).rev().find(fits).unwrap_or(0);
        let rest = for_row.saturating_sub(taken(max_rank));
        let for_values = (GAP + MIN_VALUE) * headings;
        let topic = wanted_topic.min(
            rest.saturating_sub(for_values)
                .min(rest * 2 / 3)
                .max(MIN_TOPIC),
        );
        let mut right = 1 + topic;
        let mut numbers = Vec::new();
        for (n, (_, wide, rank)) in COLUMNS.iter().enumerate() {
            if *rank <= max_rank {
                right += GAP + wide;
                numbers.push((n, right));
            }
        }
        let left = right + GAP;
        let each = (space.saturating_sub(left + 1) + GAP) / headings;
        let each = if headings > 1 {
            each.min(MAX_VALUE_COLUMN + GAP)
        } else {
            each
        };
        let values = (0..headings).map(|n| (left + n * each, each.saturating_sub(GAP)));
        Self {
            topic,
            numbers,
            values: values.filter(|(_, wide)| *wide > 0).collect(),
        }
    }

    fn draw_heading(&self, buffer: &mut Buffer, (x, y): (u16, u16), table: &TableContent) {
        put(buffer, (x, 1, y), &truncate("topic", self.topic), DIM);
        for (n, right) in &self.numbers {
            let name = COLUMNS[*n].0;
            put(buffer, (x, right - name.len(), y), name, DIM);
        }
        for ((left, wide), heading) in self.values.iter().zip(&table.headings) {
            put(buffer, (x, *left, y), &truncate_middle(heading, *wide), DIM);
        }
    }

    fn draw_row(&self, buffer: &mut Buffer, (x, y): (u16, u16), row: &TableRow, theme: Theme) {
        let cells = [
            format_duration(row.age),
            row.per_second.map_or("-".into(), format_topic_rate),
            row.readings.to_string(),
            row.change.clone().unwrap_or_default(),
        ];
        for (n, right) in &self.numbers {
            let text = truncate(&cells[*n], COLUMNS[*n].1);
            put(buffer, (x, right - width(&text), y), &text, NORMAL);
        }
        for ((left, wide), value) in self.values.iter().zip(&row.values) {
            let (text, style) = match value.as_deref() {
                None => ("-", DIM.into()),
                Some("") => ("(empty)", DIM.into()),
                Some(text) if row.is_new => (text, theme.emphasis()),
                Some(text) => (text, Style::from(NORMAL)),
            };
            put(buffer, (x, *left, y), &truncate(text, *wide), style);
        }
    }
}

fn put(
    buffer: &mut Buffer,
    (x, column, y): (u16, usize, u16),
    text: &str,
    style: impl Into<Style>,
) {
    let column = u16::try_from(column).unwrap_or(u16::MAX);
    put_text(buffer, x.saturating_add(column), y, text, style);
}
