"""What an explorer (`talkoot explore --serve`) exports of a whole swarm; a node exports none of it."""

from talkoot.peer.guest.words import STATES
from talkoot.peer.metrics.family import OTHER, Family, Label, counter, gauge

ROLE_WORDS = ("full", "client", "observer", "relay")
PATH_WORDS = ("direct", "relayed", "unreachable", "unknown")
RECORD_REJECTIONS = ("malformed", "oversized", "foreign", "signature", "stale", "busy", "older")
"""Why a record of the directory is refused (`talkoot.dht.table`); `older`: a later one is known."""
QUESTION_FAILURES = ("unreachable", "timeout", "lost", "malformed", "oversized", "refused", "unsupported")

EXPLORED: tuple[Family, ...] = (
    gauge("explorer_peers", "Peers that announce themselves.", Label("role", ROLE_WORDS), unit="peers"),
    gauge(
        "explorer_peers_by_path",
        "Peers, relays left out, by how they are reached from here.",
        Label("path", PATH_WORDS),
        unit="peers",
    ),
    gauge(
        "explorer_peers_by_state",
        "Peers, relays left out, by the state that they claim.",
        Label("state", (*STATES, OTHER)),
        unit="peers",
    ),
    gauge(
        "explorer_peers_training", "Peers that say that they train, of those that were reached.", unit="peers"
    ),
    gauge(
        "explorer_round_frontier",
        "Highest round that two reached peers announce; a single peer does not move it.",
        unit="rounds",
        unknown=True,
    ),
    gauge("explorer_peers_at_frontier", "Reached peers that announce that round.", unit="peers"),
    gauge(
        "explorer_peers_agreeing",
        "Of those, peers with the state that most of them announce.",
        unit="peers",
    ),
    gauge(
        "explorer_steps_per_second",
        "Inner steps a second of all peers that train, as they announce them.",
        unit="steps a second",
    ),
    gauge(
        "explorer_training_loss",
        "Median of the training losses that peers announce.",
        unit="nats",
        unknown=True,
    ),
    gauge(
        "explorer_clock_offset_seconds",
        "Median of how far peers' clocks are ahead of this one.",
        unit="seconds",
        unknown=True,
    ),
    gauge(
        "explorer_rtt_seconds",
        "Median time of one question to a peer and its answer.",
        unit="seconds",
        unknown=True,
    ),
    gauge(
        "explorer_directory_nodes",
        "Nodes of the directory that answered in the last look.",
        unit="nodes",
    ),
    gauge(
        "explorer_reading_timestamp_seconds",
        "When the last look at the directory showed anything.",
        unit="seconds",
    ),
    counter("explorer_looks", "Looks at the directory.", unit="looks"),
    counter(
        "explorer_records_rejected",
        "Announcements that were refused: forged, expired, replayed, ill-formed, or too many.",
        Label("reason", RECORD_REJECTIONS),
        unit="records",
    ),
    counter(
        "explorer_failures",
        "Questions to nodes of the directory that failed.",
        Label("reason", QUESTION_FAILURES),
        unit="questions",
    ),
    counter("explorer_restarts", "How often following had to begin again.", unit="restarts"),
)
