//! Chat clients: one task per connection reads lines, routes them to shards, and writes what comes back.

pub mod config;

pub use config::Config;
