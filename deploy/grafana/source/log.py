"""The log and the disk below it."""

from .panels import (CHOSEN, GREEN, ORANGE, RED, YELLOW, Row, dashboard, graph, heatmap, quantile, query, rate, stat, steps,
                     total)

AVAILABLE = f"tertulia_log_volume_available_bytes{{{CHOSEN}}}"
# Each node on NATS tells the bytes of the whole deployment.
OF_ALL = (f"sum (tertulia_log_bytes{{{CHOSEN}}} unless tertulia_cluster_nodes{{{CHOSEN}}}"
          f" or max by (namespace, job, service) (tertulia_log_bytes{{{CHOSEN}}} and tertulia_cluster_nodes{{{CHOSEN}}}))")
RESERVE = f"tertulia_log_reserve_bytes{{{CHOSEN}}}"
CAPACITY = f"tertulia_log_volume_size_bytes{{{CHOSEN}}}"

NOW = Row("Now", [
    stat("Writable", "Whether every server can write its log. While one cannot, it refuses posts; reading goes on.",
         total("tertulia_log_writable", function="min"), thresholds=steps((None, RED), (1, GREEN)), width=4,
         mappings=[{"type": "value", "options": {"0": {"text": "no"}, "1": {"text": "yes"}}}]),
    stat("Append p99", "Time from the start of an append until the log had taken it, for 99 of 100. On the disk engine this is an fsync.",
         quantile(0.99, "tertulia_append_seconds"), "s", steps((None, GREEN), (0.025, YELLOW), (0.1, RED)), width=4),
    stat("Appends", "Appends to the log per second, over all servers.", rate("tertulia_append_seconds_count"), "cps", width=4, decimals=0),
    stat("Size", "Bytes that the logs hold, in memory or on disk; those of nodes on NATS once, and of one replica.", OF_ALL, "bytes", width=4),
    stat("Disk free", "The disk with the least room, of its size. Engine embedded only.", f"min ({AVAILABLE} / {CAPACITY})",
         "percentunit", steps((None, RED), (0.08, ORANGE), (0.25, GREEN)), width=4),
    stat("Days until full", "Until posts are refused, if the first disk to fill goes on as in the last 6 hours; no value while none fills.",
         f"min (({AVAILABLE} - {RESERVE}) / (-deriv({AVAILABLE}[6h]) > 0)) / 86400", "d", steps((None, RED), (1, ORANGE), (4, GREEN)),
         width=4, decimals=1),
])

APPENDS = Row("Appends", [
    graph("Append time", "Time from the start of an append until the log had taken it, of each server. Every post waits for one.", [
        query(quantile(0.5, "tertulia_append_seconds", "pod"), "{{pod}} p50"),
        query(quantile(0.99, "tertulia_append_seconds", "pod"), "{{pod}} p99")], "s", log=True,
          thresholds=steps((None, GREEN), (0.1, RED))),
    heatmap("Append time, spread", "How many appends took how long.", "tertulia_append_seconds", "s"),
    graph("Messages written", "Messages per second that the log takes.", [query(rate("tertulia_append_messages_sum", "pod"), "{{pod}}")], "cps"),
    graph("Bytes written", "Bytes of messages per second that the log takes.",
          [query(rate("tertulia_append_bytes_sum", "pod"), "{{pod}}")], "Bps"),
    graph("Bytes of one append", "Bytes of messages in one append; shard.append_bytes bounds it.", [
        query(quantile(0.5, "tertulia_append_bytes"), "p50"), query(quantile(0.99, "tertulia_append_bytes"), "p99")], "bytes"),
    graph("fsync time", "Time of one fsync of the commit log. Engine embedded only. If it is most of the append time, the disk is what is slow.", [
        query(quantile(0.99, "tertulia_log_fsync_seconds", "pod"), "{{pod}} p99")], "s", log=True),
    graph("Messages of one fsync", "Messages that one fsync of the commit log made durable. Engine embedded only. They grow with load, as posts wait for the fsync before.", [
        query(quantile(0.5, "tertulia_log_batch_records"), "p50"), query(quantile(0.99, "tertulia_log_batch_records"), "p99")]),
    graph("Apply time", "Time of one transaction that moves messages from the commit log into the tables. Engine embedded only. Nobody waits for it, but for log.unapplied_bytes.", [
        query(quantile(0.99, "tertulia_log_apply_seconds", "pod"), "{{pod}} p99")], "s", log=True),
    graph("Reads", "Reads of the log per second that memory alone served, and that asked the tables. Engine embedded only.", [
        query(rate("tertulia_log_reads_memory_total"), "memory"), query(rate("tertulia_log_reads_tables_total"), "tables")], "cps"),
])

SIZE = Row("Size and retention", [
    graph("Log size", "Bytes that the log of each server holds, in memory or on disk, and the least that one may take (log.memory_bytes, log.disk_bytes). "
          "Nodes on NATS have one log: each tells the bytes of all, of one replica.",
          [query(total("tertulia_log_bytes", "pod"), "{{pod}}"), query(f"min (tertulia_log_limit_bytes{{{CHOSEN}}} > 0)", "limit")], "bytes"),
    graph("Removed messages", "Messages per second removed from the log. retention: by the group's bounds; memory: because all groups together reached "
          "log.memory_bytes; moderator: purged or deleted.", [
              query(rate("tertulia_log_removed_messages_total", "reason"), "{{reason}}")], "cps"),
    graph("Read for catching up", "Messages per second read from the log for members that are behind, of each server.",
          [query(rate("tertulia_catchup_messages_total", "pod"), "{{pod}}")], "cps"),
    graph("Disk used", "How full the disk of each server is, and where posts are refused (log.reserve_bytes). Engine embedded only.",
          [query(f"1 - {AVAILABLE} / {CAPACITY}", "{{pod}}"), query(f"1 - max ({RESERVE} / {CAPACITY})", "limit")], "percentunit", maximum=1,
          thresholds=steps((None, GREEN), (0.75, YELLOW), (0.92, RED))),
    graph("Age of backups", "Time since the newest backup in admin.backup_dir was made, where that is set. While there is none, since the start of the server.",
          [query(f"time() - max by (pod) (tertulia_backup_newest_timestamp_seconds{{{CHOSEN}}})", "{{pod}}")], "s",
          thresholds=steps((None, GREEN), (8 * 86400, RED))),
    graph("Not yet in tables", "Bytes in the commit log that the tables do not hold yet; a restart reads them back. Engine embedded only.",
          [query(total("tertulia_log_unapplied_bytes", "pod"), "{{pod}}")], "bytes"),
])

DASHBOARD = dashboard("tertulia-log", "tertulia / log and disk", "Appends, size, retention, and the volume below.",
                      [NOW, APPENDS, SIZE])
