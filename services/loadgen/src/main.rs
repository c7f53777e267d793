//! The load generator of tertulia.
fn main() {}
