//! `--plot`: a live chart in the terminal.
//!
//! [`value`] picks a number out of a payload, [`model`] takes readings and what becomes of
//! the connection, [`view`] is what of it a frame shows, [`draw`] draws that, and
//! [`screen`] has the terminal. Only the last is at the edge.

mod connection;
pub mod draw;
mod graph;
mod header;
mod legend;
pub mod look;
pub mod model;
mod scale;
pub mod screen;
mod series;
mod still;
mod text;
mod timing;
pub mod value;
pub mod view;
mod window;
