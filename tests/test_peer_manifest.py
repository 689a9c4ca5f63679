"""The canonical form: one byte string for one manifest, and nothing else is accepted from the network."""

from typing import Any

import msgspec
import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from talkoot.averaging.audits import Audits
from talkoot.averaging.robustness import Robustness
from talkoot.peer import presets
from talkoot.peer.manifest import (
    MAX_MANIFEST_BYTES,
    Compression,
    Inner,
    Manifest,
    Model,
    Swarm,
    from_canonical,
)


def tiny(**changes: object) -> Manifest:
    return Manifest(swarm=Swarm(name="s"), model=Model(kind="numpy"), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("preset", [*presets.PRESETS, "numpy-test"])
def test_canonical_form_reads_back(preset: str) -> None:
    manifest = presets.make(preset, name="a swarm")
    assert from_canonical(manifest.canonical()) == manifest
    assert from_canonical(manifest.canonical()).swarm_id == manifest.swarm_id


def test_swarm_id_depends_on_every_section_but_not_on_how_a_number_is_written() -> None:
    assert tiny(inner=Inner(learning_rate=1)).swarm_id == tiny(inner=Inner(learning_rate=1.0)).swarm_id
    assert tiny(inner=Inner(learning_rate=0.5)).swarm_id != tiny(inner=Inner(learning_rate=1.0)).swarm_id


def test_swarms_without_a_robust_rule_have_the_ids_of_before_there_were_any() -> None:
    assert "robustness" not in msgspec.msgpack.decode(tiny().canonical())
    assert tiny(robustness=Robustness()).swarm_id == tiny().swarm_id
    changed = tiny(robustness=Robustness(rule="centered_clip"))
    assert changed.swarm_id != tiny().swarm_id
    assert from_canonical(changed.canonical()) == changed
    assert "arms_at" not in msgspec.msgpack.decode(changed.canonical())["robustness"]
    arming = tiny(robustness=Robustness(rule="trimmed_mean", arms_at=0.5))
    assert from_canonical(arming.canonical()) == arming
    assert arming.swarm_id != tiny(robustness=Robustness(rule="trimmed_mean")).swarm_id
    values = msgspec.msgpack.decode(tiny().canonical())
    for wrong in ({}, {"rule": "mean"}, {"rule": "median"}, {"hostile_share": 2.0}):
        with pytest.raises(ValueError, match=r"\w"):
            from_canonical(msgspec.msgpack.encode(values | {"robustness": wrong}, order="deterministic"))
    refused = msgspec.msgpack.decode(changed.canonical())
    refused["round"]["exchange"] = "sparse"
    with pytest.raises(ValueError, match=r"robustness\.rule must be"):
        from_canonical(msgspec.msgpack.encode(refused, order="deterministic"))


def test_swarms_without_audits_have_the_ids_of_before_there_were_any() -> None:
    assert "audits" not in msgspec.msgpack.decode(tiny().canonical())
    changed = tiny(audits=Audits(trainers=True))
    assert changed.swarm_id != tiny().swarm_id
    assert from_canonical(changed.canonical()) == changed
    values = msgspec.msgpack.decode(tiny().canonical())
    for wrong in ({}, {"trainers": False}, {"trainers": 1}, {"share": 0.6}, {"more": 1}):
        with pytest.raises(ValueError, match=r"\w"):
            from_canonical(msgspec.msgpack.encode(values | {"audits": wrong}, order="deterministic"))


@pytest.mark.parametrize(
    ("change", "bound"),
    [
        ({"share": 0.0}, "share must be above 0"), ({"probation_audits": 0}, "probation_audits must be 1"),
        ({"vote_audits": 2}, "vote_audits must be audits.probation_audits to 100"),
        ({"epoch_rounds": 0}, "epoch_rounds must be 1"), ({"ban_rounds": 10**6 + 1}, "ban_rounds must be 1"),
    ],
)  # fmt: skip
def test_audits_have_bounds(change: dict[str, Any], bound: str) -> None:
    with pytest.raises(ValueError, match=bound):
        Audits(**change)


def test_a_list_of_peers_is_part_of_the_manifest_only_where_there_is_one() -> None:
    ids = ("12D3KooWA", "12D3KooWB")
    listed = Manifest(swarm=Swarm(name="s", admission="allowlist", allowlist=ids), model=Model(kind="numpy"))
    assert "allowlist" not in msgspec.msgpack.decode(tiny().canonical())["swarm"]
    assert from_canonical(listed.canonical()) == listed
    for wrong in (
        {"admission": "allowlist"}, {"allowlist": ids}, {"admission": "open", "allowlist": ids},
        {"admission": "allowlist", "allowlist": ids * 257},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"swarm\.allowlist must be"):
            Swarm(name="s", **wrong)


def test_sealed_means_founders_layout_and_size() -> None:
    assert not tiny().sealed
    sealed = Manifest(
        swarm=Swarm(name="s", founders=("12D3KooW",)), model=Model(kind="numpy", layout="00", numel=1)
    )
    assert sealed.sealed


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x01",
        b"\x80",
        b"\x81" * 60_000,
        b"\x91" * (MAX_MANIFEST_BYTES + 1),
        msgspec.msgpack.encode({"swarm": 1}),
        msgspec.msgpack.encode({"swarm": {"name": "s"}, "model": {"kind": "numpy"}}),
        tiny().canonical() + b"\x00",
        tiny().canonical()[:-1],
        msgspec.msgpack.encode(msgspec.msgpack.decode(tiny().canonical()) | {"more": 1}, order="sorted"),
    ],
)
def test_anything_but_a_canonical_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        from_canonical(data)


@examples(100)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_another_swarm(at: int, value: int) -> None:
    data = bytearray(tiny().canonical())
    at %= len(data)
    if data[at] == value:
        return
    data[at] = value
    try:
        other = from_canonical(bytes(data))
    except ValueError:
        return
    assert other.swarm_id != tiny().swarm_id


@pytest.mark.parametrize(
    "config",
    [
        {"auto_map": {}},
        {"trust_remote_code": True},
        {"a": None},
        {"a": float("nan")},
        {"a": 2**63},
        {"a": {1: 2}},
    ],
)
def test_model_config_is_plain_data_without_code(config: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"model\.config"):
        Model(config=config)


def test_model_config_is_not_nested_without_end() -> None:
    config: dict[str, object] = {}
    for _ in range(9):
        config = {"a": config}
    with pytest.raises(ValueError, match="levels deep"):
        Model(config=config)


def test_codec_names_have_a_form() -> None:
    Compression(codec="topk:64", aggregate_codec="int4:32")
    with pytest.raises(ValueError, match=r"compression\.codec"):
        Compression(codec="../int8")
