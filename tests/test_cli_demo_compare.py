"""The comparison after a demo: real evaluations and a real single worker, small."""

from dataclasses import replace
from pathlib import Path

import pytest

from talkoot.cli.demo_compare import Outcome, measure
from talkoot.cli.errors import CommandError
from talkoot.peer import presets
from talkoot.peer.trainer import layout
from talkoot.peer.trainer.numpy_engine import NumpyEngine


@pytest.fixture
def outcome(tmp_path: Path) -> Outcome:
    """A swarm of the numpy model that did not move from its initial weights."""
    for document in range(20):
        lines = [f"line {line} of text {document} to learn from" for line in range(200)]
        (tmp_path / f"{document}.txt").write_text("\n".join(lines))
    draft = presets.make("numpy-test", name="test")
    data = replace(draft.data, source="text", paths=("*.txt",), held_out_percent=50.0)
    shape = NumpyEngine(draft).layout
    manifest = replace(
        draft,
        data=data,
        swarm=replace(draft.swarm, founders=("12D3KooWfounder",)),
        model=replace(draft.model, layout=shape.hash, numel=shape.numel),
    )
    (tmp_path / "manifest.bin").write_bytes(manifest.canonical())
    layout.initial_weights(manifest).tofile(tmp_path / "initial.f32")
    (tmp_path / "final.f32").write_bytes((tmp_path / "initial.f32").read_bytes())
    return Outcome(
        manifest=tmp_path / "manifest.bin",
        final=tmp_path / "final.f32",
        initial=tmp_path / "initial.f32",
        steps=20,
        device="cpu",
        threads=1,
    )


@pytest.mark.processes
def test_losses_are_measured_on_the_same_windows(outcome: Outcome) -> None:
    said: list[str] = []
    losses = measure(outcome, said.append)
    assert losses.start is not None
    assert losses.single is not None
    assert losses.start == losses.end
    assert losses.single < losses.start
    assert losses.single_curve[0][1] == pytest.approx(losses.start)
    assert losses.single_curve[-1] == (20, losses.single)
    assert losses.single_steps == 20
    assert measure(replace(outcome, initial=None), said.append).start == pytest.approx(losses.start)
    assert any("single worker" in line for line in said)


@pytest.mark.processes
def test_what_fails_is_said(outcome: Outcome) -> None:
    outcome.final.write_bytes(b"short")
    with pytest.raises(CommandError, match="bytes instead of"):
        measure(outcome, print)
