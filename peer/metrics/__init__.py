"""Every Prometheus metric of a node: declared in tables (`node`, `network`, `training`, `state`), counted by
`Metrics`, described in docs/metrics.md."""

from talkoot.peer.guest.words import STATES
from talkoot.peer.metrics.family import Family, Label
from talkoot.peer.metrics.known import FAMILIES, family_of, is_known
from talkoot.peer.metrics.registry import CONTENT_TYPE, Metrics
from talkoot.peer.metrics.words import PARTS

__all__ = [
    "CONTENT_TYPE",
    "FAMILIES",
    "PARTS",
    "STATES",
    "Family",
    "Label",
    "Metrics",
    "family_of",
    "is_known",
]
