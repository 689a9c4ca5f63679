"""Metrics: names that Prometheus' rules allow, few series, known labels from the start."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from talkoot.dht.network import Events, Traffic
from talkoot.peer.choice import Choice
from talkoot.peer.metrics import FAMILIES, STATES, Metrics, is_known
from talkoot.peer.metrics.known import MAX_SERIES, most_series
from talkoot.peer.metrics.labels import MAX_EXACT, Follow
from talkoot.peer.metrics.reference import reference
from talkoot.peer.options import ROLES, Role


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def samples(metrics: Metrics) -> Iterator[Sample]:
    for family in text_string_to_metric_families(metrics.expose().decode()):
        yield from family.samples


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_names_and_labels_follow_the_rules(metrics: Metrics) -> None:
    families = list(text_string_to_metric_families(metrics.expose().decode()))
    for family in families:
        assert re.fullmatch(r"(talkoot|process|python)_[a-z_]+", family.name)
        assert family.documentation
        if family.name.startswith("talkoot"):
            assert not re.search(r"_(ms|mb|percent|count|age)(_|$)", family.name)
        labels = {label for sample in family.samples for label in sample.labels}
        assert not labels & {"type", "service", "env", "region", "peer", "address", "ip"}
    names = {family.name for family in families}
    assert {
        "talkoot_inner_steps",
        "talkoot_round",
        "talkoot_eval_loss",
        "talkoot_network_receive_bytes",
    } <= names


def test_series_are_few_and_known_from_the_start(metrics: Metrics) -> None:
    metrics.build(backend="cpu", protocol=1)
    metrics.node(swarm_name="demo")
    at_start = {(s.name, *s.labels.items()) for s in samples(metrics)}
    assert len(at_start) < 300
    metrics.messages_rejected.inc("malformed")
    metrics.restarts.inc("trainer")
    metrics.log_messages.inc("error")
    metrics.state("failed")
    assert {(s.name, *s.labels.items()) for s in samples(metrics)} == at_start
    assert value(metrics, "talkoot_messages_rejected_total", reason="oversized") == 0
    assert value(metrics, "talkoot_messages_rejected_total", reason="malformed") == 1


def test_what_was_not_measured_is_no_zero(metrics: Metrics) -> None:
    for name in ("talkoot_training_loss", "talkoot_gradient_norm", "talkoot_learning_rate"):
        found = value(metrics, name)
        assert found is not None
        assert found != found
    assert value(metrics, "talkoot_inner_steps_total") == 0


def test_exactly_one_state_is_set(metrics: Metrics) -> None:
    for state in ("starting", "training", "exchanging"):
        metrics.state(state)
        assert [s for s in STATES if value(metrics, "talkoot_node_state", state=s)] == [state]


def test_a_label_takes_no_text_and_no_flood(metrics: Metrics) -> None:
    for text in ("No such file", "", "x" * 49, "line\nbreak", "ÄÖ"):
        metrics.messages_rejected.inc(text)
    assert value(metrics, "talkoot_messages_rejected_total", reason="other") == 5
    before = len(list(samples(metrics)))
    for number in range(1000):
        metrics.messages_rejected.inc(f"reason_{number}")
    assert len(list(samples(metrics))) == before
    assert value(metrics, "talkoot_messages_rejected_total", reason="other") == 1005
    assert len(metrics.messages_rejected.exact) == MAX_EXACT


def test_the_networks_totals_are_followed(metrics: Metrics) -> None:
    traffic, events, follow = Traffic(), Events(), Follow()
    metrics.follow_network(traffic, events, follow)
    name = "talkoot/0123456789abcdef/bulk/1"
    traffic.sent[name] += 100
    traffic.received[name] += 7
    events.restarts["p2pd"] += 1
    events.rejected["oversized"] += 2
    events.dials, events.clock_offset_s = 3, 0.5
    events.dial_failures["unreachable"] += 1
    for _ in range(2):
        metrics.follow_network(traffic, events, follow)
    traffic.sent[name] += 1
    metrics.follow_network(traffic, events, follow)
    protocol = {"protocol": "bulk"}
    assert value(metrics, "talkoot_network_transmit_bytes_total", **protocol) == 101
    assert value(metrics, "talkoot_network_receive_bytes_total", **protocol) == 7
    assert value(metrics, "talkoot_restarts_total", part="p2pd") == 1
    assert value(metrics, "talkoot_messages_rejected_total", reason="oversized") == 2
    assert value(metrics, "talkoot_dials_total") == 3
    assert value(metrics, "talkoot_dial_failures_total", reason="unreachable") == 1
    assert value(metrics, "talkoot_node_clock_offset_seconds") == 0.5


def test_both_ways_of_catching_up_are_counted(metrics: Metrics) -> None:
    choice = Choice(way="replay", reason="cheaper", rounds=3, replay_bytes=40, snapshot_bytes=100)
    metrics.caught_up(choice)
    metrics.caught_up(replace(choice, way="snapshot", reason="left_branch", replay_bytes=None))
    for reason, count in (("cheaper", 1), ("left_branch", 1), ("bad_record", 0)):
        assert value(metrics, "talkoot_catch_ups_total", reason=reason) == count
    assert value(metrics, "talkoot_catch_up_bytes_total", way="replay") == 40
    assert value(metrics, "talkoot_catch_up_bytes_total", way="snapshot") == 200


def test_many_protocols_are_folded(metrics: Metrics) -> None:
    traffic = Traffic()
    for number in range(20):
        traffic.sent[f"talkoot/p{number}/1"] = 1
    metrics.follow_network(traffic, Events(), Follow())
    assert value(metrics, "talkoot_network_transmit_bytes_total", protocol="other") == 20


def test_saves_and_their_failures_are_two_counters(metrics: Metrics) -> None:
    metrics.checkpoint_saved(1000)
    metrics.checkpoint_failed()
    assert value(metrics, "talkoot_checkpoint_saves_total") == 2
    assert value(metrics, "talkoot_checkpoint_save_failures_total") == 1
    assert value(metrics, "talkoot_checkpoint_size_bytes") == 1000


def test_identity_is_replaced_not_added(metrics: Metrics) -> None:
    for swarm in ("a", "b"):
        metrics.node(swarm_name=swarm)
    infos = [s.labels for s in samples(metrics) if s.name == "talkoot_node_info"]
    assert infos == [{"run": "b", "role": "full"}]


@pytest.mark.parametrize("role", ROLES)
def test_each_role_exports_what_is_declared_for_it(role: Role) -> None:
    metrics = Metrics(role)
    found = {family.name for family in metrics.registry.collect()}
    declared = {name.removesuffix("_total") for name, family in FAMILIES.items() if role in family.roles}
    assert found == declared
    assert all(is_known(sample.name, sample.labels) for sample in samples(metrics))
    assert most_series(role) <= MAX_SERIES


def test_totals_of_two_lives_add_up(metrics: Metrics) -> None:
    for life in (Follow(), Follow()):
        for total in (3, 5, 5, 4):
            life.total(metrics.dials, total)
            life.totals(metrics.restarts, {"p2pd": total})
    assert value(metrics, "talkoot_dials_total") == 10
    assert value(metrics, "talkoot_restarts_total", part="p2pd") == 10


def test_a_paused_node_has_one_reason_and_others_none(metrics: Metrics) -> None:
    metrics.state("paused", "disk")
    assert value(metrics, "talkoot_node_paused", reason="disk") == 1
    assert value(metrics, "talkoot_node_paused", reason="nothing_to_do") == 0
    metrics.state("training")
    assert value(metrics, "talkoot_node_paused", reason="disk") == 0


def test_only_what_a_node_may_export_is_known() -> None:
    assert is_known("talkoot_node_state", {"state": "paused"})
    assert is_known("talkoot_event_loop_lag_seconds_bucket", {"le": "+Inf"})
    assert is_known("talkoot_gpu_temperature_celsius", {"gpu": "1"})
    for sample, labels in (
        ("up", {}),
        ("talkoot_round_total", {}),
        ("talkoot_round", {"node": "good"}),
        ("talkoot_node_state", {}),
        ("talkoot_node_state", {"state": "12D3KooW"}),
        ("talkoot_event_loop_lag_seconds_bucket", {"le": "7.0"}),
        ("talkoot_event_loop_lag_seconds", {}),
        ("talkoot_build_info", {"version": "0" * 33, **dict.fromkeys(("python", "torch", "backend"), "a")}),
        ("talkoot_node_info", {"run": "a\nup 1", "role": "full"}),
    ):
        assert not is_known(sample, labels), (sample, labels)


def test_units_are_base_units_at_the_end_of_the_name() -> None:
    for name, family in FAMILIES.items():
        words = name.removesuffix("_total").split("_")
        if family.unit in ("seconds", "bytes", "ratio", "celsius", "joules"):
            assert words[-1] == family.unit, name
        assert (family.kind == "counter") == name.endswith("_total")
        assert all(len(label.values) <= 14 for label in family.labels)
        assert not {label.name for label in family.labels} & {"peer", "peer_id", "name", "error", "address"}


def test_the_page_of_reference_is_up_to_date() -> None:
    page = Path(__file__).parent.parent / "docs" / "metrics.md"
    assert page.read_text() == reference(), "make metrics"


def test_two_nodes_in_one_process_do_not_mix() -> None:
    one, two = Metrics(), Metrics()
    one.inner_steps.inc(5)
    assert value(two, "talkoot_inner_steps_total") == 0
