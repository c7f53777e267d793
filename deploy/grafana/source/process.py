"""The process: what it is, and what it takes of its machine."""

from .panels import CHOSEN, GREEN, ORANGE, PROCESS, RED, Row, dashboard, graph, quantile, query, rate, steps, table, total


def process(metric, legend="{{pod}}"):
    return query(f"sum by (pod) ({metric}{{{PROCESS}}})", legend)


PROGRAM = Row("Program", [
    table("Versions", "What runs, and what it was built from.",
          f"max by (pod, version, commit, rustc) (tertulia_build_info{{{CHOSEN}}})", ["pod", "version", "commit", "rustc"]),
    graph("Uptime", "Time since the start of the process.",
          [query(f"time() - max by (pod) (process_start_time_seconds{{{PROCESS}}})", "{{pod}}")], "s", width=6, height=6),
    graph("Starts in 1 h", "How often the process started in the last hour, also in a pod that was made anew; the first start is not counted.",
          [query(f"sum by (pod) (changes(process_start_time_seconds{{{PROCESS}}}[1h]) + 1) - 1", "{{pod}}")], width=6, height=6,
          thresholds=steps((None, GREEN), (3, RED))),
])

RESOURCES = Row("Resources", [
    graph("CPU", "Processor time per second: 1 is one core. It is counted in whole seconds, so that little load shows as steps.",
          [query(f"sum by (pod) (rate(process_cpu_seconds_total{{{PROCESS}}}[$__rate_interval]))", "{{pod}}")]),
    graph("Memory", "Resident memory of each server, buffers of slow readers and the memory log among it.", [process("process_resident_memory_bytes")], "bytes"),
    graph("Descriptors", "Open file descriptors, and how many one process may have.", [
        process("process_open_fds"), query(f"min (process_max_fds{{{PROCESS}}})", "limit")]),
    graph("Network", "Bytes per second read from chat clients and written to them.", [
        query(rate("tertulia_received_bytes_total"), "in"), query(rate("tertulia_sent_bytes_total"), "out")], "Bps"),
    graph("Outbound buffers", "Bytes that wait to be written, over all connections of each server. Slow readers fill them; each is bounded by "
          "limits.outbound_bytes.", [query(total("tertulia_outbound_bytes", "pod"), "{{pod}}")], "bytes"),
    graph("Fullest outbound buffer", "Bytes that wait to be written to the connection with the most. At limits.outbound_bytes nothing "
          "more is taken up for it: it falls behind and is caught up from the log.",
          [query(total("tertulia_outbound_bytes_max", "pod", "max"), "{{pod}}"),
           query(total("tertulia_outbound_limit_bytes", function="min"), "limit")], "bytes"),
])

