"""The shipped rules: what promtool says of them, and that each is tested and explained."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_rig import ROOT, RULES, needs_prometheus, promtool

CASES = ROOT / "tests" / "testdata" / "rules"


def rules_of(path: Path) -> list[dict[str, Any]]:
    groups = yaml.safe_load(path.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = rules_of(RULES / "alerts.yml")
RECORDED = rules_of(RULES / "recording.yml")


@needs_prometheus
@pytest.mark.parametrize("name", ["alerts.yml", "recording.yml"])
def test_promtool_accepts_the_rules(name: str) -> None:
    promtool("check", "rules", str(RULES / name))


@needs_prometheus
@pytest.mark.parametrize("name", ["alerts.yml", "recording.yml"])
def test_rules_do_what_their_cases_say(name: str) -> None:
    promtool("test", "rules", name, folder=CASES)


def test_names_follow_the_rules() -> None:
    for rule in ALERTS:
        assert re.fullmatch(r"Talkoot([A-Z][a-z]+)+", rule["alert"])
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description"}
        assert "for" in rule, "every alert has slack"
    for rule in RECORDED:
        level, metric, operations = rule["record"].split(":")
        assert level in ("instance", "swarm")
        assert re.fullmatch("up|talkoot_[a-z_]+", metric)
        assert not metric.endswith("_total"), "what was a counter is a rate now"
        assert re.fullmatch("[a-z0-9_]+", operations)


def test_every_alert_fires_and_clears_in_a_case() -> None:
    groups = yaml.safe_load((CASES / "alerts.yml").read_text())["tests"]
    seen: dict[str, list[int]] = {}
    for group in groups:
        for case in group["alert_rule_test"]:
            seen.setdefault(case["alertname"], []).append(len(case["exp_alerts"]))
    assert seen.keys() == {rule["alert"] for rule in ALERTS}
    for name, counts in seen.items():
        assert counts[0] == counts[-1] == 0, f"{name} is quiet before and after"
        assert max(counts) > 0, f"{name} fires"


def test_every_alert_is_explained() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    told = re.findall(r"^### (Talkoot\w+)$", page, re.MULTILINE)
    assert told == [rule["alert"] for rule in ALERTS]
