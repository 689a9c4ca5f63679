"""Real nodes behind routers of each kind, with `talkoot relay` between them."""

import sys
from pathlib import Path

import pytest
from nat_lab import Kind, why_not
from nat_nodes import Nodes

from talkoot.dht.errors import ConfigError
from talkoot.dht.outside import available

pytestmark = [pytest.mark.processes, pytest.mark.trial]

RESERVED_S = 30.0
NOTICE_S = 5.0
"""A node looks at its connections every two seconds."""
SETTLE_S = 40.0
"""For a second try to punch a hole."""


def test_who_reaches_whom_by_which_path(tmp_path: Path) -> None:
    reason = why_not()
    try:
        available.check()
    except ConfigError as error:
        reason = reason or str(error)
    if reason:
        print(f"SKIPPED: {reason}", file=sys.stderr)
        pytest.skip(reason)
    kinds = {"open": Kind.OPEN, "cone": Kind.CONE, "mate": Kind.CONE, "symmetric": Kind.SYMMETRIC}
    with Nodes(kinds, tmp_path) as nodes:
        nodes.await_reservations(["cone", "mate", "symmetric"], RESERVED_S)
        found = {
            (one, other): nodes.dial(one, other, pieces=4, settle_s=settle_s)
            for one, other, settle_s in (
                ("cone", "mate", SETTLE_S),
                ("symmetric", "open", SETTLE_S),
                ("open", "cone", SETTLE_S),
                ("symmetric", "cone", NOTICE_S),
            )
        }
    paths = {pair: result["path"] for pair, result in found.items()}
    assert paths.pop(("open", "cone")) in ("direct", "punched"), found  # by whoever dialled first
    assert paths == {
        ("cone", "mate"): "punched",
        ("symmetric", "open"): "direct",
        ("symmetric", "cone"): "relayed",
    }, found
    assert all(result["mb_s"] > 1 for result in found.values()), found
