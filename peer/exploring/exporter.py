"""The swarm in numbers for Prometheus, from the tables of `talkoot.peer.metrics.explored`."""

import math
from collections.abc import Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from talkoot.dht.outside.reading import Reading
from talkoot.peer.exploring.summary import Summary
from talkoot.peer.metrics.explored import EXPLORED
from talkoot.peer.metrics.family import OTHER, Family
from talkoot.peer.metrics.labels import Follow, LabelledCounter


class Exporter:
    """The metrics of one explorer."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # its stub has no annotation
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._gauges: dict[str, tuple[Family, Gauge]] = {}
        self._counters: dict[str, Counter] = {}
        self._labelled: dict[str, LabelledCounter] = {}
        self._follow = Follow()
        for family in EXPLORED:
            self._make(family)

    def _make(self, family: Family) -> None:
        labels = tuple(label.name for label in family.labels)
        name = family.name.removeprefix("talkoot_explorer_").removesuffix("_total")
        if family.kind == "gauge":
            made = Gauge(family.name, family.text, labels, registry=self.registry)
            self._gauges[name] = family, made
            self._set(name, {} if labels else math.nan)
            return
        counter = Counter(family.name, family.text, labels, registry=self.registry)
        if labels:
            self._labelled[name] = LabelledCounter(counter, family.labels[0].values)
        else:
            self._counters[name] = counter

    def show(self, reading: Reading, seen: Summary) -> None:
        """Take up a reading. From one thread."""
        self._set("peers", seen.by_role)
        self._set("peers_by_path", seen.by_path)
        self._set("peers_by_state", seen.by_state)
        self._set("peers_training", seen.training)
        self._set("round_frontier", seen.frontier)
        self._set("peers_at_frontier", seen.at_frontier)
        self._set("peers_agreeing", seen.agreeing)
        self._set("steps_per_second", seen.steps_per_second)
        self._set("training_loss", seen.loss)
        self._set("clock_offset_seconds", seen.clock_offset_s)
        self._set("rtt_seconds", seen.rtt_s)
        self._set("directory_nodes", reading.nodes)
        self._set("reading_timestamp_seconds", reading.at_s)
        self._follow.total(self._counters["looks"], reading.looks)
        self._follow.total(self._counters["restarts"], reading.restarts)
        self._follow.totals(self._labelled["records_rejected"], reading.rejected)
        self._follow.totals(self._labelled["failures"], reading.failures)

    def expose(self) -> bytes:
        """All of it as text."""
        return generate_latest(self.registry)

    def _set(self, name: str, value: Mapping[str, int] | float | None) -> None:
        family, gauge = self._gauges[name]
        if not isinstance(value, Mapping):
            gauge.set(math.nan if value is None else value)
            return
        known = family.labels[0].values
        for word in known:
            gauge.labels(word).set(value.get(word, 0))
        if OTHER in known:
            gauge.labels(OTHER).set(sum(count for word, count in value.items() if word not in known))
