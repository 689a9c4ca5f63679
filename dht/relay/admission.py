"""Who may have a reservation: whoever has a valid record in the directory of a swarm that is served.

A peer that is not known is looked for at once and again for some seconds, because go-libp2p stays away for
up to an hour from a relay that refused it, and because a newcomer's record may come a moment after its
wish. All who wait share one look, looks are seconds apart, and a name that was not found is not looked for
again for a while.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import trio

from talkoot.dht.identity import key_of_multihash
from talkoot.dht.records import SignedRecord
from talkoot.dht.relay.buckets import Buckets

LOOK_EVERY_S = 30.0
"""How often the directories are read without being asked."""
LOOK_AGAIN_S = 2.0
"""Shortest time from the end of one look to the next."""
ADMIT_S = 12.0
"""How long an unknown peer is looked for; go-libp2p waits for 20 s or more."""
MAX_WAITING = 32
"""Unknown peers that are looked for at the same time."""
REMEMBER_S = 900.0
"""A peer that had a record so lately is no stranger."""
MAX_REMEMBERED = 8192
_TRIES_EVERY_S = 30.0

Admitted = Literal["member", "outsider", "directory", "flood"]


class Directory(Protocol):
    """The directory of one swarm."""

    swarm: bytes

    def peers(self) -> Mapping[bytes, SignedRecord]:
        """Records that are valid now, by their owners' keys."""

    async def look(self) -> bool:
        """Read it once more; False if nobody answered. Never raises."""


class Admission:
    """Decides for all swarms that a relay serves. `run` it."""

    def __init__(self, directories: Sequence[Directory], *, anybody: bool = False) -> None:
        self.directories = directories
        self.looks = 0
        self._anybody = anybody
        self._waiting = 0
        self._seen: dict[bytes, float] = {}
        self._answered = False
        self._wanted = trio.Event()
        self._looked = trio.Event()
        self._tries = Buckets[bytes](1, 1 / _TRIES_EVERY_S)

    @property
    def num_members(self) -> int:
        """Identities with a valid record."""
        records = [signed.record for directory in self.directories for signed in directory.peers().values()]
        return len({record.key for record in records if record.role != "relay"})

    def is_member(self, peer: bytes) -> bool:
        """Whether a PeerID has a valid record now, as far as is known."""
        key = _key(peer)
        if self._anybody:
            return True
        if key is None or not any(_is_member(directory, key) for directory in self.directories):
            return False
        self._remember(peer)
        return True

    def was_member(self, peer: bytes) -> bool:
        """Whether it has, or had lately."""
        return self.is_member(peer) or self._seen.get(peer, 0.0) > trio.current_time() - REMEMBER_S

    async def admit(self, peer: bytes) -> Admitted:
        """Whether a peer may have a reservation; looks for it if it is not known. Ends in ADMIT_S."""
        if self.is_member(peer):
            return "member"
        if _key(peer) is None:
            return "outsider"
        if self._waiting >= MAX_WAITING:
            return "flood"
        now = trio.current_time()
        if not self._tries.of(peer, now).take(1, now):
            return "outsider"
        self._waiting += 1
        try:
            with trio.move_on_after(ADMIT_S):
                while not self.is_member(peer):
                    self._wanted.set()
                    await self._looked.wait()
        finally:
            self._waiting -= 1
        if self.is_member(peer):
            return "member"
        return "outsider" if self._answered else "directory"

    async def run(self) -> None:
        """Read the directories now and again, and at once when somebody is looked for."""
        while self.directories:
            await self._look()
            await trio.sleep(LOOK_AGAIN_S)
            with trio.move_on_after(LOOK_EVERY_S - LOOK_AGAIN_S):
                await self._wanted.wait()

    async def _look(self) -> None:
        self._wanted = trio.Event()
        answers: list[bool] = []

        async def one(directory: Directory) -> None:
            answers.append(await directory.look())

        async with trio.open_nursery() as nursery:
            for directory in self.directories:
                nursery.start_soon(one, directory)
        self.looks += 1
        self._answered = any(answers)
        looked, self._looked = self._looked, trio.Event()
        looked.set()

    def _remember(self, peer: bytes) -> None:
        self._seen.pop(peer, None)
        self._seen[peer] = trio.current_time()
        while len(self._seen) > MAX_REMEMBERED:
            del self._seen[next(iter(self._seen))]


def _is_member(directory: Directory, key: bytes) -> bool:
    signed = directory.peers().get(key)
    return signed is not None and signed.record.role != "relay"


def _key(peer: bytes) -> bytes | None:
    try:
        return key_of_multihash(peer)
    except ValueError:
        return None
