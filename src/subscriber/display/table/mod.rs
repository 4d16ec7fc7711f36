//! The table of `--table`: its data, and how they are drawn.

pub mod rows;
pub mod table_content;
pub mod table_data;
pub mod topic_rate;
pub mod topic_reading;
