//! `--plot`: a live chart in the terminal. [`chart_data`] holds the data, [`draw`] draws a frame of it, and
//! [`screen`], the only module here with side effects, owns the terminal.

pub mod chart_content;
pub mod chart_data;
mod connection_history;
mod delay_estimator;
pub mod draw;
mod graph;
mod header;
mod legend;
mod rate_meter;
pub mod screen;
mod series;
pub mod style;
mod text_format;
pub mod value_extractor;
mod value_scale;
mod zoom;
