"""Every Prometheus metric of a node, declared in one place.

Names follow prometheus.io/docs/practices/naming: base units, `_total` for counters. The name of the node is
a target label, never one of ours; labels have few values, known beforehand and exported as 0 from the
start. What was not measured yet is NaN. Anything that is counted may be counted from any thread.
"""

import math
from functools import cache
from importlib.metadata import version
from platform import python_version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from talkoot.averaging.reasons import REASONS as PROTOCOL_REASONS
from talkoot.averaging.reasons import SIGNS
from talkoot.dht.errors import REASONS
from talkoot.dht.network import Events, Traffic
from talkoot.peer.choice import REASONS as CATCH_UP_REASONS
from talkoot.peer.choice import Choice
from talkoot.peer.disk import WORDS as DISK_FAULTS
from talkoot.peer.judging.results import NO_RESULTS as NO_AUDIT_RESULTS
from talkoot.peer.judging.results import RESULTS as AUDIT_RESULTS
from talkoot.peer.metric_labels import FollowedCounter, LabelledCounter
from talkoot.peer.penalties import OPERATOR
from talkoot.peer.penalties import REASONS as PENALTIES
from talkoot.peer.serving import Gate
from talkoot.peer.sync_progress import SyncProgress

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

STATES = ("starting", "syncing", "training", "exchanging", "observing", "paused", "draining", "failed")
LEVELS = ("debug", "info", "warning", "error", "critical")
PARTS = ("daemon", "p2pd", "trainer")
PHASES = ("compute", "match", "exchange", "validate", "apply")
ROUND_FAILURES = ("form", "exchange", "certify", "diverged", "cancelled")
CONTRIBUTION_REJECTIONS = ("signature", "malformed", "not_finite", "too_few_steps", "late", "absent")
CUTS = ("banned", "score", "unauthenticated", "peer", "prefix", "node")
VERIFICATION_FAILURES = ("chunk", "digest", "certificate")

LOOP_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
DURATION_BUCKETS_S = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)


