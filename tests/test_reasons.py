"""Every reason for which something is refused is on a list, and counted."""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import pytest

from talkoot.averaging import reasons
from talkoot.averaging.attempt import AttemptPhase
from talkoot.averaging.leader import NOTHING
from talkoot.dht import errors
from talkoot.peer import penalties
from talkoot.peer.metrics import Metrics
from talkoot.peer.metrics.words import (
    CONTRIBUTION_REJECTION_OF,
    PENALTIES,
    REJECTION_OF,
    ROUND_FAILURE_OF,
    ROUND_FAILURES,
)

ROOT = Path(__file__).parent.parent
RAISED = {"MessageError": 0, "CertificateError": 0, "RemoteError": 1, "Refused": 1}
"""Where the reason stands among the arguments."""


def raised(package: str, places: Mapping[str, int] = RAISED) -> set[str]:
    """Reasons that are written out in a package's code."""
    found = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            place = places.get(name)
            if place is not None and len(node.args) > place:
                argument = node.args[place]
                options = [argument.body, argument.orelse] if isinstance(argument, ast.IfExp) else [argument]
                found |= {str(o.value) for o in options if isinstance(o, ast.Constant)}
    return found


@pytest.mark.parametrize("package", ["averaging", "peer", "dht"])
def test_every_reason_is_on_a_list(package: str) -> None:
    found = raised(package)
    assert found
    listed = set(errors.REASONS) if package == "dht" else {*reasons.REASONS, *errors.REASONS}
    assert found <= listed


def returned(package: str) -> set[str]:
    """What functions say instead of raising: `return "reason"` and `return "reason", "words"`."""
    found = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            said = node.value if isinstance(node, ast.Return) else None
            if isinstance(said, ast.Tuple) and said.elts:
                said = said.elts[0]
            if isinstance(said, ast.Constant):
                found.add(str(said.value))
    return found


def test_nothing_is_listed_that_is_not_used() -> None:
    assert set(reasons.REASONS) <= raised("averaging") | raised("peer") | returned("averaging")


def test_each_is_counted_and_known_by_its_own_name() -> None:
    metrics = Metrics()
    words = {*reasons.REASONS, *errors.REASONS, *penalties.REASONS}
    for reason in words:
        metrics.messages_rejected.inc(reason)
    assert set(metrics.messages_rejected.exact) == words
    text = metrics.expose().decode()
    assert 'messages_rejected_total{reason="mismatch"} 5.0' in text
    assert 'messages_rejected_total{reason="signature"} 2.0' in text


def test_only_what_says_nothing_is_counted_as_other() -> None:
    words = {*reasons.REASONS, *errors.REASONS, *penalties.REASONS}
    assert words - REJECTION_OF.keys() == {"refused"}
    assert REJECTION_OF.keys() <= words
    assert {REJECTION_OF.get(word, "other") for word in penalties.REASONS} <= set(PENALTIES)


def test_every_end_of_an_attempt_is_counted_by_its_phase() -> None:
    ends = raised("averaging", {"AttemptFailed": 0, "AttemptOver": 1})
    assert {"leader_lost", "reducer_lost", "others_ahead"} <= ends
    ends |= {f"{phase}_timeout" for phase in get_args(AttemptPhase)}
    assert ends <= ROUND_FAILURE_OF.keys()
    elsewhere = returned("averaging") | set(reasons.REASONS) | {NOTHING}
    assert ROUND_FAILURE_OF.keys() <= ends | elsewhere
    metrics = Metrics()
    for end in (*ROUND_FAILURE_OF, "leader: voters_silent", "signature"):
        metrics.round_failures.inc(end)
    counted = {word: f'round_failures_total{{reason="{word}"}}' for word in ROUND_FAILURES}
    text = metrics.expose().decode()
    assert f"{counted['exchange']} 8.0" in text
    assert f"{counted['other']} 1.0" in text


def test_what_a_cut_leaves_out_is_counted() -> None:
    assert raised("averaging", {"LeftOut": 1}) == CONTRIBUTION_REJECTION_OF.keys()
