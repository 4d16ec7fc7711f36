//! The first rows: the state of the connection, and counts. PURE.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::run_status::RunStatus;
use super::style::{DIM, ERROR, NORMAL, OK, Theme, WARNING, put_text};
use super::text_format::{
    format_duration, format_plural, format_rate, format_time_left, truncate, truncate_middle,
    width, wrap_once,
};
use crate::common::connection::state::ConnectionState;

/// The text begins after a blank, the symbol and another blank; one more is at the right edge.
const INDENT: u16 = 3;

const SEPARATOR: usize = 3;

/// Below this height everything is in one row.
const MIN_HEIGHT_FOR_TWO_ROWS: u16 = 12;

/// From this height on the cause of an outage may have two rows.
const MIN_HEIGHT_FOR_WRAPPING: u16 = 16;

/// The counts may have one row of this many.
const HEIGHT_PER_ROW_OF_COUNTS: u16 = 8;

/// Of the broker's name or the cause of an outage; with less it is left out.
const MIN_DETAIL: usize = 8;

/// The counts do not change their rows when the rate gets another digit.
const MIN_RATE: usize = "1000 msg/s".len();

struct Count {
    text: String,
    style: Style,
    /// The highest rank is left out first.
    rank: u8,
}

impl Count {
    fn reserved(&self) -> usize {
        width(&self.text).max(if self.rank == RATE { MIN_RATE } else { 0 })
    }
}

const RATE: u8 = 1;

/// The state of the connection: its head is always shown, as much of it as fits.
struct State {
    symbol: &'static str,
    color: Style,
    head: String,
    /// The broker, in front of the head, or the cause of an outage, after it.
    detail: Detail,
}

enum Detail {
    Broker(String),
    Cause(String),
}

/// How many rows the state and the counts have; they share one if the counts have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rows {
    state: u16,
    counts: u16,
}

pub fn height(size: (u16, u16), status: &RunStatus) -> u16 {
    let rows = rows(size, status);
    rows.state + rows.counts
}

fn rows((columns, height): (u16, u16), status: &RunStatus) -> Rows {
    if height < MIN_HEIGHT_FOR_TWO_ROWS {
        return Rows {
            state: 1,
            counts: 0,
        };
    }
    let space = text_space(columns);
    // The same while waiting and while connecting, so that the rows below do not move at each attempt.
    let longest = "offline, trying again in 59 min: ".len();
    let is_offline = !matches!(status.connection, ConnectionState::Online { .. });
    let why = status.why_offline.as_deref().filter(|_| is_offline);
    let is_long = why.is_some_and(|why| longest + width(why) > space);
    let mut counts = counts(status, Theme::default());
    let most = height / HEIGHT_PER_ROW_OF_COUNTS;
    drop_counts(&mut counts, space, most);
    Rows {
        state: 1 + u16::from(is_long && height >= MIN_HEIGHT_FOR_WRAPPING),
        counts: to_u16(rows_of(&counts, space).count()).max(1),
    }
}

fn text_space(columns: u16) -> usize {
    usize::from(columns.saturating_sub(INDENT + 1))
}

/// `height` is that of the terminal; `area` has as many rows as [`height()`] says.
pub fn draw(buffer: &mut Buffer, area: Rect, height: u16, status: &RunStatus, theme: Theme) {
    let rows = rows((area.width, height), status);
    let state = state(status, theme);
    let mut counts = counts(status, theme);
    let mut space = text_space(area.width);
    put_text(buffer, area.x + 1, area.y, state.symbol, state.color);
    if rows.counts == 0 {
        let least = (width(&state.head) + 2 + MIN_DETAIL).min(space / 2);
        drop_counts(&mut counts, space.saturating_sub(least + 2), 1);
        let counts_width = total_width(&counts);
        space = space.saturating_sub(counts_width + 2);
        let right = usize::from(area.width.saturating_sub(1)).saturating_sub(counts_width);
        draw_counts(buffer, (to_u16(right), area.y), &counts);
    } else {
        drop_counts(&mut counts, space, rows.counts);
        for (row, y) in rows_of(&counts, space).zip(area.y + rows.state..) {
            draw_counts(buffer, (area.x + INDENT, y), row);
        }
    }
    for (line, y) in state.lines(space, rows.state).iter().zip(area.y..) {
        put_text(buffer, area.x + INDENT, y, line, NORMAL);
    }
}

