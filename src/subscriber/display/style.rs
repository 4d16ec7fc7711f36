//! Colours, marks and styles. PURE.

use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier, Style};

pub const NORMAL: Modifier = Modifier::empty();
pub const DIM: Modifier = Modifier::DIM;

/// Of the 256 colours some whose contrast is above 3 to 1 both on black and on white.
const LINE_COLORS: [u8; 8] = [33, 166, 28, 162, 136, 99, 30, 244];

const LINE_MARKS: [char; 8] = ['*', '+', 'o', 'x', '#', '%', '@', '='];

pub const OK: u8 = 28;
pub const WARNING: u8 = 136;
pub const ERROR: u8 = 160;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Theme {
    pub colour: bool,
    pub ascii: bool,
}

impl Theme {
    /// ASCII on the console of Linux, whose font has no patterns of dots, and where the locale is not UTF-8: that of the
    /// first of three variables that is set (POSIX, section 8.2), C if none is.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        let is_utf8 = locale.contains("utf-8") || locale.contains("utf8");
        Self {
            colour: set("NO_COLOR").is_none(),
            ascii: !is_utf8 || set("TERM").is_some_and(|term| term == "linux"),
        }
    }

    /// Whether lines are drawn with patterns of dots; otherwise they differ by their marks.
    pub fn has_dots(self) -> bool {
        self.colour && !self.ascii
    }

    /// Horizontally and vertically.
    pub fn dots_per_cell(self) -> (u16, u16) {
        if self.has_dots() { (2, 4) } else { (1, 1) }
    }

    pub fn line_color(self, number: usize) -> Color {
        self.color_if_enabled(LINE_COLORS[number % LINE_COLORS.len()])
    }

    pub fn legend_mark(self, number: usize) -> String {
        let mark = if self.has_dots() {
            '━'
        } else {
            line_mark(number)
        };
        String::from_iter([mark, mark])
    }

    /// For what has just changed.
    pub fn emphasis(self) -> Style {
        Style::from(Modifier::BOLD).fg(self.color_if_enabled(OK))
    }

    pub fn color_if_enabled(self, color: u8) -> Color {
        if self.colour {
            Color::Indexed(color)
        } else {
            Color::Reset
        }
    }
}

pub fn line_mark(number: usize) -> char {
    LINE_MARKS[number % LINE_MARKS.len()]
}

/// Replaces what a terminal that shows only ASCII cannot show, one cell by one cell.
pub fn replace_non_ascii(buffer: &mut Buffer) {
    for cell in &mut buffer.content {
        let replacement = match cell.symbol() {
            symbol if symbol.is_ascii() => continue,
            "│" => "|",
            "┤" | "├" | "└" | "┘" | "┬" => "+",
            "─" => "-",
            "━" => "=",
            "●" => "*",
            "○" => "o",
            "■" => "#",
            "·" => ",",
            "…" => "~",
            _ => "?",
        };
        cell.set_symbol(replacement);
    }
}

pub fn put_text(buffer: &mut Buffer, column: u16, row: u16, text: &str, style: impl Into<Style>) {
    if buffer.area.contains((column, row).into()) {
        buffer.set_string(column, row, text, style);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locale_that_is_not_utf_8_and_the_console_get_ascii() {
        for (variables, ascii) in [
            (&[("LANG", "de_DE.UTF-8")][..], false),
            (&[("LANG", "C.utf8"), ("TERM", "xterm")], false),
            (&[("LANG", "C.utf8"), ("TERM", "linux")], true),
            (&[("LC_ALL", "C"), ("LANG", "de_DE.UTF-8")], true),
            (
                &[("LC_ALL", ""), ("LC_CTYPE", "C.UTF-8"), ("LANG", "C")],
                false,
            ),
            (&[("LANG", "de_DE.ISO-8859-1")], true),
            (&[], true),
        ] {
            let variable = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let theme = Theme::from_environment(variable);
            assert_eq!((theme.ascii, theme.colour), (ascii, true), "{variables:?}");
        }
        let no_colour = |value: &str| {
            let value = value.to_owned();
            Theme::from_environment(move |name| (name == "NO_COLOR").then(|| value.clone())).colour
        };
        assert!(!no_colour("1") && no_colour(""));
    }

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
