//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::driver::{Protocol, QUIET};
use crate::endpoint::Endpoint;

/// Puts load on a chat server, checks every message that comes back, and tells what it cost.
///
/// Exits with 1 if anything was lost, came twice, out of order or changed, or if the server refused or closed something.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 120)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// One big group: 1 group of 1,000
    Fanout(Load),
    /// Many middle-sized groups: 1,000 groups of 10
    Groups(Load),
    /// Many groups of two: 9,500 of them
    Pairs(Load),
    /// Connections that join and then only sit there: 10,000 of them
    Idle(Load),
    /// Some members never read while the others go on; then they read again and must get everything: 10 of 100. The server must keep all
    /// that they miss (tertulia: log.retention.messages=0)
    Slow(Load),
    /// Many posts, few readers: 1 poster who is not a member, 1 reader
    Ingest(Load),
    /// Members leave and come back, or lose their connection and come back, while others post
    Churn(Load),
    /// Some members read history over and over while others post (extended dialect)
    Catchup(Load),
    /// A fixed rate for a long time, with some churn; tells how memory grows
    Soak(Load),
    /// A classic-dialect server that does next to nothing: what the kernel's sockets alone cost
    Bare(Bare),
}

/// The kinds of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "they are described where they are commands")]
pub enum Scenario {
    Fanout,
    Groups,
    Pairs,
    Idle,
    Slow,
    Ingest,
    Churn,
    Catchup,
    Soak,
}

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// tertulia, or any server of the book's chat
    Tertulia,
    /// Redis pub/sub
    Redis,
    /// NATS core
    Nats,
    /// MQTT 3.1.1
    Mqtt,
}

/// The dialects of tertulia.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dialect {
    /// As in the book
    Classic,
    /// Begins with `Hello`
    Extended,
}

/// Whether posts wait for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// A bounded number of posts is under way; the next is sent when one is done
    Closed,
    /// Posts are sent at a fixed rate, whatever becomes of them
    Open,
}

/// When a post is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Done {
    /// When all members that read have it
    All,
    /// When its poster has its own copy (the first reader, where posters are not members)
    Own,
}

/// What load to put where.
#[derive(Debug, Clone, Args)]
pub struct Load {
    /// The server; or several that are one, separated by commas: the members of each group are spread over them in turns. A name is looked
    /// up once; of its addresses the first one that answers is taken
    #[arg(long = "target", default_value = "127.0.0.1:8088", value_name = "HOST:PORT", value_delimiter = ',')]
    pub targets: Vec<Endpoint>,
    /// What it speaks
    #[arg(long, value_enum, default_value = "tertulia")]
    pub protocol: Target,
    /// Dialect of tertulia
    #[arg(long, value_enum, default_value = "classic")]
    pub dialect: Dialect,

    /// Show the server the token in this file: all connections are its user then, and it must count until the run has ended (extended
    /// dialect)
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Speak TLS with the server (tertulia alone)
    #[arg(long, help_heading = "TLS")]
    pub tls: bool,
    /// Trust the certificates in this file (PEM) instead of those that this machine trusts
    #[arg(long, value_name = "FILE", requires = "tls", help_heading = "TLS")]
    pub ca: Option<PathBuf>,
    /// What the server's certificate is for; without it the host of the first target
    #[arg(long, value_name = "NAME", requires = "tls", help_heading = "TLS")]
    pub tls_name: Option<String>,