fn to_u16(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

fn draw_counts(buffer: &mut Buffer, (x, y): (u16, u16), counts: &[Count]) {
    let mut column = usize::from(x);
    for (n, count) in counts.iter().enumerate() {
        if n > 0 {
            put_text(buffer, to_u16(column + 1), y, "·", DIM);
            column += SEPARATOR;
        }
        put_text(buffer, to_u16(column), y, &count.text, count.style);
        column += width(&count.text);
    }
}

fn total_width(counts: &[Count]) -> usize {
    let wide = counts.iter().map(|count| width(&count.text) + SEPARATOR);
    wide.sum::<usize>().saturating_sub(SEPARATOR)
}

/// Leaves those that fit into this many rows.
fn drop_counts(counts: &mut Vec<Count>, space: usize, rows: u16) {
    let fits = |counts: &[Count]| {
        let is_wide = |count: &Count| count.reserved() > space;
        rows_of(counts, space).count() <= rows.into() && !counts.iter().any(is_wide)
    };
    while !fits(counts) {
        let last = counts
            .iter()
            .enumerate()
            .max_by_key(|(_, count)| count.rank);
        let Some((position, _)) = last else { return };
        counts.remove(position);
    }
}

/// As many in each row as fit, at least one.
fn rows_of(counts: &[Count], space: usize) -> impl Iterator<Item = &[Count]> {
    let mut wide = 0;
    let mut begins = Vec::new();
    for (n, count) in counts.iter().enumerate() {
        if n == 0 || wide + count.reserved() > space {
            begins.push(n);
            wide = 0;
        }
        wide += count.reserved() + SEPARATOR;
    }
    let mut ends = begins.clone().into_iter().skip(1).chain([counts.len()]);
    begins
        .into_iter()
        .map_while(move |begin| counts.get(begin..ends.next()?))
}

impl State {
    fn lines(&self, space: usize, rows: u16) -> Vec<String> {
        let left = space.saturating_sub(width(&self.head) + 2);
        match &self.detail {
            Detail::Broker(broker) if left < MIN_DETAIL.min(width(broker)) => {
                vec![truncate(&self.head, space)]
            }
            Detail::Broker(broker) => {
                vec![format!("{}, {}", truncate_middle(broker, left), self.head)]
            }
            Detail::Cause(why) if rows == 1 && left < MIN_DETAIL.min(width(why)) => {
                vec![truncate(&self.head, space)]
            }
            Detail::Cause(why) => {
                let text = format!("{}: {why}", self.head);
                if rows == 1 {
                    return vec![truncate(&text, space)];
                }
                let (first, second) = wrap_once(&text, space);
                vec![first.to_owned(), truncate(second, space)]
            }
        }
    }
}

fn state(status: &RunStatus, theme: Theme) -> State {
    let RunStatus { broker, now, .. } = status;
    let at_broker = |symbol, color: Style, head: String| State {
        symbol,
        color,
        head,
        detail: Detail::Broker(broker.clone()),
    };
    if status.ended.is_some() {
        let head = format!("after {}", format_duration(status.elapsed));
        return at_broker("■", DIM.into(), head);
    }
    let offline = |head: String, why: &str| State {
        symbol: "○",
        color: theme.color_if_enabled(ERROR).into(),
        head,
        detail: Detail::Cause(why.to_owned()),
    };
    let why = status.why_offline.as_deref();
    match (status.connection, why) {
        (ConnectionState::Idle | ConnectionState::Connecting { .. }, None) => State {
            symbol: "○",
            color: theme.color_if_enabled(WARNING).into(),
            head: "connecting".into(),
            detail: Detail::Cause(broker.clone()),
        },
        (ConnectionState::Idle | ConnectionState::Connecting { .. }, Some(why)) => {
            offline("connecting again".into(), why)
        }
        (ConnectionState::Online { since }, _) => {
            let uptime = format_duration(now.saturating_duration_since(since));
            let color = theme.color_if_enabled(OK).into();
            at_broker("●", color, format!("connected for {uptime}"))
        }
        (ConnectionState::Waiting { until }, why) => {
            let left = format_time_left(until.saturating_duration_since(*now));
            offline(
                format!("offline, trying again in {left}"),
                why.unwrap_or_default(),
            )
        }
        (ConnectionState::Stopped, _) => at_broker("■", DIM.into(), "ended".into()),
    }
}

fn counts(status: &RunStatus, theme: Theme) -> Vec<Count> {
    let count = |rank, color: Option<u8>, text: String| Count {
        text,
        style: color.map_or(NORMAL.into(), |color| theme.color_if_enabled(color).into()),
        rank,
    };
    let RunStatus {
        missing,
        without_value,
        reconnects,
        received,
        ..
    } = *status;
    let problem = |number: u64, rank, color, text: String| {
        (number > 0).then(|| count(rank, Some(color), text))
    };
    [
        Some(count(RATE, None, format_rate(status.rate))),
        problem(missing, 0, ERROR, format!("{missing} missing")),
        problem(
            without_value,
            2,
            WARNING,
            format!("{without_value} without a value"),
        ),
        problem(
            reconnects,
            3,
            WARNING,
            format_plural(reconnects, "reconnect"),
        ),
        Some(count(4, None, format!("{received} received"))),
    ]
    .into_iter()
    .flatten()
    .collect()
}
