"""Records come from one source while it is quick, and from all in turn once a piece takes long."""

import os
from pathlib import Path

import pytest
from record_rig import opened, play
from state_rig import KEYS, World, keys, run, same_state

from talkoot.peer.transfer import AskRecord


@pytest.mark.parametrize(("prompt_s", "shares"), [(60.0, (1.0, 0.0)), (-1.0, (0.5, 0.5))])
def test_sources_take_turns_once_one_is_slow(
    prompt_s: float, shares: tuple[float, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr("talkoot.peer.catchup.MAX_RECORD_PIECE", 100_000)
    monkeypatch.setattr("talkoot.peer.catchup.PROMPT_S", prompt_s)
    ours, theirs, other = (opened(tmp_path / name) for name in ("ours", "theirs", "other"))
    for holdings, rounds in ((ours, 1), (theirs, 4), (other, 4)):
        for _ in range(rounds):
            play(holdings)

    async def main(made: World) -> None:
        for source in (theirs, other):
            await made.serve(source)
        joiner = await made.joiner(tmp_path / "ours")
        assert await joiner.update(keys(2), ours, KEYS) is not None
        asked = [sum(isinstance(request, AskRecord) for request in server.asked) for server in made.servers]
        assert [count / sum(asked) for count in asked] == pytest.approx(shares, abs=0.15)

    run(main)
    assert same_state(ours, theirs)
