"""One worker alone, and the loss of a file of parameters."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from trainer_help import make_manifest, make_spec, write_manifest

from talkoot.peer.trainer import solo
from talkoot.peer.trainer.layout import initial_weights


def test_solo_training_lowers_the_held_out_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_manifest(make_manifest(), tmp_path)
    code = solo.main(["--manifest", str(path), "--steps", "60", "--windows", "16", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert code == 0
    assert result["loss_start"] == pytest.approx(np.log(256), rel=0.05)
    assert result["loss_end"] < result["loss_start"] - 0.5
    assert result["steps"] == 60
    assert result["tokens"] == 60 * 4 * 16
    assert [step for step, _ in result["curve"]] == list(range(0, 61, 6))


def test_solo_training_is_deterministic_and_files_are_measured(tmp_path: Path) -> None:
    manifest = make_manifest("transformers")
    spec = make_spec(manifest, tmp_path)
    runs = [solo.train(manifest, spec, steps=5, windows=8) for _ in range(2)]
    assert runs[0].curve == runs[1].curve
    initial_weights(manifest).tofile(tmp_path / "flat")
    assert solo.evaluate_file(manifest, spec, tmp_path / "flat", 8) == runs[0].loss_start
    (tmp_path / "flat").write_bytes(b"short")
    with pytest.raises(ValueError, match="instead of"):
        solo.evaluate_file(manifest, spec, tmp_path / "flat", 8)


def test_a_bad_manifest_is_one_line_and_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert solo.main(["--manifest", str(tmp_path / "none.bin"), "--steps", "1"]) == 2
    (tmp_path / "bad.bin").write_bytes(b"not a manifest")
    assert solo.main(["--manifest", str(tmp_path / "bad.bin"), "--steps", "1"]) == 2
    manifest = make_manifest()
    write_manifest(replace(manifest, data=replace(manifest.data, paths=("nope*",))), tmp_path)
    assert solo.main(["--manifest", str(tmp_path / "manifest.bin"), "--steps", "1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("talkoot: ") for line in lines)
