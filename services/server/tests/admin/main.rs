//! The admin API over a real socket, before shards and a front in this process.

mod lists;
mod moderation;
mod port;
mod tools;
mod watching;
mod world;
