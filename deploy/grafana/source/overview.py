"""The four golden signals of a chat: who is on, what is said, how fast it arrives, who is behind; and what goes wrong."""

from .panels import (BLUE, CHOSEN, GREEN, ORANGE, RED, YELLOW, Row, dashboard, graph, heatmap, quantile, quantiles, query,
                     rate, stat, steps, total)

NOW = Row("Now", [
    stat("Servers ready", "Servers that tell load balancers to send them clients. Fewer than there are: see readyz of the others.",
         total("tertulia_ready"), thresholds=steps((None, RED), (1, GREEN))),
    stat("Connections", "Chat connections that are open.", total("tertulia_connections_open"),
         thresholds=steps((None, BLUE))),
    stat("Posts", "Posts stored per second.", rate("tertulia_posts_total", more=', result="stored"'), "cps",
         steps((None, BLUE)), decimals=1),
    stat("Deliveries", "Messages handed to members' sockets per second: posts times readers.",
         rate("tertulia_deliveries_total"), "cps", steps((None, BLUE))),
    stat("Delivery p99", "From reading a post to handing it to a live member's socket, for 99 of 100.",
         quantile(0.99, "tertulia_delivery_seconds"), "s", steps((None, GREEN), (0.25, YELLOW), (1, RED))),
    stat("Members lagging", "Members that fell behind and are served from the log now. They miss nothing, but see it late.",
         total("tertulia_members_lagging"), thresholds=steps((None, GREEN), (1, YELLOW), (10, ORANGE)), decimals=0),
    stat("Lost in 1 h", "Messages that retention removed before a member could read them, in the last hour.",
         f"sum (increase(tertulia_dropped_messages_total{{{CHOSEN}}}[1h]))",
         thresholds=steps((None, GREEN), (1, RED))),
    stat("Errors", "Requests refused for a reason that is the server's: the log cannot be written, or there are as many groups as there may be.",
         rate("tertulia_rejections_total", more=', code=~"unavailable|server_full"')
         + " / " + rate("tertulia_requests_total"), "percentunit",
         steps((None, GREEN), (0.001, YELLOW), (0.01, RED)), decimals=2),
])

TRAFFIC = Row("Traffic", [
    graph("Connections", "Chat connections that are open, of each server, and how many one may have.", [
        query(total("tertulia_connections_open", "pod"), "{{pod}}"),
        query(total("tertulia_connections_limit", function="min"), "limit"),
    ]),
    graph("Posts", "Posts per second by what became of them: stored; repeated (a retry of one that is stored); refused (the client may not); failed "
          "(the log, or the node that has the group, could not do it).", [query(rate("tertulia_posts_total", "result"), "{{result}}")], "cps", stack=True),
    graph("Deliveries", "Messages per second handed to members' sockets, by what the members speak.",
          [query(rate("tertulia_deliveries_total", "dialect"), "{{dialect}}")], "cps", stack=True),
])

LATENCY = Row("Latency", [
    graph("Post to acknowledgement", "From reading a post to having its acknowledgement: what posters wait for. The append to the log is most of it. "
          "One of 32 is measured.", quantiles("tertulia_post_ack_seconds"), "s", log=True,
          thresholds=steps((None, GREEN), (1, RED))),
    graph("Post to delivery", "From reading a post to handing it to a live member's socket: what readers wait for. Members that are caught up from the "
          "log do not count here, see Lag. One of 32 is measured.", quantiles("tertulia_delivery_seconds"), "s", log=True,
          thresholds=steps((None, GREEN), (1, RED))),
    heatmap("Post to delivery, spread", "How many deliveries took how long. Two bands mean two kinds of members or groups.",
            "tertulia_delivery_seconds", "s"),
])

LAG = Row("Lag", [
    graph("Members lagging", "Members that fell behind and are served from the log now, of each server.",
          [query(total("tertulia_members_lagging", "pod"), "{{pod}}")]),
    graph("Served from the log", "Messages per second read from the log for members that catch up, and how often one began to (lag: it fell behind; "
          "resume: it asked for older messages when it joined).", [
              query(rate("tertulia_catchup_messages_total"), "messages"),
              query(rate("tertulia_catchups_total", "reason"), "begun: {{reason}}"),
          ], "cps"),
    graph("Lost messages", "Messages per second that retention removed before a member could read them. Anything above 0 is a promise at its limit: the "
          "members were told what is missing.", [query(rate("tertulia_dropped_messages_total", "pod"), "{{pod}}")], "cps"),
])

ERRORS = Row("Errors", [
    graph("Refused requests", "Refused requests per second, by code. unavailable: the log cannot be written. The codes are in docs/protocol.md.",
          [query(rate("tertulia_rejections_total", "code") + " > 0 or " + rate("tertulia_rejections_total", "code", ', code="unavailable"'),
                 "{{code}}")], "cps"),
    graph("Refused connections", "Connections per second that were not let in, by the limit they met: in total, or of their address; overload is either, when too many came at once to be told; and failures to "
          "accept one at all, such as for want of descriptors.", [
              query(rate("tertulia_connections_refused_total", "reason"), "{{reason}}"),
              query(rate("tertulia_accept_errors_total"), "not accepted"),
          ], "cps"),
    graph("Not ready", "Servers that tell load balancers to send nobody, by reason: starting, log (it cannot be written), "
          "cluster (it cannot keep its place among the nodes), draining.",
          [query(total("tertulia_not_ready", "reason"), "{{reason}}")]),
    graph("Ended connections", "Connections per second that ended, by reason. client: it closed. write_stall: it took nothing for too long.",
          [query(rate("tertulia_connections_closed_total", "reason") + " > 0 or "
                 + rate("tertulia_connections_closed_total", "reason", ', reason="client"'), "{{reason}}")], "cps"),
    graph("Logins", "Clients per second that said who they are, by way and result. token, refresh (another token on the same connection): by a token. password: by a name and its password. word: by a name, where nothing has to be proved. "
          "guest: they said nothing, and are refused where that is not allowed (auth.guests).",
          [query(rate("tertulia_logins_total", "way, result") + " > 0 or " + rate("tertulia_logins_total", "way, result", ', result="accepted"'), "{{way}} {{result}}")], "cps"),
])

DASHBOARD = dashboard("tertulia-overview", "tertulia / overview",
                      "Connections, posts, delivery latency, lag and errors of a chat.",
                      [NOW, TRAFFIC, LATENCY, LAG, ERRORS])
