"""A state directory of an earlier version is read to the last bit; another format is refused, untouched."""

import json
import tarfile
from pathlib import Path

import pytest
import torch
from old_state import EXPECTED, PACKS, STEPS, opened, summary
from trainer_help import local_of, make_manifest, make_session, write_vector

from talkoot.dht.errors import ConfigError
from talkoot.peer import certlog, head, journal, residual_note
from talkoot.peer.formats import require_formats
from talkoot.peer.statedir import StateDir
from talkoot.peer.verify_state import verify_state


@pytest.fixture(params=PACKS, ids=lambda pack: pack.name)
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with tarfile.open(request.param) as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path / "state"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_state_of_another_version_is_found_whole(state: Path) -> None:
    expected = json.loads((state.parent / EXPECTED).read_text())
    assert expected["round"] > 10
    assert expected["carry"] > 0
    require_formats(StateDir(state))
    assert summary(state) == expected


def test_local_work_of_another_version_goes_on(state: Path) -> None:
    session = make_session(make_manifest(), state.parent)
    work = state / "trainer" / "local.safetensors"
    (state.parent / "trainer").mkdir(exist_ok=True)
    work.rename(state.parent / "trainer" / work.name)
    outer = write_vector(state.parent / "outer0", session.engine.layout.numel, 0)
    adopted = session.adopt(state.parent / "outer0", round_=0, digest="aa", global_step=0, mode="start")
    assert (adopted.resumed, adopted.steps, adopted.position) == (True, STEPS, 4 * STEPS)
    assert local_of(session).tobytes() != outer.tobytes()


FILES = {
    "outer/HEAD": head.MAGIC,
    "rounds.log": certlog.MAGIC,
    "journal": journal.MAGIC,
    "residual.note": residual_note.OLD_MAGIC,
    "residual.kept": residual_note.MAGIC,
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("number", [b"0", b"3", b"17"])
def test_another_format_is_refused_in_one_line_and_nothing_is_touched(
    state: Path, name: str, number: bytes
) -> None:
    path, ours = state / name, FILES[name].rstrip(b"\n\0")
    if not path.exists():
        assert name.startswith("residual.")  # it has the other one
        path.write_bytes(ours + b"\n")
    whole = path.read_bytes()
    assert whole.startswith(ours)
    path.write_bytes(whole.replace(ours[-2:], b" " + number, 1))
    before = contents(state)
    wanted = rf"format {number.decode()}, this one reads {ours[-1:].decode()}"
    with pytest.raises(ConfigError, match=wanted) as caught:
        require_formats(StateDir(state))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert contents(state) == before


def test_damage_is_no_format(state: Path) -> None:
    for name in FILES:
        for data in (b"", b"talkoot", b"talkoot head x\n", b"\xff" * 100):
            (state / name).write_bytes(data)
            require_formats(StateDir(state))
    for name in FILES:
        (state / name).unlink(missing_ok=True)
    require_formats(StateDir(state))


def test_what_was_carried_is_there_again_and_again(state: Path) -> None:
    _, residual = opened(state)
    carried = residual.carry_P.clone()
    assert bool(carried.any())
    residual.carry_P.zero_()  # only the working copy
    _, again = opened(state)  # as after a kill
    assert torch.equal(again.carry_P, carried)
    assert not (state / residual_note.OLD_NAME).exists()


def test_verify_reads_it(state: Path) -> None:
    failed = [check for check in verify_state(state).checks if check.result == "failed"]
    assert not failed, failed
