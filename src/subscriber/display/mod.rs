//! `--plot` and `--table`: a live chart or table in the terminal. [`display_data`] holds the data, [`frame`] draws a
//! frame of it, and [`screen`], the only module here with side effects, owns the terminal.

pub mod chart;
pub mod connection_history;
pub mod delay_estimator;
pub mod display_content;
pub mod display_data;
pub mod frame;
pub mod header;
pub mod json_pointer;
pub mod ms;
pub mod number_format;
pub mod rate_meter;
pub mod run_status;
pub mod screen;
pub mod status_tracker;
pub mod style;
pub mod table;
pub mod text_format;
pub mod value_extractor;
