//! The contents of one frame: everything that [`frame`](super::frame) needs. PURE.

use super::chart::chart_content::ChartContent;
use super::run_status::RunStatus;
use super::table::table_content::TableContent;

#[derive(Clone, Debug, PartialEq)]
pub enum BodyContent {
    Chart(ChartContent),
    Table(TableContent),
}

#[derive(Clone, Debug, PartialEq)]
pub struct DisplayContent {
    pub status: RunStatus,
    pub body: BodyContent,
}
