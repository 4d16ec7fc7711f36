//! Draws a frame: connection and counts, graph, legend, the last line of the log, keys. PURE.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::style::{ERROR, Theme, WARNING, dim, put_text};
use super::text::{format_time, truncate};
use super::view::{ChartView, LogLevel};
use super::{graph, header, legend};

/// Columns and rows.
const MIN_SIZE: (u16, u16) = (20, 5);

const KEYS: &str = "q end   + - zoom   0 automatic";

pub fn frame(frame: &mut Frame<'_>, view: &ChartView, theme: Theme) {
    let area = frame.area();
    draw(frame.buffer_mut(), area, view, theme);
}

pub(super) fn draw(buffer: &mut Buffer, area: Rect, view: &ChartView, theme: Theme) {
    let Rect { width, height, .. } = area;
    if width < MIN_SIZE.0 || height < MIN_SIZE.1 {
        let why = format!("the chart needs {}x{}", MIN_SIZE.0, MIN_SIZE.1);
        put_text(
            buffer,
            area.x,
            area.y,
            &truncate(&why, width.into()),
            Style::new(),
        );
        return;
    }
    let log = u16::from(view.log.is_some() && height >= 8);
    let keys = u16::from(height >= 10);
    let legend = legend::height(view, (height - 1 - log - keys) / 2);
    // The counts get a row of their own if there is enough space.
    let counts = u16::from(height >= 16);
    let row = |y: u16, height: u16| Rect::new(area.x, area.y + y, width, height);
    header::draw(buffer, row(0, 1 + counts), view, theme);
    let graph = height - 1 - counts - legend - log - keys;
    graph::draw(buffer, row(1 + counts, graph), view, theme);
    let mut next = 1 + counts + graph;
    if legend > 0 {
        legend::draw(buffer, row(next, legend), view, theme);
        next += legend;
    }
    if log > 0 {
        log_line(buffer, row(next, 1), view, theme);
        next += log;
    }
    if keys > 0 {
        footer(buffer, row(next, 1), view);
    }
}

fn log_line(buffer: &mut Buffer, area: Rect, view: &ChartView, theme: Theme) {
    let Some(log) = &view.log else {
        return;
    };
    let (level, style) = match log.level {
        LogLevel::Error => ("error", theme.color(ERROR)),
        LogLevel::Warning => ("warning", theme.color(WARNING)),
        LogLevel::Other => ("log", dim()),
    };
    let level = format!("{level} {} ago:", format_time(log.age));
    put_text(buffer, area.x + 1, area.y, &level, style);
    let column = area.x + 2 + u16::try_from(level.len()).unwrap_or_default();
    let room = usize::from(area.right().saturating_sub(column + 1));
    put_text(
        buffer,
        column,
        area.y,
        &truncate(&log.text, room),
        Style::new(),
    );
}

