//! The admin API: moderators and operators ask and act through gRPC.
//!
//! `serve` accepts connections, for which there may be room ([`crate::places`]), and takes care of each; `gate` lets a request through, or not, and measures it; `service` is the
//! API, whose calls are in `groups`, `connections`, `messages`, `moderation`, `removal`, `holds`, `placement`, `backup`, `logging` and `watch`; `elsewhere` asks the other nodes; `status` says in
//! gRPC's words what
//! went wrong.

mod arguments;
mod backup;
mod connections;
mod elsewhere;
mod gate;
mod groups;
mod health;
mod holds;
mod logging;
mod messages;
mod moderation;
mod pages;
mod placement;
mod reflection;
mod removal;
mod status;
mod watch;

pub mod config;
pub mod metrics;
pub mod serve;
pub mod service;
pub mod token;
mod tokens;

pub use config::Config;
pub use serve::Server;
pub use service::Service;
pub use tokens::Tokens;