RUNTIME = Row("Runtime and ports", [
    graph("Tasks", "Tasks of the server: about one for each connection and each shard.",
          [query(total("tertulia_runtime_alive_tasks", "pod"), "{{pod}}")]),
    graph("Queued tasks", "Tasks that wait in the queue that all threads of the runtime share. If it stays high there is too little CPU.",
          [query(total("tertulia_runtime_queued_tasks", "pod"), "{{pod}}")]),
    graph("Threads", "Threads of the process, and those of them that run the server's tasks.", [
        process("process_threads", "{{pod}} all"), query(total("tertulia_runtime_workers", "pod"), "{{pod}} workers")]),
    graph("HTTP port", "Connections to the HTTP port, and those per second closed at once because http.connections were open.", [
        query(total("tertulia_http_connections", "pod"), "{{pod}} open"),
        query(rate("tertulia_http_connections_refused_total", "pod"), "{{pod}} refused per second")]),
    graph("Connections of one address", "Connections of the address with the most. Counted only where limits.connections_per_address is set.",
          [query(total("tertulia_connections_per_address_max", "pod", "max"), "{{pod}}")]),
    graph("Panics and lost lines", "Tasks of the server that panicked, each of which is a bug, and lines of its own log that whatever reads them "
          "did not take in time, in the interval.", [
        query(f"sum by (pod) (increase(tertulia_panics_total{{{CHOSEN}}}[$__rate_interval]))", "{{pod}} panics"),
        query(f"sum by (pod) (increase(tertulia_log_lines_lost_total{{{CHOSEN}}}[$__rate_interval]))", "{{pod}} lines")]),
    graph("HTTP requests", "Requests per second to the HTTP port, by page and status.",
          [query(rate("tertulia_http_requests_total", "page, status"), "{{page}} {{status}}")], "cps"),
    graph("Admin requests", "Calls per second of the admin API, by method and gRPC code.",
          [query(rate("tertulia_admin_requests_total", "method, code"), "{{method}} {{code}}")], "cps"),
    graph("Admin time", "Time from a call of the admin API until its answer, or until its stream began.",
          [query(quantile(0.99, "tertulia_admin_request_seconds"), "p99")], "s", log=True),
    graph("Admin port", "Connections to the admin port, callers that watch events, and connections per second closed at once because admin.connections were open.", [
        query(total("tertulia_admin_connections"), "open"), query(total("tertulia_admin_watchers"), "watchers"),
        query(rate("tertulia_admin_connections_refused_total"), "refused per second")]),
    graph("Events missed", "Events per second that callers who watch were told they missed. slow: they did not read in time; lost: of another node, on the way here.",
          [query(rate("tertulia_admin_missed_events_total", "reason"), "{{reason}}")], "cps"),
    graph("PROXY headers", "Chat connections per second that were let in, and that were closed since they did not begin with a header of the PROXY protocol (chat.proxy_protocol).", [
        query(rate("tertulia_connections_accepted_total", "pod"), "{{pod}} let in"),
        query(rate("tertulia_proxy_headers_refused_total", "pod"), "{{pod}} closed")], "cps"),
    graph("Traces", "Spans per second that the collector of traces took, and that are lost: export (it did not take them), queue (it is too slow). not begun: traces beyond "
          "telemetry.traces.per_second.", [
              query(rate("tertulia_traces_exported_total"), "taken"), query(rate("tertulia_traces_dropped_total", "reason"), "lost: {{reason}}"),
              query(rate("tertulia_traces_limited_total"), "not begun")], "cps"),
    graph("Spans that wait", "Spans that wait to be sent to the collector. At OTEL_BSP_MAX_QUEUE_SIZE further ones are lost.",
          [query(total("tertulia_traces_queued", "pod"), "{{pod}}")]),
])

TLS = Row("TLS", [
    graph("Time until certificates expire", "Of each port that speaks TLS. A certificate that is renewed jumps up, without a restart.",
          [query(f"min by (pod, port) (tertulia_tls_certificate_expiry_timestamp_seconds{{{CHOSEN}}} - time())", "{{pod}} {{port}}")], "s",
          thresholds=steps((None, RED), (86400, ORANGE), (14 * 86400, GREEN))),
    graph("TLS handshakes", "Handshakes per second by port and result: ok, or why there is no connection. The results are in docs/tls.md.",
          [query(rate("tertulia_tls_handshakes_total", "port, result") + " > 0 or "
                 + rate("tertulia_tls_handshakes_total", "port, result", ', result="ok"'), "{{port}} {{result}}")], "cps"),
    graph("TLS handshakes under way", "Handshakes that have begun and not ended, by port. Beyond tls.handshakes others wait for up to a second, then each one more ends the oldest.", [
        query(total("tertulia_tls_handshakes_under_way", "port"), "{{port}}"),
        query(total("tertulia_tls_handshakes_limit", function="min"), "limit")], log=True),
    graph("Certificates read anew", "How often the files of a port had changed, in the interval: ok, or error, when they cannot be used and the old certificate is shown on.",
          [query(f"sum by (port, result) (increase(tertulia_tls_reloads_total{{{CHOSEN}}}[$__rate_interval]))", "{{port}} {{result}}")]),
])

DASHBOARD = dashboard("tertulia-process", "tertulia / process", "Version, resources and ports of the servers.",
                      [PROGRAM, RESOURCES, RUNTIME, TLS])
