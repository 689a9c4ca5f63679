"""A running node's leaderboard: the same as one summed up from the beginning, whatever became of the log."""

import asyncio
import json
from pathlib import Path

import pytest
from state_rig import FOUNDERS, MANIFEST, advance, found
from typer.testing import CliRunner

from talkoot.averaging.certificate import decode_certificate
from talkoot.cli.main import app
from talkoot.dht.identity import peer_id_of
from talkoot.peer import clock, leaderboard
from talkoot.peer.certlog import CertLog
from talkoot.peer.credit import Board
from talkoot.peer.leaderboard import Leaderboard, board_as_json
from talkoot.peer.log_reading import LogReader
from talkoot.peer.statedir import StateDir


def from_scratch(paths: StateDir) -> dict[str, object]:
    board = Board()
    for _, content in LogReader(paths.round_log):
        board.add(decode_certificate(content))
    return board_as_json(board, {})


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every question looks at the log."""
    monkeypatch.setattr(leaderboard, "FRESH_S", 0.0)


@pytest.mark.usefixtures("impatient")
def test_new_rounds_are_added_and_those_of_another_branch_replaced(tmp_path: Path) -> None:
    paths = StateDir(tmp_path)
    holdings = found(paths.path)
    live = Leaderboard(paths)

    def is_right() -> int:
        shown = asyncio.run(live.now())
        assert shown == from_scratch(paths)
        return int(shown["rounds"])

    assert is_right() == 0
    advance(holdings)
    assert is_right() == 1
    advance(holdings)
    advance(holdings)
    assert is_right() == 3
    assert is_right() == 3
    holdings.close()

    with CertLog(paths.round_log) as log:
        records = log.read_range(0)
        log.truncate_from(records[-1][0])
    assert is_right() == 2
    with CertLog(paths.round_log) as log:
        log.append(*records[-1])
    assert is_right() == 3

    # another certificate of the same length in the place of the last one
    other, start = StateDir(tmp_path / "other"), found(tmp_path / "other")
    advance(start)
    advance(start)
    advance(start, by=FOUNDERS[:2], weak=True)
    start.close()
    paths.round_log.write_bytes(other.round_log.read_bytes())
    assert is_right() == 3
    assert asyncio.run(live.now())["peers"][0]["weak_rounds"] == 1


@pytest.mark.usefixtures("impatient")
def test_no_log_is_no_rounds_and_a_damaged_one_is_said(tmp_path: Path) -> None:
    paths = StateDir(tmp_path)
    live = Leaderboard(paths)
    assert asyncio.run(live.now())["rounds"] == 0
    paths.round_log.write_bytes(b"no log at all, but long enough")
    with pytest.raises(ValueError, match="no round log"):
        asyncio.run(live.now())


def test_who_asks_often_gets_the_same_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = StateDir(tmp_path)
    holdings = found(paths.path)
    live = Leaderboard(paths)
    monkeypatch.setattr(clock, "now", lambda: 100.0)
    first = asyncio.run(live.now())
    advance(holdings)
    holdings.close()
    assert asyncio.run(live.now()) is first


def test_it_is_that_of_the_command(tmp_path: Path) -> None:
    paths = StateDir(tmp_path)
    holdings = found(paths.path)
    advance(holdings)
    holdings.close()
    paths.claim(MANIFEST.swarm_id)
    paths.save_manifest(MANIFEST.canonical())
    paths.names.write_text(json.dumps({peer_id_of(FOUNDERS[0].key): "Ada"}))
    shown = asyncio.run(Leaderboard(paths).now())
    outcome = CliRunner().invoke(app, ["leaderboard", "--json", "--state-dir", str(tmp_path)])
    offline = json.loads(outcome.stdout)
    assert {name: offline[name] for name in shown} == shown
    assert "Ada" in [row["public_name"] for row in shown["peers"]]
