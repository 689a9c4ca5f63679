"""`talkoot export`: from a state or a checkpoint, with a model card, and into a repository when asked."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from checkpoint_rig import found_model, model_manifest, write
from fake_hub import FakeHub, fake_hub
from state_rig import advance
from typer.testing import CliRunner

from talkoot.cli.errors import CommandError
from talkoot.cli.main import app
from talkoot.dht.errors import ConfigError
from talkoot.peer.checkpoint_file import open_checkpoint
from talkoot.peer.holdings import Holdings
from talkoot.peer.model_card import model_card

MANIFEST = model_manifest(license="CC0-1.0")
TOKEN = "hf_secretsecretsecret"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory after two rounds, with a checkpoint of the first."""
    path = tmp_path_factory.mktemp("export") / "state"
    holdings: Holdings = found_model(path, MANIFEST)
    advance(holdings, step=0.01)
    write(holdings, path / "checkpoints", MANIFEST)
    advance(holdings, step=0.01)
    holdings.close()
    return path


def checkpoint_in(state: Path) -> Path:
    return state / "checkpoints" / "round-00000001.safetensors"


def export(*arguments: object) -> str:
    answer = CliRunner().invoke(app, ["export", *map(str, arguments)])
    if answer.exception is not None and not isinstance(answer.exception, SystemExit):
        raise answer.exception
    return answer.output


def rows(folder: Path) -> dict[str, str]:
    """The table of the model card."""
    lines = (folder / "README.md").read_text().splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return {pair[0]: pair[1] for pair in cells if len(pair) == 2}


def test_a_state_and_its_card(state: Path, tmp_path: Path) -> None:
    assert "after 2 rounds" in export(tmp_path / "out", "--state-dir", state)
    card = rows(tmp_path / "out")
    assert card["swarm"] == f"little / llama, {MANIFEST.swarm_id.hex()}"
    assert card["rounds"] == "2 (final)"
    assert card["training tokens"] == "600"
    assert card["contributors"] == "3"
    assert card["license"] == "MIT"
    assert card["data license"] == "CC0-1.0"


def test_a_checkpoint_and_its_card(state: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    assert "after 1 rounds" in export(tmp_path / "out", "--checkpoint", checkpoint_in(state))
    file = open_checkpoint(checkpoint_in(state))
    assert rows(tmp_path / "out")["digest"] == file.contents.certificate.value.digest.hex()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in loaded.parameters()])
    from talkoot.peer.checkpoint_file import map_theta

    assert torch.equal(flat, torch.from_numpy(map_theta(file).copy()))


def test_a_checkpoint_alone_knows_less(state: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(checkpoint_in(state), tmp_path / "x"))
    export(tmp_path / "out", "--checkpoint", path)
    assert rows(tmp_path / "out")["contributors"] == "at least 3"


def test_what_does_not_hold_is_not_exported(state: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(checkpoint_in(state), tmp_path / "x"))
    with path.open("r+b") as file:
        file.seek(-3, 2)
        file.write(b"\x7f")
    with pytest.raises(CommandError, match="digest"):
        export(tmp_path / "out", "--checkpoint", path)
    path.write_bytes(b"garbage")
    with pytest.raises(ConfigError, match="no safetensors file"):
        export(tmp_path / "out", "--checkpoint", path)
    with pytest.raises(ConfigError, match="No such file"):
        export(tmp_path / "out", "--checkpoint", tmp_path / "nothing")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--private"], "belongs to --upload"),
        (["--upload", "x"], "OWNER/NAME"),
        (["--upload", "../x"], "OWNER"),
    ],
)
def test_wrong_use(tmp_path: Path, options: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        export(tmp_path / "out", *options)


def test_a_founders_words_cannot_break_the_card() -> None:
    from dataclasses import replace

    evil = 'my own\n---\nlicense: "mit'
    swarm = replace(MANIFEST.swarm, license=evil, name="a\n# b")
    card = model_card(replace(MANIFEST, swarm=swarm), {"x|y": "1|2"})
    front = card.split("---\n")[1]
    assert front.startswith('license: other\nlicense_name: "my own --- license: \'mit"\n')
    assert "\n# b" not in card
    assert "| x/y | 1/2 |" in card


# -- upload ------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with fake_hub(TOKEN) as made:
        monkeypatch.setenv("HF_ENDPOINT", made.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):  # other tests build models, too
            monkeypatch.delenv(name, raising=False)
        yield made


@pytest.mark.processes
def test_an_upload(state: Path, tmp_path: Path, hub: FakeHub) -> None:
    said = export(tmp_path / "out", "--state-dir", state, "--upload", "me/llama", "--private")
    assert f"{hub.endpoint}/me/llama" in said
    assert hub.private
    assert hub.files == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert {"README.md", "model.safetensors", "config.json"} <= hub.files.keys()
    assert TOKEN not in said


@pytest.mark.processes
def test_an_upload_that_is_refused(
    state: Path, tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.exists = True  # and public
    with pytest.raises(CommandError, match=r"there and public.*is complete"):
        export(tmp_path / "one", "--state-dir", state, "--upload", "me/llama", "--private")
    assert hub.files == {}
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrong")
    with pytest.raises(CommandError) as refused:
        export(tmp_path / "two", "--state-dir", state, "--upload", "me/llama")
    assert "hf_wrong" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert (tmp_path / "two" / "config.json").exists()
