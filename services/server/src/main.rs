//! The chat server of tertulia.
fn main() {}
