"""Every query of the shipped dashboards, as Grafana would ask it."""

import json
import re
from collections.abc import Iterator
from typing import Any

import make_boards

NAME = re.compile(
    r"\b(?:instance:|swarm:)?(?:talkoot|process|python|scrape|up|ALERTS)[a-z0-9_:]*(?=[\s{)\[]|$)"
)


def queries() -> Iterator[tuple[str, str, str]]:
    """(board, panel, PromQL) as they stand in the shipped files."""
    for path in sorted(make_boards.FOLDER.glob("*.json")):
        board: dict[str, Any] = json.loads(path.read_text())
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                yield path.stem, panel["title"], target["expr"]


def filled(expression: str) -> str:
    """As Grafana asks it, for all nodes."""
    for variable, value in (("$swarm", ".*"), ("$instance", ".*"), ("$__rate_interval", "1m")):
        expression = expression.replace(variable, value)
    assert "$" not in expression, expression
    return expression


def names_in(expression: str) -> set[str]:
    """The metrics that an expression asks for."""
    without_labels = re.sub(r"\{[^}]*\}", " ", expression)
    return set(NAME.findall(without_labels))
