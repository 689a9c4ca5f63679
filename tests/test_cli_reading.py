"""What `talkoot rounds` says of a round that was fetched."""

from dataclasses import asdict
from typing import Any

import pytest

from talkoot.cli.reading import rounds_text
from talkoot.peer.choice import Choice


def record(**changes: Any) -> dict[str, Any]:
    return {
        "round": 7, "kind": "final", "attempt": 0, "counted": ["a", "b"], "own": None, "seconds": None,
        "codec": "int8", "aggregate_codec": None, "bytes_sent": 0, "digest": "0123456789abcdef",
    } | changes  # fmt: skip


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (
            Choice(
                way="replay",
                reason="cheaper",
                rounds=3,
                replay_bytes=1_800_000,
                snapshot_bytes=4_800_000,
            ),
            "fetched 3 rounds by replay (records 1.8 MB, snapshot 4.8 MB, cheaper)",
        ),
        (
            Choice(
                way="snapshot", reason="left_branch", rounds=1, replay_bytes=None, snapshot_bytes=4_800_000
            ),
            "fetched 1 round by snapshot (records ?, snapshot 4.8 MB, left branch)",
        ),
    ],
    ids=["replay", "snapshot"],
)
def test_how_a_round_was_fetched(choice: Choice, words: str) -> None:
    assert words in rounds_text([record(catch_up=asdict(choice))])


def test_a_round_that_was_not_fetched_says_nothing_of_it() -> None:
    assert "fetched" not in rounds_text([record(seconds=1.5, catch_up=None)])
