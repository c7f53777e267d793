//! The table of all options: their keys, kinds, ranges and meaning.
//!
//! Values are read by it, `--help` and `docs/configuration.md` are written from it, and a test holds it to the `Config`
//! types of the parts, whose `Default` is the default.

use std::time::Duration;

use super::Kind;
use super::limits::LIMITS;
use super::nats::{CLUSTER, NATS};

/// One option.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Its path in a configuration file: `limits.groups`.
    pub key: &'static str,
    /// What its value may be.
    pub kind: Kind,
    /// What it means: one line, for people.
    pub help: &'static str,
    /// The flag that sets it, if it has one of its own.
    pub flag: Option<&'static str>,
    /// For a bound: what comes of reaching it, and which metric shows how near it is.
    pub bound: Option<Bound>,
}

/// What an operator and a client see of a bound.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// What happens to who reaches it. Codes of `docs/protocol.md` are in backticks.
    pub met: &'static str,
    /// The metric that shows how full it is or how often it was reached; empty if there is nothing to see.
    pub metric: &'static str,
}

/// A section of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// Its key.
    pub name: &'static str,
    /// What it is about: one line, for people.
    pub help: &'static str,
    /// Its options.
    pub entries: &'static [Entry],
}

/// All sections, in the order of the documentation.
pub static SECTIONS: &[Section] = &[
    Section { name: "chat", help: "The port of the chat clients.", entries: CHAT },
    Section {
        name: "auth",
        help: "How clients prove who they are, and which groups they may use ([authentication.md](authentication.md)).",
        entries: AUTH,
    },
    Section {
        name: "limits",
        help: "The bounds of what clients may do, what they see when they reach one, and which metric shows it.",
        entries: LIMITS,
    },
    Section {
        name: "shard",
        help: "Groups are spread over shards; one task owns each shard and is the only one to change its groups.",
        entries: SHARD,
    },
    Section { name: "log", help: "Where messages are kept, and for how long.", entries: LOG },
    Section {
        name: "nats",
        help: "How NATS is reached by the `nats` engine of the log, and what this deployment makes there.",
        entries: NATS,
    },
    Section {
        name: "cluster",
        help: "This node among others, with the engine `nats` ([cluster.md](cluster.md)).",
        entries: CLUSTER,
    },
    Section { name: "admin", help: "The port of the admin API (gRPC).", entries: ADMIN },
    Section { name: "http", help: "The port of `/metrics`, `/livez` and `/readyz`.", entries: HTTP },
    Section { name: "tls", help: "TLS on every port that has a certificate ([tls.md](tls.md)).", entries: TLS },
    Section {
        name: "drain",
        help: "How the server stops on SIGTERM or SIGINT. A second signal ends it at once.",
        entries: DRAIN,
    },
    Section {
        name: "telemetry",
        help: "The server's own log, on stderr, and its traces ([traces.md](traces.md)).",
        entries: TELEMETRY,
    },
];

/// All options, in the order of the documentation.
pub fn entries() -> impl Iterator<Item = &'static Entry> {
    SECTIONS.iter().flat_map(|section| section.entries)
}

/// The option of that key.
#[must_use]
pub fn entry(key: &str) -> Option<&'static Entry> {
    entries().find(|entry| entry.key == key)
}

impl Entry {
    pub(super) const fn new(key: &'static str, kind: Kind, help: &'static str) -> Self {
        Self { key, kind, help, flag: None, bound: None }
    }

    pub(super) const fn flag(self, flag: &'static str) -> Self {
        Self { flag: Some(flag), ..self }
    }

    pub(super) const fn bound(self, met: &'static str, metric: &'static str) -> Self {
        Self { bound: Some(Bound { met, metric }), ..self }
    }

    /// The environment variable that sets it.
    #[must_use]
    pub fn environment(&self) -> String {
        format!("{}{}", super::layer::PREFIX, self.key.to_uppercase().replace('.', "__"))
    }
}

