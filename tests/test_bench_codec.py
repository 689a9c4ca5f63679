"""`talkoot bench codec`: what it measures is right, what it prints fits, and a refusal is one line."""

import json
import math
import os
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_input_rig import refused
from matplotlib.text import Text
from safetensors.torch import save_file
from typer.testing import CliRunner

from talkoot.cli.bench_codec import table
from talkoot.cli.main import app
from talkoot.cli.plot_codecs import distortion_svg, draw
from talkoot.compression.codec import NAMES
from talkoot.dht import hivemind_codecs
from talkoot.peer import bench_codec
from talkoot.peer import bench_codec_worker as worker
from talkoot.peer.bench_codec_data import DISTRIBUTIONS, load, vector
from talkoot.peer.bench_gradient import record

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A file of 300 values that stand for a pseudo-gradient."""
    path = tmp_path / "own.safetensors"
    values = torch.linspace(-1, 2, 300)
    save_file({"a": values[:100].reshape(4, 25), "b": values[100:], "step": torch.tensor([7])}, path)
    return path


# -- what is measured --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kurtosis"), [("gaussian", 3.0), ("laplace", 6.0)])
def test_random_vectors_have_their_shape(name: str, kurtosis: float) -> None:
    values = vector(name, 200_000, None).double()
    assert torch.equal(values.float(), vector(name, 200_000, None))
    scaled = values / values.square().mean().sqrt()
    assert scaled.mean().abs() < 0.01
    assert float(scaled.pow(4).mean()) == pytest.approx(kurtosis, rel=0.05)


def test_student_t_has_heavy_tails() -> None:
    values = vector("student_t4", 200_000, None).double() / 0.01
    assert float((values.abs() > 2.776).double().mean()) == pytest.approx(0.05, rel=0.05)  # the table's t


def test_a_recorded_vector_is_repeated_or_cut(recorded: Path) -> None:
    values = load(recorded)
    assert values.shape == (300,)
    assert torch.equal(vector("recorded", 700, recorded), torch.cat([values, values, values[:100]]))
    assert torch.equal(vector("recorded", 256, recorded), values[:256])


def test_a_real_pseudo_gradient_is_made() -> None:
    delta = record(first_steps=1, round_steps=1)
    assert delta.shape == (370_848,)
    assert 0 < abs(delta).max() < 0.1


@pytest.mark.parametrize("name", NAMES)
def test_errors_are_those_of_the_codec(name: str) -> None:
    values = vector("gaussian", 5000, None)
    subject = worker.subject(name, values)
    subject.encode()
    subject.decode()
    found = worker.errors(name, values, subject.decoded_P)
    lost = (values.double() - subject.decoded_P.double()).square().sum()
    assert found["nmse"] == pytest.approx(float(lost / values.double().square().sum()), rel=1e-9)
    assert found["nmse"] < 1
    assert subject.num_bytes <= 4 * 5000 + 100


def test_of_top_k_the_kept_values_count_apart() -> None:
    values, decoded = torch.tensor([1.0, -4.0, 2.0, 3.0]), torch.tensor([0.0, -3.0, 0.0, 3.0])
    found = worker.errors("topk:2", values, decoded)
    assert found["nmse"] == pytest.approx(6 / 30)
    assert found["kept_energy"] == pytest.approx(25 / 30)
    assert found["value_error"] == pytest.approx(1 / 25)


@pytest.mark.processes
def test_the_command(recorded: Path, tmp_path: Path) -> None:
    svg, codecs = tmp_path / "plot.svg", ("int8", *hivemind_codecs.NAMES)
    arguments = ["--numel", "65536", "--recorded", str(recorded), "--svg", str(svg), "--json"]
    arguments += [word for name in codecs for word in ("--codec", name)]
    result = CliRunner().invoke(app, ["bench", "codec", *arguments])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [row["codec"] for row in rows] == list(codecs) * len(DISTRIBUTIONS)
    assert [row["distribution"] for row in rows[:: len(codecs)]] == list(DISTRIBUTIONS)
    for row in rows:
        assert all(math.isfinite(row[key]) for key in ("bits_per_param", "nmse", "scalar_ratio"))
        assert row["encode_mb_s"] > 0
        assert row["decode_mb_s"] > 0
    errors = {row["codec"]: row["nmse"] for row in rows if row["distribution"] == "gaussian"}
    assert errors["hivemind:none"] == 0
    assert errors["int8"] < 5.0e-5 < errors["hivemind:uniform8"] < 3e-4
    assert rows[0]["bits_per_param"] < 8.07
    assert svg.read_bytes().startswith(b"<?xml")


# -- what is printed ---------------------------------------------------------------------------------


def rows_of(*codecs: tuple[str, float, float]) -> list[dict[str, Any]]:
    """Rows as the worker makes them, for (codec, bits, error)."""
    return [
        {
            "codec": name,
            "distribution": kind,
            "bits_per_param": bits,
            "nmse": error,
            "shannon_ratio": error * 4**bits,
            "scalar_ratio": 12345.678,
            "encode_mb_s": 12345.6,
            "decode_mb_s": 0.5,
            "encode_peak_extra": 1.234,
        }
        | ({"value_error": 0.004, "kept_energy": 0.12} if name == "topk" else {})
        for kind in DISTRIBUTIONS
        for name, bits, error in codecs
    ]


MANY = rows_of(
    ("fp32", 32.0, 0.0),
    ("hivemind:quantile8", 8.0157, 7e-4),
    ("hivemind:uniform8", 8.0157, 2.6e-4),
    ("int8", 8.0626, 4.9e-5),
    *((f"sixteen{number}", 16.0 + number / 1e4, 4.3e-8) for number in range(6)),
    ("topk", 0.16, 0.9),
)


def test_the_table_fits_100_columns() -> None:
    text = table(MANY)
    assert max(map(len, text.splitlines())) <= 110
    assert "topk on recorded: keeps 12.0 % of the energy" in text
    codecs = text.splitlines()[1:12]
    assert all(len(line) <= 100 for line in codecs)


def test_every_codec_is_labelled_and_no_label_hides_another() -> None:
    figure, labels = draw([row for row in MANY if row["nmse"]])
    assert {label.get_text() for label in labels} == {row["codec"] for row in MANY if row["nmse"]}
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(label) for label in labels]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert all(figure.bbox.contains(box.x1, box.y1) for box in boxes)


def test_the_same_figures_give_the_same_picture() -> None:
    assert distortion_svg(MANY) == distortion_svg(MANY)


def test_nothing_to_draw_is_drawn() -> None:
    assert distortion_svg(rows_of(("fp32", 32.0, 0.0)))


# -- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--numel", "0"], "--numel must be 256 to 268435456, got 0"),
        (["--numel", "-1"], "--numel must be 256 to 268435456, got -1"),
        (["--codec", "int9"], "no codec 'int9'"),
        (["--codec", "hivemind:blockwise8"], "hivemind:uniform8"),
        (["--recorded", "/nowhere/x.safetensors"], "/nowhere/x.safetensors: No such file or directory"),
        (["--svg", "/nowhere/x.svg"], "/nowhere/x.svg: No such file or directory"),
        (["--svg", "/"], "/: Is a directory"),
    ],
)
def test_wrong_use(capsys: Capsys, arguments: list[str], words: str) -> None:
    outcome = refused(capsys, "bench", "codec", *arguments)
    assert outcome.code == 2
    assert words in outcome.line


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"a": torch.zeros(5)}, "no floating point values other than zero"),
        ({"a": torch.arange(5)}, "no floating point values other than zero"),
        ({"a": torch.tensor([1.0, math.nan])}, "values that are not finite"),
        (None, "is no safetensors file"),
    ],
)
def test_a_file_that_is_no_pseudo_gradient(
    capsys: Capsys, tmp_path: Path, tensors: dict[str, torch.Tensor] | None, words: str
) -> None:
    path = tmp_path / "x.safetensors"
    if tensors is None:
        path.write_bytes(os.urandom(100))
    else:
        save_file(tensors, path)
    outcome = refused(capsys, "bench", "codec", "--recorded", path)
    assert outcome.code == 2
    assert words in outcome.line


def test_a_disk_that_is_full_after_all(
    capsys: Capsys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "plot.svg"

    def measure(*_: object) -> list[dict[str, Any]]:
        path.unlink()  # was writable before
        path.symlink_to("/dev/full")
        return MANY

    monkeypatch.setattr(bench_codec, "measure", measure)
    outcome = refused(capsys, "bench", "codec", "--svg", path)
    assert (outcome.code, outcome.line) == (2, f"{path}: No space left on device")
