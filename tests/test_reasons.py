"""Every reason for which something is refused is on a list, and counted under its own name."""

import ast
from pathlib import Path

import pytest

from talkoot.averaging import reasons
from talkoot.dht import errors
from talkoot.peer.metrics import Metrics

ROOT = Path(__file__).parent.parent
RAISED = {"MessageError": 0, "CertificateError": 0, "RemoteError": 1, "Refused": 1}
"""Where the reason stands among the arguments."""


def raised(package: str) -> set[str]:
    """Reasons that are written out in a package's code."""
    found = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            place = RAISED.get(name)
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


def test_each_is_counted_under_its_own_name() -> None:
    metrics = Metrics()
    for reason in reasons.REASONS:
        metrics.messages_rejected.inc(reason)
    text = metrics.expose().decode()
    for reason in reasons.REASONS:
        assert f'messages_rejected_total{{reason="{reason}"}} 1.0' in text
    assert 'messages_rejected_total{reason="other"}' not in text