fn footer(buffer: &mut Buffer, area: Rect, view: &ChartView) {
    let room = usize::from(area.width) - 2;
    let text = match &view.ended {
        Some(when) => format!("ended {when}"),
        None => KEYS.into(),
    };
    put_text(buffer, area.x + 1, area.y, &truncate(&text, room), dim());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subscriber::plot::text::width;
    use crate::subscriber::plot::view::{ChartLine, ConnectionStatus, LogLine, MessageRate, Stats};
    use proptest::prelude::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::style::Color;
    use std::time::Duration;

    const COLOUR: Theme = Theme { colour: true };
    const PLAIN: Theme = Theme { colour: false };

    /// Two sine curves; one has a gap while there is no connection.
    fn view() -> ChartView {
        let sine = |from: i32, to: i32, mean: f64| -> Vec<(f64, f64)> {
            let times = (from..=to).map(f64::from);
            times
                .map(|at| {
                    (
                        at,
                        mean + ((at * 12.5).to_radians().sin() * 200.0).round() / 100.0,
                    )
                })
                .collect()
        };
        let line = |label: &str, segments: Vec<Vec<(f64, f64)>>| {
            let values = segments.iter().flatten().map(|(_, value)| *value);
            let last = values.clone().next_back().unwrap_or_default();
            ChartLine {
                label: label.into(),
                last,
                age: Duration::from_millis(400),
                places: 2,
                stats: Some(Stats {
                    min: values.clone().fold(f64::MAX, f64::min),
                    mean: 20.0,
                    max: values.clone().fold(f64::MIN, f64::max),
                    count: values.count() as u64,
                }),
                segments,
            }
        };
        ChartView {
            broker: "broker.example:8883".into(),
            connection: ConnectionStatus::Connected {
                uptime: Duration::from_secs(20),
            },
            elapsed: Duration::from_secs(90),
            span: Duration::from_secs(60),
            lines: vec![
                line(
                    "site/7/temperature",
                    vec![sine(-61, -31, 21.0), sine(-19, 0, 21.0)],
                ),
                line("site/温度", vec![sine(-45, 0, 16.0)]),
            ],
            more: 0,
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

    fn drawn(view: &ChartView, (columns, rows): (u16, u16), theme: Theme) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
        terminal.draw(|f| frame(f, view, theme)).unwrap();
        let buffer = terminal.backend().buffer();
        let rows = buffer.content.chunks(columns.into());
        let text = rows.map(|cells| {
            let mut text = String::new();
            let mut covered = 0;
            for cell in cells {
                if covered == 0 {
                    text.push_str(cell.symbol());
                    covered = width(cell.symbol());
                }
                covered = covered.saturating_sub(1);
            }
            text.trim_end().to_owned()
        });
        text.collect()
    }

    fn expect(size: (u16, u16), theme: Theme, expected: &str) {
        let drawn = drawn(&view(), size, theme).join("\n") + "\n";
        assert_eq!(drawn, expected, "{size:?}, drawn:\n{drawn}");
    }

    #[test]
    fn a_frame_of_80_by_24() {
        let expected = include_str!("../../../tests/data/plot-80x24.txt");
        expect((80, 24), COLOUR, expected);
    }

    #[test]
    fn a_frame_of_200_by_50() {
        let expected = include_str!("../../../tests/data/plot-200x50.txt");
        expect((200, 50), COLOUR, expected);
    }

    #[test]
    fn without_colours_the_lines_have_different_marks() {
        let expected = include_str!("../../../tests/data/plot-60x16-plain.txt");
        expect((60, 16), PLAIN, expected);
        let mut terminal = Terminal::new(TestBackend::new(60, 16)).unwrap();
        terminal.draw(|f| frame(f, &view(), PLAIN)).unwrap();
        let cells = &terminal.backend().buffer().content;
        assert!(
            cells
                .iter()
                .all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset)
        );
    }

    #[test]
    fn a_small_terminal_shows_a_short_frame_and_a_tiny_one_an_error() {
        let small = drawn(&view(), (30, 5), COLOUR);
        assert_eq!(small[0], " ● broker.exampl…   2.0 msg/s");
        assert_eq!(small[3], " ━━ site…perature  21.00  0 s");
        assert_eq!(small[4], " ━━ site/温度      16.00  0 s");
        let tiny = drawn(&view(), (19, 9), COLOUR);
        assert_eq!(tiny[0], "the chart needs 20…");
    }

    #[test]
    fn an_empty_chart_gives_the_reason() {
        let empty = ChartView {
            lines: vec![],
            received: 0,
            without_value: 0,
            ..view()
        };
        let text = drawn(&empty, (80, 24), COLOUR).concat();
        assert!(text.contains("no message yet"), "{text}");
        let wordy = ChartView {
            received: 5,
            ..empty
        };
        let text = drawn(&wordy, (80, 24), COLOUR).concat();
        assert!(
            text.contains("no number in 5 messages: see --value"),
            "{text}"
        );
        let mut silent = view();
        for line in &mut silent.lines {
            line.stats = None;
            line.segments.clear();
        }
        let text = drawn(&silent, (80, 24), COLOUR).concat();
        assert!(text.contains("no reading in the last 1 min"), "{text}");
    }

    #[test]
    fn while_offline_the_first_row_gives_the_cause_and_the_next_attempt() {
        let offline = ChartView {
            connection: ConnectionStatus::Waiting {
                why: "broker.example:8883: connection refused".into(),
                left: Duration::from_millis(2300),
            },
            ..view()
        };
        assert_eq!(
            drawn(&offline, (80, 24), COLOUR)[0],
            " ○ offline, trying again in 3 s: broker.example:8883: connection refused"
        );
    }

    #[test]
    fn topics_that_do_not_fit_into_the_legend_are_counted() {
        let one = view().lines.remove(0);
        let many = ChartView {
            lines: vec![one; 8],
            more: 3,
            ..view()
        };
        let small = drawn(&many, (80, 14), COLOUR);
        let text = small.join("\n");
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
            view.lines[1].label.clone_from(&text);
            view.lines[1].segments = vec![values.clone()];
            if let Some((_, first)) = values.first() {
                let (min, max) = (first.min(0.0), first.max(0.0));
                view.lines[1].stats = Some(Stats { min, max, mean: *first, count: u64::MAX });
            }
            view.connection = ConnectionStatus::Waiting { why: text.clone(), left: Duration::MAX };
            view.log = Some(LogLine { level: LogLevel::Error, text: text.clone(), age: Duration::MAX });
            view.more = more;
            view.ended = ended.then_some(text);
            for row in drawn(&view, (columns, rows), Theme { colour }) {
                prop_assert!(width(&row) <= usize::from(columns), "{row}");
            }
        }
    }
}
