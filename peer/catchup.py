"""Catching up with a branch that goes on from our own head: rounds are replayed where that is cheaper.

Records come from whoever has them, our own disk first. What is wrong with one is blamed on the peer that
sent it, and the next peer is asked for the rest. Where that leads nowhere the caller downloads a snapshot.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass, field, replace
from typing import Self

from talkoot.averaging.ledger import Ledger
from talkoot.averaging.record import RecordError
from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import peer_id_of
from talkoot.peer import clock
from talkoot.peer.assembly import NotFinite
from talkoot.peer.choice import Choice
from talkoot.peer.generation import Generation
from talkoot.peer.hashing import hash_state
from talkoot.peer.holdings import Holdings
from talkoot.peer.record_writer import RecordWriter
from talkoot.peer.replaying import RoundInReplay, Step, plan
from talkoot.peer.sync import Branch
from talkoot.peer.sync_progress import SyncProgress
from talkoot.peer.transfer import MAX_RECORD_PIECE, Busy, Gone, StateClient

log = logging.getLogger("talkoot.sync")

MAX_SOURCES = 8
"""Peers that are asked for records."""

TRIES = 3
"""How often a record is asked for in all: that of a round that has only just ended may not be written yet."""

PAUSE_S = 1.0

PROMPT_S = 0.5
"""A piece that takes longer was held back, as during an exchange, or the line is slow. From then on sources
take turns: each lets a piece go at once after a pause, so that several give several times as much."""

MAX_BUSY = 60
"""How often a source may put us off, a second each time."""

WRONG_RECORDS = ("malformed", "oversized", "wrong_hash", "wrong_index", "not_finite")
"""What no honest peer with a sound disk answers."""

Connect = Callable[[bytes], Awaitable[StateClient]]
"""Opens a channel to a peer. Raises RemoteError, TimeoutError."""

Blame = Callable[[bytes, Exception], None]


@dataclass(slots=True, eq=False)
class _Source:
    """A peer that may have records; `client` is None until it is asked for the first time."""

    peer: bytes
    client: StateClient | None = None
    listed: dict[bytes, int] | None = None
    lacks: set[bytes] = field(default_factory=set)
    """What it said to have and had not."""
    busy: int = 0
    """How often it put us off."""


class CatchUp:
    """One way from our head to that of a branch. `choose`, then `replay` if that was chosen."""

    def __init__(
        self,
        holdings: Holdings,
        branch: Branch,
        peers: Iterable[bytes],
        *,
        connect: Connect,
        blame: Blame,
    ) -> None:
        """`branch` is verified and preferred to ours; `peers` may have records, the likeliest first."""
        self._holdings = holdings
        self._branch = branch
        self._sources = [_Source(peer) for peer in list(peers)[:MAX_SOURCES]]
        self._connect = connect
        self._blame = blame
        self._steps: list[Step] = []
        self._in_turn = False
        self._lied = False
        self._opened = AsyncExitStack()
        self.choice: Choice
        """What was chosen last: a replay that fails becomes a snapshot."""
        self.ledger: Ledger
        """The ledger after a replay."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes what was opened."""
        await self._opened.aclose()

    async def choose(self) -> Choice:
        """Whether to replay, given who has which records."""
        self._steps, self.choice = await asyncio.to_thread(plan, self._holdings, self._branch)
        for step in self._steps:
            if not self._own(step) and await self._source_of(step, patient=True) is None:
                self._give_up()
                break
        return self.choice

    def _own(self, step: Step) -> bool:
        records = self._holdings.records
        kept = records.find(step.value_hash) if records is not None else None
        return kept is not None and kept.num_bytes == step.layout.num_bytes

    def _give_up(self, reason: str | None = None) -> None:
        reason = reason or ("bad_record" if self._lied else "no_record")
        self.choice = replace(self.choice, way="snapshot", reason=reason)

    # -- replaying -----------------------------------------------------------------------------------

    async def replay(self, staged: Generation, progress: SyncProgress) -> bool:
        """Bring the staged generation to the branch's state, which the holdings then hold, with `ledger`.

        False when that failed, and then `choice` says why.
        """
        progress.begin(sum(step.layout.num_bytes for step in self._steps))
        for number, step in enumerate(self._steps):
            keep = await asyncio.to_thread(self._begin_record, step)
            with keep if keep is not None else nullcontext():
                if not await self._replay_one(step, staged, keep, progress, first=number == 0):
                    return False
                if keep is not None:
                    await asyncio.to_thread(keep.finish)
        head = self._branch.head.value
        tree = await asyncio.to_thread(hash_state, staged.theta, staged.momentum, self.ledger.encode())
        if tree.digest != head.digest:
            log.error("replaying up to round %d came to another digest than the certified one", head.round)
            self._give_up("digest")
            return False
        self._holdings.hold_download(staged, tree)
        return True

    def _begin_record(self, step: Step) -> RecordWriter | None:
        """What is replayed is kept, for those who are behind us."""
        records = self._holdings.records
        if records is None or self._own(step):
            return None
        return records.begin(step.certificate.value.round, step.value_hash, step.layout.num_bytes)

    async def _replay_one(
        self,
        step: Step,
        staged: Generation,
        keep: RecordWriter | None,
        progress: SyncProgress,
        *,
        first: bool,
    ) -> bool:
        try:
            under_way = RoundInReplay(step, self._holdings, staged, first=first, keep=keep)
        except RecordError as error:  # not even the certified value is what our ledger can come to
            log.error("round %d cannot be replayed: %s", step.certificate.value.round, error)
            self._give_up("no_record")
            return False
        before = progress.done_bytes
        try:
            while not under_way.complete:
                if not await self._next_piece(step, under_way, progress):
                    self._give_up()
                    return False
                progress.received(before + under_way.done_bytes - progress.done_bytes)
        except NotFinite as error:  # whoever certified it; the record is right, and nobody is to blame for it
            log.error("round %d cannot be replayed: %s", step.certificate.value.round, error)
            self._give_up("not_finite")
            return False
        self.ledger = under_way.replay.ledger
        return True

    async def _next_piece(self, step: Step, under_way: RoundInReplay, progress: SyncProgress) -> bool:
        """Get what is wanted next from one source or another; False when nobody has it."""
        if self._own(step) and await self._own_piece(step, under_way):
            return True
        while (source := await self._source_of(step)) is not None:
            assert source.client is not None
            progress.sources = (peer_id_of(source.peer),)
            began = clock.now()
            try:
                data = await _fetch(source.client, step.value_hash, *under_way.wanted(MAX_RECORD_PIECE))
                await asyncio.to_thread(_take, under_way, data, source.peer)
            except Gone:
                source.lacks.add(step.value_hash)
            except Busy:
                await self._wait_for(source)
            except (RemoteError, TimeoutError) as error:
                self._drop(source, error)
            else:
                self._in_turn = self._in_turn or clock.now() - began > PROMPT_S
                if self._in_turn:
                    self._sources.sort(key=lambda other: other is source)
                return True
        return False

    async def _wait_for(self, source: _Source) -> None:
        """It has too much to do at present."""
        source.busy += 1
        if source.busy > MAX_BUSY:
            self._drop(source, TimeoutError("it is busy all the time"))
        else:
            await asyncio.sleep(PAUSE_S)

    async def _own_piece(self, step: Step, under_way: RoundInReplay) -> bool:
        records = self._holdings.records
        assert records is not None
        offset, length = under_way.wanted(MAX_RECORD_PIECE)
        try:
            data = await asyncio.to_thread(records.read, step.value_hash, offset, length)
            if data is not None and len(data) == length:
                await asyncio.to_thread(under_way.take, data)
                return True
        except (OSError, RecordError) as error:
            log.warning("our own record of round %d is damaged: %s", step.certificate.value.round, error)
        await asyncio.to_thread(records.keep_only, lambda kept: kept.value_hash != step.value_hash)
        return False

    # -- sources -------------------------------------------------------------------------------------

    async def _source_of(self, step: Step, *, patient: bool = False) -> _Source | None:
        """Somebody who says to have this record; `patient`: wait a little for one that is being written."""
        last = step.value_hash == self._branch.head.value.hash
        for left in reversed(range(TRIES if patient and last else 1)):
            for source in list(self._sources):
                if await self._has(source, step):
                    return source
            if left:
                await asyncio.sleep(PAUSE_S)
                for source in self._sources:
                    source.listed = None
        return None

    async def _has(self, source: _Source, step: Step) -> bool:
        if step.value_hash in source.lacks:
            return False
        try:
            if source.client is None:
                source.client = await self._connect(source.peer)
                self._opened.push_async_callback(source.client.close)
            if source.listed is None:
                source.listed = await source.client.records(self._steps[0].certificate.value.round)
            num_bytes = source.listed.get(step.value_hash)
            if num_bytes not in (None, step.layout.num_bytes):
                raise RemoteError(source.peer, "malformed", f"a record of {num_bytes} bytes")
        except (RemoteError, TimeoutError) as error:
            self._drop(source, error)
            return False
        return num_bytes is not None

    def _drop(self, source: _Source, error: Exception) -> None:
        """Ask it for no record any more."""
        self._lied = self._lied or getattr(error, "reason", "") in WRONG_RECORDS
        self._sources = [other for other in self._sources if other is not source]
        self._blame(source.peer, error)


def _take(under_way: RoundInReplay, data: bytes | memoryview, peer: bytes) -> None:
    try:
        under_way.take(data)
    except RecordError as error:
        raise RemoteError(peer, error.reason, str(error)) from error


async def _fetch(client: StateClient, value_hash: bytes, offset: int, length: int) -> bytes | memoryview:
    """A run of bytes of a record, in as many answers as it needs."""
    if length <= MAX_RECORD_PIECE:
        return await client.record_piece(value_hash, offset, length)
    data = bytearray()
    while len(data) < length:
        piece = min(MAX_RECORD_PIECE, length - len(data))
        data += await client.record_piece(value_hash, offset + len(data), piece)
    return memoryview(data)
