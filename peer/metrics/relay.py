"""What a relay exports: its own table, and the text that is made of its counts at each scrape."""

import time
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from talkoot.dht.errors import REASONS
from talkoot.dht.relay.book import ENDS, REFUSALS
from talkoot.dht.relay.door import SHUT
from talkoot.dht.relay.tally import Tally
from talkoot.peer.metrics.family import OTHER, Family, Label, counter, gauge

RELAY: tuple[Family, ...] = (
    gauge("relay_connections", "Connections now, handshakes under way included.", unit="connections"),
    gauge("relay_clients", "Clients that hold a reservation now.", unit="clients"),
    gauge("relay_circuits", "Circuits now.", unit="circuits"),
    gauge("relay_members", "Identities with a valid record of a swarm that is served.", unit="identities"),
    gauge("relay_draining", "1 while the relay is stopping, else 0."),
    gauge("relay_uptime_seconds", "Time since the start.", unit="seconds"),
    counter("relay_accepted_connections", "Connections made, with their handshake.", unit="connections"),
    counter(
        "relay_refused_connections",
        "Connections closed at the door, by reason.",
        Label("reason", SHUT),
        unit="connections",
    ),
    counter(
        "relay_failures",
        "Handshakes and streams that failed, by reason.",
        Label("reason", tuple(sorted(REASONS))),
        unit="failures",
    ),
    counter("relay_made_reservations", "Reservations made, renewals left out.", unit="reservations"),
    counter("relay_renewed_reservations", "Reservations renewed.", unit="reservations"),
    counter(
        "relay_refusals",
        "Reservations and circuits that were refused, by reason.",
        Label("reason", REFUSALS),
        unit="requests",
    ),
    counter("relay_made_circuits", "Circuits made.", unit="circuits"),
    counter(
        "relay_ended_circuits",
        "Circuits that are over, by how they ended.",
        Label("end", ENDS),
        unit="circuits",
    ),
    counter("relay_passed_bytes", "Bytes passed on, each counted once.", unit="bytes"),
    counter("relay_directory_looks", "Looks at the directories.", unit="looks"),
    counter("relay_announcements", "Announcements of the relay that some node took.", unit="announcements"),
)


class _Counts(Collector):
    """The tally as metrics, looked at when somebody scrapes."""

    def __init__(self, tally: Tally, now: float) -> None:
        self._tally = tally
        self._now = now

    def collect(self) -> Iterable[Metric]:
        values = _values(self._tally, self._now)
        for family in RELAY:
            yield _metric(family, values[family.name.removeprefix("talkoot_relay_").removesuffix("_total")])


def exposition(tally: Tally, now: float) -> bytes:
    """What `/metrics` answers; `now` by the clock of `tally.started_s`."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    registry.register(_Counts(tally, now))
    return generate_latest(registry)


def _values(tally: Tally, now: float) -> dict[str, float | Mapping[str, int]]:
    return {
        "connections": tally.connections,
        "clients": tally.reservations,
        "circuits": tally.circuits,
        "members": tally.members,
        "draining": tally.draining,
        "uptime_seconds": now - tally.started_s,
        "accepted_connections": tally.accepted,
        "refused_connections": tally.shut,
        "failures": tally.failed,
        "made_reservations": tally.reserved,
        "renewed_reservations": tally.renewed,
        "refusals": tally.refused,
        "made_circuits": tally.connected,
        "ended_circuits": tally.ended,
        "passed_bytes": tally.passed_bytes,
        "directory_looks": tally.looks,
        "announcements": tally.announced,
    }


def _metric(family: Family, value: float | Mapping[str, int]) -> Metric:
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.text, labels=[label.name for label in family.labels])
    if not isinstance(value, Mapping):
        metric.add_metric([], float(value))
        return metric
    (label,) = family.labels
    for word in label.values:
        metric.add_metric([word], value.get(word, 0))
    if others := sum(count for word, count in value.items() if word not in label.values):
        metric.add_metric([OTHER], others)
    return metric


def status_of(tally: Tally, now: float) -> dict[str, object]:
    """What `/healthz` answers."""
    return {
        "state": "draining" if tally.draining else "relaying",
        "connections": tally.connections,
        "reservations": tally.reservations,
        "circuits": tally.circuits,
        "uptime_s": round(now - tally.started_s, 1),
        "date": round(time.time()),
    }
