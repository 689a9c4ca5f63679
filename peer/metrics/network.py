"""The other peers and what goes to and fro."""

from talkoot.dht.paths import PATHS
from talkoot.peer.guest.words import STATES
from talkoot.peer.metrics.family import OBSERVER, Label, counter, gauge, histogram
from talkoot.peer.metrics.words import (
    AGENTS,
    BANDS,
    DIAL_FAILURES,
    DISCONNECTIONS,
    LIMITS,
    MESSAGES,
    PENALTIES,
    PROTOCOLS,
    REJECTIONS,
    RELAY_FAULTS,
    WAYS,
)
from talkoot.peer.penalties import OPERATOR

RTT_BUCKETS_S = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 2.0)

PEERS = (
    gauge("peers_known", "Peers of the swarm with a valid announcement, without this one.", unit="peers"),
    gauge(
        "peers_connected",
        "Peers with an open connection, by who opened it and which way it takes.",
        Label("direction", ("inbound", "outbound")),
        Label("path", WAYS),
        unit="peers",
    ),
    gauge(
        "peers_by_path",
        "Known peers by the way to them; `unknown` where nothing was tried, or not since it ended.",
        Label("path", PATHS),
        unit="peers",
    ),
    gauge(
        "node_reachable",
        "1 where other peers can dial this node, 0 where they say that they cannot.",
        unknown=True,
    ),
    gauge("relay_reservations", "Relays at which this node holds a reservation.", unit="relays"),
    counter(
        "relay_faults",
        "Times that a relay gave no reservation, or was left.",
        Label("reason", RELAY_FAULTS),
        unit="faults",
    ),
    gauge(
        "peers_by_agent",
        "Known peers by their version, compared with this node's.",
        Label("agent", AGENTS),
        unit="peers",
    ),
    gauge(
        "peers_by_score",
        "Known peers by what this node holds against them.",
        Label("band", BANDS),
        unit="peers",
    ),
    gauge("peers_banned", "Peers on this node's list of bans.", unit="peers"),
    counter("peer_connections", "Peers to which a connection was opened.", unit="connections"),
    counter(
        "peer_disconnections",
        "Peers to which the last connection ended.",
        Label("reason", DISCONNECTIONS),
        unit="connections",
    ),
    counter(
        "peer_penalties",
        "Times that something was held against a peer.",
        Label("reason", PENALTIES),
        unit="penalties",
    ),
    counter(
        "peer_bans",
        "Bans of peers, by what they were for.",
        Label("reason", (*PENALTIES, OPERATOR)),
        unit="bans",
    ),
    histogram(
        "peer_rtt_seconds",
        "Round trips to the connected peers, all together.",
        RTT_BUCKETS_S,
        unit="seconds",
    ),
    counter("dials", "Channels that this node tried to open.", unit="dials"),
    counter(
        "dial_failures",
        "Channels that could not be opened.",
        Label("reason", DIAL_FAILURES),
        unit="dials",
    ),
    counter(
        "connections_refused",
        "Connections of peers that were closed because of a limit, a ban or a score.",
        Label("limit", LIMITS),
        unit="connections",
    ),
)

WIRE = (
    counter(
        "network_receive_bytes", "Bytes received in channels.", Label("protocol", PROTOCOLS), unit="bytes"
    ),
    counter("network_transmit_bytes", "Bytes sent in channels.", Label("protocol", PROTOCOLS), unit="bytes"),
    counter(
        "messages_received",
        "Messages of rounds that other peers sent us.",
        Label("message", MESSAGES),
        unit="messages",
    ),
    counter(
        "messages_sent",
        "Messages of rounds that we sent to other peers.",
        Label("message", MESSAGES),
        unit="messages",
    ),
    counter(
        "messages_rejected",
        "Frames, records and messages of others that were refused.",
        Label("reason", REJECTIONS),
        unit="messages",
    ),
    counter(
        "rate_limit_wait_seconds",
        "Time for which the limits on what is served and on all that is sent held bytes back.",
        unit="seconds",
    ),
    gauge(
        "network_quota_used_bytes",
        "Bytes that the network carried in this calendar month, both ways, with headers.",
        unit="bytes",
    ),
    gauge(
        "network_quota_limit_bytes",
        "Most bytes a calendar month that the volunteer allows; 0: any.",
        unit="bytes",
    ),
)

OBSERVED = (
    gauge(
        "observed_peers",
        "Peers that announce themselves, by the state that they claim.",
        Label("state", (*STATES, "other")),
        unit="peers",
        roles=OBSERVER,
    ),
    gauge(
        "observed_round_min",
        "Fewest rounds that a peer which trains announces.",
        unit="rounds",
        unknown=True,
        roles=OBSERVER,
    ),
    gauge(
        "observed_round_max",
        "Most rounds that a peer which trains announces.",
        unit="rounds",
        unknown=True,
        roles=OBSERVER,
    ),
    counter(
        "observed_trained_tokens",
        "Tokens that certified rounds count, of all peers together, since this node began.",
        unit="tokens",
        roles=OBSERVER,
    ),
)
