"""`talkoot verify` on what a state directory keeps for others: the snapshot and the records of rounds."""

import json
import random
from pathlib import Path

import pytest
from record_rig import opened, play
from state_rig import FOUNDERS, MANIFEST, SWARM
from typer.testing import CliRunner

from talkoot.cli.main import app
from talkoot.peer.manifest import State
from talkoot.peer.statedir import StateDir
from talkoot.peer.verify import verify
from talkoot.peer.verify_records import check_records


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Three rounds with their records; the second state is the snapshot."""
    holdings = opened(tmp_path)
    holdings.keep = State(snapshot_rounds=2)
    for _ in range(3):
        play(holdings)
    holdings.close()
    paths = StateDir(tmp_path)
    paths.claim(SWARM)
    paths.save_manifest(MANIFEST.canonical())
    return tmp_path


def results(state: Path) -> dict[str, str]:
    return {check.name: check.result for check in verify(state).checks}


def words(state: Path, name: str) -> str:
    return next(check.words for check in verify(state).checks if check.name == name)


def spoil(path: Path, at: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def test_both_are_whole(state: Path) -> None:
    assert results(state)["snapshot"] == results(state)["records"] == "ok"
    assert "of round 2, hashes" in words(state, "snapshot")
    assert words(state, "records") == "3 of rounds 0 to 2 fit their checksums"
    answer = CliRunner().invoke(app, ["verify", str(state)])
    assert answer.exit_code == 0
    assert "records" in answer.output


def test_a_damaged_snapshot(state: Path) -> None:
    kept = next(iter((state / "outer").glob("?/theta.f32")))
    generations = sorted(path.parent.name for path in (state / "outer").glob("?/theta.f32"))
    assert len(generations) == 3
    failed = []
    for name in generations:
        kept = state / "outer" / name / "momentum.f32"
        whole = kept.read_bytes()
        spoil(kept, 4321, 3)
        failed.append((results(state)["digest"], results(state)["snapshot"]))
        kept.write_bytes(whole)
    assert sorted(failed) == [("failed", "ok"), ("ok", "failed"), ("ok", "ok")]
    (state / "outer" / "SNAPSHOT").write_bytes(b"no")
    assert "it will not be given to anybody" in words(state, "snapshot")
    (state / "outer" / "SNAPSHOT").unlink()
    assert "snapshot" not in results(state)


def test_a_bit_of_a_record_at_250_positions(state: Path) -> None:
    path = state / "records" / "000000000001.record"
    chance, whole = random.Random(7), path.read_bytes()
    for number in range(250):
        at = chance.randrange(64 if number % 3 == 0 else len(whole))
        spoil(path, at, chance.randrange(8))
        (check,) = check_records(state / "records", state / "rounds.log")
        assert check.result == "failed"
        assert "1 of 3 are damaged, and a start removes them: 000000000001.record" in check.words
        path.write_bytes(whole)
    for length in (0, 10, 63, 64, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert results(state)["records"] == "failed"
    answer = CliRunner().invoke(app, ["verify", str(state), "--json"])
    assert answer.exit_code == 1
    assert json.loads(answer.output)["ok"] is False


def test_records_of_another_branch_and_none(state: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    holdings = opened(other)
    for number in range(3):
        play(holdings, by=FOUNDERS, seed=number + 1)
    holdings.close()
    name = "000000000002.record"
    (state / "records" / name).write_bytes((other / "records" / name).read_bytes())
    assert "of another branch, and a start removes them: those of rounds [2]" in words(state, "records")
    (state / "rounds.log").write_bytes(b"garbage")
    assert results(state)["records"] == "not checked"
    for path in (state / "records").iterdir():
        path.unlink()
    assert "records" not in results(state)