pub(super) const fn int(min: u64, max: u64) -> Kind {
    Kind::Int { min, max }
}

pub(super) const fn bytes(min: u64, max: u64) -> Kind {
    Kind::Bytes { min, max }
}

pub(super) const fn time(min: Duration, max: Duration) -> Kind {
    Kind::Duration { min, max }
}

pub(super) const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(super) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
pub(super) const TIB: u64 = 1 << 40;
pub(super) const HOUR: Duration = secs(3_600);
pub(super) const DAY: Duration = secs(86_400);

static CHAT: &[Entry] = &[
    Entry::new("chat.address", Kind::Address, "Where chat clients connect; port 0 picks a free one.").flag("--chat"),
    Entry::new(
        "chat.heartbeat",
        time(millis(100), HOUR),
        "How long after the last line of an extended client the server pings it; after twice this time it is closed.",
    ),
    Entry::new("chat.post_without_join", Kind::Bool, "Whether one may post to a group without being a member of it."),
    Entry::new(
        "chat.remove_own",
        Kind::Bool,
        "Whether users may take back their messages (`Remove`): those who prove who they are (`auth.keys_file`, `auth.users_file`), no others.",
    ),
    Entry::new(
        "chat.proxy_protocol",
        Kind::OneOf(&["off", "required"]),
        "`required`: each connection begins with a header of the PROXY protocol (version 1 or 2), by which a load balancer tells from where it has it; one without is closed. Limits and holds by address need it there. Only the load balancer may reach the port then: whoever does can say to be from anywhere.",
    ),
    cert_file("chat.tls.cert_file"),
    key_file("chat.tls.key_file"),
];

static AUTH: &[Entry] = &[
    Entry::new(
        "auth.keys_file",
        FILE,
        "The keys with which the tokens of clients are signed, read again when they change: a JWK Set (JSON), or public keys in PEM. Without it and `auth.users_file` clients are taken at their word.",
    )
    .flag("--auth-keys-file"),
    Entry::new(
        "auth.users_file",
        FILE,
        "The users who log in with a password, read again when they change: lines `NAME HASH`, with a hash that `tertulia-server auth hash-password` makes; `read=GROUPS` and `post=GROUPS` behind it bound what the user may do ([authentication.md](authentication.md)).",
    )
    .flag("--auth-users-file"),
    Entry::new(
        "auth.password_checks",
        int(1, 64),
        "Passwords that are checked at once: each takes a processor for tens of milliseconds, and keeps up to 64 MiB, as its hash asks for (19 MiB).",
    )
    .bound(
        "others wait, one of each address at a time, until limits.hello_timeout: `unavailable`, and the connection is closed",
        "tertulia_password_checks_waiting",
    ),
    Entry::new(
        "auth.password_queue",
        int(1, 65_536),
        "Logins from one address (of IPv6: network of 64 bits) whose passwords are not checked yet.",
    )
    .bound("one more is `unavailable`, with `retry_after_ms`, and the connection is closed", "tertulia_password_checks_waiting"),
    Entry::new(
        "auth.issuer",
        Kind::Text { optional: true },
        "Who must have issued a token (`iss`); empty: anybody who has one of the keys.",
    ),
    Entry::new(
        "auth.audience",
        Kind::Text { optional: true },
        "For whom a token must be (`aud`); empty: for nobody in particular, and one that says for whom is refused.",
    ),
    Entry::new(
        "auth.leeway",
        time(Duration::ZERO, HOUR),
        "How far the clocks of those who issue tokens may be from this one.",
    ),
    Entry::new(
        "auth.guests",
        Kind::Bool,
        "Whether who shows no token or password, as classic clients, is let in as a guest all the same, where `auth.keys_file` or `auth.users_file` is set.",
    ),
    Entry::new("auth.guest_read", Kind::Text { optional: true }, GUESTS_READ),
    Entry::new(
        "auth.guest_post",
        Kind::Text { optional: true },
        "The groups to which such guests may post, written in the same way.",
    ),
];

