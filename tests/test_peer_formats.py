"""A state directory of an earlier version is read to the last bit; another format is refused, untouched."""

import json
import tarfile
from pathlib import Path

import pytest
from old_state import EXPECTED, PACK, STEPS, opened, summary
from trainer_help import local_of, make_manifest, make_session, write_vector

from talkoot.dht.errors import ConfigError
from talkoot.peer import certlog, head, journal, residual_note
from talkoot.peer.formats import require_formats
from talkoot.peer.statedir import StateDir
from talkoot.peer.verify_state import verify_state


@pytest.fixture
def state(tmp_path: Path) -> Path:
    with tarfile.open(PACK) as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path / "state"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_state_of_format_1_is_found_whole(state: Path) -> None:
    expected = json.loads((state.parent / EXPECTED).read_text())
    assert expected["round"] > 10
    assert expected["carry"] > 0
    require_formats(StateDir(state))
    assert summary(state) == expected


def test_local_work_of_format_1_goes_on(state: Path) -> None:
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
    "residual.note": residual_note.MAGIC,
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("number", [b"0", b"2", b"17"])
def test_another_format_is_refused_in_one_line_and_nothing_is_touched(
    state: Path, name: str, number: bytes
) -> None:
    path, magic = state / name, FILES[name]
    whole = path.read_bytes()
    assert whole.startswith(magic)
    path.write_bytes(whole.replace(b" 1", b" " + number, 1))
    before = contents(state)
    with pytest.raises(ConfigError, match=rf"format {number.decode()}, this one reads 1") as caught:
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
        (state / name).unlink()
    require_formats(StateDir(state))


def test_the_note_of_the_residual_is_read_once(state: Path) -> None:
    _, residual = opened(state)
    assert bool(residual.carry_P.any())
    _, again = opened(state)  # as after a kill
    assert not bool(again.carry_P.any())


def test_verify_reads_it(state: Path) -> None:
    failed = [check for check in verify_state(state).checks if check.result == "failed"]
    assert not failed, failed
