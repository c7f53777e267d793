"""The nodes of one server on NATS: who is there, which shards move, what nodes say to each other, and how NATS is."""

from .panels import CHOSEN, GREEN, RED, YELLOW, Row, dashboard, graph, quantile, query, rate, stat, steps, total

SHARDS = f"tertulia_shards{{{CHOSEN}}} and tertulia_cluster_nodes{{{CHOSEN}}}"
OWNED = f"tertulia_shards_owned{{{CHOSEN}}} and tertulia_cluster_nodes{{{CHOSEN}}}"
SERVER = "namespace, job, service"

NOW = Row("Now", [
    stat("Nodes", "Nodes that are there, as the one that sees the fewest sees it. All of this dashboard is of the engine nats alone.",
         total("tertulia_cluster_nodes", function="min"), width=4),
    stat("Without an owner", "Shards that none of the nodes that were chosen owns. Choose all pods of a server, and no more than one server.",
         f"sum (max by ({SERVER}) ({SHARDS})) - sum ({OWNED})", thresholds=steps((None, GREEN), (1, RED)), width=4),
    stat("Maps apart", "By how many versions the shard maps differ that nodes of one server go by. 0: they agree, as all do but for a moment.",
         f"max (max by ({SERVER}) (tertulia_shard_map_version{{{CHOSEN}}}) - min by ({SERVER}) (tertulia_shard_map_version{{{CHOSEN}}}))",
         thresholds=steps((None, GREEN), (1, YELLOW)), width=4),
    stat("Taken for dead in 1 h", "How often nodes found out in the last hour that the others had taken them for dead while they ran.",
         f"sum (increase(tertulia_cluster_renewals_total{{{CHOSEN}, result=\"lapsed\"}}[1h]))",
         thresholds=steps((None, GREEN), (1, YELLOW), (3, RED)), width=4, decimals=0),
    stat("Unresolved appends", "Appends that NATS did not answer and whose end is being found out. Meanwhile nobody can post to the groups of as many shards.",
         total("tertulia_log_nats_unresolved_appends"), thresholds=steps((None, GREEN), (1, RED)), width=4),
    stat("Append p99", "Time from an append to its end at NATS, for 99 of 100.",
         quantile(0.99, "tertulia_log_nats_append_seconds"), "s", steps((None, GREEN), (0.1, YELLOW), (1, RED)), width=4),
])

NODES = Row("Nodes", [
    graph("Nodes seen", "Nodes that are there, as each of them sees it.",
          [query(total("tertulia_cluster_nodes", "pod", "max"), "{{pod}}")]),
    graph("Shard map", "Version of the shard map that each node goes by. It rises when a node comes or goes, and is the same on all nodes of one server but for a moment.",
          [query(total("tertulia_shard_map_version", "pod", "max"), "{{pod}}")], minimum=None),
    graph("Shards held", "Shards that each node may extend in the log. With those that it is about to take or to give, these are the shards that it owns.",
          [query(total("tertulia_log_nats_shards_held", "pod"), "{{pod}}")]),
    graph("Renewals", "Renewals of nodes' entries in the list, per second: renewed; failed (not stored, or not known); lapsed (the others took the node for dead).",
          [query(rate("tertulia_cluster_renewals_total", "result"), "{{result}}")], "cps", width=12),
    graph("Taken for dead", "Nodes that were taken for dead in the interval: noticed, by the node that removed them from the list; lapsed, by those that ran and found out.", [
        query(f"sum by (pod) (increase(tertulia_cluster_expired_nodes_total{{{CHOSEN}}}[$__rate_interval]))", "{{pod}} noticed"),
        query(f"sum by (pod) (increase(tertulia_cluster_renewals_total{{{CHOSEN}, result=\"lapsed\"}}[$__rate_interval]))", "{{pod}} lapsed")], width=12),
])

