"""Who is connected to whom, what goes to and fro, what is refused."""

from boards.panels import NODES, Board, each_minute, each_second, graph, number, quantiles, stacked

BOARD = Board(
    name="network",
    title="Network and peers",
    text="Who is connected to whom, what goes to and fro, what is refused.",
    scope=NODES,
    several=True,
    rows=[
        (
            "Now",
            [
                number("Peers known", "Most that a chosen node knows.", "max(talkoot_peers_known{@})"),
                number(
                    "Peers connected",
                    "Fewest that a chosen node has.",
                    "min(instance:talkoot_peers_connected:sum{@})",
                ),
                number("Banned", "Most on one node's list.", "max(talkoot_peers_banned{@})"),
                number(
                    "Suspected",
                    "Peers whose contributions were odd lately, by the node that suspects most.",
                    "max(talkoot_peers_suspected{@})",
                ),
                number(
                    "Refused a second",
                    "Messages that no honest peer sends.",
                    "sum(instance:talkoot_messages_rejected:rate5m{@})",
                    decimals=2,
                ),
                number(
                    "Clock",
                    "The largest offset from the other peers' clocks.",
                    "max(abs(talkoot_node_clock_offset_seconds{@}))",
                    unit="s",
                ),
            ],
        ),
        (
            "Peers",
            [
                graph(
                    "Connected and known",
                    "The same but for a moment after somebody came or went.",
                    ("instance:talkoot_peers_connected:sum{@}", "connected, {{instance}}"),
                    ("talkoot_peers_known{@}", "known, {{instance}}"),
                ),
                stacked(
                    "Connections by direction and path",
                    "A node without any inbound one cannot be dialled, or joined last.",
                    ("sum by (direction, path) (talkoot_peers_connected{@})", "{{direction}}, {{path}}"),
                ),
                stacked(
                    "Ways to other peers",
                    "Direct, through a hole in both routers, through a relay, or none.",
                    ("sum by (path) (talkoot_peers_by_path{@})", "{{path}}"),
                ),
                graph(
                    "Reachable",
                    "1: other peers can dial the node. 0: they cannot; then it needs relays.",
                    ("talkoot_node_reachable{@}", "{{instance}}"),
                    ("talkoot_relay_reservations{@}", "{{instance}}, relays"),
                ),
                graph(
                    "Relays that failed",
                    "Why relays gave no reservation, or were left.",
                    ("sum by (reason) (rate(talkoot_relay_faults_total{@}[$__rate_interval]))", "{{reason}}"),
                ),
                graph(
                    "Round trips",
                    "Of all connected peers together.",
                    *quantiles("talkoot_peer_rtt_seconds"),
                    unit="s",
                ),
                stacked(
                    "Peers by what is held against them",
                    "As each node sees the others.",
                    ("sum by (band) (talkoot_peers_by_score{@})", "{{band}}"),
                ),
                stacked(
                    "Peers by version",
                    "Compared with the node that counts.",
                    ("sum by (agent) (talkoot_peers_by_agent{@})", "{{agent}}"),
                ),
                graph(
                    "Clock",
                    "How far the others' clocks are ahead of this node's.",
                    ("talkoot_node_clock_offset_seconds{@}", "{{instance}}"),
                    unit="s",
                ),
            ],
        ),
        (
            "Bytes and messages",
            [
                stacked(
                    "Received a second",
                    "By what it is for.",
                    each_second("talkoot_network_receive_bytes_total", "protocol"),
                    unit="Bps",
                ),
                stacked(
                    "Sent a second",
                    "By what it is for.",
                    each_second("talkoot_network_transmit_bytes_total", "protocol"),
                    unit="Bps",
                ),
                stacked(
                    "State for joining peers a second",
                    "Bytes served, received, and of those received in vain.",
                    ("sum(rate(talkoot_checkpoint_served_bytes_total{@}[$__rate_interval]))", "served"),
                    ("sum(rate(talkoot_state_fetched_bytes_total{@}[$__rate_interval]))", "received"),
                    ("sum(rate(talkoot_state_fetch_wasted_bytes_total{@}[$__rate_interval]))", "in vain"),
                    unit="Bps",
                ),
                stacked(
                    "Messages received a second",
                    "Of rounds, by kind.",
                    each_second("talkoot_messages_received_total", "message"),
                ),
                stacked(
                    "Messages sent a second",
                    "Of rounds, by kind.",
                    each_second("talkoot_messages_sent_total", "message"),
                ),
                stacked(
                    "Requests for state not answered, a minute",
                    "Busy and later are no harm: the peer asks again, or another.",
                    each_minute("talkoot_state_requests_refused_total", "reason"),
                ),
            ],
        ),
        (
            "Trouble",
            [
                stacked(
                    "Messages refused, a minute",
                    "Late, stale and early ones happen between honest peers.",
                    each_minute("talkoot_messages_rejected_total", "reason"),
                ),
                stacked(
                    "Penalties a minute",
                    "What was held against peers.",
                    each_minute("talkoot_peer_penalties_total", "reason"),
                ),
                graph(
                    "Bans",
                    "Since the start.",
                    ("sum by (reason) (talkoot_peer_bans_total{@})", "{{reason}}"),
                ),
                stacked(
                    "Dials that failed, a minute",
                    "And all dials, as a line to compare with.",
                    each_minute("talkoot_dial_failures_total", "reason"),
                    ("60 * sum(rate(talkoot_dials_total{@}[$__rate_interval]))", "all dials"),
                ),
                stacked(
                    "Connections that ended, a minute",
                    "By why.",
                    each_minute("talkoot_peer_disconnections_total", "reason"),
                    ("60 * sum(rate(talkoot_peer_connections_total{@}[$__rate_interval]))", "new ones"),
                ),
                stacked(
                    "Connections refused, a minute",
                    "By the limit.",
                    each_minute("talkoot_connections_refused_total", "limit"),
                ),
            ],
        ),
    ],
)
