"""Fetching the chunks of one state from several peers at once.

All sources take from one queue, each as many chunks ahead as it delivers in half a second. One that is
silent for too long, goes away, has moved on or gives a wrong chunk is left, and what it still owed is asked
of the others. At the end a source with nothing to do asks again for what another one will not bring in time.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence

from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import peer_id_of
from talkoot.peer import clock
from talkoot.peer.assembly import Assembly, NotFinite, Piece, WrongChunk
from talkoot.peer.sync_progress import SyncProgress
from talkoot.peer.transfer import Busy, Gone, StateClient

log = logging.getLogger("talkoot.sync")

MAX_WINDOW = 8
"""Chunks that one source is asked for ahead, at most; two at first, which show how fast it is."""

WINDOW_S = 0.5
"""A source is asked ahead for what it delivers in this time."""

PATIENCE_S = (5.0, 30.0)
"""Shortest and longest wait for the next chunk of a source; between them `PATIENCE` times its usual pause."""

PATIENCE = 10.0

FIRST_PATIENCE_S = 15.0
"""Wait for the first chunk of a source."""

BUSY_PAUSE_S = 1.0
"""Pause before a source that has too much to do is asked again."""

MAX_BUSY = 60
"""How often in a row a source may have too much to do."""

LOOK_S = 0.25
"""Pause between two looks of a source without work at what the others are late with."""

LATE = 2.0
"""A chunk is asked for again where it would come in 1/LATE of the time that its source needs still."""

AGAIN_SHARE = 0.03
"""Chunks that may be asked for a second time, as a share of all; two at least."""

OnFailure = Callable[[bytes, Exception], None]
"""(peer, error): a source is left because of this."""


class Incomplete(Exception):  # noqa: N818 - reads well where it is caught
    """No source is left, and chunks are missing."""

    def __init__(self, *, moved_on: bool = False, progressed: bool = False) -> None:
        """`moved_on`: a source does not hold this state any more. `progressed`: chunks came nonetheless."""
        super().__init__("no source is left")
        self.moved_on = moved_on
        self.progressed = progressed


class _Source:
    """One peer that gives chunks."""

    def __init__(self, client: StateClient) -> None:
        self.client = client
        self.name = peer_id_of(client.peer)
        self.owed: deque[Piece] = deque()
        """What it was asked for, in this order."""
        self.interval_s = 0.0
        """Usual time between two chunks while some are owed; 0: not measured."""
        self.since_s = 0.0
        """When it began to owe, or brought the last one."""
        self.busy = 0
        """How often it has put us off since."""

    @property
    def window(self) -> int:
        """How many chunks it may owe."""
        if not self.interval_s:
            return 2
        return max(2, min(MAX_WINDOW, math.ceil(WINDOW_S / self.interval_s)))

    @property
    def patience_s(self) -> float:
        """How long it may be silent while it owes something."""
        if not self.interval_s:
            return FIRST_PATIENCE_S
        return min(max(PATIENCE * self.interval_s, PATIENCE_S[0]), PATIENCE_S[1])

    def needs_s(self, piece: Piece, now: float) -> float:
        """Seconds until it will bring what it owes, as far as one can tell: forever if it is silent."""
        silent_s = now - self.since_s
        if not self.interval_s or silent_s > 3 * self.interval_s + LOOK_S:
            return max(silent_s, self.interval_s)
        return (1 + self.owed.index(piece)) * self.interval_s

    def brought(self, now: float) -> None:
        """A chunk is here."""
        pause_s = now - self.since_s
        self.interval_s = pause_s if not self.interval_s else 0.7 * self.interval_s + 0.3 * pause_s
        self.since_s = now
        self.busy = 0


class Fetch:
    """One download. `run` once; what is in place stays so if it fails."""

    def __init__(
        self,
        digest: bytes,
        assembly: Assembly,
        clients: Sequence[StateClient],
        progress: SyncProgress,
        on_failure: OnFailure,
        may_ask: asyncio.Event,
    ) -> None:
        """Clients are closed when they are left, and all of them at the end. While `may_ask` is not set
        nothing more is asked for."""
        self._may_ask = may_ask
        self._digest = digest
        self._assembly = assembly
        self._progress = progress
        self._on_failure = on_failure
        self._sources = [_Source(client) for client in clients]
        self._todo = deque(piece for piece in assembly.pieces() if piece in assembly.missing)
        self._left = set(self._todo)
        self._again_left = max(2, int(AGAIN_SHARE * len(self._left)))
        self._changed = asyncio.Event()
        self._moved_on = False
        self._not_finite: NotFinite | None = None
        self._writing: set[asyncio.Future[None]] = set()

    async def run(self) -> None:
        """Fetch all that is missing. Raises Incomplete, NotFinite."""
        self._show_sources()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._drain(source)) for source in list(self._sources)]
                while self._left and self._sources and self._not_finite is None:
                    self._changed.clear()
                    await self._changed.wait()
                for task in tasks:
                    task.cancel()
        finally:
            while self._writing:  # nobody may write into the staged generation after we have returned
                await asyncio.wait(self._writing)
        if self._not_finite is not None:
            raise self._not_finite
        if self._left:
            done = self._progress.received_bytes > self._progress.wasted_bytes
            raise Incomplete(moved_on=self._moved_on, progressed=done)

    async def _drain(self, source: _Source) -> None:
        """Everything with one source."""
        try:
            while self._left:
                if not source.owed:
                    await self._may_ask.wait()
                await self._ask(source)
                if source.owed:
                    await self._receive(source)
                else:
                    await self._idle(source)
        except NotFinite as error:
            self._not_finite = error
        except Gone:
            self._moved_on = True
            log.info("%s has moved on to another round", source.name[-8:])
        except WrongChunk as error:
            self._on_failure(source.client.peer, RemoteError(source.client.peer, "wrong_hash", str(error)))
        except (RemoteError, TimeoutError) as error:
            self._on_failure(source.client.peer, error)
        finally:
            self._leave(source)
            await source.client.close()  # what it was asked for does not come any more

    async def _ask(self, source: _Source) -> None:
        """Ask ahead for as much as this source should owe."""
        while self._todo and self._wants_more(source):
            piece = self._todo.popleft()
            if piece in self._left:
                await self._ask_for(source, piece)

    async def _ask_for(self, source: _Source, piece: Piece) -> None:
        if not source.owed:
            source.since_s = clock.now()
        source.owed.append(piece)
        await source.client.ask_chunk(self._digest, piece.vector, piece.index)

    def _wants_more(self, source: _Source) -> bool:
        return self._may_ask.is_set() and len(source.owed) < source.window and self._is_worth(source)

    def _is_worth(self, source: _Source) -> bool:
        """Whether it would bring one more chunk before the others have brought all the rest."""
        if not source.interval_s or not source.owed:
            return True
        speed = sum(1 / other.interval_s for other in self._sources if other.interval_s)
        return (1 + len(source.owed)) * source.interval_s <= len(self._left) / speed + WINDOW_S

    async def _receive(self, source: _Source) -> None:
        piece = source.owed[0]
        left_s = source.since_s + source.patience_s - clock.now()
        try:
            data = await source.client.next_chunk(timeout_s=max(left_s, 0.01))
        except Busy:
            source.owed.popleft()
            self._todo.appendleft(piece)
            source.busy += 1
            if source.busy > MAX_BUSY:
                raise TimeoutError("it is busy all the time") from None
            await asyncio.sleep(BUSY_PAUSE_S)
            source.since_s = clock.now()
            return
        source.owed.popleft()
        source.brought(clock.now())
        if piece not in self._left:
            self._progress.received(len(data), wasted=True)
            return
        await self._take(source, piece, data)

    async def _take(self, source: _Source, piece: Piece, data: bytes | memoryview) -> None:
        loop = asyncio.get_running_loop()
        writing = loop.run_in_executor(None, self._assembly.take, piece, data)
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        try:
            await asyncio.shield(writing)
        except WrongChunk:
            self._progress.checks.refused("chunk")
            self._progress.received(len(data), wasted=True)
            self._todo.appendleft(piece)
            raise
        self._progress.checks.passed()
        wasted = piece not in self._left  # another source was quicker meanwhile
        self._progress.received(len(data), wasted=wasted)
        self._left.discard(piece)
        if not self._left:
            self._changed.set()

    async def _idle(self, source: _Source) -> None:
        """Nothing to ask for: look whether somebody is late, or wait a little."""
        piece = self._late_piece(source)
        if piece is not None:
            self._again_left -= 1
            await self._ask_for(source, piece)
            return
        await asyncio.sleep(LOOK_S)

    def _late_piece(self, source: _Source) -> Piece | None:
        """What this source would bring much sooner than the one that owes it."""
        if self._todo or self._again_left <= 0 or not self._may_ask.is_set():
            return None
        now, own_s = clock.now(), source.interval_s or LOOK_S
        late = [
            (other.needs_s(piece, now), piece)
            for other in self._sources
            for piece in other.owed
            if piece in self._left and self._owing(piece) == 1
        ]
        if not late:
            return None
        needs_s, piece = max(late)
        return piece if needs_s > LATE * own_s else None

    def _owing(self, piece: Piece) -> int:
        return sum(piece in source.owed for source in self._sources)

    def _leave(self, source: _Source) -> None:
        """Its debts are the others' now."""
        self._sources.remove(source)
        owed = [piece for piece in source.owed if piece in self._left and not self._owing(piece)]
        self._todo.extendleft(reversed(owed))
        self._show_sources()
        self._changed.set()

    def _show_sources(self) -> None:
        self._progress.sources = tuple(source.name for source in self._sources)