MOVES = Row("Shards that move", [
    graph("Shards that move", "Shards per second that a node began to own. handed: the owner before gave them; taken: there was none, or it did not answer.",
          [query(rate("tertulia_cluster_takeovers_total", "how"), "{{how}}")], "cps"),
    graph("Given and lost", "Shards per second that each node gave to another one, and that another writer took from it in the log. A shard that is lost was taken without being asked for.", [
        query(rate("tertulia_cluster_handovers_total", "pod"), "{{pod}} given"),
        query(rate("tertulia_log_nats_shards_lost_total", "pod"), "{{pod}} lost")], "cps"),
    graph("Time without an owner", "From asking the owner of a shard to let it go, or from beginning to take it, until it was served again, for 99 of 100 shards that moved.",
          [query(quantile(0.99, "tertulia_cluster_takeover_seconds", "how"), "{{how}} p99")], "s", log=True),
])

BETWEEN = Row("Between nodes", [
    graph("Requests to owners", "Requests per second that nodes sent to the owner of their shard: sent; again (frames that were not answered in time); unanswered (given up: it is not known what came of them).",
          [query(rate("tertulia_forwarded_total", "result"), "{{result}}")], "cps", width=12),
    graph("Told to followers", "Frames per second with messages and removals that owners sent to the nodes that follow their shards.",
          [query(rate("tertulia_told_frames_total", "pod"), "{{pod}}")], "cps", width=12),
    graph("Not heard", "What owners told and a node did not hear, per second. frame: it asks for what it missed; message: it reads it from the log.",
          [query(rate("tertulia_told_missed_total", "kind"), "{{kind}}")], "cps", width=12),
    graph("Frames dropped", "Frames for other nodes per second that were dropped because NATS took no more, or does not take them. They are told again, or found in the log.",
          [query(rate("tertulia_cluster_dropped_frames_total", "pod"), "{{pod}}")], "cps", width=12),
])

NATS = Row("NATS", [
    graph("Appends to NATS", "Appends per second by how they ended: stored; resolved (stored, but the answer was lost); fenced (another node has the shard); unavailable.",
          [query(rate("tertulia_log_nats_appends_total", "result"), "{{result}}")], "cps"),
    graph("NATS append time", "Time from an append to its end at NATS, of each node.", [
        query(quantile(0.5, "tertulia_log_nats_append_seconds", "pod"), "{{pod}} p50"),
        query(quantile(0.99, "tertulia_log_nats_append_seconds", "pod"), "{{pod}} p99")], "s", log=True, thresholds=steps((None, GREEN), (0.1, RED))),
    graph("Messages of one append", "Messages of JetStream that one append took. They grow with load, as posts wait for the append before.", [
        query(quantile(0.5, "tertulia_log_nats_append_messages"), "p50"), query(quantile(0.99, "tertulia_log_nats_append_messages"), "p99")]),
    graph("Unresolved appends", "Appends that NATS did not answer and whose end is being found out. Meanwhile nobody can post to the groups of as many shards.",
          [query(total("tertulia_log_nats_unresolved_appends", "pod"), "{{pod}}")], width=12, thresholds=steps((None, GREEN), (1, RED))),
    graph("Connected", "Whether each node has a connection to NATS. Without one it answers nobody, and the others take it for dead.",
          [query(total("tertulia_nats_connected", "pod", "min"), "{{pod}}")], width=6, maximum=1),
    graph("Reconnects", "Connections to NATS that were made after one that had ended, in the interval.",
          [query(f"sum by (pod) (increase(tertulia_nats_reconnects_total{{{CHOSEN}}}[$__rate_interval]))", "{{pod}}")], width=6),
    graph("Storage of NATS", "Bytes of JetStream's storage that the account uses, each replica counted, and how many it may. Without a limit of the account "
          "it is max_file_store of the servers that counts, which no node knows.", [
              query(total("tertulia_nats_storage_bytes", "pod", "max"), "{{pod}}"),
              query(f"min (tertulia_nats_storage_limit_bytes{{{CHOSEN}}} > 0)", "limit")], "bytes", width=12),
    graph("Questions to NATS", "Questions to JetStream per second for the sake of reads: head, page, probe (looking for a place), again (a replica was behind).",
          [query(rate("tertulia_log_nats_gets_total", "kind"), "{{kind}}")], "cps", width=12),
])

DASHBOARD = dashboard("tertulia-cluster", "tertulia / cluster", "The nodes of a server on NATS, the shards that move between them, and NATS below.",
                      [NOW, NODES, MOVES, BETWEEN, NATS])
