//! The chart of `--plot`: its data, and how they are drawn.

pub mod axis_division;
pub mod chart_content;
pub mod chart_data;
pub mod graph;
pub mod legend;
pub mod series;
mod time_axis;
pub mod value_scale;
pub mod zoom;
