//! Brokers: where they are and what limits they have.

pub mod aws_host;
pub mod endpoint;
pub mod host_port;
pub mod profile;
