"""Shards, groups and members: how the work is spread, and how full the queues in between are."""

from .panels import Row, dashboard, graph, quantile, query, rate, total

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
    graph("Holds", "Holds of moderators that are in force: users, connections and addresses that may not come back yet, and groups that are closed. They are the same on "
          "all nodes of a server.", [query(total("tertulia_holds", "pod", "max"), "{{pod}}"), query(total("tertulia_holds_limit", function="min"), "limit")], log=True),
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
    graph("Lines that wait", "Times per second that a client's lines other than posts had to wait, because it had sent more than limits.requests_per_second allows.",
          [query(rate("tertulia_requests_paced_total", "pod"), "{{pod}}")], "cps"),
    graph("Behind when served", "How many messages a member was behind its group when deliveries were taken up for it. Beyond shard.fanout deliveries it "
          "is served from the log.", [query(quantile(0.5, "tertulia_delivery_lag_messages"), "p50"),
                                      query(quantile(0.99, "tertulia_delivery_lag_messages"), "p99")]),
    graph("Remembered post ids", "Ids of posts that are remembered, so that a retry is stored once.",
          [query(total("tertulia_dedup_ids", "pod"), "{{pod}}")]),
])

DASHBOARD = dashboard("tertulia-groups", "tertulia / shards and groups",
                      "How groups, members and requests are spread over shards, and shards over nodes.", [GROUPS, SHARDS])
