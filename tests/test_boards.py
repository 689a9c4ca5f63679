"""The shipped dashboards are what the generator makes, and ask in sound PromQL for metrics that there are."""

import json
from pathlib import Path
from typing import Any

import make_boards
import pytest
import yaml
from board_queries import filled, names_in, queries
from prometheus_rig import RULES, needs_prometheus, promtool

from talkoot.peer.metrics import family_of

OURS = {"up", "ALERTS", "scrape_duration_seconds"}
"""What Prometheus says itself."""


def rules() -> list[dict[str, Any]]:
    files = [yaml.safe_load(path.read_text()) for path in sorted(RULES.glob("*.yml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def test_the_shipped_boards_are_what_the_generator_makes() -> None:
    shipped = {path.name: path.read_text() for path in make_boards.FOLDER.glob("*.json")}
    assert shipped == dict(make_boards.files()), "run `make boards`"


def test_boards_and_panels_have_names_and_addresses_of_their_own() -> None:
    boards = [json.loads(path.read_text()) for path in make_boards.FOLDER.glob("*.json")]
    assert len({board["uid"] for board in boards}) == len({board["title"] for board in boards}) == 4
    for board in boards:
        panels = [panel for panel in board["panels"] if panel["type"] != "row"]
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
        for panel in panels:
            assert panel["description"].endswith(".")
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


def test_boards_and_rules_ask_for_metrics_that_nodes_export() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    asked = set[str]()
    for expression in [*(expression for _, _, expression in queries()), *(rule["expr"] for rule in rules())]:
        names = names_in(expression)
        assert names, expression
        asked |= names
    unknown = {name for name in asked - recorded - OURS if family_of(name) is None}
    assert not unknown
    used = {name for rule in rules() for name in names_in(rule["expr"])} | asked
    assert recorded <= used, "a sum that nobody asks for"


@needs_prometheus
def test_every_query_is_sound_promql(tmp_path: Path) -> None:
    found = [
        {"record": f"q:{number}:x", "expr": filled(expression)}
        for number, (_, _, expression) in enumerate(queries())
    ]
    assert len(found) > 80
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": found}]}))
    promtool("check", "rules", str(file))


@pytest.mark.parametrize("text", ['rate(talkoot_x_total{a="b"}[5m])', "swarm:talkoot_y:max + up == 0"])
def test_names_are_found_in_queries(text: str) -> None:
    assert names_in(text) in ({"talkoot_x_total"}, {"swarm:talkoot_y:max", "up"})
