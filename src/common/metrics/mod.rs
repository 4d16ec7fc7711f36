//! What a running program measures about itself, for Prometheus: metrics, their text format, the file that `node_exporter`
//! reads, and whether a file says that a program is well.

pub mod exposition;
pub mod health;
pub mod histogram;
pub mod metric_family;
pub mod metrics_file;
mod write_schedule;
