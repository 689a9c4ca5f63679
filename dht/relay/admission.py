"""Who may have a reservation: whoever has a valid record of a swarm that is served.

Records come out of the directories, and from the peer itself: one that is not known is asked for its own over
the connection on which it came, because in a swarm where nobody can be dialled the directory is behind this
very relay. A record proves as much from either: that its owner knows the swarm's id and signed it lately.

Meanwhile the directories are looked at at once, and again for some seconds, because a newcomer's record
may come a moment after its wish. All who wait share one look, and looks have a rate, so asking cannot
cause many.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal, Protocol

import trio

from talkoot.dht.identity import key_of_multihash
from talkoot.dht.records import SignedRecord
from talkoot.dht.relay.buckets import Bucket

LOOK_EVERY_S = 30.0
"""How often the directories are read without being asked."""
LOOK_AGAIN_S = 1.0
"""Shortest time from the end of one look to the next."""
LOOKS, LOOKS_EVERY_S = 10, 6.0
"""So many looks in a row; then one in so many seconds."""
ADMIT_S = 4.5
"""How long an unknown peer is looked for; talkoot's own client waits for 5 s."""
MAX_WAITING = 32
"""Unknown peers that are looked for at the same time."""
REMEMBER_S = 900.0
"""A peer that had a record so lately is no stranger."""
MAX_REMEMBERED = 8192

Admitted = Literal["member", "outsider", "directory", "flood"]
Ask = Callable[[bytes], Awaitable[bytes | None]]
"""A peer's own record of a swarm, as the peer gives it; None if it gives none. Never raises."""


class Directory(Protocol):
    """The directory of one swarm."""

    swarm: bytes

    def peers(self) -> Mapping[bytes, SignedRecord]:
        """Records that are valid now, by their owners' keys."""

    async def look(self) -> bool:
        """Read it once more; False if nobody answered. Never raises."""

    def take(self, owner: bytes, envelope: bytes) -> bool:
        """Take in a record; False if it is not valid."""


class Admission:
    """Decides for all swarms that a relay serves. `run` it."""

    def __init__(
        self, directories: Sequence[Directory], *, anybody: bool = False, patience_s: float = ADMIT_S
    ) -> None:
        """`patience_s`: how long an unknown peer is looked for."""
        self.directories = directories
        self.looks = 0
        self._anybody = anybody
        self._patience_s = patience_s
        self._waiting = 0
        self._seen: dict[bytes, float] = {}
        self._answered = False
        self._wanted = trio.Event()
        self._looked = trio.Event()
        self._pace = Bucket(LOOKS, 1 / LOOKS_EVERY_S, trio.current_time())

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

    async def admit(self, peer: bytes, ask: Ask) -> Admitted:
        """Whether a peer may have a reservation; asks and looks for it if it is not known. Ends in time."""
        key = _key(peer)
        if self.is_member(peer):
            return "member"
        if key is None:
            return "outsider"
        if self._waiting >= MAX_WAITING:
            return "flood"
        self._waiting += 1
        try:
            with trio.move_on_after(self._patience_s):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._ask, key, ask, nursery.cancel_scope)
                    while not self.is_member(peer):
                        self._wanted.set()
                        await self._looked.wait()
                    nursery.cancel_scope.cancel()
        finally:
            self._waiting -= 1
        if self.is_member(peer):
            return "member"
        return "outsider" if self._answered else "directory"

    async def run(self) -> None:
        """Read the directories now and again, and at once when somebody is looked for."""
        while self.directories:
            await self._look()
            await trio.sleep(max(LOOK_AGAIN_S, self._pace.draw(1, trio.current_time())))
            with trio.move_on_after(LOOK_EVERY_S - LOOK_AGAIN_S):
                await self._wanted.wait()

    async def _ask(self, key: bytes, ask: Ask, found: trio.CancelScope) -> None:
        for directory in self.directories:
            envelope = await ask(directory.swarm)
            if envelope is not None and directory.take(key, envelope) and _is_member(directory, key):
                found.cancel()

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
