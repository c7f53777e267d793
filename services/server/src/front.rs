//! Chat clients: one task per connection reads lines, routes them to shards, and writes what comes back.
//!
//! `listener` accepts and counts; `proxy` reads from where a load balancer has a connection; `connection` is the task, driven by one `poll`; `dispatch` turns a line into requests; `replies`
//! turns answers into lines; `rights` says what a token allows; `removal` takes back what a user posted; `membership` follows one group, live or from the log, and `memberships` knows which of them to look at; `outbound`
//! writes.

mod bucket;
mod connection;
mod dispatch;
mod encode;
mod marks;
mod membership;
mod memberships;
mod outbound;
mod proxy;
mod removal;
mod replies;
mod rights;
mod sending;
mod timers;
mod turns;

pub mod config;
pub mod listener;
pub mod metrics;
pub mod registry;

pub use config::{Config, Limits, ProxyProtocol};
pub use listener::{Front, INTRODUCTIONS, Options, REFUSED_AT_ONCE, bind, listen, reserve};
pub use registry::{CloseReason, Registry};
