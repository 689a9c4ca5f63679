"""What `talkoot explore` draws of one picture of a swarm."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from talkoot.cli.table import table
from talkoot.cli.words import duration, loss, printable

HEADINGS = ("peer", "role", "state", "round", "steps/s", "loss", "path", "rtt", "clock", "heard", "version")
LEFT = ("peer", "role", "state", "path", "version")
_ABOVE = 6
# Lines of a screen that are no peers.
_STYLES = {"direct": "green", "relayed": "yellow", "unreachable": "red"}
CLOCK_S = 2.0
"""A clock that is off by more is shown as wrong."""

Picture = dict[str, Any]


def snapshot(picture: Picture) -> str:
    """Everything once, as plain text."""
    rows = [_cells(peer) for peer in picture["peers"]]
    return "\n".join([*_head(picture), "", table(HEADINGS, rows, left=LEFT), *_left_out(picture, len(rows))])


def screen(picture: Picture, width: int, height: int) -> RenderableType:
    """A screen of that size; peers that do not fit are counted."""
    shown = picture["peers"][: max(1, height - _ABOVE)]
    body = Table(box=None, pad_edge=False, width=width)
    for heading in HEADINGS:
        body.add_column(
            heading, justify="left" if heading in LEFT else "right", no_wrap=True, overflow="crop"
        )
    for peer in shown:
        body.add_row(*_styled(peer))
    foot = "; ".join([*_left_out(picture, len(shown)), "q quits"])
    head = [Text(line, no_wrap=True, overflow="crop") for line in _head(picture)]
    return Group(*head, Text(), body, Text(foot, "dim"))


def _head(picture: Picture) -> list[str]:
    swarm, directory = picture["swarm"], picture["directory"]
    if not directory["looks"]:
        return [f"swarm {picture['swarm_id'][:16]}", "asking the peers of the invite ..."]
    frontier = "-" if swarm["frontier"] is None else str(swarm["frontier"])
    agreeing = f"{swarm['agreeing']} of {swarm['at_frontier']} there agree" if swarm["at_frontier"] else ""
    first = [
        f"swarm {picture['swarm_id'][:16]}",
        f"{swarm['announced']} peers announced, {swarm['reached']} reached, {swarm['training']} train",
        f"{swarm['relays']} relay{'s' * (swarm['relays'] != 1)}" if swarm["relays"] else "",
    ]
    second = [
        f"round {frontier}",
        agreeing,
        f"{swarm['steps_per_second']:.1f} steps/s",
        f"loss {loss(swarm['loss'])}",
    ]
    # That a node has not heard of the newest yet happens all the time.
    refused = {reason: count for reason, count in directory["rejected"].items() if reason != "older"}
    third = [
        f"directory: {directory['nodes']} nodes answered" if directory["nodes"] else "nobody answers",
        f"refused {_counts(refused)}" if refused else "",
        f"failed {_counts(directory['failures'])}" if directory["failures"] else "",
    ]
    return ["  ".join(part for part in line if part) for line in (first, second, third)]


def _counts(counted: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counted.items()))


def _left_out(picture: Picture, shown: int) -> list[str]:
    more = picture["swarm"]["announced"] + picture["swarm"]["relays"] - shown
    return [f"{more} more"] if more > 0 else []


def _cells(peer: Picture) -> list[str]:
    name = peer["public_name"] or peer["peer_id"][-8:]
    rtt, offset = peer["rtt_s"], peer["clock_offset_s"]
    return [
        printable(name),
        peer["role"],
        printable(peer["state"]),
        str(peer["round"]),
        f"{peer['speed']:.2f}",
        loss(peer["loss"]),
        peer["path"],
        "-" if rtt is None else f"{1000 * rtt:.0f} ms",
        "-" if offset is None else f"{offset:+.1f} s" if abs(offset) < 1000 else f"{offset:+.0e} s",
        duration(peer["age_s"]),
        printable(peer["version"]),
    ]


def _styled(peer: Picture) -> list[Text]:
    cells = [Text(cell) for cell in _cells(peer)]
    cells[HEADINGS.index("path")].stylize(_STYLES.get(peer["path"], ""))
    offset = peer["clock_offset_s"]
    if offset is not None and abs(offset) > CLOCK_S:
        cells[HEADINGS.index("clock")].stylize("red")
    return cells
