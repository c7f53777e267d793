//! What may be configured about connections, and what a client may ask of the server.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::tls;

/// The chat listener: section `chat` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where chat clients connect; port 0 picks a free one.
    pub address: SocketAddr,
    /// How long after the last line of an extended client the server pings it; twice this closes it.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// Whether one may post to a group without being a member of it.
    pub post_without_join: bool,
    /// Whether users who prove who they are may take back their messages.
    pub remove_own: bool,
    /// Whether connections begin with a header that tells from where a load balancer has them.
    pub proxy_protocol: ProxyProtocol,
    /// The certificate that is shown to clients; without one they speak in the clear.
    pub tls: tls::Files,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 8088)),
            heartbeat: Duration::from_secs(30),
            post_without_join: true,
            remove_own: true,
            proxy_protocol: ProxyProtocol::Off,
            tls: tls::Files::default(),
        }
    }
}

/// Whether connections begin with a header of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// None does: clients connect by themselves.
    Off,
    /// Each does, of version 1 or 2; one without is closed. Whoever reaches the port can say to be from anywhere.
    Required,
}

/// Bounds on what clients may do: section `limits` of the configuration. 0 means no limit where the text says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest line, in bytes, without its line end.
    pub line_bytes: usize,
    /// Longest message, in bytes.
    pub message_bytes: usize,
    /// Longest group name, in bytes.
    pub group_name_bytes: usize,
    /// `any`, or `ascii`: graphic ASCII characters only.
    pub group_name_characters: Characters,
    /// Connections in total; one more is told so and closed.
    pub connections: usize,
    /// Connections from one address; 0: no limit.
    pub connections_per_address: usize,
    /// Groups that one connection may be a member of.
    pub groups_per_connection: usize,
    /// Members (connections) of one group.
    pub members_per_group: usize,
    /// Groups in total, over all nodes.
    pub groups: usize,
    /// Groups that one user may make in an hour, on each node that owns some; 0: no limit.
    pub new_groups_per_user: usize,
    /// Groups that may be made in an hour from one address, on each node that owns some; 0: no limit.
    pub new_groups_per_address: usize,
    /// Holds of moderators.
    pub holds: usize,
    /// Posts per second and connection; 0: no limit.
    pub posts_per_second: u32,
    /// Posts that a connection may send at once before `posts_per_second` holds it.
    pub posts_burst: u32,
    /// Lines other than posts per second and connection, counted as [`Limits::requests_burst`] says; 0: no limit.
    pub requests_per_second: u32,
    /// Lines other than posts that a connection may send at once before `requests_per_second` slows it. An answer to `History`,
    /// `Members` or `Groups` counts for one more for each 64 KiB of it.
    pub requests_burst: u32,
    /// Posts of one connection that wait for the log; at this number the server stops reading from it.
    pub posts_in_flight: usize,
    /// Bytes of posts of one connection that wait for the log; at this number the server stops reading from it.
    pub posts_in_flight_bytes: usize,
    /// Bytes of posts of all connections that wait for the log; at this number the server reads only from those without a post that
    /// waits, and from those one line.
    pub all_posts_in_flight_bytes: usize,
    /// Bytes that wait to be written to one connection; at this number it is caught up from the log instead.
    pub outbound_bytes: usize,
    /// A connection that takes nothing for this long while something waits is closed.
    #[serde(with = "humantime_serde")]
    pub write_stall: Duration,
    /// A connection must send its first line within this time.
    #[serde(with = "humantime_serde")]
    pub hello_timeout: Duration,
    /// A line that was begun must end within this time.
    #[serde(with = "humantime_serde")]
    pub line_timeout: Duration,
    /// A connection that is in no group and sends nothing for this long is closed.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Malformed lines after which a connection is closed.
    pub malformed_lines: u32,
    /// Entries in one page of `History`, `Members` or `Groups`.
    pub page: usize,
}

/// Which characters a group name may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Characters {
    /// All but control characters and white space at either end.
    Any,
    /// Graphic ASCII, `!` to `~`.
    Ascii,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            line_bytes: 128 * 1024,
            message_bytes: 16 * 1024,
            group_name_bytes: 128,
            group_name_characters: Characters::Any,
            connections: 65_536,
            connections_per_address: 0,
            groups_per_connection: 1_000,
            members_per_group: 100_000,
            groups: 1_000_000,
            new_groups_per_user: 100_000,
            new_groups_per_address: 0,
            holds: 100_000,
            posts_per_second: 0,
            posts_burst: 100,
            requests_per_second: 1_000,
            requests_burst: 2_000,
            posts_in_flight: 1_024,
            posts_in_flight_bytes: 1024 * 1024,
            all_posts_in_flight_bytes: 64 * 1024 * 1024,
            outbound_bytes: 256 * 1024,
            write_stall: Duration::from_secs(60),
            hello_timeout: Duration::from_secs(300),
            line_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(600),
            malformed_lines: 10,
            page: 200,
        }
    }
}
