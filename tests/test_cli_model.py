"""`export` and `generate` read the state directory, whether or not a daemon writes to it."""

import asyncio
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from state_rig import FOUNDERS
from test_cli_main import bad_use, talkoot

from talkoot.averaging.certificate import genesis
from talkoot.averaging.digest import state_tree
from talkoot.cli import outer
from talkoot.cli.errors import CommandError
from talkoot.peer import parameters, presets
from talkoot.peer.founding import first_ledger
from talkoot.peer.head import read_head
from talkoot.peer.manifest import Manifest, Model
from talkoot.peer.sampling import SampleOrder, Sampler
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore

CONFIG = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


def tiny_state(path: Path) -> Manifest:
    """A state directory as a daemon leaves it, with a tiny model after no round."""
    from talkoot.peer.trainer import layout, model

    draft = replace(presets.make("tiny", name="test"), model=Model(config=CONFIG))
    shape = model.layout_of(model.build(draft))
    sealed = replace(
        draft,
        swarm=replace(draft.swarm, founders=(FOUNDERS[0].peer_id,)),
        model=Model(config=CONFIG, layout=shape.hash, numel=shape.numel),
    )
    directory = StateDir(path)
    directory.prepare()
    directory.save_manifest(sealed.canonical())
    theta = torch.from_numpy(np.array(layout.initial_weights(sealed)))
    keys = (FOUNDERS[0].key,)
    ledger = first_ledger(sealed, keys).encode()
    digest = state_tree(theta, torch.zeros(shape.numel), ledger).digest
    certificate = genesis(sealed.swarm_id, digest, keys, FOUNDERS[0]).encode()
    OuterStore.create(directory.outer, shape.numel, theta, ledger=ledger, certificate=certificate)
    return sealed


def test_export_and_generate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tiny_state(tmp_path / "state")
    state = ("--state-dir", tmp_path / "state")
    code, out, _ = talkoot(capsys, "export", tmp_path / "out", *state)
    assert code == 0
    assert "after 0 rounds" in out
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert "not empty" in bad_use(capsys, "export", tmp_path / "out", *state)

    code, out, _ = talkoot(capsys, "generate", "import ", "--max-tokens", "5", *state)
    assert code == 0
    assert out.startswith("import ")
    assert "max_tokens must be" in bad_use(capsys, "generate", "x", "--max-tokens", "0", *state)


def test_the_page_has_a_sample_made_by_a_process_of_its_own(tmp_path: Path) -> None:
    manifest = tiny_state(tmp_path)
    made = asyncio.run(Sampler(tmp_path).sample(SampleOrder("import "), numel=manifest.model.numel))
    assert (made.round, made.prompt, made.error) == (0, "import ", "")
    assert made.text


def test_where_there_is_no_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "holds no swarm" in bad_use(capsys, "export", tmp_path / "out", "--state-dir", tmp_path)
    assert "holds no swarm" in bad_use(capsys, "generate", "x", "--state-dir", tmp_path)
    (tmp_path / "manifest.bin").write_bytes(b"x")
    assert "damaged" in bad_use(capsys, "generate", "x", "--state-dir", tmp_path)
    (tmp_path / "manifest.bin").write_bytes(presets.make("tiny", name="x").canonical())
    assert "no model yet" in bad_use(capsys, "generate", "x", "--state-dir", tmp_path)


def test_damaged_head(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tiny_state(tmp_path)
    (StateDir(tmp_path).outer / "HEAD").write_bytes(b"nonsense")
    code, _, err = talkoot(capsys, "generate", "x", "--state-dir", tmp_path)
    assert (code, err.count("\n")) == (1, 1)


def test_a_state_that_changes_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_state(tmp_path)
    first = read_head(StateDir(tmp_path).outer)
    assert first is not None
    heads = [first, msgspec.structs.replace(first, round=1), msgspec.structs.replace(first, round=1)]
    monkeypatch.setattr(parameters, "read_head", lambda path: heads.pop(0))
    assert outer.read_parameters(tmp_path)[0].round == 1
    assert heads == []

    counter = iter(range(10_000))
    monkeypatch.setattr(
        parameters, "read_head", lambda path: msgspec.structs.replace(first, round=next(counter))
    )
    with pytest.raises(CommandError, match="changes faster"):
        outer.read_parameters(tmp_path)
