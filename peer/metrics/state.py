"""Outer states: saved, checked, fetched and served."""

from talkoot.peer.choice import REASONS as CATCH_UP_REASONS
from talkoot.peer.metrics.family import Label, counter, gauge, histogram
from talkoot.peer.metrics.words import STATE_REFUSALS, VERIFICATION_FAILURES

FETCH_BUCKETS_S = (1.0, 30.0, 120.0, 600.0, 1800.0)

CHECKPOINTS = (
    gauge(
        "checkpoint_last_success_timestamp_seconds",
        "When a checkpoint was last written and read back, in Unix time.",
        unit="seconds",
        unknown=True,
    ),
    gauge("checkpoint_size_bytes", "Size of the newest checkpoint.", unit="bytes"),
    counter("checkpoint_saves", "Tries to write a checkpoint.", unit="saves"),
    counter("checkpoint_save_failures", "Tries to write a checkpoint that failed.", unit="saves"),
    counter(
        "checkpoint_verifications",
        "Fetched states and their parts that were checked against a certificate.",
        unit="checks",
    ),
    counter(
        "checkpoint_verification_failures",
        "Those that did not fit: a chunk, the digest of the whole, or the certificates.",
        Label("reason", VERIFICATION_FAILURES),
        unit="checks",
    ),
    histogram(
        "checkpoint_fetch_duration_seconds",
        "Time that fetching an outer state from peers took, from the first question until it is in place.",
        FETCH_BUCKETS_S,
        unit="seconds",
    ),
    counter("checkpoint_served_bytes", "Bytes of outer state that were sent to peers.", unit="bytes"),
)

STATE = (
    counter(
        "catch_ups",
        "Times that this node caught up, by why it did so as it did.",
        Label("reason", tuple(sorted(CATCH_UP_REASONS))),
        unit="times",
    ),
    counter(
        "catch_up_bytes",
        "What catching up would have cost by each way.",
        Label("way", ("replay", "snapshot")),
        unit="bytes",
    ),
    counter(
        "state_requests_refused",
        "Requests for outer state that were not answered with it, or later than asked.",
        Label("reason", STATE_REFUSALS),
        unit="requests",
    ),
    gauge("state_requests_waiting", "Requests for chunks that wait for their turn.", unit="requests"),
    gauge(
        "state_fetch_done_ratio",
        "Share of the outer state that a download has in place.",
        unit="ratio",
        unknown=True,
    ),
    gauge(
        "state_fetch_bytes_per_second",
        "Speed of a download of outer state; 0 when there is none.",
        unit="bytes per second",
    ),
    counter("state_fetched_bytes", "Bytes of outer state received.", unit="bytes"),
    counter("state_fetch_wasted_bytes", "Of them, wrong ones and those received twice.", unit="bytes"),
)
