"""The checkpoint that transformers loads, and text from the model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from trainer_help import make_manifest

from talkoot.dht.errors import ConfigError
from talkoot.peer.export import export, load
from talkoot.peer.generate import Sampling, generate
from talkoot.peer.trainer import tokenizer
from talkoot.peer.trainer.layout import Flat, initial_weights

MANIFEST = make_manifest("transformers")
INFO: dict[str, str | int | float] = {"round": 3, "digest": "ab" * 32, "held-out loss": 1.25}


@pytest.fixture(scope="module")
def theta() -> Flat:
    return initial_weights(MANIFEST) * 3


@pytest.fixture(scope="module")
def checkpoint(theta: Flat, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out_dir = tmp_path_factory.mktemp("export") / "model"
    export(MANIFEST, theta, out_dir, INFO)
    return out_dir


def test_transformers_loads_the_same_model(checkpoint: Path, theta: Flat) -> None:
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    ours = load(MANIFEST, theta)
    tokens = torch.arange(32).view(2, 16)
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, ours(tokens).logits)
    assert loaded.generation_config.eos_token_id == 0


@pytest.mark.parametrize("text", ["def f(x):\n\treturn 'ä€😀'", "  two  spaces ", "\x00\x7f ", ""])
def test_the_tokenizer_is_the_bytes(checkpoint: Path, text: str) -> None:
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(checkpoint)
    ids = words(text)["input_ids"]
    assert list(ids) == list(text.encode())
    assert words.decode(ids) == text
    assert len(words) == 256


def test_the_directory_is_complete_and_says_what_it_is(checkpoint: Path) -> None:
    names = {path.name for path in checkpoint.iterdir()}
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "README.md",
    } <= names
    card = (checkpoint / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert MANIFEST.swarm_id.hex() in card
    assert "| held-out loss | 1.25 |" in card


def test_only_an_empty_directory_is_written_to(tmp_path: Path, theta: Flat) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("keep")
    with pytest.raises(ConfigError, match="not empty"):
        export(MANIFEST, theta, tmp_path / "full", INFO)
    (tmp_path / "file").write_text("keep")
    with pytest.raises(ConfigError, match="not a directory"):
        export(MANIFEST, theta, tmp_path / "file", INFO)
    with pytest.raises(ConfigError, match="parameters were given"):
        export(MANIFEST, theta[:-1], tmp_path / "empty", INFO)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]
    (tmp_path / "empty").mkdir()
    export(MANIFEST, theta, tmp_path / "empty", INFO)
    assert (tmp_path / "empty" / "config.json").exists()


def test_the_numpy_model_is_not_exported(tmp_path: Path) -> None:
    manifest = make_manifest("numpy")
    with pytest.raises(ConfigError, match="for tests"):
        export(manifest, initial_weights(manifest), tmp_path / "out", INFO)
    with pytest.raises(ConfigError, match="for tests"):
        generate(manifest, initial_weights(manifest), "x")


def test_generation_follows_the_seed(theta: Flat) -> None:
    def text(**settings: object) -> str:
        return "".join(generate(MANIFEST, theta, "def", Sampling(max_tokens=40, **settings)))  # type: ignore[arg-type]

    assert text(seed=1) == text(seed=1)
    assert text(seed=1) != text(seed=2)
    assert text(temperature=0.0) == text(temperature=0.0, seed=5)
    assert text(top_k=1) == text(temperature=0.0)


def test_generation_streams_whole_characters(theta: Flat, monkeypatch: pytest.MonkeyPatch) -> None:
    from talkoot.peer import generate as module

    script = iter(["ä€".encode()[i] for i in range(5)] + [0])
    monkeypatch.setattr(module, "_sample", lambda *_: next(script))
    assert list(generate(MANIFEST, theta, "")) == ["ä", "€"]


def test_a_tokenizer_file_travels_with_the_model(tmp_path: Path, theta: Flat) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    inner = Tokenizer(models.WordLevel({"<eos>": 0, "one": 1, "two": 2, "?": 3}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.save(str(tmp_path / "tokenizer.json"))
    content = (tmp_path / "tokenizer.json").read_bytes()
    data = replace(
        MANIFEST.data, tokenizer="tokenizer.json", tokenizer_hash=tokenizer.tokenizer_hash(content)
    )
    manifest = replace(MANIFEST, data=data)
    export(manifest, theta, tmp_path / "out", INFO, base_dir=tmp_path)
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(tmp_path / "out")("two one")["input_ids"] == [2, 1]
    assert "".join(generate(manifest, np.array(theta), "one", Sampling(max_tokens=5), base_dir=tmp_path))


@pytest.mark.parametrize("field", [{"max_tokens": 0}, {"temperature": -1.0}, {"top_k": -1}])
def test_sampling_names_its_bounds(field: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(field))):
        Sampling(**field)  # type: ignore[arg-type]
