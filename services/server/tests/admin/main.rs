//! The admin API over a real socket, before shards and a front in this process.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "clippy takes only functions marked as tests for tests")]

mod holds;
mod lists;
mod messages;
mod moderation;
mod port;
mod removal;
mod tools;
mod watching;
mod world;
