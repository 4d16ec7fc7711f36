//! Frames of the chart and the table, for many sizes and contents.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;

use super::*;
use crate::common::connection::state::ConnectionState;
use crate::subscriber::display::chart::axis_division::Axis;
use crate::subscriber::display::chart::chart_content::{ChartContent, ChartCurve, Stats};
use crate::subscriber::display::run_status::MessageRate;
use crate::subscriber::display::table::table_content::{TableContent, TableRow};

const COLOUR: Theme = Theme {
    colour: true,
    ascii: false,
};
const PLAIN: Theme = Theme {
    colour: false,
    ascii: false,
};

fn status() -> RunStatus {
    #[allow(
        clippy::disallowed_methods,
        reason = "an origin; the tests move it by hand"
    )]
    let online_since = Instant::now();
    RunStatus {
        now: online_since + Duration::from_secs(4),
        broker: "broker.example:8883".into(),
        connection: ConnectionState::Online {
            since: online_since,
        },
        why_offline: None,
        elapsed: Duration::from_secs(90),
        received: 97,
        without_value: 1,
        missing: 12,
        reconnects: 1,
        rate: MessageRate {
            per_second: 2.0,
            per_minute: 97,
        },
        log: Some(LogLine {
            level: LogLevel::Warning,
            text: "broker.example:8883: the broker closed the connection; trying again in 1.0 s"
                .into(),
            age: Duration::from_secs(32),
        }),
        ended: None,
    }
}

/// Two sine curves; one has a gap while there is no connection.
fn chart() -> ChartContent {
    let sine = |from: i32, to: i32, mean: f64| -> Vec<(f64, f64)> {
        let value = |at: f64| mean + ((at * 12.5).to_radians().sin() * 200.0).round() / 100.0;
        let times = (from..=to).map(f64::from);
        times.map(|at| (at, value(at))).collect()
    };
    let line = |topic: &str, segments: Vec<Vec<(f64, f64)>>| {
        let values = segments.iter().flatten().map(|(_, value)| *value);
        ChartCurve {
            label: topic.into(),
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
            is_hidden: false,
            axis: Some(Axis::Left),
        }
    };
    let with_gap = vec![sine(-61, -31, 21.0), sine(-19, 0, 21.0)];
    ChartContent {
        span: Duration::from_secs(60),
        clock: 45_296_250,
        curves: vec![
            line("site/7/temperature", with_gap),
            line("site/温度", vec![sine(-45, 0, 16.0)]),
        ],
        more_lines: 0,
        outages: vec![(-30.5, -19.5)],
    }
}

fn table(topics: usize) -> TableContent {
    let row = |n: usize| TableRow {
        topic: format!("site/{n}/温度"),
        values: vec![match n % 4 {
            0 => Some("21.53".into()),
            1 => Some(
                r#"{"sequence":12,"temperature":21.53,"unit":"celsius","site":"north"}"#.into(),
            ),
            2 => Some(String::new()),
            _ => None,
        }],
        is_new: n == 0,
        change: n.is_multiple_of(4).then(|| "+0.25".into()),
        age: Duration::from_secs(n as u64 * 40),
        per_second: u32::try_from(n * n)
            .ok()
            .filter(|n| *n > 0)
            .map(|n| 2.0 / f64::from(n)),
        readings: 12345 / (n as u64 + 1),
    };
    TableContent {
        headings: vec!["value".into()],
        rows: (0..topics).map(row).collect(),
        above: 0,
        topics,
        topic_width: 14,
        common_levels: 5,
        unlisted: 0,
    }
}

fn chart_frame() -> DisplayContent {
    frame_of(BodyContent::Chart(chart()))
}

fn frame_of(body: BodyContent) -> DisplayContent {
    DisplayContent {
        status: status(),
        body,
    }
}

fn drawn(content: &DisplayContent, size: (u16, u16), theme: Theme) -> String {
    console::strip_ansi_codes(&snapshot(content, size, theme)).into_owned()
}

/// With `UPDATE_FRAMES=1` it is recorded.
fn expect_recorded(content: &DisplayContent, name: &str, size: (u16, u16), theme: Theme) {
    let drawn = drawn(content, size, theme);
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name);
    if std::env::var_os("UPDATE_FRAMES").is_some() {
        fs::write(&path, &drawn).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap();
    assert_eq!(drawn, expected, "{name}, drawn:\n{drawn}");
}

