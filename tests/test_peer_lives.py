"""What a disk that fails ends goes on by itself; all else ends the daemon as before."""

import asyncio
import errno
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from talkoot.dht.errors import ConfigError
from talkoot.peer import lives
from talkoot.peer.disk import DiskLost
from talkoot.peer.lives import Lives, disk_fault
from talkoot.peer.swarming import NodeFailed

NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


class Paths:
    """A disk that takes writes or does not, at each look."""

    def __init__(self, *takes: bool) -> None:
        self.path = self
        self.takes = list(takes)


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
        self.kinds: list[str] = []
        self.before: StubNode | None = None

    def go_on_from(self, before: "StubNode") -> None:
        self.before = before

    def pause(self, kind: str, _why: Exception) -> None:
        self.kinds.append(kind)


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
    monkeypatch.setattr(lives, "takes_writes", lambda paths: paths.takes.pop(0))


def wrapped(code: int) -> NodeFailed:
    error = NodeFailed("cannot be opened")
    error.__cause__ = OSError(code, "why")
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NO_SPACE, "full"),
        (OSError(errno.EDQUOT, ""), "quota"),
        (OSError(errno.EROFS, ""), "read_only"),
        (OSError(errno.EMFILE, ""), "files"),
        (OSError(errno.ENFILE, ""), "files"),
        (OSError(errno.EIO, ""), "io"),
        (DiskLost("lost"), "io"),
        (ExceptionGroup("", [DiskLost("lost")]), "io"),
        (wrapped(errno.EROFS), "read_only"),
    ],
)
def test_a_disk_that_fails_ends_a_life_and_one_that_works_begins_the_next(
    error: Exception, kind: str
) -> None:
    paths = Paths(False, False, True)
    first, second = StubNode(failing(error), paths), StubNode(ending, paths)
    assert live([first, second]) == []
    assert first.kinds == [kind]
    assert second.kinds == []
    assert second.before is first
    assert first.holdings is not None
    assert first.holdings.closed
    assert paths.takes == []


def test_a_paused_node_can_be_stopped() -> None:
    node = StubNode(failing(NO_SPACE), Paths(False, False, False))
    never = StubNode(failing(AssertionError("it has ended")), Paths())
    assert live([node, never], stop_while_paused=True) == [never]


@pytest.mark.parametrize(
    "error",
    [NodeFailed("nobody is there"), OSError(errno.EACCES, "denied"), ConfigError("needs 8 MB of disk")],
)
def test_other_reasons_end_the_daemon(error: Exception) -> None:
    node = StubNode(failing(error), Paths())
    with pytest.raises(type(error)):
        live([node])
    assert node.kinds == []


def test_a_disk_may_fail_before_there_is_a_state() -> None:
    paths = Paths(True)
    first, second = StubNode(failing(NO_SPACE), paths, working=False), StubNode(ending, paths)
    assert live([first, second]) == []
    assert first.kinds == ["full"]


def test_short_lives_make_longer_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lives, "LOOK_S", 0.001)
    monkeypatch.setattr(lives, "SHORT_S", 0.003)
    paths = Paths(*[True] * 3)
    nodes: list[Any] = [*(StubNode(failing(NO_SPACE), paths) for _ in range(3)), StubNode(ending, paths)]

    async def main() -> float:
        life = Lives(lambda: nodes.pop(0))
        await life.run()
        return life._pause_s

    assert asyncio.run(main()) == 0.003


def test_a_fault_is_found_inside_of_groups() -> None:
    assert disk_fault(ExceptionGroup("", [ValueError(), ExceptionGroup("", [NO_SPACE])])) == "full"
    assert disk_fault(ExceptionGroup("", [ValueError(), OSError(errno.EACCES, "denied")])) is None
