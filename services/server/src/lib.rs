//! The chat server of tertulia.
//!
//! `docs/architecture.md` says which part may know which. A post's way: `front` (a task per connection) →
//! `shard` (a task per shard, which owns its groups) → `log` (the append that makes it last) → back through the group's
//! broadcast to every member's `front` task.

pub mod admin;
pub mod auth;
pub mod build;
pub mod causes;
pub mod cluster;
pub mod complaint;
pub mod config;
pub mod drain;
pub mod front;
pub mod http;
pub mod linger;
pub mod log;
pub mod origin;
pub mod places;
pub mod random;
pub mod readiness;
pub mod reload;
pub mod server;
pub mod shard;
pub mod telemetry;
pub mod tls;