#[test]
fn frames_look_as_recorded_and_lines_without_colours_have_different_marks() {
    for (name, size, theme) in [
        ("plot-80x24.txt", (80, 24), COLOUR),
        ("plot-200x50.txt", (200, 50), COLOUR),
        ("plot-60x16-plain.txt", (60, 16), PLAIN),
    ] {
        expect_recorded(&chart_frame(), name, size, theme);
    }
    let is_plain = |cell: &Cell| cell.fg == Color::Reset && cell.bg == Color::Reset;
    for content in [chart_frame(), frame_of(BodyContent::Table(table(3)))] {
        let mut terminal = Terminal::new(TestBackend::new(60, 16)).unwrap();
        terminal.draw(|f| draw_frame(f, &content, PLAIN)).unwrap();
        assert!(terminal.backend().buffer().content.iter().all(is_plain));
    }
}

#[test]
fn a_terminal_without_utf_8_gets_ascii() {
    let theme = Theme {
        colour: true,
        ascii: true,
    };
    expect_recorded(&chart_frame(), "plot-80x24-ascii.txt", (80, 24), theme);
    let table = frame_of(BodyContent::Table(table(2)));
    expect_recorded(&table, "table-80x12-ascii.txt", (80, 12), theme);
}

#[test]
fn tables_look_as_recorded() {
    let few = frame_of(BodyContent::Table(table(5)));
    expect_recorded(&few, "table-80x24.txt", (80, 24), COLOUR);
    let mut many = table(100);
    many.unlisted = 3;
    let many = frame_of(BodyContent::Table(many));
    expect_recorded(&many, "table-200x50.txt", (200, 50), COLOUR);
    let mut columns = table(20);
    columns.headings = vec!["/temperature".into(), "/humidity".into()];
    for row in &mut columns.rows {
        row.values.push(Some("55".into()));
    }
    let columns = frame_of(BodyContent::Table(columns));
    expect_recorded(&columns, "table-60x16.txt", (60, 16), COLOUR);
}

#[test]
fn a_small_terminal_shows_a_short_frame_and_a_tiny_one_an_error() {
    let small = drawn(&chart_frame(), (30, 5), COLOUR);
    let small: Vec<_> = small.lines().collect();
    assert_eq!(small[0], " ● connected for…  12 missing");
    assert_eq!(small[3], " ━━ …/7/…perature  21.00  0 s");
    assert_eq!(small[4], " ━━ site/温度      16.00  0 s");
    let tiny = drawn(&chart_frame(), (19, 9), COLOUR);
    assert!(tiny.starts_with("too small: 20x5 at…\n"), "{tiny}");
}

#[test]
fn an_empty_chart_gives_the_reason() {
    let mut silent = chart();
    for line in &mut silent.curves {
        line.stats = None;
        line.segments.clear();
    }
    let empty = ChartContent {
        curves: vec![],
        ..chart()
    };
    for (received, chart, reason) in [
        (0, &empty, "no message yet"),
        (5, &empty, "no number in 5 messages: see --value"),
        (5, &silent, "no reading in the last 1 min"),
    ] {
        let mut content = frame_of(BodyContent::Chart(chart.clone()));
        content.status.received = received;
        let text = drawn(&content, (80, 24), COLOUR);
        assert!(text.contains(reason), "{text}");
    }
    let empty = drawn(&frame_of(BodyContent::Table(table(0))), (80, 24), COLOUR);
    assert!(empty.contains("no message yet"), "{empty}");
}

/// The rows above the chart.
fn header(status: &RunStatus, size: (u16, u16)) -> Vec<String> {
    let mut content = chart_frame();
    content.status = status.clone();
    let rows = Layout::new(size, status).header;
    let text = drawn(&content, size, COLOUR);
    text.lines().take(rows.into()).map(str::to_owned).collect()
}

#[test]
fn the_header_is_complete_at_every_width() {
    let status = status();
    let online = |columns| header(&status, (columns, 24));
    let counts = "   2.0 msg/s · 12 missing · 1 without a value · 1 reconnect · 97 received";
    for columns in [80, 200] {
        let state = " ● broker.example:8883, connected for 4 s";
        assert_eq!(online(columns), [state, counts]);
    }
    assert_eq!(
        online(60),
        [
            " ● broker.example:8883, connected for 4 s",
            "   2.0 msg/s · 12 missing · 1 without a value",
            "   1 reconnect · 97 received",
        ]
    );
    assert_eq!(
        online(40),
        [
            " ● broke…xample:8883, connected for 4 s",
            "   2.0 msg/s · 12 missing",
            "   1 without a value · 1 reconnect",
            "   97 received",
        ]
    );
}