    /// Open or closed loop; open if there is a --rate
    #[arg(long, value_enum, help_heading = "Load")]
    pub mode: Option<Mode>,
    /// Posts under way at the same time, in total (closed loop)
    #[arg(long, value_name = "N", help_heading = "Load", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub window: Option<u32>,
    /// Posts a second, in total (open loop)
    #[arg(long, value_name = "R", help_heading = "Load")]
    pub rate: Option<f64>,
    /// When a post makes room for the next one
    #[arg(long, value_enum, default_value = "all", help_heading = "Load")]
    pub done: Done,
    /// Bytes of a message, of which 40 say which one it is and when it was sent
    #[arg(long, default_value_t = 128, value_name = "BYTES", help_heading = "Load", value_parser = size)]
    pub size: usize,
    /// Number of groups
    #[arg(long, value_name = "N", help_heading = "Load", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub groups: Option<u32>,
    /// Members of each group; each is a connection
    #[arg(long, value_name = "N", help_heading = "Load", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub members: Option<u32>,
    /// Each member is in so many more groups, in which nobody posts; a hundred members share theirs
    #[arg(long, default_value_t = 0, value_name = "N", help_heading = "Load", value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub quiet_groups: u32,
    /// Posters of each group
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "Load", value_parser = clap::value_parser!(u16).range(1..))]
    pub posters: u16,
    /// Posters have connections of their own and are not members (as always in `ingest`)
    #[arg(long, help_heading = "Load")]
    pub outside_posters: bool,
    /// Share of the members that are slow, read history or come and go
    #[arg(long, value_name = "0..1", help_heading = "Load")]
    pub share: Option<f64>,
    /// How often a second one of those leaves or loses its connection, and comes back
    #[arg(long, value_name = "R", help_heading = "Load")]
    pub churn_rate: Option<f64>,
    /// How many messages back history is read, as far as they are of this run: 1,000
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub depth: Option<u64>,
    /// First part of the groups' names, so that runs do not meet
    #[arg(long, default_value = "load", value_name = "NAME", help_heading = "Load", value_parser = prefix)]
    pub prefix: String,

    /// Before anything is measured
    #[arg(long, value_name = "TIME", default_value = "2s", help_heading = "Time", value_parser = humantime::parse_duration)]
    pub warmup: Duration,
    /// While it is measured
    #[arg(long, value_name = "TIME", help_heading = "Time", value_parser = humantime::parse_duration)]
    pub duration: Option<Duration>,
    /// How long to wait for what is still to come: connections at the start, messages at the end
    #[arg(long, value_name = "TIME", default_value = "30s", help_heading = "Time", value_parser = humantime::parse_duration)]
    pub patience: Duration,

    /// Threads; one is enough for a few million deliveries a second
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "Client", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub threads: u16,
    /// Source addresses 127.0.0.2, 127.0.0.3 …: each gives some 28,000 connections; 0: let the system choose
    #[arg(long, default_value_t = 0, value_name = "N", help_heading = "Client", value_parser = clap::value_parser!(u8).range(0..=250))]
    pub sources: u8,
    /// Connections that are being opened at the same time
    #[arg(long, default_value_t = 128, value_name = "N", help_heading = "Client")]
    pub opening: usize,
    /// Receive buffer of slow members, in bytes; without it the kernel takes a few MiB for each before the server notices
    #[arg(long, value_name = "BYTES", help_heading = "Client")]
    pub receive_buffer: Option<usize>,

    /// The server's process: tells its CPU time and memory; those of several, separated by commas, are added up
    #[arg(
        long = "pid",
        value_name = "PID",
        help_heading = "Report",
        conflicts_with = "metrics",
        value_delimiter = ','
    )]
    pub pids: Vec<u32>,
    /// The processes that the servers store in and reach each other by, such as nats-server: told apart, in the same way
    #[arg(long = "store-pid", value_name = "PID", help_heading = "Report", value_delimiter = ',')]
    pub store_pids: Vec<u32>,
    /// The server's metrics (http://host:port/metrics), if its process is out of sight. tertulia tells its CPU time there in whole
    /// seconds: measure for long
    #[arg(long, value_name = "URL", help_heading = "Report")]
    pub metrics: Option<String>,
    /// Write the results there as JSON; `-` for standard output instead of the table
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub json: Option<PathBuf>,
    /// No progress
    #[arg(long, help_heading = "Report")]
    pub quiet: bool,
}

/// Where the bare server listens.
#[derive(Debug, Args)]
pub struct Bare {
    /// Where to listen; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR")]
    pub listen: SocketAddr,
}

impl Load {
    /// The protocol on the wire.
    #[must_use]
    pub fn wire(&self) -> Protocol {
        match (self.protocol, self.dialect) {
            (Target::Tertulia, Dialect::Classic) => Protocol::Classic,
            (Target::Tertulia, Dialect::Extended) => Protocol::Extended,
            (Target::Redis, _) => Protocol::Redis,
            (Target::Nats, _) => Protocol::Nats,
            (Target::Mqtt, _) => Protocol::Mqtt,
        }
    }
}

fn size(text: &str) -> Result<usize, String> {
    const LARGEST: usize = 64 * 1024;
    let shortest = crate::payload::SHORTEST;
    match text.parse() {
        Ok(size) if (shortest..=LARGEST).contains(&size) => Ok(size),
        _ => Err(format!("must be {shortest} to {LARGEST}")),
    }
}

fn prefix(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if format!("{text}-").contains(QUIET) {
        return Err(format!("must not contain '{QUIET}', which tells the groups in which nobody posts"));
    }
    if (1..=64).contains(&text.len()) && text.bytes().all(plain) {
        return Ok(text.to_owned());
    }
    Err("must be 1 to 64 letters, digits, '-' and '_'".to_owned())
}
