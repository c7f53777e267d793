//! The options of the sections `nats` and `cluster`.

use std::time::Duration;

use super::Kind;
use super::table::{Entry, int, millis, secs, time};

const SHORTEST: Duration = millis(50);
const LONGEST: Duration = secs(60);
const FILE: Kind = Kind::Path { optional: true };

pub(super) static NATS: &[Entry] = &[
    Entry::new(
        "nats.urls",
        Kind::Text { optional: false },
        "The servers, separated by commas: nats://host:4222, or tls://host:4222. One is enough to find the others of its cluster.",
    )
    .flag("--nats-url"),
    Entry::new("nats.user", Kind::Text { optional: true }, "The user, with `nats.password_file`; empty: none."),
    Entry::new("nats.password_file", FILE, "The file that holds the user's password."),
    Entry::new("nats.token_file", FILE, "The file that holds a token."),
    Entry::new("nats.nkey_file", FILE, "The file that holds the seed of an nkey."),
    Entry::new("nats.creds_file", FILE, "The credentials file (a JWT and its seed), as `nsc` writes it."),
    Entry::new("nats.tls_required", Kind::Bool, "Whether to refuse a connection without TLS."),
    Entry::new(
        "nats.tls_ca_file",
        FILE,
        "The certificates (PEM) of those who may vouch for the servers; empty: the system's.",
    ),
    Entry::new("nats.tls_cert_file", FILE, "Our certificate (PEM), for servers that ask for one."),
    Entry::new("nats.tls_key_file", FILE, "The key of our certificate (PEM)."),
    Entry::new(
        "nats.prefix",
        Kind::Word,
        "What names of streams and subjects begin with, so that several deployments can share one NATS.",
    ),
    Entry::new("nats.timeout", time(SHORTEST, LONGEST), "How long an answer of NATS may take."),
    Entry::new(
        "nats.streams",
        int(1, 1_024),
        "Streams over which the shards are spread. Fixed for the life of a deployment.",
    ),
    Entry::new("nats.replicas", int(1, 5), "Servers that keep a copy of each stream: 1, 3 or 5."),
    Entry::new(
        "nats.storage",
        Kind::OneOf(&["file", "memory"]),
        "What a stream is kept on. `file`: how durable that is, `sync_interval` of the servers says; `memory`: gone with the servers.",
    ),
    Entry::new(
        "nats.placement_tags",
        Kind::Text { optional: true },
        "Tags that a server must have to keep a stream, separated by commas; empty: any server.",
    ),
    Entry::new(
        "nats.update_streams",
        Kind::Bool,
        "Whether streams that differ from this configuration are changed at the start, where JetStream can change them. Else they are an error.",
    ),
];

pub(super) static CLUSTER: &[Entry] = &[
    Entry::new(
        "cluster.node_id",
        Kind::Text { optional: true },
        "The name of this node, which no other node of the deployment may have and which stays over restarts; at most 64 letters, digits, - and _. Empty: the host's name and the port of the chat clients.",
    )
    .flag("--node-id"),
    Entry::new(
        "cluster.lease",
        time(millis(500), secs(60)),
        "A node that has not renewed its entry in the list of nodes for so long is taken for dead: others take its shards.",
    ),
    Entry::new("cluster.renew", time(millis(50), secs(20)), "How often a node renews its entry, and looks at the others'."),
    Entry::new(
        "cluster.handover",
        time(millis(100), secs(30)),
        "How long a node waits for another one to hand over a shard before it takes it.",
    ),
    Entry::new(
        "cluster.patience",
        time(secs(1), secs(600)),
        "How long a request to the node that owns a shard is repeated before its client is told that nobody answered.",
    ),
];
