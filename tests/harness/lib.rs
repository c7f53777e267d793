//! What the end-to-end tests are made of.
//!
//! [`server`] runs the real binary ([`builds`] says which), [`client`] connects to it and records all that is said, [`checker`] judges the
//! recordings, [`admin`] calls the admin API, [`cluster`] runs several servers on a real NATS ([`newer`] makes some of them seem newer than they are, [`jetstream`] is its operator), [`irc`] brings conversations of real people, [`certificates`] makes certificates, [`issuer`] tokens, [`mount`] small disks,
//! [`metrics`] reads what operators see, and [`environment`] what the environment says to tests. Whatever is awaited has a deadline whose error names what was awaited.

pub mod actor;
pub mod admin;
pub mod builds;
pub mod certificates;
pub mod checker;
pub mod client;
pub mod cluster;
pub mod deadline;
pub mod decode;
pub mod environment;
pub mod irc;
pub mod issuer;
pub mod jetstream;
pub mod membership;
pub mod metrics;
pub mod moderator;
pub mod mount;
pub mod nats;
pub mod newer;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod recording;
pub mod server;
pub mod stage;
pub mod terminal;

pub use builds::Build;
pub use checker::{GroupLog, Verdict, check};
pub use client::{Client, Connector};
pub use deadline::within;
pub use raw::RawClient;
pub use recording::{Event, Message, Recording};
pub use server::{Server, ServerOptions};