const GUESTS_READ: &str = "The groups that such guests may join and read: names, separated by commas; one that ends in `*` means all that begin so. Empty: none.";

static SHARD: &[Entry] = &[
    Entry::new(
        "shard.count",
        int(0, 65_535),
        "Shards of the deployment; 0: 1,024 with `nats`, where it is fixed for the life of the deployment, since another number sends groups elsewhere; with the other engines 8 for each processor, from 16 to 1,024.",
    ),
    Entry::new("shard.queue", int(1, 65_536), "Requests that wait for one shard.").bound(
        "whoever sends more waits: the server reads no further lines of that connection",
        "tertulia_shard_queue_requests_max",
    ),
    Entry::new(
        "shard.fanout",
        int(2, 65_536),
        "Deliveries that a group keeps in memory for members that are a little behind.",
    )
    .bound("a member further behind is caught up from the log", "tertulia_delivery_lag_messages"),
    Entry::new(
        "shard.append_posts",
        int(1, 65_536),
        "Posts that go into one append at most; 512 with `nats`, whatever is said here.",
    )
    .bound("further posts go into the next append", "tertulia_append_messages"),
    Entry::new(
        "shard.append_bytes",
        bytes(KIB, GIB),
        "Bytes of messages that go into one append at most (one message more may exceed it).",
    )
    .bound("further posts go into the next append", "tertulia_append_bytes"),
    Entry::new(
        "shard.group_idle",
        time(millis(10), DAY),
        "A group without members and posts for this long leaves memory; the log keeps its messages. One that has none is gone then.",
    ),
    Entry::new(
        "shard.dedup_window",
        int(0, 10_000_000),
        "How many of the newest posts of a group are remembered by their id; 0 turns it off.",
    )
    .bound("a retry of an older post is a new message", "tertulia_dedup_ids"),
    Entry::new("shard.dedup_time", time(millis(100), DAY), "For how long the id of a post is remembered."),
];

