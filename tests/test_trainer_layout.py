"""The flat parameter vector and the models it is made of."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainer_help import LLAMA, make_manifest

from talkoot.dht.errors import ConfigError
from talkoot.peer.trainer import layout, model
from talkoot.peer.trainer.layout import Layout, describe, initial_weights, require_match


def _with_config(**changes: Any) -> Any:
    manifest = make_manifest("transformers", seal=False)
    config = {key: value for key, value in (LLAMA | changes).items() if value is not None}
    return replace(manifest, model=replace(manifest.model, config=config))


def test_offsets_leave_no_gaps_and_the_hash_sees_everything() -> None:
    one = Layout.of([("a", (2, 3)), ("b", ()), ("c", (4,))])
    assert [(slot.offset, slot.numel) for slot in one] == [(0, 6), (6, 1), (7, 4)]
    assert one.numel == 11
    others: list[list[tuple[str, tuple[int, ...]]]] = [
        [("a", (3, 2)), ("b", ()), ("c", (4,))],
        [("b", ()), ("a", (2, 3)), ("c", (4,))],
        [("a", (2, 3))],
    ]
    assert len({one.hash, *(Layout.of(other).hash for other in others)}) == 4


def test_tied_weights_lie_there_once() -> None:
    tied = model.layout_of(model.build(_with_config()))
    untied = model.layout_of(model.build(_with_config(tie_word_embeddings=False)))
    assert untied.numel - tied.numel == 256 * 16
    assert sum("embed" in slot.name or "lm_head" in slot.name for slot in tied) == 1


def test_initial_weights_follow_the_seed_and_leave_the_random_state_alone() -> None:
    manifest = make_manifest("transformers")
    before = torch.get_rng_state()
    first, second = initial_weights(manifest), initial_weights(manifest)
    other = initial_weights(replace(manifest, inner=replace(manifest.inner, seed=1)))
    assert first.dtype == np.float32
    assert first.tobytes() == second.tobytes() != other.tobytes()
    assert torch.equal(before, torch.get_rng_state())
    assert describe(manifest) == (manifest.model.layout, len(first))


def test_numpy_weights_follow_the_seed() -> None:
    manifest = make_manifest("numpy")
    assert initial_weights(manifest).tobytes() == initial_weights(manifest).tobytes()
    assert len(initial_weights(manifest)) == manifest.model.numel == 256 * 8 + 8 * 256 + 256


def test_another_layout_is_refused() -> None:
    manifest = make_manifest("numpy")
    own = layout.Layout.of([("x", (3,))])
    with pytest.raises(ConfigError, match="not the swarm's"):
        require_match(own, manifest)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name_or_path": "someone/model"}, "name_or_path"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"model_type": None}, "model_type"),
        ({"model_type": "no-such-model"}, "does not build"),
        ({"num_attention_heads": 3}, "does not build"),
        ({"vocab_size": 255}, "vocab_size"),
        ({"hidden_size": "wide"}, "does not build"),
        ({"max_position_embeddings": 8}, "max_position_embeddings"),
        ({"hidden_size": 2**20, "num_hidden_layers": 1000}, "at most"),
    ],
)
def test_a_bad_configuration_is_one_clear_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        model.build(_with_config(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", [{"hidden": 0}, {"vocab_size": 1}, {"step_ms": -1}, {"layers": 2}])
def test_a_bad_numpy_configuration_names_the_key(config: dict[str, Any]) -> None:
    manifest = make_manifest("numpy", seal=False)
    with pytest.raises(ConfigError, match=next(iter(config))):
        describe(replace(manifest, model=replace(manifest.model, config=config)))


def test_running_statistics_are_refused_and_constants_are_not() -> None:
    with pytest.raises(ConfigError, match="running_mean"):
        model.require_stateless(torch.nn.Sequential(torch.nn.BatchNorm1d(4)))
    rotary = torch.nn.Module()
    rotary.register_buffer("inv_freq", torch.ones(3), persistent=False)
    model.require_stateless(rotary)


@pytest.mark.processes
def test_the_numpy_trainer_never_imports_torch(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(make_manifest("numpy").canonical())
    program = (
        "import sys; from pathlib import Path;"
        "from talkoot.peer.trainer import worker, workplace, process, layout;"
        "m = workplace.load_manifest(Path(sys.argv[1])); workplace.make_engine(m).probe(16);"
        "layout.describe(m); assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "m.bin")], check=True, timeout=60)
