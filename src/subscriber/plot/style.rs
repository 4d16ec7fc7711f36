//! Colours, marks and styles. PURE.

use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier, Style};

pub(super) const NORMAL: Modifier = Modifier::empty();
pub(super) const DIM: Modifier = Modifier::DIM;

/// Of the 256 colours some whose contrast is above 3 to 1 both on black and on white.
const LINE_COLORS: [u8; 8] = [33, 166, 28, 162, 136, 99, 30, 244];

const LINE_MARKS: [char; 8] = ['*', '+', 'o', 'x', '#', '%', '@', '='];

pub(super) const OK: u8 = 28;
pub(super) const WARNING: u8 = 136;
pub(super) const ERROR: u8 = 160;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Theme {
    pub colour: bool,
}

impl Theme {
    /// Horizontally and vertically.
    pub(super) fn dots_per_cell(self) -> (f64, f64) {
        if self.colour { (2.0, 4.0) } else { (1.0, 1.0) }
    }

    pub(super) fn line_color(self, number: usize) -> Color {
        self.color_if_enabled(LINE_COLORS[number % LINE_COLORS.len()])
    }

    pub(super) fn legend_mark(self, number: usize) -> String {
        let mark = if self.colour {
            '━'
        } else {
            line_mark(number)
        };
        String::from_iter([mark, mark])
    }

    pub(super) fn color_if_enabled(self, color: u8) -> Color {
        if self.colour {
            Color::Indexed(color)
        } else {
            Color::Reset
        }
    }
}

pub(super) fn line_mark(number: usize) -> char {
    LINE_MARKS[number % LINE_MARKS.len()]
}

pub(super) fn put_text(
    buffer: &mut Buffer,
    column: u16,
    row: u16,
    text: &str,
    style: impl Into<Style>,
) {
    if buffer.area.contains((column, row).into()) {
        buffer.set_string(column, row, text, style);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_colour_can_be_read_on_black_and_on_white() {
        let linear = |level: f64| ((level / 255.0 + 0.055) / 1.055).powf(2.4);
        for color in LINE_COLORS.into_iter().chain([OK, WARNING, ERROR]) {
            let luminance: f64 = [(36, 0.2126), (6, 0.7152), (1, 0.0722)]
                .into_iter()
                .map(|(place, weight)| {
                    if color >= 232 {
                        return weight * linear(f64::from(color - 232) * 10.0 + 8.0);
                    }
                    let level = [0.0, 95.0, 135.0, 175.0, 215.0, 255.0]
                        [usize::from((color - 16) / place % 6)];
                    weight * linear(level)
                })
                .sum();
            assert!((luminance + 0.05) / 0.05 > 3.0, "{color} on black");
            assert!(1.05 / (luminance + 0.05) > 3.0, "{color} on white");
        }
    }
}
