//! What a terminal shows, as an SVG picture: `ansi-to-svg COLUMNS ROWS <ANSI >SVG`.
//!
//! Every cell keeps its place whatever fonts a reader has: each run of text says how wide it
//! is, and lines and dots are drawn, not written.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, Read as _};

use vt100::{Cell, Color, Parser};

/// A cell, in pixels: six tenths of the font size is how wide most fonts are.
const WIDTH: f64 = 8.4;
const HEIGHT: f64 = 18.0;
const FONT: f64 = 14.0;
const MARGIN: f64 = 12.0;

const TEXT: &str = "#d4d4d4";
const DIM: &str = "#8a8a8a";
const GROUND: &str = "#161616";

/// The sixteen colours that have names.
const NAMED: [&str; 16] = [
    "#303030", "#e05555", "#4fae4f", "#c8a13a", "#5b8fe8", "#c26bc2", "#45aeb0", "#d4d4d4",
    "#808080", "#ff7a7a", "#77cf77", "#e6c35c", "#82aeff", "#dc8fdc", "#6fd0d2", "#ffffff",
];

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [columns, rows] = args.as_slice() else {
        return Err("usage: ansi-to-svg COLUMNS ROWS <ANSI >SVG".into());
    };
    let (columns, rows) = (columns.parse()?, rows.parse()?);
    let mut ansi = String::new();
    io::stdin().read_to_string(&mut ansi)?;
    let mut parser = Parser::new(rows, columns, 0);
    parser.process(ansi.trim_end_matches('\n').replace('\n', "\r\n").as_bytes());
    let mut picture = Picture::default();
    for row in 0..rows.get() {
        for column in 0..columns.get() {
            if let Some(cell) = parser.screen().cell(row, column) {
                picture.cell(f64::from(column), f64::from(row), cell);
            }
        }
        picture.end_run();
    }
    print!(
        "{}",
        picture.svg(f64::from(columns.get()), f64::from(rows.get()))
    );
    Ok(())
}

/// Text of one colour, and where it begins.
#[derive(Debug)]
struct Run {
    x: f64,
    y: f64,
    cells: f64,
    colour: String,
    bold: bool,
    text: String,
}

#[derive(Debug, Default)]
struct Picture {
    grounds: String,
    texts: String,
    /// Dots, thin and thick lines, by colour.
    dots: BTreeMap<String, String>,
    thin: BTreeMap<String, String>,
    thick: BTreeMap<String, String>,
    run: Option<Run>,
}

impl Picture {
    fn cell(&mut self, column: f64, row: f64, cell: &Cell) {
        if cell.is_wide_continuation() {
            return;
        }
        let (x, y) = (MARGIN + column * WIDTH, MARGIN + row * HEIGHT);
        let cells = if cell.is_wide() { 2.0 } else { 1.0 };
        let default = if cell.dim() { DIM } else { TEXT };
        let (mut ink, mut ground) = (css(cell.fgcolor(), default), css(cell.bgcolor(), GROUND));
        if cell.inverse() {
            std::mem::swap(&mut ink, &mut ground);
        }
        if ground != GROUND {
            let wide = cells * WIDTH;
            let _ = writeln!(
                self.grounds,
                r#"<rect x="{x:.1}" y="{y:.1}" width="{wide:.1}" height="{HEIGHT}" fill="{ground}"/>"#
            );
        }
        let text = cell.contents();
        let drawn = match text.chars().next() {
            None | Some(' ') => true,
            Some(c @ '\u{2800}'..='\u{28ff}') => {
                braille(self.dots.entry(ink.clone()).or_default(), x, y, c);
                true
            }
            Some(c) => self.lines(x, y, c, &ink),
        };
        if drawn {
            self.end_run();
            return;
        }
        let bold = cell.bold();
        match &mut self.run {
            Some(run) if run.colour == ink && run.bold == bold => {
                run.text.push_str(text);
                run.cells += cells;
            }
            _ => {
                self.end_run();
                self.run = Some(Run {
                    x,
                    y: y + HEIGHT * 0.75,
                    cells,
                    colour: ink,
                    bold,
                    text: text.to_owned(),
                });
            }
        }
    }

