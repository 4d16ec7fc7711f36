//! Where a broker is and what it allows: endpoint, limits of a profile.

pub mod aws_host;
pub mod endpoint;
pub mod profile;