#[test]
fn while_offline_the_header_gives_the_cause_the_next_attempt_and_the_counts() {
    let mut status = status();
    let until = status.now + Duration::from_millis(2300);
    status.connection = ConnectionState::Waiting { until };
    status.why_offline = Some("broker.example:8883: connection refused".into());
    let row = " ○ offline, trying again in 3 s: broker.example:8883: connection refused";
    let counts = "   2.0 msg/s · 12 missing · 1 without a value · 1 reconnect · 97 received";
    assert_eq!(header(&status, (80, 24)), [row, counts]);

    let why = "broker.example:8883: the server's certificate is not trusted: unable to get local \
               issuer certificate; give the certificate of its CA with --cafile";
    status.why_offline = Some(why.into());
    for (columns, state) in [
        (
            40,
            &[
                " ○ offline, trying again in 3 s:",
                "   broker.example:8883: the server's c…",
            ][..],
        ),
        (
            60,
            &[
                " ○ offline, trying again in 3 s: broker.example:8883: the",
                "   server's certificate is not trusted: unable to get loca…",
            ],
        ),
        (
            80,
            &[
                " ○ offline, trying again in 3 s: broker.example:8883: the server's certificate",
                "   is not trusted: unable to get local issuer certificate; give the certificat…",
            ],
        ),
    ] {
        let drawn = header(&status, (columns, 24));
        assert_eq!(drawn[..2], *state);
        assert_eq!(drawn[2..], online_counts(columns));
    }
    let wide = header(&status, (200, 24));
    assert_eq!(wide[0], format!(" ○ offline, trying again in 3 s: {why}"));
    assert_eq!(wide[1..], online_counts(200));
}

#[test]
fn the_rows_below_the_header_stay_where_they_are_when_an_attempt_begins() {
    let mut waiting = status();
    let until = waiting.now + Duration::from_secs(3);
    waiting.connection = ConnectionState::Waiting { until };
    let mut connecting = waiting.clone();
    connecting.connection = ConnectionState::Connecting { deadline: until };
    let mut heights = HashSet::new();
    for length in 0..120 {
        let why = Some("x".repeat(length));
        waiting.why_offline.clone_from(&why);
        connecting.why_offline = why;
        let height = header(&waiting, (80, 24)).len();
        assert_eq!(header(&connecting, (80, 24)).len(), height, "{length}");
        heights.insert(height);
    }
    assert_eq!(heights, HashSet::from([2, 3]));
}

fn online_counts(columns: u16) -> Vec<String> {
    header(&status(), (columns, 24)).split_off(1)
}

#[test]
fn a_low_terminal_has_one_row_for_the_state_and_the_most_important_counts() {
    let mut status = status();
    let online = |columns| header(&status, (columns, 11));
    let state = " ● broker.example:8883, connected for 4 s";
    let all = "2.0 msg/s · 12 missing · 1 without a value · 1 reconnect · 97 received";
    let [wide] = &online(200)[..] else { panic!() };
    assert!(wide.starts_with(state) && wide.ends_with(all), "{wide}");
    assert_eq!(online(40), [" ● connected for 4 s         12 missing"]);
    assert_eq!(
        online(60),
        [" ● brok…ple:8883, connected for 4 s  2.0 msg/s · 12 missing"]
    );
    let [row] = &online(80)[..] else { panic!() };
    assert!(
        row.ends_with("2.0 msg/s · 12 missing · 1 without a value"),
        "{row}"
    );
    let until = status.now + Duration::from_millis(2300);
    status.connection = ConnectionState::Waiting { until };
    status.why_offline = Some("broker.example:8883: connection refused".into());
    let offline = " ○ offline, trying again in 3 s: broker.ex…  2.0 msg/s · 12 missing";
    let [row] = &header(&status, (68, 11))[..] else {
        panic!()
    };
    assert_eq!(row, offline);
}

#[test]
fn keys_that_do_not_fit_are_left_out() {
    for (columns, keys) in [
        (
            80,
            "q end   + - zoom   0 automatic   l one line   1-8 hide, show",
        ),
        (60, "q end   + - zoom   0 automatic   l one line"),
        (40, "q end   + - zoom   0 automatic"),
    ] {
        let text = drawn(&chart_frame(), (columns, 24), COLOUR);
        assert_eq!(text.lines().last().unwrap().trim(), keys);
    }
}

fn chart_with_two_axes() -> DisplayContent {
    let mut chart = chart();
    let pressure = &mut chart.curves[1];
    pressure.label = "site/7/pressure".into();
    pressure.axis = Some(Axis::Right);
    pressure.decimal_places = 0;
    for (_, value) in pressure.segments.iter_mut().flatten() {
        *value = 101_620.0 - *value * 10.0;
    }
    pressure.last = 101_460.0;
    pressure.stats = Some(Stats {
        min: 101_440.0,
        mean: 101_460.5,
        max: 101_480.0,
        count: 46,
    });
    frame_of(BodyContent::Chart(chart))
}

