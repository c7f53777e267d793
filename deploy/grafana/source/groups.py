"""Shards, groups and members: how the work is spread, and how full the queues in between are."""

from .panels import GREEN, RED, Row, dashboard, graph, quantile, query, rate, steps, total

GROUPS = Row("Groups and members", [
    graph("Groups", "Groups in memory (with members, or used a short while ago), all that exist, of these those that the log holds, and how many may exist (limits.groups).", [
        query(total("tertulia_groups"), "in memory"), query(total("tertulia_groups_known"), "exist"), query(total("tertulia_log_groups"), "in the log"),
        query(total("tertulia_groups_limit", function="max"), "limit")], log=True),
    graph("Memberships", "Connections times the groups they are in, of each server.",
          [query(total("tertulia_members", "pod"), "{{pod}}")]),
    graph("Largest", "The group with the most members, and the connection with the most groups. Their limits are limits.members_per_group and "
          "limits.groups_per_connection.", [
              query(total("tertulia_members_per_group_max", function="max"), "members of one group"),
              query(total("tertulia_groups_per_connection_max", function="max"), "groups of one connection")]),
    graph("Joins", "Joins per second by result: joined; again (already a member); refused.",
          [query(rate("tertulia_joins_total", "result"), "{{result}}")], "cps"),
    graph("Leaves", "Ends of memberships per second by reason.", [query(rate("tertulia_leaves_total", "reason"), "{{reason}}")],
          "cps"),
    graph("Requests", "Lines of clients per second, by kind.", [query(rate("tertulia_requests_total", "kind") + " > 0", "{{kind}}")],
          "cps"),
])

SHARDS = Row("Shards and their queues", [
    graph("Shards owned", "Shards that each server owns. Together they are shard.count, each owned once.",
          [query(total("tertulia_shards_owned", "pod"), "{{pod}}")]),
    graph("Requests that wait", "Requests that wait for owners of shards: for all, and for the one with the longest queue. At shard.queue "
          "whoever sends to that shard is made to wait.", [
              query(total("tertulia_shard_queue_requests"), "all shards"),
              query(total("tertulia_shard_queue_requests_max", function="max"), "longest queue"),
              query(total("tertulia_shard_queue_limit", function="min"), "limit")]),
    graph("Posts under way", "Posts and other requests under way for the connection with the most. At limits.posts_in_flight the server reads "
          "no further lines of it.", [query(total("tertulia_posts_in_flight_max", "pod", "max"), "{{pod}}"),
                                      query(total("tertulia_posts_in_flight_limit", function="min"), "limit")]),
    graph("Bytes that wait for the log", "Bytes of posts of all connections that wait for the log. At limits.all_posts_in_flight_bytes each "
          "connection may have one post that waits, and whoever sends faster is made to wait.", [
              query(total("tertulia_posts_in_flight_bytes", "pod"), "{{pod}}"),
              query(total("tertulia_posts_in_flight_limit_bytes", function="min"), "limit")], "bytes"),
    graph("Posts per append", "How many posts one append to the log takes. It grows by itself when posts come faster than appends return.", [
        query(quantile(0.5, "tertulia_append_messages"), "p50"), query(quantile(0.99, "tertulia_append_messages"), "p99")]),
    graph("Behind when served", "How many messages a member was behind its group when deliveries were taken up for it. Beyond shard.fanout deliveries it "
          "is served from the log.", [query(quantile(0.5, "tertulia_delivery_lag_messages"), "p50"),
                                      query(quantile(0.99, "tertulia_delivery_lag_messages"), "p99")]),
    graph("Remembered post ids", "Ids of posts that are remembered, so that a retry is stored once.",
          [query(total("tertulia_dedup_ids", "pod"), "{{pod}}")]),
])

NODES = Row("Nodes on NATS", [
    graph("Nodes", "Nodes that are there, as each of them sees it. Engine nats only, as all of this row.",
          [query(total("tertulia_cluster_nodes", "pod", "max"), "{{pod}}")]),
    graph("Shard map", "Version of the shard map that each node goes by. It rises when a node comes or goes, and is the same on all nodes of one server but for a moment.",
          [query(total("tertulia_shard_map_version", "pod", "max"), "{{pod}}")], minimum=None),
    graph("Shards that move", "Shards per second that a node began to own. handed: the owner before gave them; taken: there was none, or it did not answer.",
          [query(rate("tertulia_cluster_takeovers_total", "how"), "{{how}}")], "cps"),
    graph("Time without an owner", "From asking the owner of a shard to let it go, or from beginning to take it, until it was served again, for 99 of 100 shards that moved.",
          [query(quantile(0.99, "tertulia_cluster_takeover_seconds", "how"), "{{how}} p99")], "s", log=True),
    graph("Appends to NATS", "Appends per second by how they ended: stored; resolved (stored, but the answer was lost); fenced (another node has the shard); unavailable.",
          [query(rate("tertulia_log_nats_appends_total", "result"), "{{result}}")], "cps"),
    graph("Unresolved appends", "Appends that NATS did not answer and whose end is being found out. Meanwhile nobody can post to the groups of as many shards.",
          [query(total("tertulia_log_nats_unresolved_appends", "pod"), "{{pod}}")], thresholds=steps((None, GREEN), (1, RED))),
])

DASHBOARD = dashboard("tertulia-groups", "tertulia / shards and groups",
                      "How groups, members and requests are spread over shards, and shards over nodes.", [GROUPS, SHARDS, NODES])
