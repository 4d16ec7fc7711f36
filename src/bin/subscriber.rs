//! The `subscriber` command.

fn main() {}
