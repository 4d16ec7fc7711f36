//! The data of the chart or the table. PURE. Its memory is bounded.

use std::time::{Duration, Instant};

use super::chart::chart_data::{ChartData, HideCommand};
use super::chart::zoom::ZoomCommand;
use super::display_content::{BodyContent, DisplayContent};
use super::frame::Layout;
use super::ms::duration_to_ms;
use super::run_status::LogLine;
use super::status_tracker::StatusTracker;
use super::table::table_data::{ScrollCommand, TableData};
use super::value_extractor::ValueExtractor;
use crate::common::connection::state::ConnectionStateMachine;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisplayKind {
    Chart,
    Table,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisplayCommand {
    Zoom(ZoomCommand),
    Hide(HideCommand),
    Scroll(ScrollCommand),
}

#[derive(Clone, Copy, Debug)]
pub struct DisplayedReading<'a> {
    pub topic: &'a str,
    pub payload: &'a [u8],
    /// The Unix time of the measurement by the sender's clock, if it is in the message.
    pub taken_at: Option<Duration>,
    pub arrived_at: Duration,
}

impl DisplayedReading<'_> {
    /// The time of arrival minus the sender's time of measurement, in milliseconds.
    fn delay(&self) -> i64 {
        self.taken_at.map_or(0, |taken| {
            duration_to_ms(self.arrived_at).saturating_sub(duration_to_ms(taken))
        })
    }
}

#[derive(Debug)]
enum BodyData {
    Chart(ChartData),
    Table(TableData),
}

#[derive(Debug)]
pub struct DisplayData {
    extractor: ValueExtractor,
    tracker: StatusTracker,
    body: BodyData,
}

impl DisplayData {
    pub fn new(kind: DisplayKind, extractor: ValueExtractor, broker: &str, now: Instant) -> Self {
        let body = match kind {
            DisplayKind::Chart => BodyData::Chart(ChartData::new(extractor.headings())),
            DisplayKind::Table => BodyData::Table(TableData::new(extractor.headings())),
        };
        Self {
            extractor,
            tracker: StatusTracker::new(broker, now),
            body,
        }
    }

    /// Another number means that another frame is due.
    pub fn revision(&self) -> u64 {
        self.tracker.revision()
    }

    pub fn add(&mut self, reading: &DisplayedReading<'_>, now: Instant) {
        let now = self.tracker.ms(now);
        let has_value = match &mut self.body {
            BodyData::Chart(chart) => {
                let values = self.extractor.extract_numbers(reading.payload);
                chart.add(reading.topic, &values, reading.delay(), now);
                values.iter().any(Option::is_some)
            }
            BodyData::Table(table) => {
                let texts = self.extractor.extract_texts(reading.payload);
                let texts: Vec<_> = texts.iter().map(Option::as_deref).collect();
                table.add(reading.topic, &texts, reading.delay(), now);
                texts.iter().any(Option::is_some)
            }
        };
        self.tracker.count_reading(has_value, now);
    }

    pub fn update_connection(&mut self, connection: &ConnectionStateMachine, now: Instant) {
        self.tracker.update_connection(connection, now);
    }

    pub fn set_missing_count(&mut self, missing: u64) {
        self.tracker.set_missing_count(missing);
    }

    pub fn handle_command(&mut self, command: DisplayCommand) {
        match (&mut self.body, command) {
            (BodyData::Chart(chart), DisplayCommand::Zoom(zoom)) => chart.zoom(zoom),
            (BodyData::Chart(chart), DisplayCommand::Hide(hide)) => chart.hide(hide),
            (BodyData::Table(table), DisplayCommand::Scroll(scroll)) => table.scroll(scroll),
            _ => return,
        }
        self.tracker.record_change();
    }

    /// The contents of a frame of this many columns and rows. `clock`: the time by the clock on the wall, in milliseconds
    /// since a midnight.
    pub fn content(
        &mut self,
        at: Instant,
        clock: i64,
        size: (u16, u16),
        log: Option<LogLine>,
    ) -> DisplayContent {
        let now = self.tracker.ms(at);
        let status = self.tracker.status(at, log);
        let body = match &mut self.body {
            BodyData::Chart(chart) => {
                BodyContent::Chart(chart.content(&self.tracker.connection, clock, now))
            }
            BodyData::Table(table) => {
                let rows = Layout::new(size, &status).body_rows();
                BodyContent::Table(table.content(super::table::rows::page(rows), now))
            }
        };
        DisplayContent { status, body }
    }
}
