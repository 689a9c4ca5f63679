"""What one peer tells another of its metrics: numbers under names that both declare.

No text of a peer gets any further than a comparison. What is passed on to Prometheus is written here, from
this node's own declarations (`talkoot.peer.metrics`), so a peer can say something false about itself and
nothing else.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from talkoot.dht.errors import RemoteError
from talkoot.peer.metrics import Family, family_of
from talkoot.peer.metrics.training import ROUNDS, TRAINING
from talkoot.peer.options import Share

MAX_READINGS = 400
"""Values in one report: a node has at most 300 series."""

MAX_REPORT_BYTES = 64 * 1024
"""Longest report; each value takes about 60 bytes."""

MAX_VALUE = 1e18
"""Largest finite number that is believed, so that no sum over peers overflows."""

PUBLIC = frozenset({"talkoot_node_state", *(family.name for family in (*TRAINING, *ROUNDS))})
"""What is shared unless the volunteer says otherwise: steps, loss and rounds, which announcements and
contributions show anyway. Nothing of the machine."""

INFO = "_info"
"""Ending of families whose labels say in words who a node is: those words would be the peer's."""


class Reading(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One value."""

    sample: Annotated[str, msgspec.Meta(max_length=80)]
    """As it is exposed, with `_total`, `_bucket` and so on."""
    labels: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=48)], ...], msgspec.Meta(max_length=4)]
    """Values of its labels, in the order of the labels' names."""
    value: float


Report = Annotated[tuple[Reading, ...], msgspec.Meta(max_length=MAX_READINGS)]

_decoder: msgspec.msgpack.Decoder[tuple[Reading, ...]] = msgspec.msgpack.Decoder(Report)


def shared(family: Family, share: Share) -> bool:
    """Whether a peer that shares so much tells others this one."""
    if share == "none" or family.name.endswith(INFO):
        return False
    return share == "all" or family.name in PUBLIC


def take(registry: CollectorRegistry, share: Share) -> bytes:
    """This node's report of now. Takes milliseconds: call it in a thread."""
    readings = []
    for metric in registry.collect():
        for sample in metric.samples:
            family = family_of(sample.name)
            if family is not None and shared(family, share) and family.allows(sample.name, sample.labels):
                labels = tuple(sample.labels[name] for name in sorted(sample.labels))
                readings.append(Reading(sample.name, labels, sample.value))
    return msgspec.msgpack.encode(readings[:MAX_READINGS])


def read(data: bytes | memoryview, peer: bytes) -> tuple[Reading, ...]:
    """Parse a report. Raises RemoteError (`malformed`)."""
    try:
        return _decoder.decode(data)
    except (ValueError, RecursionError) as error:
        raise RemoteError(peer, "malformed", f"report: {error}") from error


Key = tuple[str, tuple[tuple[str, str], ...]]
"""A sample's name, and its labels with their values."""


def known(readings: Iterable[Reading], peer: bytes) -> dict[Key, float]:
    """By sample and labels what this version knows of it; a later version may say more, which is left out.

    Raises RemoteError (`malformed`) for what no version says: a value twice, or a number that cannot be.
    """
    found: dict[Key, float] = {}
    counts: Counter[str] = Counter()
    for reading in readings:
        family = family_of(reading.sample)
        labels = None if family is None else _labels(family, reading)
        if family is None or labels is None:
            continue
        key = reading.sample, tuple(labels.items())
        if key in found:
            raise RemoteError(peer, "malformed", f"{reading.sample} twice")
        if not _possible(family, reading.value):
            raise RemoteError(peer, "malformed", f"{reading.sample} is {reading.value}")
        counts[family.name] += 1
        if counts[family.name] > family.most_told:
            raise RemoteError(peer, "malformed", f"{family.name} has too many series")
        found[key] = reading.value
    return found


def _labels(family: Family, reading: Reading) -> dict[str, str] | None:
    names = sorted([label.name for label in family.labels] + ["le"] * reading.sample.endswith("_bucket"))
    if len(names) != len(reading.labels) or family.name.endswith(INFO):
        return None
    labels = dict(zip(names, reading.labels, strict=True))
    return labels if family.allows(reading.sample, labels) else None


def _possible(family: Family, value: float) -> bool:
    """A gauge may be unknown (NaN) or infinite; what is counted is neither, nor below zero."""
    if family.kind == "gauge":
        return not math.isfinite(value) or abs(value) <= MAX_VALUE
    return 0 <= value <= MAX_VALUE


def exposition(data: bytes | memoryview, *, peer: bytes, run: str, role: str) -> bytes:
    """A peer's report as text for Prometheus. Raises RemoteError. Takes milliseconds: call it in a thread.

    Who it is says this node: the name in our manifest, and the role in the announcement that the peer signed.
    """
    values = known(read(data, peer), peer)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Told(values, {"run": run, "role": role}))
    return generate_latest(registry)


class _Told(Collector):
    """A report as prometheus_client sees it."""

    def __init__(self, values: dict[Key, float], who: dict[str, str]) -> None:
        self._values = values
        self._who = who

    def collect(self) -> Iterator[Metric]:
        info = family_of("talkoot_node_info")
        assert info is not None
        who = Metric(info.name, info.text, "gauge")
        who.add_sample("talkoot_node_info", self._who, 1)
        yield who
        families: dict[str, Metric] = {}
        for (sample, labels), value in self._values.items():
            family = family_of(sample)
            assert family is not None, sample  # it was found before
            metric = families.get(family.name)
            if metric is None:
                name = family.name.removesuffix("_total")
                metric = families[family.name] = Metric(name, family.text, family.kind)
            metric.add_sample(sample, dict(labels), value)
        yield from families.values()
