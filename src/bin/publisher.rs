//! The `publisher` command.

fn main() {}
