//! The load generator of tertulia: puts load on a chat server, checks every message, and tells what it cost.
//!
//! [`plan`] says what a scenario comes to, [`endpoint`] where the server is. [`run`] opens the connections, lets each `worker` (one
//! thread, one loop over its connections) post and read, and takes the server's measures; [`report`] makes a table and JSON of it.
//! [`driver`] speaks the protocols; [`pace`], [`payload`] and [`check`] decide, without sockets, when to post, what, and whether
//! what comes back is right.

pub mod args;
pub mod bare;
pub mod check;
pub mod driver;
pub mod endpoint;
pub mod pace;
pub mod payload;
pub mod plan;
pub mod process;
pub mod report;
pub mod run;
pub mod tally;

mod connection;
mod progress;
mod shared;
mod timer;
mod token;
mod worker;
