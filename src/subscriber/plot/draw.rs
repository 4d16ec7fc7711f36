//! Draws a frame: connection and counts, graph, legend, the last line of the log, keys. PURE.

use ratatui::Frame;
use ratatui::backend::IntoCrossterm as _;
use ratatui::buffer::{Buffer, Cell};
use ratatui::crossterm::style::{Attribute, Color, ContentStyle, StyledContent};
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};

use super::chart_content::{ChartContent, LogLevel, LogLine};
use super::style::{DIM, ERROR, NORMAL, Theme, WARNING, put_text};
use super::text_format::{format_duration, truncate, width};
use super::{graph, header, legend};

const MIN_SIZE: (u16, u16) = (20, 5);

const KEYS: &str = "q end   + - zoom   0 automatic";

pub fn draw_frame(frame: &mut Frame<'_>, view: &ChartContent, theme: Theme) {
    let area = frame.area();
    draw(frame.buffer_mut(), area, view, theme);
}

fn draw(buffer: &mut Buffer, area: Rect, view: &ChartContent, theme: Theme) {
    let Rect { width, height, .. } = area;
    if width < MIN_SIZE.0 || height < MIN_SIZE.1 {
        let why = format!("the chart needs {}x{}", MIN_SIZE.0, MIN_SIZE.1);
        let why = truncate(&why, width.into());
        put_text(buffer, area.x, area.y, &why, NORMAL);
        return;
    }
    let log = u16::from(view.log.is_some() && height >= 8);
    let keys = u16::from(height >= 10);
    let legend = legend::height(view, (height - 1 - log - keys) / 2);
    // The counts get their own row if there is enough space.
    let counts = u16::from(height >= 16);
    let mut y = area.y;
    let mut rows = |height: u16| {
        y += height;
        Rect::new(area.x, y - height, width, height)
    };
    header::draw(buffer, rows(1 + counts), view, theme);
    let graph = height - 1 - counts - legend - log - keys;
    graph::draw(buffer, rows(graph), view, theme);
    if legend > 0 {
        legend::draw(buffer, rows(legend), view, theme);
    }
    if let Some(line) = view.log.as_ref().filter(|_| log > 0) {
        draw_log_line(buffer, rows(log), line, theme);
    }
    if keys > 0 {
        let ended = view.ended.as_ref().map(|when| format!("ended {when}"));
        let text = truncate(ended.as_deref().unwrap_or(KEYS), usize::from(width) - 2);
        put_text(buffer, area.x + 1, rows(keys).y, &text, DIM);
    }
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
pub(super) fn snapshot(view: &ChartContent, (columns, rows): (u16, u16), theme: Theme) -> String {
    let area = Rect::new(0, 0, columns, rows);
    let mut buffer = Buffer::empty(area);
    draw(&mut buffer, area, view, theme);
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
    if cell.modifier.contains(Modifier::DIM) {
        style.attributes.set(Attribute::Dim);
    }
    style
}

fn flush_styled_run(out: &mut String, run: &mut String, style: ContentStyle) {
    if !run.is_empty() {
        out.push_str(&StyledContent::new(style, std::mem::take(run)).to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::connection::state::ConnectionState;
    use crate::subscriber::plot::chart_content::{ChartCurve, MessageRate, Stats};
    use crate::subscriber::plot::chart_data::tests::chart;
    use proptest::prelude::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::style::Color;
    use std::time::Duration;

    const COLOUR: Theme = Theme { colour: true };
    const PLAIN: Theme = Theme { colour: false };

    /// Two sine curves; one has a gap while there is no connection.
    fn view() -> ChartContent {
        let sine = |from: i32, to: i32, mean: f64| -> Vec<(f64, f64)> {
            let value = |at: f64| mean + ((at * 12.5).to_radians().sin() * 200.0).round() / 100.0;
            let times = (from..=to).map(f64::from);
            times.map(|at| (at, value(at))).collect()
        };
        let line = |topic: &str, segments: Vec<Vec<(f64, f64)>>| {
            let values = segments.iter().flatten().map(|(_, value)| *value);
            ChartCurve {
                topic: topic.into(),
                last: values.clone().next_back().unwrap_or_default(),
                age: Duration::from_millis(400),
                decimal_places: 2,
                stats: Some(Stats {
                    min: values.clone().fold(f64::MAX, f64::min),
                    mean: 20.0,
                    max: values.clone().fold(f64::MIN, f64::max),
                    count: values.count() as u64,
                }),
                segments,
            }
        };
        let (_, online_since) = chart();
        let with_gap = vec![sine(-61, -31, 21.0), sine(-19, 0, 21.0)];
        ChartContent {
            now: online_since + Duration::from_secs(20),
            broker: "broker.example:8883".into(),
            connection: ConnectionState::Online {
                since: online_since,
            },
            why_offline: None,
            elapsed: Duration::from_secs(90),
            span: Duration::from_secs(60),
            lines: vec![
                line("site/7/temperature", with_gap),
                line("site/温度", vec![sine(-45, 0, 16.0)]),
            ],
            more_topics: 0,
            received: 97,
            without_value: 1,
            missing: 12,
            reconnects: 1,
            rate: MessageRate {
                per_second: 2.0,
                per_minute: 97,
            },
            outages: vec![(-30.5, -19.5)],
            log: Some(LogLine {
                level: LogLevel::Warning,
                text:
                    "broker.example:8883: the broker closed the connection; trying again in 1.0 s"
                        .into(),
                age: Duration::from_secs(32),
            }),
            ended: None,
        }
    }

    fn drawn(view: &ChartContent, size: (u16, u16), theme: Theme) -> String {
        console::strip_ansi_codes(&snapshot(view, size, theme)).into_owned()
    }

    #[test]
    fn frames_look_as_recorded_and_lines_without_colours_have_different_marks() {
        for (size, theme, expected) in [
            (
                (80, 24),
                COLOUR,
                include_str!("../../../tests/data/plot-80x24.txt"),
            ),
            (
                (200, 50),
                COLOUR,
                include_str!("../../../tests/data/plot-200x50.txt"),
            ),
            (
                (60, 16),
                PLAIN,
                include_str!("../../../tests/data/plot-60x16-plain.txt"),
            ),
        ] {
            let drawn = drawn(&view(), size, theme);
            assert_eq!(drawn, expected, "{size:?}, drawn:\n{drawn}");
        }
        let mut terminal = Terminal::new(TestBackend::new(60, 16)).unwrap();
        terminal.draw(|f| draw_frame(f, &view(), PLAIN)).unwrap();
        let is_plain = |cell: &Cell| cell.fg == Color::Reset && cell.bg == Color::Reset;
        assert!(terminal.backend().buffer().content.iter().all(is_plain));
    }

    #[test]
    fn a_small_terminal_shows_a_short_frame_and_a_tiny_one_an_error() {
        let small = drawn(&view(), (30, 5), COLOUR);
        let small: Vec<_> = small.lines().collect();
        assert_eq!(small[0], " ● broker.exampl…   2.0 msg/s");
        assert_eq!(small[3], " ━━ site…perature  21.00  0 s");
        assert_eq!(small[4], " ━━ site/温度      16.00  0 s");
        let tiny = drawn(&view(), (19, 9), COLOUR);
        assert!(tiny.starts_with("the chart needs 20…\n"), "{tiny}");
    }

    #[test]
    fn an_empty_chart_gives_the_reason() {
        let wordy = ChartContent {
            lines: vec![],
            received: 5,
            without_value: 0,
            ..view()
        };
        let empty = ChartContent {
            received: 0,
            ..wordy.clone()
        };
        let mut silent = view();
        for line in &mut silent.lines {
            line.stats = None;
            line.segments.clear();
        }
        for (view, reason) in [
            (empty, "no message yet"),
            (wordy, "no number in 5 messages: see --value"),
            (silent, "no reading in the last 1 min"),
        ] {
            let text = drawn(&view, (80, 24), COLOUR);
            assert!(text.contains(reason), "{text}");
        }
    }

    #[test]
    fn while_offline_the_first_row_gives_the_cause_and_the_next_attempt() {
        let mut view = view();
        let until = view.now + Duration::from_millis(2300);
        view.connection = ConnectionState::Waiting { until };
        view.why_offline = Some("broker.example:8883: connection refused".into());
        let text = drawn(&view, (80, 24), COLOUR);
        let row = " ○ offline, trying again in 3 s: broker.example:8883: connection refused";
        assert_eq!(text.lines().next(), Some(row));
    }

    #[test]
    fn topics_that_do_not_fit_into_the_legend_are_counted() {
        let mut view = view();
        view.lines = vec![view.lines.remove(0); 8];
        view.more_topics = 3;
        let text = drawn(&view, (80, 14), COLOUR);
        assert!(text.contains("and 8 more topics"), "{text}");
        assert_eq!(text.matches("━━ site").count(), 3, "{text}");
    }

    proptest! {
        #[test]
        fn no_size_and_no_text_breaks_a_frame(
            columns in 1u16..140, rows in 1u16..60, text in "\\PC{0,90}",
            values in proptest::collection::vec((-90f64..0.0, -1e100f64..1e100), 0..20),
            colour: bool, more in 0usize..3, ended: bool,
        ) {
            let mut view = view();
            view.lines[1].topic.clone_from(&text);
            view.lines[1].segments = vec![values.clone()];
            if let Some((_, first)) = values.first() {
                let (min, max) = (first.min(0.0), first.max(0.0));
                view.lines[1].stats = Some(Stats { min, max, mean: *first, count: u64::MAX });
            }
            let until = view.now + Duration::from_secs(u32::MAX.into());
            view.connection = ConnectionState::Waiting { until };
            view.why_offline = Some(text.clone());
            view.log = Some(LogLine { level: LogLevel::Error, text: text.clone(), age: Duration::MAX });
            view.more_topics = more;
            view.ended = ended.then_some(text);
            for row in drawn(&view, (columns, rows), Theme { colour }).lines() {
                prop_assert!(width(row) <= usize::from(columns), "{row}");
            }
        }
    }
}
