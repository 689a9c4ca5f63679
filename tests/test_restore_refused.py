"""Checkpoints that nothing can be started from: one line, exit code 2, nothing written and nothing lost."""

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from bad_input_rig import draft, found_in, invite_to, refused, tree, written
from checkpoint_rig import write
from restore_rig import Made, key_only, make
from state_rig import advance

from talkoot.averaging.certificate import genesis
from talkoot.averaging.digest import state_tree
from talkoot.dht.identity import Identity
from talkoot.peer import presets, restorable, restoring
from talkoot.peer.checkpoint_file import open_checkpoint
from talkoot.peer.founding import first_ledger
from talkoot.peer.holdings import open_holdings
from talkoot.peer.rules_of import rules_of
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore

Capsys = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("restore"))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where another swarm was founded."""
    return found_in(tmp_path_factory.mktemp("foreign"))


def line_for(capsys: Capsys, paths: StateDir, checkpoint: Path, *arguments: object) -> str:
    """The one line with which a start is refused; the state directory is as it was."""
    before = tree(paths.path) if paths.path.exists() else {}
    options = ("--state-dir", paths.path, "--profile", "test", "--checkpoint", checkpoint)
    outcome = refused(capsys, "run", *arguments, *options)
    assert outcome.code == 2
    after = tree(paths.path) if paths.path.exists() else {}
    assert {name: after[name] for name in after if name != "identity.key" or name in before} == before
    return outcome.line


# -- the file ------------------------------------------------------------------------------------------


def of_format(version: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data.replace(b'"talkoot_checkpoint":"1"', b'"talkoot_checkpoint":"%s"' % version)


def flipped(at: float) -> Callable[[bytes], bytes]:
    def spoil(data: bytes) -> bytes:
        place = int(at * len(data))
        return data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :]

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: b"", "no safetensors file"),
        (lambda data: b"hello, world" * 100, "no safetensors file"),
        (lambda data: data[:-1], "it was cut short or added to"),
        (lambda data: data[: len(data) // 2], "it was cut short or added to"),
        (lambda data: data + b"x", "it was cut short or added to"),
        (lambda data: data[:100], "no safetensors file"),
        (of_format(b"2"), "a checkpoint of format '2'; this version of talkoot reads 1"),
        (flipped(0.5), "does not hold: digest: parameters and momentum are not those that the certificate"),
        (flipped(0.999), "does not hold: digest: "),
    ],
)
def test_a_spoilt_file(
    capsys: Capsys, made: Made, tmp_path: Path, spoil: Callable[[bytes], bytes], words: str
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(spoil(made.checkpoint.read_bytes()))
    line = line_for(capsys, key_only(made, tmp_path / "state"), path)
    assert line.startswith(str(path))
    assert words in line


@pytest.mark.parametrize("at", [9, 40, 300, 900, 2000, 2600])
def test_a_flipped_bit_in_the_header(capsys: Capsys, made: Made, tmp_path: Path, at: int) -> None:
    data = bytearray(made.checkpoint.read_bytes())
    data[at] ^= 1
    (tmp_path / "x.safetensors").write_bytes(data)
    assert line_for(capsys, key_only(made, tmp_path / "state"), tmp_path / "x.safetensors")


def test_another_kind_of_safetensors_file(capsys: Capsys, made: Made, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(3)}, tmp_path / "model.safetensors")
    line = line_for(capsys, key_only(made, tmp_path / "state"), tmp_path / "model.safetensors")
    assert "a safetensors file, but no checkpoint of talkoot" in line


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "No such file or directory"),
        ("folder", "is a folder: --checkpoint takes one file"),
        ("pipe", "no regular file"),
        ("below a file", "No such file or directory"),
    ],
)
def test_no_file(capsys: Capsys, made: Made, tmp_path: Path, kind: str, words: str) -> None:
    path = tmp_path / "there"
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "below a file":
            path = made.checkpoint / "x"
    assert words in line_for(capsys, key_only(made, tmp_path / "state"), path)


def test_a_file_that_cannot_be_read(
    capsys: Capsys, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def deny(path: Path, *arguments: object, **options: object) -> object:
        if path == made.checkpoint:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", deny)
    line = line_for(capsys, StateDir(tmp_path / "state"), made.checkpoint)
    assert line == f"cannot read {made.checkpoint}: Permission denied"


def test_a_weak_round(capsys: Capsys, made: Made, tmp_path: Path) -> None:
    line = line_for(capsys, key_only(made, tmp_path / "state"), made.weak)
    assert "its last round is weak and may be rolled back: take an earlier one" in line


def test_a_number_that_is_none(capsys: Capsys, tmp_path: Path) -> None:
    """Certified, and of no use all the same."""
    folder = found_in(tmp_path / "founded")
    paths = StateDir(folder / "state")
    founder = Identity.load_or_create(paths.key_file)
    manifest = presets.make("numpy-test", name="nan")
    manifest = replace(
        manifest,
        swarm=replace(manifest.swarm, founders=(founder.peer_id,)),
        model=replace(manifest.model, layout="00" * 32, numel=1000),
    )
    ledger = first_ledger(manifest, (founder.key,)).encode()
    theta = torch.ones(1000)
    theta[500] = float("nan")
    digest = state_tree(theta, torch.zeros(1000), ledger).digest
    start = genesis(manifest.swarm_id, digest, (founder.key,), founder).encode()
    broken = StateDir(tmp_path / "broken")
    broken.prepare()
    OuterStore.create(broken.outer, 1000, theta, ledger=ledger, certificate=start)
    path = write(open_holdings(broken, rules_of(manifest)), tmp_path / "kept", manifest)
    target = StateDir(tmp_path / "state")
    target.prepare()
    shutil.copy(paths.key_file, target.key_file)
    outcome = refused(capsys, "run", "--state-dir", target.path, "--checkpoint", path)
    assert (outcome.code, "a number in it that is not finite" in outcome.line) == (2, True)
    assert not target.outer.exists()


# -- the place -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_manifest", [False, True])
def test_where_there_is_a_state(capsys: Capsys, made: Made, tmp_path: Path, with_manifest: bool) -> None:
    shutil.copytree(made.state, tmp_path / "state")
    manifest = [draft(tmp_path / "swarm")] if with_manifest else []
    line = line_for(capsys, StateDir(tmp_path / "state"), made.checkpoint, *manifest)
    assert (
        "holds the state after 4 rounds already: run without --checkpoint to go on from it, or move" in line
    )


def test_where_there_is_a_damaged_state(capsys: Capsys, made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.state, tmp_path / "state")
    (tmp_path / "state" / "outer" / "HEAD").write_bytes(b"x")
    line = line_for(capsys, StateDir(tmp_path / "state"), made.checkpoint)
    assert "holds a damaged state already" in line


def test_no_room(capsys: Capsys, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StateDir, "free_bytes", lambda paths: 1000)
    line = line_for(capsys, key_only(made, tmp_path / "state"), made.checkpoint)
    assert "of disk, 0 MB are free: make room or choose another --state-dir" in line


def test_a_disk_that_becomes_full(
    capsys: Capsys, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(OuterStore, "commit", full)
    paths = key_only(made, tmp_path / "state")
    outcome = refused(capsys, "run", "--state-dir", paths.path, "--checkpoint", made.checkpoint)
    assert outcome.code == 2
    assert f"cannot copy {made.checkpoint} to {paths.outer}: No space left on device" in outcome.line
    assert not paths.outer.exists()


# -- the swarm -----------------------------------------------------------------------------------------


def test_another_swarm_than_the_state_directorys(
    capsys: Capsys, made: Made, foreign: Path, tmp_path: Path
) -> None:
    paths = StateDir(tmp_path / "state")
    shutil.copytree(foreign / "state", paths.path)
    shutil.rmtree(paths.outer)
    line = line_for(capsys, paths, made.checkpoint)
    assert f"is of swarm {made.manifest.swarm_id.hex()[:12]} ('test'), but {paths.path} is the" in line


def test_another_swarm_than_the_invites(capsys: Capsys, made: Made, foreign: Path, tmp_path: Path) -> None:
    line = line_for(capsys, StateDir(tmp_path / "state"), made.checkpoint, "--join", invite_to(foreign))
    assert "but the invite is one of swarm" in line
    assert "a new swarm that begins with its parameters needs a draft manifest" in line


def test_another_swarm_than_the_sealed_manifests(
    capsys: Capsys, made: Made, foreign: Path, tmp_path: Path
) -> None:
    line = line_for(capsys, StateDir(tmp_path / "state"), made.checkpoint, foreign / "swarm.toml")
    assert f"but {foreign / 'swarm.toml'} is the manifest of swarm" in line


def test_a_stranger_without_an_invite(capsys: Capsys, made: Made, tmp_path: Path) -> None:
    line = line_for(capsys, StateDir(tmp_path / "state"), made.checkpoint)
    assert "by invitation only" in line


def test_an_expired_invite(capsys: Capsys, made: Made, tmp_path: Path) -> None:
    old = invite_to(made.folder, expires=1_700_000_000)
    line = line_for(capsys, StateDir(tmp_path / "state"), made.checkpoint, "--join", old)
    assert "the invite expired on 2023-11-14" in line


def test_too_old_to_be_trusted(capsys: Capsys, made: Made, tmp_path: Path) -> None:
    path = Path(shutil.copy(made.checkpoint, tmp_path / "old.safetensors"))
    os.utime(path, (1_700_000_000, 1_700_000_000))
    line = line_for(capsys, StateDir(tmp_path / "state"), path, "--observe")
    assert line.startswith(
        f"{path} is of 2023-11-14, and this swarm trusts nothing that is older than 60 days"
    )
    assert "give an invite of these days with --join" in line


def test_another_past_than_the_logs(capsys: Capsys, made: Made, tmp_path: Path) -> None:
    paths = key_only(made, tmp_path / "state", ["swarm", "manifest.bin"])
    other = key_only(made, tmp_path / "other")
    refill(made, other)
    shutil.copy(other.round_log, paths.round_log)
    line = line_for(capsys, paths, made.checkpoint)
    assert f"{paths.round_log} has another round 2 than {made.checkpoint}" in line


def refill(made: Made, paths: StateDir) -> None:
    """Another three rounds after the first state of the same swarm."""
    restoring.restore(restorable.read(made.first), paths)
    holdings = open_holdings(paths, rules_of(made.manifest))
    for _ in range(3):
        advance(holdings, by=[made.founder], step=0.5)
    holdings.close()


# -- a new swarm ---------------------------------------------------------------------------------------


def test_parameters_of_another_model(capsys: Capsys, made: Made, tmp_path: Path) -> None:
    config = {**presets.make("tiny", name="x").model.config, "hidden_size": 16, "num_hidden_layers": 1}
    manifest = presets.make("tiny", name="next")
    path = written(tmp_path / "next", replace(manifest, model=replace(manifest.model, config=config)))
    line = line_for(capsys, StateDir(tmp_path / "state"), made.checkpoint, path)
    assert f"is of another model, with {made.manifest.model.numel} parameters; this one has" in line


def test_spoilt_parameters_for_a_new_swarm(capsys: Capsys, made: Made, tmp_path: Path) -> None:
    data = bytearray(made.checkpoint.read_bytes())
    data[-1] ^= 1
    (tmp_path / "x.safetensors").write_bytes(data)
    path = draft(tmp_path / "next", outer={"inner_steps": 21})
    line = line_for(capsys, StateDir(tmp_path / "state"), tmp_path / "x.safetensors", path)
    assert "does not hold: digest" in line


def test_a_certificate_that_nobody_signed(capsys: Capsys, made: Made, tmp_path: Path) -> None:
    file = open_checkpoint(made.checkpoint)
    contents = file.contents
    (vote,) = contents.certificate.votes
    forged = msgspec.structs.replace(
        contents.certificate, votes=(msgspec.structs.replace(vote, signature=bytes(64)),)
    )
    path = tmp_path / "x.safetensors"
    body = made.checkpoint.read_bytes()[file.data_start :]
    path.write_bytes(replace(contents, certificate=forged).header() + body)
    line = line_for(capsys, key_only(made, tmp_path / "state"), path)
    assert "does not hold: signatures: certificate of round 2" in line
