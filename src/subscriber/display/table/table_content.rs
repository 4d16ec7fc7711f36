//! The contents of one frame of the table. Texts have no control characters. PURE.

use std::time::Duration;

#[derive(Clone, Debug, PartialEq)]
pub struct TableRow {
    pub topic: String,
    /// One for each heading; none where the payload has no such value.
    pub values: Vec<Option<String>>,
    /// Whether a value has changed within the last second.
    pub is_new: bool,
    /// By how much the first value differs from the one before it, if both are numbers.
    pub change: Option<String>,
    pub age: Duration,
    pub per_second: Option<f64>,
    pub readings: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TableContent {
    /// The headings of the values.
    pub headings: Vec<String>,
    /// The rows from the first one shown on.
    pub rows: Vec<TableRow>,
    /// How many rows are above the first one shown.
    pub above: usize,
    pub topics: usize,
    /// The width of the longest topic seen, so that columns do not move while rows are scrolled.
    pub topic_width: usize,
    /// The length in bytes of what all topics begin with, whether they are shown or not.
    pub common_levels: usize,
    /// Topics for which the table has no space.
    pub unlisted: usize,
}
