"""The disk limit: what goes, what stays, and what is said where the rest does not fit."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trainer_help import make_manifest

from talkoot.dht.errors import ConfigError
from talkoot.peer.checkpoints import checkpoint_path, stored
from talkoot.peer.disk import Disk
from talkoot.peer.guest.room import CHECKPOINT_SHARE, Room, needed_bytes, require_limit, too_old
from talkoot.peer.guest.settings import Current, GuestSettings
from talkoot.peer.statedir import StateDir
from talkoot.peer.watch import used_bytes

MB = 10**6


class Node:
    """As much of one as its room looks at."""

    def __init__(self, folder: Path) -> None:
        self.paths = StateDir(folder)
        self.paths.checkpoints.mkdir()
        self.settings = Current(GuestSettings())
        self.faults: asyncio.Queue[str | None] = asyncio.Queue()
        self.disk = Disk(folder, self.faults.put_nowait)
        self.manifest = make_manifest()

    def limit(self, num_bytes: int) -> None:
        self.settings.change(replace(self.settings.now, disk_bytes=num_bytes))

    def checkpoints(self) -> list[int]:
        return [rounds for rounds, _ in stored(self.paths.checkpoints)]


def fill(path: Path, num_bytes: int) -> None:
    path.write_bytes(os.urandom(num_bytes))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    made = Node(tmp_path)
    for rounds in (5, 10, 15):
        fill(checkpoint_path(made.paths.checkpoints, rounds), 4 * MB)
    fill(tmp_path / "rest", 10 * MB)
    return made


def room_of(node: Node) -> Room:
    return Room(node)  # type: ignore[arg-type]


def run_with(node: Node, test: Callable[[], Any]) -> None:
    """With its room's service at work."""

    async def main() -> None:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            task = group.create_task(room_of(node).run())
            await test()
            task.cancel()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("sizes", "rest", "limit", "number"),
    [
        ([], 9, 5, 0),
        ([4, 4, 4], 10, 22, 0),
        ([4, 4, 4], 10, 21, 1),
        ([4, 4, 4], 10, 14, 2),
        ([4, 4, 4], 10, 1, 2),  # never the last one
        ([4], 10, 1, 0),
    ],
)
def test_the_oldest_go_and_the_newest_never(sizes: list[int], rest: int, limit: int, number: int) -> None:
    assert too_old(sizes, rest, limit) == number


def test_a_live_limit_removes_the_oldest_and_pauses_nothing_while_the_rest_fits(node: Node) -> None:
    node.limit(19 * MB)
    asyncio.run(room_of(node).look())
    assert node.checkpoints() == [10, 15]
    assert used_bytes(node.paths.path) <= 19 * MB
    assert node.disk.fault is None


def test_what_cannot_fit_pauses_the_node_until_it_does(node: Node) -> None:
    async def test() -> None:
        node.limit(12 * MB)
        assert await node.faults.get() == "limit"
        assert node.checkpoints() == [15]
        node.limit(20 * MB)
        assert await node.faults.get() is None
        node.limit(12 * MB)
        assert await node.faults.get() == "limit"
        node.limit(0)
        assert await node.faults.get() is None
        assert node.checkpoints() == [15]

    run_with(node, test)


def test_a_checkpoint_takes_the_place_of_older_ones_before_it_is_written(node: Node) -> None:
    room = room_of(node)
    base = max(needed_bytes(node.manifest), used_bytes(node.paths.path))
    room.make(10**12)  # no limit
    node.limit(int((base + 13 * MB) / CHECKPOINT_SHARE))
    room.make(4 * MB)
    assert node.checkpoints() == [10, 15]
    with pytest.raises(OSError, match=r"no room for another 12\.0 MB"):
        room.make(12 * MB)
    assert node.checkpoints() == [15]


def test_a_limit_below_what_the_state_needs_is_one_line() -> None:
    manifest = make_manifest()
    needed = needed_bytes(manifest)
    assert needed > 100 * manifest.model.numel
    require_limit(manifest, 0)
    require_limit(manifest, needed)
    with pytest.raises(ConfigError, match=r"the disk limit of 1 MB is below the \d+ MB that a node of this"):
        require_limit(manifest, MB)
