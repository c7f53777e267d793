//! The bounds of what clients may do: the options of section `limits`.

use std::time::Duration;

use tertulia_protocol::name::MAX_GROUP_NAME_BYTES;

use super::Kind;
use super::table::{DAY, Entry, GIB, HOUR, KIB, MIB, bytes, int, millis, time};

pub(super) static LIMITS: &[Entry] = &[
    Entry::new("limits.line_bytes", bytes(KIB, 64 * MIB), "Longest line, without its line end.")
        .bound("`line_too_long`, and the connection is closed", CLOSED),
    Entry::new("limits.message_bytes", bytes(1, 10 * MIB), "Longest message.").bound("`message_too_long`", REJECTED),
    Entry::new("limits.group_name_bytes", bytes(1, MAX_GROUP_NAME_BYTES as u64), "Longest group name.")
        .bound("`bad_group_name`", REJECTED),
    Entry::new(
        "limits.group_name_characters",
        Kind::OneOf(&["any", "ascii"]),
        "Characters of a group name. `any`: see docs/protocol.md; `ascii`: graphic ASCII only.",
    )
    .bound("`bad_group_name`", REJECTED),
    Entry::new("limits.connections", int(1, 10_000_000), "Connections in total.").bound(
        "an `Error` line before the dialect is known, and the connection is closed; with TLS it is closed without one",
        "tertulia_connections_open",
    ),
    Entry::new("limits.connections_per_address", int(0, 10_000_000), "Connections from one address, or from one network of 64 bits of IPv6; 0: no limit.")
        .bound(
            "an `Error` line before the dialect is known, and the connection is closed; with TLS it is closed without one",
            "tertulia_connections_per_address_max",
        ),
    Entry::new("limits.groups_per_connection", int(1, 1_000_000), "Groups that one connection may be a member of.")
        .bound("`too_many_groups`", "tertulia_groups_per_connection_max"),
    Entry::new("limits.members_per_group", int(1, 10_000_000), "Members (connections) of one group.")
        .bound("`group_full`", "tertulia_members_per_group_max"),
    Entry::new(
        "limits.groups",
        int(1, 100_000_000),
        "Groups in total, over all nodes. A group without members and messages is none, once it was not used for `shard.group_idle`.",
    )
    .bound("`server_full`", "tertulia_groups_counted"),
    Entry::new(
        "limits.new_groups_per_user",
        int(0, 100_000_000),
        "Groups that one user may make in an hour, of those that one node owns; 0: no limit.",
    )
    .bound("`rate_limited`, with `retry_after_ms`", REJECTED),
    Entry::new(
        "limits.new_groups_per_address",
        int(0, 100_000_000),
        "Groups that may be made in an hour from one address, or from one network of 64 bits of IPv6, of those that one node owns; 0: no limit. Set it where each client has an address of its own, for names cost nothing.",
    )
    .bound("`rate_limited`, with `retry_after_ms`", REJECTED),
    Entry::new(
        "limits.holds",
        int(1, 10_000_000),
        "Holds of moderators at once: users, connections and addresses that may not come back yet, and closed groups.",
    )
    .bound("further ones are refused to the moderator, RESOURCE_EXHAUSTED", "tertulia_holds"),
    Entry::new("limits.posts_per_second", int(0, 1_000_000), "Posts per second and connection, and messages that are taken back (`Remove`); 0: no limit.")
        .bound("`rate_limited`, with `retry_after_ms`", REJECTED),
    Entry::new(
        "limits.posts_burst",
        int(1, 1_000_000),
        "Posts that a connection may send at once before `limits.posts_per_second` holds it.",
    )
    .bound("`rate_limited`, with `retry_after_ms`", REJECTED),
    Entry::new(
        "limits.requests_per_second",
        int(0, 1_000_000),
        "Lines other than posts that are taken, per second and connection; 0: no limit. A post that is refused at once counts too, and an answer to `History`, `Members` or `Groups` counts for one more for each 64 KiB of it.",
    )
    .bound("nothing: the server reads no further lines for a moment", "tertulia_requests_paced_total"),
    Entry::new(
        "limits.requests_burst",
        int(1, 1_000_000),
        "Lines other than posts that a connection may send at once before `limits.requests_per_second` slows it.",
    )
    .bound("nothing: the server reads no further lines for a moment", "tertulia_requests_paced_total"),
    Entry::new("limits.posts_in_flight", int(1, 65_536), "Posts of one connection that wait for the log.")
        .bound("nothing: the server reads no further lines until some are answered", "tertulia_posts_in_flight_max"),
    Entry::new(
        "limits.posts_in_flight_bytes",
        bytes(KIB, GIB),
        "Bytes of posts of one connection that wait for the log, each with 128 more than its message has (one post more may exceed it).",
    )
    .bound("nothing: the server reads no further lines until some are answered", "tertulia_posts_in_flight_bytes"),
    Entry::new(
        "limits.all_posts_in_flight_bytes",
        bytes(64 * KIB, 1024 * GIB),
        "Bytes of posts of all connections that wait for the log. When there are so many, each connection may have one post that waits.",
    )
    .bound("nothing: the server reads no further lines until some are answered", "tertulia_posts_in_flight_bytes"),
    Entry::new("limits.outbound_bytes", bytes(4 * KIB, GIB), "Bytes that wait to be written to one connection; one answer or page may exceed it, and up to four pages of the log (64 KiB) more are read ahead.")
        .bound("nothing: it is caught up from the log at its own pace", "tertulia_outbound_bytes_max"),
    Entry::new(
        "limits.write_stall",
        time(millis(100), HOUR),
        "A connection that takes nothing for this long while something waits is closed.",
    )
    .bound("the connection is closed", CLOSED),
    Entry::new(
        "limits.hello_timeout",
        time(millis(100), DAY),
        "A connection must send its first line within this time.",
    )
    .bound("the connection is closed", CLOSED),
    Entry::new("limits.line_timeout", time(millis(100), HOUR), "A line that was begun must end within this time.")
        .bound("the connection is closed", CLOSED),
    Entry::new(
        "limits.idle_timeout",
        time(millis(100), Duration::from_secs(30 * 86_400)),
        "A connection that is in no group and sends nothing for this long is closed.",
    )
    .bound("the connection is closed", CLOSED),
    Entry::new("limits.malformed_lines", int(1, 1_000_000), "Malformed lines after which a connection is closed.")
        .bound("`malformed` for each; then `protocol`, and the connection is closed", CLOSED),
    Entry::new("limits.page", int(1, 10_000), "Entries in one page of `History`, `Members` or `Groups`.")
        .bound("nothing: a larger `limit` is taken as this", ""),
];

/// Counts connections that ended, by the reason.
const CLOSED: &str = "tertulia_connections_closed_total";
/// Counts refusals, by their code.
const REJECTED: &str = "tertulia_rejections_total";