#[test]
fn two_axes_look_as_recorded_and_the_legend_gives_the_axis_of_each_line() {
    let content = chart_with_two_axes();
    expect_recorded(&content, "plot-80x24-two-axes.txt", (80, 24), COLOUR);
    for columns in [40, 60, 80, 200] {
        let text = drawn(&content, (columns, 24), COLOUR);
        let last = if columns > 60 { "101460" } else { "1014" };
        for part in ["axis", "  left  ", " right  ", last, "├", "┘"] {
            assert!(text.contains(part), "{columns}: {part}\n{text}");
        }
    }
    // The labels of an axis with one line have its colour.
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    terminal.draw(|f| draw_frame(f, &content, COLOUR)).unwrap();
    let buffer = terminal.backend().buffer();
    let color = |text: &str| {
        let row = (0..24).find(|y| (0..80).any(|x| buffer[(x, *y)].symbol() == text));
        let y = row.unwrap();
        let x = (0..80).find(|x| buffer[(*x, y)].symbol() == text).unwrap();
        buffer[(if text == "┤" { x - 2 } else { x + 2 }, y)].fg
    };
    assert_eq!(color("┤"), COLOUR.line_color(0));
    assert_eq!(color("├"), COLOUR.line_color(1));
}

#[test]
fn topics_that_do_not_fit_into_the_legend_are_counted() {
    let mut chart = chart();
    chart.curves = vec![chart.curves.remove(0); 8];
    chart.more_lines = 3;
    let text = drawn(&frame_of(BodyContent::Chart(chart)), (80, 14), COLOUR);
    assert!(text.contains("and 8 more lines"), "{text}");
    assert_eq!(text.matches("━━ site").count(), 3, "{text}");
}

#[test]
fn rows_that_are_not_shown_and_topics_that_are_not_listed_are_counted() {
    let mut rows = table(100);
    rows.above = 10;
    rows.rows.drain(..10);
    rows.unlisted = 3;
    let text = drawn(
        &frame_of(BodyContent::Table(rows.clone())),
        (80, 24),
        COLOUR,
    );
    assert!(text.contains("topics 11 to 28 of 100"), "{text}");
    assert!(text.contains("3 topics not listed: too long"), "{text}");
    rows.topics = 10_000;
    rows.unlisted = 10_000;
    let text = drawn(&frame_of(BodyContent::Table(rows)), (80, 24), COLOUR);
    let note = "10000 topics or more not listed: more than 10000";
    assert!(text.contains(note), "{text}");
}

proptest! {
    #[test]
    fn no_size_and_no_text_breaks_a_frame(
        columns in 1u16..140, rows in 1u16..60, text in "\\PC{0,90}",
        values in proptest::collection::vec((-90f64..0.0, -1e100f64..1e100), 0..20),
        colour: bool, ascii: bool, more in 0usize..3, ended: bool, headings in 0usize..5,
    ) {
        let mut chart = chart();
        chart.curves[1].label.clone_from(&text);
        chart.curves[1].segments = vec![values.clone()];
        if let Some((_, first)) = values.first() {
            let (min, max) = (first.min(0.0), first.max(0.0));
            chart.curves[1].stats = Some(Stats { min, max, mean: *first, count: u64::MAX });
        }
        chart.more_lines = more;
        let mut status = status();
        let until = status.now + Duration::from_secs(u32::MAX.into());
        status.connection = ConnectionState::Waiting { until };
        status.why_offline = Some(text.clone());
        status.log = Some(LogLine { level: LogLevel::Error, text: text.clone(), age: Duration::MAX });
        let mut table = table(40);
        table.headings = vec![text.clone(); headings];
        for row in &mut table.rows {
            row.topic.clone_from(&text);
            row.values = vec![Some(text.clone()); headings];
            row.readings = u64::MAX;
            row.change = Some("-1.7976931348623157e308".into());
            row.per_second = values.first().map(|(_, value)| value.abs());
        }
        table.topic_width = width(&text);
        table.unlisted = more;
        status.ended = ended.then_some(text);
        for body in [BodyContent::Chart(chart), BodyContent::Table(table)] {
            let content = DisplayContent { status: status.clone(), body };
            for row in drawn(&content, (columns, rows), Theme { colour, ascii }).lines() {
                prop_assert!(!ascii || row.is_ascii(), "{row}");
                prop_assert!(width(row) <= usize::from(columns), "{row}");
            }
        }
    }
}