    fn end_run(&mut self) {
        let Some(run) = self.run.take() else { return };
        let text = run.text.replace('&', "&amp;").replace('<', "&lt;");
        let weight = if run.bold {
            r#" font-weight="bold""#
        } else {
            ""
        };
        let _ = writeln!(
            self.texts,
            r#"<text x="{:.1}" y="{:.1}" textLength="{:.1}" fill="{}"{weight}>{text}</text>"#,
            run.x,
            run.y,
            run.cells * WIDTH,
            run.colour,
        );
    }

    /// Draws a character that is made of lines; `false` if it is none.
    fn lines(&mut self, x: f64, y: f64, c: char, ink: &str) -> bool {
        // Left, right, up, down from the middle.
        let arms = match c {
            '─' | '━' => [true, true, false, false],
            '│' => [false, false, true, true],
            '└' => [false, true, true, false],
            '┬' => [true, true, false, true],
            '┤' => [true, false, true, true],
            _ => return false,
        };
        let kind = if c == '━' {
            &mut self.thick
        } else {
            &mut self.thin
        };
        let path = kind.entry(ink.to_owned()).or_default();
        let (middle, level) = (x + WIDTH / 2.0, y + HEIGHT / 2.0);
        let ends = [
            (x, level),
            (x + WIDTH, level),
            (middle, y),
            (middle, y + HEIGHT),
        ];
        for ((end_x, end_y), _) in ends.iter().zip(arms).filter(|(_, there)| *there) {
            let _ = write!(path, "M{middle:.1} {level:.1}L{end_x:.1} {end_y:.1}");
        }
        true
    }

    fn svg(&self, columns: f64, rows: f64) -> String {
        let wide = columns * WIDTH + MARGIN * 2.0;
        let high = rows * HEIGHT + MARGIN * 2.0;
        let mut svg = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.1} {high:.1}" width="{wide:.1}" height="{high:.1}">
<rect width="100%" height="100%" rx="6" fill="{GROUND}"/>
{}<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, Liberation Mono, monospace" font-size="{FONT}" xml:space="preserve">
{}</g>
"#,
            self.grounds, self.texts
        );
        for (colour, path) in &self.dots {
            let _ = writeln!(svg, r#"<path fill="{colour}" d="{path}"/>"#);
        }
        for (kind, stroke) in [(&self.thin, 1.2), (&self.thick, 2.6)] {
            for (colour, path) in kind {
                let _ = writeln!(
                    svg,
                    r#"<path fill="none" stroke="{colour}" stroke-width="{stroke}" stroke-linecap="square" d="{path}"/>"#
                );
            }
        }
        svg + "</svg>\n"
    }
}

/// The dots of a braille pattern, as small squares with round corners would look at this size.
fn braille(path: &mut String, x: f64, y: f64, c: char) {
    const PLACES: [(f64, f64); 8] = [
        (0.0, 0.0),
        (0.0, 1.0),
        (0.0, 2.0),
        (1.0, 0.0),
        (1.0, 1.0),
        (1.0, 2.0),
        (0.0, 3.0),
        (1.0, 3.0),
    ];
    let bits = u32::from(c) - 0x2800;
    for (bit, (column, row)) in PLACES.iter().enumerate() {
        if bits >> bit & 1 == 1 {
            let left = x + WIDTH * (0.25 + column * 0.5) - 1.3;
            let level = y + HEIGHT * (0.125 + row * 0.25);
            let _ = write!(
                path,
                "M{left:.1} {level:.1}a1.3 1.3 0 1 0 2.6 0a1.3 1.3 0 1 0-2.6 0"
            );
        }
    }
}

fn css(colour: Color, default: &str) -> String {
    match colour {
        Color::Default => default.to_owned(),
        Color::Rgb(red, green, blue) => format!("#{red:02x}{green:02x}{blue:02x}"),
        Color::Idx(index @ ..16) => NAMED[usize::from(index)].to_owned(),
        Color::Idx(index @ 232..) => {
            let level = (index - 232) * 10 + 8;
            format!("#{level:02x}{level:02x}{level:02x}")
        }
        Color::Idx(index) => {
            let level =
                |place: u8| [0, 95, 135, 175, 215, 255][usize::from((index - 16) / place % 6)];
            let (red, green, blue): (u8, u8, u8) = (level(36), level(6), level(1));
            format!("#{red:02x}{green:02x}{blue:02x}")
        }
    }
}
