"""All metrics that a node of this version can export, for a registry, a page of reference or a filter.

What is not known here is nobody's: whoever passes a peer's metrics on drops it.
"""

from collections.abc import Mapping

from talkoot.peer.metrics.family import Family
from talkoot.peer.metrics.network import OBSERVED, PEERS, WIRE
from talkoot.peer.metrics.node import NODE, RESOURCES, STANDARD
from talkoot.peer.metrics.state import CHECKPOINTS, STATE
from talkoot.peer.metrics.training import AUDITS, ROUNDS, TRAINING
from talkoot.peer.options import Role

SECTIONS: Mapping[str, tuple[Family, ...]] = {
    "The node": NODE,
    "The machine": RESOURCES,
    "Peers": PEERS,
    "Bytes and messages": WIRE,
    "Training": TRAINING,
    "Rounds": ROUNDS,
    "Audits": AUDITS,
    "Checkpoints": CHECKPOINTS,
    "Fetching and serving state": STATE,
    "The swarm, as an observer sees it": OBSERVED,
    "The process": STANDARD,
}

FAMILIES: Mapping[str, Family] = {family.name: family for section in SECTIONS.values() for family in section}
"""By the name under which each is exposed."""

MAX_SERIES = 300
"""Most series of one node, whatever happens."""

_OF_SAMPLE: Mapping[str, Family] = {
    sample: family for family in FAMILIES.values() for sample in family.samples()
}


def family_of(sample: str) -> Family | None:
    """The metric that has samples of this name, if there is one."""
    return _OF_SAMPLE.get(sample)


def is_known(sample: str, labels: Mapping[str, str]) -> bool:
    """Whether a node of this version may export a sample of this name with these labels."""
    family = _OF_SAMPLE.get(sample)
    return family is not None and family.allows(sample, labels)


def most_series(role: Role) -> int:
    """Series that a node of this role has at most."""
    return sum(family.most_series for family in FAMILIES.values() if role in family.roles)
