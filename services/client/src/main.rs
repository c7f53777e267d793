//! The terminal chat client of tertulia.
fn main() {}
