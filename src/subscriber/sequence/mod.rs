//! The numbers of received messages: gaps and repeats.

pub mod fingerprint;
pub mod steps;
pub mod streams;
