"""What a metric is: a row of the tables from which the registry and docs/metrics.md are built. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from talkoot.peer.options import ROLES, Role

PREFIX = "talkoot_"

OTHER = "other"
"""What every word becomes that is not on its label's list. No value is ever a peer, an address or a text."""

Kind = Literal["counter", "gauge", "histogram"]

TRAINERS: tuple[Role, ...] = ("full", "client")
OBSERVER: tuple[Role, ...] = ("observer",)


@dataclass(frozen=True, slots=True)
class Label:
    """One label. Its values are known beforehand, unless this node itself gives one (`pattern`)."""

    name: str
    values: tuple[str, ...] = ()
    """All that there may be; each is exported as 0 from the start."""
    pattern: str = ""
    """What a value looks like that is not known beforehand; empty: there are none."""
    most: int = 1
    """How many such values one node has at most."""
    example: str = ""

    def allows(self, value: str) -> bool:
        """Whether a node of this version may export this value."""
        return (
            value in self.values
            or (bool(self.values) and value == OTHER)
            or (bool(self.pattern) and bool(re.fullmatch(self.pattern, value)))
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One metric with all its series."""

    name: str
    """As it is exposed, `talkoot_` and `_total` included."""
    kind: Kind
    text: str
    """What it says, in one sentence: its HELP."""
    unit: str = ""
    """What is counted or measured."""
    labels: tuple[Label, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, without the infinite one."""
    unknown: bool = False
    """A gauge that is NaN until something was measured."""
    absent: bool = False
    """There is no series until there is something to measure."""
    roles: tuple[Role, ...] = ROLES
    """Which nodes export it."""

    @property
    def most_series(self) -> int:
        """Series that one node has of it at most."""
        count = 1
        for label in self.labels:
            count *= len(label.values) or label.most
        return count * (len(self.buckets) + 3 if self.kind == "histogram" else 1)

    @property
    def most_told(self) -> int:
        """Series of it that another node may have: each word that is on no list there is `other`."""
        count = self.most_series
        for label in self.labels:
            if label.values and OTHER not in label.values:
                count += count // len(label.values)
        return count

    def samples(self) -> tuple[str, ...]:
        """The names of its samples."""
        if self.kind != "histogram":
            return (self.name,)
        return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))

    def allows(self, sample: str, labels: Mapping[str, str]) -> bool:
        """Whether a node may export a sample of this name with these labels."""
        if sample not in self.samples():
            return False
        expected = {label.name: label for label in self.labels}
        given = dict(labels)
        if self.kind == "histogram" and sample.endswith("_bucket"):
            bound = given.pop("le", "")
            if bound not in {*(str(float(each)) for each in self.buckets), "+Inf"}:
                return False
        return given.keys() == expected.keys() and all(expected[name].allows(given[name]) for name in given)


def counter(
    name: str,
    text: str,
    *labels: Label,
    unit: str = "",
    roles: tuple[Role, ...] = ROLES,
    absent: bool = False,
) -> Family:
    """A row for what only grows; `name` without prefix and `_total`."""
    return Family(
        name=f"{PREFIX}{name}_total",
        kind="counter",
        text=text,
        labels=labels,
        unit=unit,
        roles=roles,
        absent=absent,
    )


def gauge(
    name: str,
    text: str,
    *labels: Label,
    unit: str = "",
    roles: tuple[Role, ...] = ROLES,
    unknown: bool = False,
    absent: bool = False,
) -> Family:
    """A row for what goes up and down; `name` without prefix."""
    return Family(
        name=PREFIX + name,
        kind="gauge",
        text=text,
        labels=labels,
        unit=unit,
        roles=roles,
        unknown=unknown,
        absent=absent,
    )


def histogram(
    name: str, text: str, buckets: Iterable[float], *, unit: str, roles: tuple[Role, ...] = ROLES
) -> Family:
    """A row for a distribution; `name` without prefix."""
    return Family(
        name=PREFIX + name, kind="histogram", text=text, buckets=tuple(buckets), unit=unit, roles=roles
    )