static LOG: &[Entry] = &[
    Entry::new(
        "log.engine",
        Kind::OneOf(&["embedded", "memory", "nats"]),
        "Where messages are kept. `embedded`: on disk, under `log.data_dir`; `memory`: nothing survives the process; `nats`: in NATS JetStream.",
    )
    .flag("--engine"),
    Entry::new("log.data_dir", Kind::Path { optional: false }, "The directory in which `embedded` keeps messages; made if it is not there.")
        .flag("--data-dir"),
    Entry::new(
        "log.memory_bytes",
        bytes(64 * KIB, TIB),
        "Bytes of messages that the `memory` engine keeps over all groups.",
    )
    .bound("the oldest messages go first", "tertulia_log_bytes"),
    Entry::new(
        "log.durability",
        Kind::OneOf(&["fsync", "os"]),
        "What an acknowledgement of `embedded` means. `fsync`: it survives a power cut; `os`: it survives the end of the process.",
    ),
    Entry::new("log.segment_bytes", bytes(MIB, 16 * GIB), "One file of the commit log (`embedded`)."),
    Entry::new("log.spare_segments", int(0, 64), "Files of the commit log that are held ready (`embedded`)."),
    Entry::new(
        "log.append_queue",
        int(1, 1_000_000),
        "Appends that may wait for the commit log's writer (`embedded`).",
    ),
    Entry::new(
        "log.unapplied_bytes",
        bytes(MIB, TIB),
        "Bytes that may be in the commit log and not yet in the tables (`embedded`); beyond it appends wait.",
    ),
    Entry::new(
        "log.apply_records",
        int(1, 10_000_000),
        "Messages that are moved into the tables in one transaction (`embedded`).",
    ),
    Entry::new(
        "log.apply_interval",
        time(millis(1), HOUR),
        "How long a message may be in the commit log alone when few come in (`embedded`).",
    ),
    Entry::new(
        "log.cache_bytes",
        bytes(0, TIB),
        "Heads and recent messages of active groups that are kept in memory (`embedded`).",
    ),
    Entry::new(
        "log.cache_records",
        int(0, 1_000_000),
        "Newest messages of an active group that are kept in memory (`embedded`).",
    ),
    Entry::new("log.table_cache_bytes", bytes(MIB, TIB), "Bytes of the tables cached in memory (`embedded`)."),
    Entry::new("log.readers", int(1, 1_024), "Reads of the tables that may run at once (`embedded`), and so many more, at least two, that posts and joins wait for."),
    Entry::new(
        "log.sweep_interval",
        time(secs(1), DAY),
        "How often groups in which nothing happens are looked at for retention (`embedded`).",
    ),
    Entry::new(
        "log.disk_bytes",
        bytes(0, 1024 * TIB),
        "Bytes on disk beyond which posts are refused (`embedded`), at least `log.spare_segments` + 1 files of the commit log and 1 MiB; 0: no bound.",
    ),
    Entry::new(
        "log.reserve_bytes",
        bytes(0, TIB),
        "Bytes of the file system that stay free: below it posts are refused (`embedded`).",
    ),
    Entry::new(
        "log.retention_overrides",
        Kind::Retentions,
        "Other bounds for groups whose name begins with a prefix; the longest prefix wins, and what it does not say is as in `log.retention`. How it is written is said above.",
    ),
    Entry::new(
        "log.retention.messages",
        int(0, 1_000_000_000_000),
        "Messages kept of each group, the newest; 0: no bound.",
    )
    .bound("the oldest messages of the group go first", "tertulia_log_removed_messages_total"),
    Entry::new("log.retention.bytes", bytes(0, 1024 * TIB), "Bytes of messages kept of each group; 0: no bound. With `embedded` they are removed when messages move into the tables (`log.apply_interval`).")
        .bound("the oldest messages of the group go first", "tertulia_log_removed_messages_total"),
    Entry::new(
        "log.retention.age",
        time(Duration::ZERO, secs(100 * 31_557_600)),
        "Messages are kept for this long; 0s: no bound.",
    )
    .bound("older messages go", "tertulia_log_removed_messages_total"),
];

static ADMIN: &[Entry] = &[
    Entry::new(
        "admin.address",
        Kind::Address,
        "Where the admin API listens; port 0 picks a free one. Off loopback it asks for `admin.token_file`, `admin.client_ca_file` or `admin.insecure`.",
    )
    .flag("--admin"),
    Entry::new(
        "admin.token_file",
        Kind::Path { optional: true },
        "The file of the bearer tokens of which callers must present one, each on a line: `TOKEN`, `NAME TOKEN` or `NAME read TOKEN`; empty: none is asked for.",
    )
    .flag("--admin-token-file"),
    Entry::new(
        "admin.insecure",
        Kind::Bool,
        "Serve off loopback without a token or client certificates: whoever reaches the port may do everything.",
    )
    .flag("--admin-insecure"),
    Entry::new(
        "admin.backup_dir",
        Kind::Path { optional: true },
        "The directory in which `CreateBackup` makes backups of this node ([operations.md](operations.md)); empty: it makes none.",
    ),
    Entry::new("admin.connections", int(1, 65_536), "Connections at the same time.")
        .bound(
            "the oldest from which no call was let in gives way to one more, which is closed if there is none",
            "tertulia_admin_connections",
        ),
    Entry::new("admin.watchers", int(1, 65_536), "Callers that watch events at the same time.")
        .bound("one more is refused with RESOURCE_EXHAUSTED", "tertulia_admin_watchers"),
    Entry::new(
        "admin.client_ca_file",
        FILE,
        "The certificates (PEM) of those who may vouch for callers: each must then show one. Empty: none is asked for.",
    ),
    cert_file("admin.tls.cert_file"),
    key_file("admin.tls.key_file"),
];

