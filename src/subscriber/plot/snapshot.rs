//! A frame as ordinary output: lines with escape sequences for colours. PURE.

use ratatui::backend::IntoCrossterm as _;
use ratatui::buffer::{Buffer, Cell};
use ratatui::crossterm::style::{Attribute, Color, ContentStyle, StyledContent};
use ratatui::layout::Rect;
use ratatui::style::Modifier;

use super::draw::draw;
use super::style::Theme;
use super::text::width;
use super::view::ChartView;

/// Lines have no trailing blanks.
pub(super) fn snapshot(view: &ChartView, (columns, rows): (u16, u16), theme: Theme) -> String {
    let area = Rect::new(0, 0, columns, rows);
    let mut buffer = Buffer::empty(area);
    draw(&mut buffer, area, view, theme);
    let mut out = String::new();
    for cells in buffer.content.chunks(columns.max(1).into()) {
        let used = cells.iter().rposition(|cell| cell.symbol() != " ");
        let used = used.map_or(0, |last| last + 1);
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
            if style_of(cell) != style {
                flush(&mut out, &mut run, style);
                style = style_of(cell);
            }
            run.push_str(cell.symbol());
        }
        flush(&mut out, &mut run, style);
        out.push('\n');
    }
    out
}

fn style_of(cell: &Cell) -> ContentStyle {
    let mut style = ContentStyle::new();
    style.foreground_color = Some(cell.fg.into_crossterm()).filter(|color| *color != Color::Reset);
    if cell.modifier.contains(Modifier::DIM) {
        style.attributes.set(Attribute::Dim);
    }
    style
}

fn flush(out: &mut String, run: &mut String, style: ContentStyle) {
    if !run.is_empty() {
        out.push_str(&StyledContent::new(style, std::mem::take(run)).to_string());
    }
}
