//! Draws a frame: connection and counts, chart or table, the last line of the log, keys. PURE.

use ratatui::Frame;
use ratatui::backend::IntoCrossterm as _;
use ratatui::buffer::{Buffer, Cell};
use ratatui::crossterm::style::{Attribute, Color, ContentStyle, StyledContent};
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};

use super::chart::{graph, legend};
use super::display_content::{BodyContent, DisplayContent};
use super::header;
use super::run_status::{LogLevel, LogLine, RunStatus};
use super::style::{DIM, ERROR, NORMAL, Theme, WARNING, put_text, replace_non_ascii};
use super::table::rows;
use super::text_format::{format_duration, truncate, width};

const MIN_SIZE: (u16, u16) = (20, 5);

/// The most important first: those that do not fit are left out.
const CHART_KEYS: &[&str] = &[
    "q end",
    "+ - zoom",
    "0 automatic",
    "l one line",
    "1-8 hide, show",
];

const TABLE_KEYS: &[&str] = &["q end", "arrows PgUp PgDn scroll", "g G first and last"];

/// How many rows the parts of a frame have.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    header: u16,
    body: u16,
    log: u16,
    keys: u16,
}

impl Layout {
    pub fn new((width, height): (u16, u16), status: &RunStatus) -> Self {
        let log = u16::from(status.current_log_line().is_some() && height >= 8);
        let keys = u16::from(height >= 10);
        let header = header::height((width, height), status);
        Self {
            header,
            body: height.saturating_sub(header + log + keys),
            log,
            keys,
        }
    }

    pub fn body_rows(self) -> u16 {
        self.body
    }
}

pub fn draw_frame(frame: &mut Frame<'_>, content: &DisplayContent, theme: Theme) {
    let area = frame.area();
    draw(frame.buffer_mut(), area, content, theme);
}

fn draw(buffer: &mut Buffer, area: Rect, content: &DisplayContent, theme: Theme) {
    draw_parts(buffer, area, content, theme);
    if theme.ascii {
        replace_non_ascii(buffer);
    }
}

fn draw_parts(buffer: &mut Buffer, area: Rect, content: &DisplayContent, theme: Theme) {
    let Rect { width, height, .. } = area;
    if width < MIN_SIZE.0 || height < MIN_SIZE.1 {
        let why = format!("too small: {}x{} at least", MIN_SIZE.0, MIN_SIZE.1);
        let why = truncate(&why, width.into());
        put_text(buffer, area.x, area.y, &why, NORMAL);
        return;
    }
    let status = &content.status;
    let layout = Layout::new((width, height), status);
    let mut y = area.y;
    let mut rows = |height: u16| {
        y += height;
        Rect::new(area.x, y - height, width, height)
    };
    header::draw(buffer, rows(layout.header), height, status, theme);
    let keys = match &content.body {
        BodyContent::Chart(chart) => {
            let legend = legend::height(chart, layout.body / 2);
            graph::draw(buffer, rows(layout.body - legend), chart, status, theme);
            if legend > 0 {
                legend::draw(buffer, rows(legend), chart, theme);
            }
            CHART_KEYS
        }
        BodyContent::Table(table) => {
            rows::draw(buffer, rows(layout.body), table, theme);
            TABLE_KEYS
        }
    };
    if let Some(line) = status.current_log_line().filter(|_| layout.log > 0) {
        draw_log_line(buffer, rows(layout.log), line, theme);
    }
    if layout.keys > 0 {
        let space = usize::from(width) - 2;
        let text = match &status.ended {
            Some(when) => truncate(&format!("ended {when}"), space),
            None => join_keys(keys, space),
        };
        put_text(buffer, area.x + 1, rows(layout.keys).y, &text, DIM);
    }
}

fn join_keys(keys: &[&str], space: usize) -> String {
    let counts = (1..=keys.len()).rev();
    let mut texts = counts.map(|count| keys[..count].join("   "));
    texts.find(|text| width(text) <= space).unwrap_or_default()
}

fn draw_log_line(buffer: &mut Buffer, area: Rect, log: &LogLine, theme: Theme) {
    let (level, style): (_, Style) = match log.level {
        LogLevel::Error => ("error", theme.color_if_enabled(ERROR).into()),
        LogLevel::Warning => ("warning", theme.color_if_enabled(WARNING).into()),
        LogLevel::Other => ("log", DIM.into()),
    };
    let level = format!("{level} {} ago:", format_duration(log.age));
    put_text(buffer, area.x + 1, area.y, &level, style);
    let column = area.x + 2 + u16::try_from(level.len()).unwrap_or_default();
    let space = usize::from(area.right().saturating_sub(column + 1));
    put_text(buffer, column, area.y, &truncate(&log.text, space), NORMAL);
}

/// A frame as ordinary output: lines without trailing blanks, with escape sequences for colours.
pub fn snapshot(content: &DisplayContent, (columns, rows): (u16, u16), theme: Theme) -> String {
    let area = Rect::new(0, 0, columns, rows);
    let mut buffer = Buffer::empty(area);
    draw(&mut buffer, area, content, theme);
    let mut out = String::new();
    for cells in buffer.content.chunks(columns.max(1).into()) {
        let last = cells.iter().rposition(|cell| cell.symbol() != " ");
        let used = last.map_or(0, |last| last + 1);
        let mut skip = 0;
        let mut run = String::new();
        let mut style = ContentStyle::new();
        for cell in cells.iter().take(used) {
            // The cell after a wide character is empty.
            if skip > 0 {
                skip -= 1;
                continue;
            }
            skip = width(cell.symbol()).saturating_sub(1);
            if cell_style(cell) != style {
                flush_styled_run(&mut out, &mut run, style);
                style = cell_style(cell);
            }
            run.push_str(cell.symbol());
        }
        flush_styled_run(&mut out, &mut run, style);
        out.push('\n');
    }
    out
}

fn cell_style(cell: &Cell) -> ContentStyle {
    let mut style = ContentStyle::new();
    style.foreground_color = Some(cell.fg.into_crossterm()).filter(|color| *color != Color::Reset);
    for (modifier, attribute) in [
        (Modifier::DIM, Attribute::Dim),
        (Modifier::BOLD, Attribute::Bold),
    ] {
        if cell.modifier.contains(modifier) {
            style.attributes.set(attribute);
        }
    }
    style
}

fn flush_styled_run(out: &mut String, run: &mut String, style: ContentStyle) {
    if !run.is_empty() {
        out.push_str(&StyledContent::new(style, std::mem::take(run)).to_string());
    }
}

#[cfg(test)]
mod tests;
