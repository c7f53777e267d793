//! Traces of the real binary, as a collector receives them.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking, its helpers too.

mod admin;
mod collector;
#[path = "../../src/log/nats/tests/server.rs"]
#[expect(dead_code, reason = "the tests of the log also kill and stall servers")]
mod nats;
mod nodes;
mod outage;
mod posts;
mod secure;
mod server;
