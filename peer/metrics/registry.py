"""What a node counts and measures, in a registry of its own.

Names, texts and labels stand in the tables; here each metric is an attribute. What the node has no role for
is counted all the same and not exported. What was not measured yet is NaN. Anything that is counted may be
counted from any thread.
"""

import math
from collections.abc import Callable
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

from talkoot.dht.network import Events, Traffic
from talkoot.dht.pacing import Pacing
from talkoot.peer.checks import Checks
from talkoot.peer.choice import Choice
from talkoot.peer.guest.words import STATES
from talkoot.peer.metrics.family import OTHER, PREFIX, Family
from talkoot.peer.metrics.known import FAMILIES
from talkoot.peer.metrics.labels import Follow, LabelledCounter, LabelledGauge
from talkoot.peer.metrics.node import MAX_GPUS
from talkoot.peer.metrics.words import (
    CONTRIBUTION_REJECTION_OF,
    MESSAGE_OF,
    PARTS,
    REJECTION_OF,
    RELAY_FAULT_OF,
    ROUND_FAILURE_OF,
    protocol_of,
)
from talkoot.peer.options import Role
from talkoot.peer.penalties import OPERATOR
from talkoot.peer.serving import Gate
from talkoot.peer.sync_progress import SyncProgress
from talkoot.peer.trainer.protocol import Gpu

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The metrics of one node."""

    def __init__(self, role: Role = "full") -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # its stub has no annotation
        self.role = role
        self.registry = CollectorRegistry()
        self.source: Callable[[], None] = lambda: None
        """Brings up to date what is not counted as it happens; called in the event loop's thread."""
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._make_node()
        self._make_network()
        self._make_training()
        self._make_rounds()
        self._make_state()

    def refresh(self) -> None:
        """Look at everything that is not counted as it happens. On the event loop, before `expose`."""
        self.source()

    def expose(self) -> bytes:
        """All of it as text, in the format of `CONTENT_TYPE`. Takes milliseconds: call it in a thread."""
        return generate_latest(self.registry)

    # -- the tables --------------------------------------------------------------------------------

    def _make_node(self) -> None:
        self._build = self._gauge("build_info")
        self._node = self._gauge("node_info")
        self._states = self._labelled_gauge("node_state")
        self._pauses = self._labelled_gauge("node_paused")
        self.state("starting")
        self.clock_offset = self._gauge("node_clock_offset_seconds")
        self.event_loop_lag = self._histogram("event_loop_lag_seconds")
        self.event_loop_callback_cpu = self._histogram("event_loop_callback_cpu_seconds")
        self.log_messages = self._labelled("log_messages")
        self.restarts = self._labelled("restarts")
        self.disk_faults = self._labelled("disk_faults")
        memory = self._labelled_gauge("memory_bytes")
        self.memory = {part: memory.child(part) for part in PARTS}
        self.disk_used = self._gauge("disk_used_bytes")
        self.disk_limit = self._gauge("disk_limit_bytes")
        self.duty_cycle = self._gauge("duty_cycle_ratio")
        self.duty_cycle_limit = self._gauge("duty_cycle_limit_ratio")
        self.gpu_memory_used = self._gauge("gpu_memory_used_bytes")
        self.gpu_memory_limit = self._gauge("gpu_memory_limit_bytes")
        self.gpu_utilization = self._gauge("gpu_utilization_ratio")
        self.gpu_temperature = self._gauge("gpu_temperature_celsius")
        self.gpu_energy = self._counter("gpu_energy_joules")
        self._gpus: set[int] = set()

    def _make_network(self) -> None:
        self.peers_known = self._gauge("peers_known")
        self.peers_connected = self._labelled_gauge("peers_connected")
        self.peers_by_path = self._labelled_gauge("peers_by_path")
        self.node_reachable = self._gauge("node_reachable")
        self.relay_reservations = self._gauge("relay_reservations")
        self.relay_faults = self._labelled("relay_faults", _relay_fault)
        self.peers_by_agent = self._labelled_gauge("peers_by_agent")
        self.peers_by_score = self._labelled_gauge("peers_by_score")
        self.peers_banned = self._gauge("peers_banned")
        self.peer_connections = self._counter("peer_connections")
        self.peer_disconnections = self._labelled("peer_disconnections")
        self.peer_penalties = self._labelled("peer_penalties", _rejection)
        self.peer_bans = self._labelled("peer_bans", _rejection)
        self.round_trips = self._histogram("peer_rtt_seconds")
        self.dials = self._counter("dials")
        self.dial_failures = self._labelled("dial_failures")
        self.connections_refused = self._labelled("connections_refused")
        self.received_bytes = self._labelled("network_receive_bytes", protocol_of)
        self.sent_bytes = self._labelled("network_transmit_bytes", protocol_of)
        self.messages_received = self._labelled("messages_received", _message)
        self.messages_sent = self._labelled("messages_sent", _message)
        self.messages_rejected = self._labelled("messages_rejected", _rejection)
        self.rate_limit_wait = self._counter("rate_limit_wait_seconds")
        self.quota_used = self._gauge("network_quota_used_bytes")
        self.quota_limit = self._gauge("network_quota_limit_bytes")
        self.observed_peers = self._labelled_gauge("observed_peers")
        self.observed_round_min = self._gauge("observed_round_min")
        self.observed_round_max = self._gauge("observed_round_max")
        self.observed_tokens = self._counter("observed_trained_tokens")

    def _make_training(self) -> None:
        self.inner_steps = self._counter("inner_steps")
        self.trained_tokens = self._counter("trained_tokens")
        self.training_loss = self._gauge("training_loss")
        self.eval_loss = self._labelled_gauge("eval_loss").child("held_out")
        self.eval_loss.set(math.nan)
        self.gradient_norm = self._gauge("gradient_norm")
        self.learning_rate = self._gauge("learning_rate")
        self.inner_time = self._gauge("inner_step_time_ratio")

    def _make_rounds(self) -> None:
        self.round = self._gauge("round")
        self.round_frontier = self._gauge("round_frontier")
        self.rounds = self._counter("rounds")
        self.rounds_skipped = self._counter("rounds_skipped")
        self.round_attempts = self._counter("round_attempts")
        self.round_failures = self._labelled("round_failures", _failure)
        self.round_duration = self._histogram("round_duration_seconds")
        self.round_phases = self._labelled("round_phase_seconds")
        self.round_group_size = self._gauge("round_group_size")
        self.contributions_sent = self._counter("contributions_sent")
        self.contribution_credits = self._counter("contribution_credits")
        self.contributions_rejected = self._labelled("contributions_rejected", _rejected_contribution)
        self.contribution_error = self._gauge("contribution_error_ratio")
        self.update_norm = self._gauge("update_norm_ratio")
        self.armed = self._gauge("robust_chunks_ratio")
        self.audits = self._labelled("audits")
        self.contributions_odd = self._labelled("contributions_odd")
        self.peers_suspected = self._gauge("peers_suspected")
        self.trainer_audits = self._labelled("trainer_audits")
        self.trainer_audit_time = self._counter("trainer_audit_seconds")
        self.own_verdicts = self._labelled("own_contribution_verdicts")

    def _make_state(self) -> None:
        self.checkpoint_last_success = self._gauge("checkpoint_last_success_timestamp_seconds")
        self.checkpoint_size = self._gauge("checkpoint_size_bytes")
        self.checkpoint_saves = self._counter("checkpoint_saves")
        self.checkpoint_save_failures = self._counter("checkpoint_save_failures")
        self.checkpoint_verifications = self._counter("checkpoint_verifications")
        self.checkpoint_verification_failures = self._labelled("checkpoint_verification_failures")
        self.checkpoint_fetch_duration = self._histogram("checkpoint_fetch_duration_seconds")
        self.checkpoint_served_bytes = self._counter("checkpoint_served_bytes")
        self.catch_ups = self._labelled("catch_ups")
        self.catch_up_bytes = self._labelled("catch_up_bytes")
        self.state_refusals = self._labelled("state_requests_refused")
        self.state_waiting = self._gauge("state_requests_waiting")
        self.fetch_done = self._gauge("state_fetch_done_ratio")
        self.fetch_speed = self._gauge("state_fetch_bytes_per_second")
        self.fetched_bytes = self._counter("state_fetched_bytes")
        self.fetch_wasted_bytes = self._counter("state_fetch_wasted_bytes")
        self._fetch: tuple[SyncProgress, int, int] | None = None

    def _where(self, family: Family) -> CollectorRegistry | None:
        return self.registry if self.role in family.roles else None

    def _gauge(self, name: str) -> Gauge:
        family = FAMILIES[PREFIX + name]
        labels = tuple(label.name for label in family.labels)
        gauge = Gauge(family.name, family.text, labels, registry=self._where(family))
        if family.unknown and not labels:
            gauge.set(math.nan)
        return gauge

    def _counter(self, name: str) -> Counter:
        family = FAMILIES[f"{PREFIX}{name}_total"]
        labels = tuple(label.name for label in family.labels)
        return Counter(family.name, family.text, labels, registry=self._where(family))

    def _labelled(self, name: str, fold: Callable[[str], str] = str) -> LabelledCounter:
        (label,) = FAMILIES[f"{PREFIX}{name}_total"].labels
        return LabelledCounter(self._counter(name), label.values, fold)

    def _labelled_gauge(self, name: str) -> LabelledGauge:
        return LabelledGauge(self._gauge(name), FAMILIES[PREFIX + name])

    def _histogram(self, name: str) -> Histogram:
        family = FAMILIES[PREFIX + name]
        where = self._where(family)
        return Histogram(family.name, family.text, registry=where, buckets=family.buckets)

    # -- what is more than one of them ---------------------------------------------------------------

    def build(self, *, backend: str, protocol: int) -> None:
        """Say what runs here: `backend` is the trainer's device kind (cpu, cuda, mps)."""
        self._build.clear()
        versions = (_version_of("talkoot"), python_version(), _version_of("torch"))
        self._build.labels(*versions, backend, str(protocol)).set(1)

    def node(self, *, swarm_name: str) -> None:
        """Say of which swarm this is. Who it is says the address that is scraped."""
        self._node.clear()
        self._node.labels(swarm_name, self.role).set(1)

    def state(self, name: str, reason: str = "") -> None:
        """Enter a state of `STATES`; one that is paused has a reason of `REASONS`."""
        assert name in STATES, name
        self._states.show_one(name)
        self._pauses.show_one(reason if name == "paused" else "")

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

    def follow_network(self, traffic: Traffic, events: Events, follow: Follow) -> None:
        """Catch up with what the network counts; call it now and then."""
        follow.totals(self.received_bytes, traffic.received)
        follow.totals(self.sent_bytes, traffic.sent)
        follow.totals(self.restarts, events.restarts)
        follow.totals(self.messages_rejected, events.rejected)
        follow.totals(self.connections_refused, events.connections_cut)
        follow.total(self.dials, events.dials)
        follow.totals(self.dial_failures, events.dial_failures)
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

    def follow_serving(self, gate: Gate, pacing: Pacing, follow: Follow) -> None:
        """Catch up with what was served; call it now and then."""
        follow.total(self.checkpoint_served_bytes, gate.sent_bytes)
        follow.total(self.rate_limit_wait, gate.waited_s + pacing.waited_s)
        follow.totals(self.state_refusals, gate.refused)
        self.state_waiting.set(gate.waiting)

    def follow_checks(self, checks: Checks, follow: Follow) -> None:
        """Catch up with what was checked of fetched states; call it now and then."""
        follow.total(self.checkpoint_verifications, checks.made)
        follow.totals(self.checkpoint_verification_failures, checks.failed)

    def follow_gpu(self, gpu: Gpu, follow: Follow) -> None:
        """Take what the trainer says of a GPU; `follow` is of this process of it."""
        if len({*self._gpus, gpu.index}) > MAX_GPUS or not 0 <= gpu.index < 100:
            return
        self._gpus.add(gpu.index)
        label = str(gpu.index)
        self.gpu_memory_used.labels(label).set(gpu.used_bytes)
        self.gpu_memory_limit.labels(label).set(gpu.limit_bytes)
        if gpu.utilization is not None:
            self.gpu_utilization.labels(label).set(gpu.utilization)
        if gpu.celsius is not None:
            self.gpu_temperature.labels(label).set(gpu.celsius)
        if gpu.joules is not None:
            follow.total(self.gpu_energy.labels(label), gpu.joules)


def _failure(word: str) -> str:
    """A leader that ends an attempt says why; its members count that."""
    return ROUND_FAILURE_OF.get(word.rpartition(": ")[2], OTHER)


def _rejected_contribution(word: str) -> str:
    return CONTRIBUTION_REJECTION_OF.get(word, OTHER)


def _relay_fault(word: str) -> str:
    return RELAY_FAULT_OF.get(word, OTHER)


def _rejection(word: str) -> str:
    return REJECTION_OF.get(word, word if word == OPERATOR else OTHER)


def _message(tag: str) -> str:
    return MESSAGE_OF.get(tag, OTHER)


@cache
def _version_of(package: str) -> str:
    """Of an installed package; a file is read and parsed for it."""
    return version(package)
