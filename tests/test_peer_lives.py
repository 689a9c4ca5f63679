"""What a full disk ends goes on by itself; all else ends the daemon as before."""

import asyncio
import errno
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from talkoot.peer import lives
from talkoot.peer.lives import Lives, disk_is_full
from talkoot.peer.swarming import DiskFull, NodeFailed

NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


class Paths:
    """A disk with so much room at each look."""

    def __init__(self, *free: int) -> None:
        self.path = "somewhere"
        self._free = list(free)

    def free_bytes(self) -> int:
        return self._free.pop(0)


class Closing:
    closed = False

    def close(self) -> None:
        self.closed = True


class StubNode:
    """As much of a node as its lives see."""

    def __init__(self, run: Callable[[], Awaitable[None]], paths: Paths, *, working: bool = True) -> None:
        self.run = run
        self.paths = paths
        self.holdings = Closing() if working else None
        self.stopping = asyncio.Event()
        self.reasons: list[str] = []
        self.before: StubNode | None = None

    def go_on_from(self, before: "StubNode") -> None:
        self.before = before

    def pause(self, reason: str) -> None:
        self.reasons.append(reason)


def failing(error: Exception) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        raise error

    return run


async def ending() -> None:
    pass


def live(nodes: list[Any], *, stop_while_paused: bool = False) -> list[Any]:
    """Run them one after the other; returns those that are left."""

    async def main() -> None:
        life = Lives(lambda: nodes.pop(0))
        if stop_while_paused:
            life.node.stopping.set()
        await life.run()

    asyncio.run(main())
    return nodes


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lives, "LOOK_S", 0.0)


@pytest.mark.parametrize("error", [NO_SPACE, DiskFull("full"), ExceptionGroup("", [DiskFull("full")])])
def test_a_full_disk_ends_a_life_and_room_begins_the_next(error: Exception) -> None:
    paths = Paths(0, lives.ROOM_BYTES - 1, lives.ROOM_BYTES)
    first, second = StubNode(failing(error), paths), StubNode(ending, paths)
    assert live([first, second]) == []
    assert first.reasons == ["disk"]
    assert second.reasons == []
    assert second.before is first
    assert first.holdings is not None
    assert first.holdings.closed
    assert paths._free == []


def test_a_paused_node_can_be_stopped() -> None:
    node = StubNode(failing(NO_SPACE), Paths(0, 0, 0))
    never = StubNode(failing(AssertionError("it has ended")), Paths())
    assert live([node, never], stop_while_paused=True) == [never]


@pytest.mark.parametrize("error", [NodeFailed("nobody is there"), OSError(errno.EIO, "Input/output error")])
def test_other_reasons_end_the_daemon(error: Exception) -> None:
    node = StubNode(failing(error), Paths())
    with pytest.raises(type(error)):
        live([node])
    assert node.reasons == []


def test_a_disk_that_is_too_small_to_begin_with_ends_the_daemon() -> None:
    with pytest.raises(OSError, match="No space"):
        live([StubNode(failing(NO_SPACE), Paths(), working=False)])


def test_short_lives_make_longer_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lives, "LOOK_S", 0.001)
    monkeypatch.setattr(lives, "SHORT_S", 0.003)
    paths = Paths(*[lives.ROOM_BYTES] * 3)
    nodes: list[Any] = [*(StubNode(failing(NO_SPACE), paths) for _ in range(3)), StubNode(ending, paths)]

    async def main() -> float:
        life = Lives(lambda: nodes.pop(0))
        await life.run()
        return life._pause_s

    assert asyncio.run(main()) == 0.003


def test_a_full_disk_is_found_inside_of_groups() -> None:
    assert disk_is_full(ExceptionGroup("", [ValueError(), ExceptionGroup("", [NO_SPACE])]))
    assert not disk_is_full(ExceptionGroup("", [ValueError(), OSError(errno.EROFS, "read-only")]))
