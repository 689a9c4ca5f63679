"""docs/metrics.md, made from the tables: `python -m talkoot.peer.metrics.reference > docs/metrics.md`."""

import sys
from collections.abc import Iterator

from talkoot.peer.metrics.explored import EXPLORED
from talkoot.peer.metrics.family import Family, Label
from talkoot.peer.metrics.known import MAX_SERIES, SECTIONS, most_series
from talkoot.peer.metrics.relay import RELAY
from talkoot.peer.options import ROLES

_SERIES = ", ".join(f"{most_series(role)} as `{role}`" for role in ROLES)

_INTRODUCTION = f"""\
# Metrics

What a node serves for Prometheus at `/metrics` of its local API. This page is made from the tables in
`peer/metrics/` (`make metrics`), and a test compares them: what is not here does not exist.

* Names have the prefix `talkoot_`, base units and, for counters, `_total`. What a label can say is known
  beforehand and is exported as 0 from the start; a word that is on no list counts as `other`. Peers,
  addresses, names and error texts are never labels, so a node has the same number of series whether it knows
  five peers or five hundred: at most {MAX_SERIES}, by these tables
  {_SERIES}.
  What is to be said of single peers stands in `talkoot peers --json`, the exact words for which something was
  refused in `talkoot status --json` (`refused`).
* What was not measured yet is `NaN`, not 0. Metrics with the remark *absent* have no series until there is
  something to measure: a node without a GPU exports nothing of GPUs.
* A node that only observes exports nothing of training, and it alone exports what it observes.
* Which peer it was is the target's to say (`instance`), not the metrics': a target that names itself could
  name another.
* A scrape sees the node as it is at that moment: what is counted elsewhere is looked up when the scrape
  begins. The text is then written in a thread of its own.

"""

_RELAY = "A relay (`talkoot relay`), beside its process"
_EXPLORER = "A swarm from outside: `talkoot explore --serve`, no node"

_MISSING = (
    (
        "`talkoot_handshakes_total`, `talkoot_handshake_failures_total`",
        "p2pd shakes hands by itself and does not count; `talkoot_dials_total` counts what this node tries, "
        "`talkoot_connections_refused_total` whom it closed",
    ),
    (
        "bytes of the directory in `talkoot_network_receive_bytes_total` and "
        "`talkoot_network_transmit_bytes_total`",
        "its requests go through p2pd, which does not count them",
    ),
)


def reference() -> str:
    """The whole page."""
    missing = "## Not there yet\n\n| what | why |\n|---|---|\n" + "".join(
        f"| {what} | {why} |\n" for what, why in _MISSING
    )
    sections = [*SECTIONS.items(), (_EXPLORER, EXPLORED), (_RELAY, RELAY)]
    return _INTRODUCTION + "".join(_section(*section) for section in sections) + missing


def _section(title: str, families: tuple[Family, ...]) -> str:
    head = f"## {title}\n\n| name | type | labels | meaning | unit |\n|---|---|---|---|---|\n"
    return head + "".join(f"| {' | '.join(_cells(family))} |\n" for family in families) + "\n"


def _cells(family: Family) -> Iterator[str]:
    yield f"`{family.name}`"
    yield family.kind
    yield "; ".join(map(_label, family.labels)) or _buckets(family)
    yield family.text + "".join(f" *{remark}*" for remark in _remarks(family))
    yield family.unit or "-"


def _label(label: Label) -> str:
    values = ", ".join(f"`{value}`" for value in label.values)
    if label.pattern:
        several = f", at most {label.most}" if label.most > 1 else ""
        values = f"such as `{label.example}`{several}"
    return f"`{label.name}`: {values}"


def _buckets(family: Family) -> str:
    return "buckets up to " + ", ".join(f"{bound:g}" for bound in family.buckets) if family.buckets else ""


def _remarks(family: Family) -> Iterator[str]:
    if family.roles != ROLES:
        yield "Only " + " and ".join(f"`{role}`" for role in family.roles) + "."
    if family.absent:
        yield "Absent until known."
    if family.unknown:
        yield "NaN until measured."


if __name__ == "__main__":
    sys.stdout.write(reference())
