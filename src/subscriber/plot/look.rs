//! Colours, marks and styles, and how text is put into a frame. PURE.

use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier, Style};

/// The colours of the lines, of the 256: those whose contrast is above 3 to 1 on black and
/// on white alike.
const LINES: [u8; 8] = [33, 166, 28, 162, 136, 99, 30, 244];

/// What tells lines apart where there are no colours.
const MARKS: [char; 8] = ['*', '+', 'o', 'x', '#', '%', '@', '='];

pub(super) const GOOD: u8 = 28;
pub(super) const POOR: u8 = 136;
pub(super) const BAD: u8 = 160;

/// How to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Whether there may be colours.
    pub colour: bool,
}

impl Look {
    /// The dots of a cell, across and down.
    pub(super) fn dots(self) -> (f64, f64) {
        if self.colour { (2.0, 4.0) } else { (1.0, 1.0) }
    }

    /// The colour of a line.
    pub(super) fn line(self, number: usize) -> Color {
        let index = LINES.get(number % LINES.len()).copied();
        index
            .filter(|_| self.colour)
            .map_or(Color::Reset, Color::Indexed)
    }

    /// What a line looks like, in two columns.
    pub(super) fn sample(self, number: usize) -> String {
        let mark = if self.colour { '━' } else { mark(number) };
        [mark, mark].iter().collect()
    }

    pub(super) fn ink(self, number: usize) -> Style {
        Style::new().fg(self.line(number))
    }

    pub(super) fn bad(self) -> Style {
        self.state(BAD)
    }

    /// The style of what is good, poor or bad.
    pub(super) fn state(self, color: u8) -> Style {
        let style = Style::new();
        if self.colour {
            style.fg(Color::Indexed(color))
        } else {
            style
        }
    }
}

/// The mark of a line without a colour.
pub(super) fn mark(number: usize) -> char {
    MARKS.get(number % MARKS.len()).copied().unwrap_or('*')
}

pub(super) fn quiet() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

/// Writes a text that fits.
pub(super) fn put(buffer: &mut Buffer, column: u16, row: u16, text: &str, style: Style) {
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
        for color in LINES.into_iter().chain([GOOD, POOR, BAD]) {
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
