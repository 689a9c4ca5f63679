"""A bit of any file of a state directory flips, or the file is cut short: a node starts on it, unharmed.

Four nodes on the network in memory. One stops in order, its disk rots in one place, it starts again. With the
others there it comes to what all have in common; alone it goes on with what is whole, or says what is damaged
and leaves everything as it is.
"""

import asyncio
import random
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from talkoot.averaging.certificate import Certificate
from talkoot.peer.manifest import Compression
from talkoot.peer.simulation.disks import simulated_disks
from talkoot.peer.simulation.peers import SimPeer
from talkoot.peer.simulation.signatures import stand_in_signatures
from talkoot.peer.simulation.virtual_time import run_virtual
from talkoot.peer.simulation.world import World

KINDS = ("outer/HEAD", "outer/SNAPSHOT", "outer/*/*.f32", "rounds.log", "records/*", "journal", "residual.*")

WITH_OTHERS = 5
"""Places in each kind of file; 250 of single files are tried where they are read (`test_verify`, say)."""

ALONE = 12

LIMIT_S = 120.0
"""Virtual time within which a node is back."""


@pytest.fixture(autouse=True)
def simulated() -> Iterator[None]:
    with simulated_disks(), stand_in_signatures():
        yield


class Rotting(World):
    """The last peer's disk is a bad one."""

    def __init__(self, folder: Path) -> None:
        self.troubles: list[str] = []
        super().__init__(
            4,
            5,
            folder,
            witness=lambda *_: None,
            on_head=self._same_everywhere,
            on_trouble=self.troubles.append,
            compression=Compression(codec="int8", aggregate_codec="int8", error_feedback=True),
        )
        self._final: dict[int, bytes] = {}
        self.victim = self.peers[-1]

    def _same_everywhere(self, _peer: SimPeer, certificate: Certificate) -> None:
        if certificate.kind == "final":
            known = self._final.setdefault(certificate.value.round, certificate.value.digest)
            assert known == certificate.value.digest

    async def is_back(self) -> bool:
        """Whether the victim commits rounds again, or has ended."""
        begun = max(peer.round for peer in self.peers[:-1])
        for _ in range(int(LIMIT_S)):
            await asyncio.sleep(1.0)
            if self.victim.task is None:
                return False
            if self.victim.round > begun + 1:
                return True
        return False


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def spoil(folder: Path, kind: str, chance: random.Random) -> str:
    """Flip a bit of a file, or cut it short. Returns what was done."""
    path = chance.choice(sorted(folder.glob(kind)))
    data = path.read_bytes()
    at = chance.randrange(len(data))
    flipped = chance.random() < 0.8
    spoiled = data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
    path.write_bytes(spoiled if flipped else data[:at])
    return f"{path.relative_to(folder)} {'flipped' if flipped else 'cut'} at {at} of {len(data)}"


def play(world: Rotting, script: Callable[[], Awaitable[None]]) -> None:
    run_virtual(world.run(script))


@pytest.mark.parametrize("kind", KINDS)
def test_with_others_it_is_put_right(kind: str, tmp_path: Path) -> None:
    world = Rotting(tmp_path)
    victim, chance = world.victim, random.Random(kind)

    async def script() -> None:
        await asyncio.sleep(90.0)  # virtual
        for _ in range(WITH_OTHERS):
            assert await world.stop(victim, 100.0)
            (victim.folder / "peers.json").write_text("{}")  # it has met others
            done = spoil(victim.folder, kind, chance)
            world.start(victim)
            assert await world.is_back(), (done, world.troubles)
            assert not world.troubles, done

    play(world, script)


@pytest.mark.parametrize("kind", KINDS)
def test_alone_nothing_is_destroyed(kind: str, tmp_path: Path) -> None:
    world = Rotting(tmp_path / "swarm")
    victim, chance = world.victim, random.Random(f"alone {kind}")

    async def script() -> None:
        await asyncio.sleep(90.0)  # virtual
        assert await world.stop(victim, 100.0)
        for peer in world.peers[:-1]:
            world.crash(peer)
        shutil.copytree(victim.folder, tmp_path / "whole")
        for _ in range(ALONE):
            shutil.rmtree(victim.folder)
            shutil.copytree(tmp_path / "whole", victim.folder)
            done = spoil(victim.folder, kind, chance)
            before = contents(victim.folder)
            world.troubles.clear()
            world.start(victim)
            await asyncio.sleep(20.0)
            if victim.task is not None:
                assert victim.round >= 0, done
                assert not world.troubles, done
                await world.stop(victim, 100.0)
                continue
            trouble = world.troubles[0]
            assert "ConfigError" in trouble, done
            assert "\n" not in trouble, done
            assert str(victim.folder) in trouble, done
            assert contents(victim.folder) == before, done

    play(world, script)