static HTTP: &[Entry] = &[
    Entry::new("http.address", Kind::Address, "Where metrics and health are served; port 0 picks a free one.")
        .flag("--http"),
    Entry::new("http.connections", int(1, 65_536), "Connections at the same time.")
        .bound("the oldest gives way to one more", "tertulia_http_connections"),
    cert_file("http.tls.cert_file"),
    key_file("http.tls.key_file"),
];

static TLS: &[Entry] = &[
    Entry::new("tls.handshake_timeout", time(millis(10), HOUR), "A handshake must end within this time."),
    Entry::new("tls.handshakes", int(1, 1_000_000), "Handshakes of one port at the same time.").bound(
        "others wait in the kernel's backlog, for up to a second; then one more ends the oldest",
        "tertulia_tls_handshakes_under_way",
    ),
    Entry::new(
        "tls.reload_interval",
        time(millis(10), DAY),
        "How often the files of certificates, of the admin API's token, of the keys of clients' tokens and of users with passwords are looked at: what has changed is used for the connections and calls that come then.",
    ),
];

const FILE: Kind = Kind::Path { optional: true };

const fn cert_file(key: &'static str) -> Entry {
    Entry::new(
        key,
        FILE,
        "The certificate of this port and those that vouch for it (PEM), read again when it changes. Empty: no TLS.",
    )
}

const fn key_file(key: &'static str) -> Entry {
    Entry::new(key, FILE, "The private key of that certificate (PEM).")
}

static DRAIN: &[Entry] = &[
    Entry::new(
        "drain.delay",
        time(Duration::ZERO, HOUR),
        "The server keeps serving for this long while it already reports that it is not ready, so that load balancers turn away first.",
    ),
    Entry::new(
        "drain.linger",
        time(Duration::ZERO, HOUR),
        "How long extended clients get, after `drain.delay`, to leave by themselves once they were told to go away.",
    ),
    Entry::new(
        "drain.grace",
        time(millis(10), HOUR),
        "Everything is over this long after the signal, `drain.delay` included; what is not is cut off. Keep it below the time the supervisor waits before it kills.",
    ),
    Entry::new(
        "drain.reconnect_after",
        time(Duration::ZERO, HOUR),
        "Clients are told to come back within this time, each after another part of it. Where other nodes serve on (engine `nats`), they are told to go one after the other within this time, and to come back at once.",
    ),
];

static TELEMETRY: &[Entry] = &[
    Entry::new(
        "telemetry.log_format",
        Kind::OneOf(&["text", "json"]),
        "`text` for people, coloured where stderr is a terminal; `json`: one object a line.",
    )
    .flag("--log-format"),
    Entry::new(
        "telemetry.log_level",
        Kind::LogLevels,
        "What is logged: a level, or a list of levels for parts such as `info,tertulia_server::front=debug`.",
    )
    .flag("--log-level"),
    Entry::new(
        "telemetry.traces.enabled",
        Kind::Bool,
        "Whether traces of posts and of admin calls go to a collector (OTLP over gRPC). The standard `OTEL_*` variables are honoured, but alone turn nothing on.",
    ),
    Entry::new(
        "telemetry.traces.endpoint",
        Kind::Url,
        "Where the collector is; empty: what `OTEL_EXPORTER_OTLP_ENDPOINT` says, else `http://localhost:4317`.",
    ),
    Entry::new(
        "telemetry.traces.ratio",
        Kind::Ratio,
        "Which part is traced of what comes without a caller's decision (`traceparent`); empty: what `OTEL_TRACES_SAMPLER` says, else 0.01.",
    ),
    Entry::new(
        "telemetry.traces.per_second",
        int(1, 1_000_000),
        "Traces that begin in a second, whoever asks for them.",
    )
    .bound("what comes is served but not traced", "tertulia_traces_limited_total"),
    Entry::new(
        "telemetry.traces.group_names",
        Kind::Bool,
        "Whether spans tell the names of groups; without it they tell the shard and a hash of the name.",
    ),
];