class Metrics:
    """The metrics of one node, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # its stub has no annotation
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._declare_node()
        self._declare_network()
        self._declare_training()
        self._declare_rounds()
        self._declare_checkpoints()

    def expose(self) -> bytes:
        """All of it as text, in the format of `CONTENT_TYPE`. Takes milliseconds: call it in a thread."""
        return generate_latest(self.registry)

    def _declare_node(self) -> None:
        self._build = self._gauge(
            "build_info", "Versions; always 1.", ("version", "python", "torch", "backend", "protocol")
        )
        self._node = self._gauge("node_info", "Who this node is; always 1.", ("peer_id", "run"))
        state = self._gauge("node_state", "1 for the state that the node is in.", ("state",))
        self._states = {name: state.labels(name) for name in STATES}
        self.state("starting")
        self.clock_offset = self._unknown(
            "node_clock_offset_seconds", "How far the peers' clocks are ahead of ours (median)."
        )
        self.event_loop_lag = self._histogram(
            "event_loop_lag_seconds", "How late a heartbeat on the event loop was.", LOOP_BUCKETS_S
        )
        self.event_loop_callback_cpu = self._histogram(
            "event_loop_callback_cpu_seconds",
            "CPU of the loop's thread between two heartbeats: an upper bound of one callback's.",
            LOOP_BUCKETS_S,
        )
        self.log_messages = self._labelled("log_messages", "Log lines written.", "level", LEVELS)
        self.restarts = self._labelled(
            "restarts", "Parts that died and were started again.", "part", (*PARTS[1:], "directory")
        )
        self.disk_faults = self._labelled(
            "disk_faults", "Times the node was paused by its disk.", "reason", tuple(DISK_FAULTS)
        )
        memory = self._gauge("memory_bytes", "Resident memory of the node's processes.", ("part",))
        self.memory = {name: memory.labels(name) for name in PARTS}

    def _declare_network(self) -> None:
        self.peers_known = self._gauge("peers_known", "Peers of the swarm with a valid record, without us.")
        self.peers_connected = self._gauge("peers_connected", "Peers with an open connection.")
        self.peers_banned = self._gauge("peers_banned", "Peers on this node's list of bans.")
        self.peer_penalties = self._labelled(
            "peer_penalties", "Times something was held against a peer.", "reason", PENALTIES
        )
        self.peer_bans = self._labelled(
            "peer_bans", "Bans of peers, by what they were for.", "reason", (*PENALTIES, OPERATOR)
        )
        self.received_bytes = self._labelled(
            "network_receive_bytes", "Bytes received in channels.", "protocol", max_values=8
        )
        self.sent_bytes = self._labelled(
            "network_transmit_bytes", "Bytes sent in channels.", "protocol", max_values=8
        )
        self.dials = FollowedCounter(self._counter("dials", "Channels that this node tried to open."))
        self.dial_failures = self._labelled(
            "dial_failures", "Channels that could not be opened.", "reason", sorted(REASONS)
        )
        self.connections_cut = self._labelled(
            "connections_cut", "Connections of peers that were closed because of a limit.", "reason", CUTS
        )
        self.messages_rejected = self._labelled(
            "messages_rejected",
            "Frames, records and messages refused.",
            "reason",
            sorted({*REASONS, *PROTOCOL_REASONS}),
            max_values=64,
        )

    def _declare_training(self) -> None:
        self.inner_steps = self._counter("inner_steps", "Inner steps made.")
        self.trained_tokens = self._counter("trained_tokens", "Tokens trained on.")
        self.training_loss = self._unknown("training_loss", "Loss of the last inner steps, nats a token.")
        eval_loss = self._gauge(
            "eval_loss", "Loss of the outer parameters on documents that nobody trains on.", ("set",)
        )
        self.eval_loss = eval_loss.labels("held_out")
        self.eval_loss.set(math.nan)
        self.gradient_norm = self._unknown("gradient_norm", "Norm of the last gradient before clipping.")
        self.learning_rate = self._unknown("learning_rate", "Learning rate of the last inner step.")
        self.inner_time = self._unknown(
            "inner_step_time_ratio", "Share of the trainer's time that was spent in inner steps."
        )

    def _declare_rounds(self) -> None:
        self.round = self._gauge("round", "Rounds in this node's outer state.")
        self.round_frontier = self._gauge("round_frontier", "Most rounds that any known peer announces.")
        self.rounds = self._counter("rounds", "Rounds committed.")
        self.rounds_skipped = self._counter("rounds_skipped", "Rounds fetched from peers, not taken part in.")
        self.catch_ups = self._labelled(
            "catch_ups",
            "Times this node caught up, by why it did so as it did.",
            "reason",
            sorted(CATCH_UP_REASONS),
        )
        self.catch_up_bytes = self._labelled(
            "catch_up_bytes", "What catching up would have cost by each way.", "way", ("replay", "snapshot")
        )
        self.round_attempts = self._counter("round_attempts", "Tries at a round.")
        self.round_failures = self._labelled(
            "round_failures", "Tries at a round that were given up.", "reason", ROUND_FAILURES
        )
        self.round_duration = self._histogram(
            "round_duration_seconds", "From closing a round to its commit.", DURATION_BUCKETS_S
        )
        self.round_phases = self._labelled(
            "round_phase_seconds", "Time spent in the phases of rounds.", "phase", PHASES
        )
        self.round_group_size = self._gauge("round_group_size", "Contributions in the last round.")
        self.contributions_sent = self._counter("contributions_sent", "Own contributions sent.")
        self.audits = self._labelled(
            "audits",
            "Parts of other reducers that were checked.",
            "result",
            ("right", "wrong", "unavailable"),
        )
        self.contributions_odd = self._labelled(
            "contributions_odd",
            "Contributions of others that differ from their peer's past, or are as good as copies.",
            "sign",
            SIGNS,
        )
        self.peers_suspected = self._gauge(
            "peers_suspected", "Peers whose contributions were odd most of the time lately."
        )
        self.trainer_audits = self._labelled(
            "trainer_audits",
            "Contributions of others that were judged by what they do to the loss, or why one was not.",
            "result",
            (*AUDIT_RESULTS, *NO_AUDIT_RESULTS),
        )
        self.trainer_audit_time = self._counter("trainer_audit_seconds", "Time spent on that.")
        self.own_verdicts = self._labelled(
            "own_contribution_verdicts", "What others' audits said of ours.", "result", AUDIT_RESULTS
        )
        self.contributions_rejected = self._labelled(
            "contributions_rejected",
            "Contributions left out of a round.",
            "reason",
            CONTRIBUTION_REJECTIONS,
        )
        self.contribution_error = self._unknown(
            "contribution_error_ratio", "Relative L2 error of the last encoded contribution."
        )

    def _declare_checkpoints(self) -> None:
        self.checkpoint_last_success = self._unknown(
            "checkpoint_last_success_timestamp_seconds", "When a checkpoint was last written and verified."
        )
        self.checkpoint_size = self._gauge("checkpoint_size_bytes", "Size of the newest checkpoint.")
        self.checkpoint_saves = self._counter("checkpoint_saves", "Tries to write a checkpoint.")
        self.checkpoint_save_failures = self._counter(
            "checkpoint_save_failures", "Tries to write a checkpoint that failed."
        )
        self.checkpoint_verifications = self._counter(
            "checkpoint_verifications", "Outer states and chunks checked against a digest."
        )
        self.checkpoint_verification_failures = self._labelled(
            "checkpoint_verification_failures", "Those that did not fit.", "reason", VERIFICATION_FAILURES
        )
        self.checkpoint_fetch_duration = self._histogram(
            "checkpoint_fetch_duration_seconds", "Fetching an outer state from peers.", DURATION_BUCKETS_S
        )
        self.checkpoint_served_bytes = FollowedCounter(
            self._counter("checkpoint_served_bytes", "Bytes of outer state sent to peers.")
        )
        self.state_refusals = self._labelled(
            "state_requests_refused",
            "Requests for outer state that were not answered with it, or later than asked.",
            "reason",
            ("busy", "gone", "later", "unknown"),
        )
        self.state_waiting = self._gauge(
            "state_requests_waiting", "Requests for chunks that wait their turn."
        )
        self.fetch_done = self._unknown(
            "state_fetch_done_ratio", "Share of the outer state that a download has in place."
        )
        self.fetch_speed = self._gauge(
            "state_fetch_bytes_per_second", "Speed of a download of outer state, 0: there is none."
        )
        self.fetched_bytes = self._counter("state_fetched_bytes", "Bytes of outer state received.")
        self.fetch_wasted_bytes = self._counter(
            "state_fetch_wasted_bytes", "Of them, wrong or received twice."
        )
        self._fetch: tuple[SyncProgress, int, int] | None = None

    def build(self, *, backend: str, protocol: int) -> None:
        """Say what runs here: `backend` is the trainer's device kind (cpu, cuda, mps)."""
        self._build.clear()
        versions = (_version_of("talkoot"), python_version(), _version_of("torch"))
        self._build.labels(*versions, backend, str(protocol)).set(1)

    def node(self, *, peer_id: str, swarm_name: str) -> None:
        """Say who this is."""
        self._node.clear()
        self._node.labels(peer_id, swarm_name).set(1)

    def state(self, name: str) -> None:
        """Enter a state of `STATES`."""
        assert name in STATES, name
        for other, gauge in self._states.items():
            gauge.set(other == name)

    def caught_up(self, choice: Choice) -> None:
        """Count how an outer state was obtained from others."""
        self.catch_ups.inc(choice.reason)
        self.catch_up_bytes.inc("snapshot", choice.snapshot_bytes)
        if choice.replay_bytes is not None:
            self.catch_up_bytes.inc("replay", choice.replay_bytes)

    def checkpoint_saved(self, num_bytes: int) -> None:
        """Count a checkpoint that was written and verified."""
        self.checkpoint_saves.inc()
        self.checkpoint_size.set(num_bytes)
        self.checkpoint_last_success.set_to_current_time()

    def checkpoint_failed(self) -> None:
        """Count a checkpoint that could not be written."""
        self.checkpoint_saves.inc()
        self.checkpoint_save_failures.inc()

    def follow_network(self, traffic: Traffic, events: Events) -> None:
        """Catch up with what the network counts; call it every second or so, always in the same thread."""
        self.received_bytes.follow(traffic.received)
        self.sent_bytes.follow(traffic.sent)
        self.restarts.follow(events.restarts)
        self.messages_rejected.follow(events.rejected)
        self.connections_cut.follow(events.connections_cut)
        self.dials.follow(events.dials)
        self.dial_failures.follow(events.dial_failures)
        if events.clock_offset_s is not None:
            self.clock_offset.set(events.clock_offset_s)

    def follow_download(self, progress: SyncProgress) -> None:
        """Catch up with a download; call it now and then, and at its end."""
        _, received, wasted = self._fetch if self._fetch and self._fetch[0] is progress else (None, 0, 0)
        self.fetched_bytes.inc(progress.received_bytes - received)
        self.fetch_wasted_bytes.inc(progress.wasted_bytes - wasted)
        self._fetch = progress, progress.received_bytes, progress.wasted_bytes
        complete = progress.done_bytes >= progress.total_bytes
        self.fetch_done.set(progress.done_bytes / max(1, progress.total_bytes))
        self.fetch_speed.set(0.0 if complete else progress.rate)

    def follow_serving(self, gate: Gate) -> None:
        """Catch up with what was served; call it now and then."""
        self.checkpoint_served_bytes.follow(gate.sent_bytes)
        self.state_refusals.follow(gate.refused)
        self.state_waiting.set(gate.waiting)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"talkoot_{name}", text, labels, registry=self.registry)

    def _unknown(self, name: str, text: str) -> Gauge:
        gauge = self._gauge(name, text)
        gauge.set(math.nan)
        return gauge

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"talkoot_{name}", text, labels, registry=self.registry)

    def _labelled(
        self, name: str, text: str, label: str, known: tuple[str, ...] | list[str] = (), max_values: int = 40
    ) -> LabelledCounter:
        return LabelledCounter(self._counter(name, text, (label,)), known, max_values=max_values)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"talkoot_{name}", text, registry=self.registry, buckets=buckets)


@cache
def _version_of(package: str) -> str:
    """Of an installed package; a file is read and parsed for it."""
    return version(package)
