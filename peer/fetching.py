"""Fetching the chunks of one state from several peers at once.

All sources take from one queue, each as many chunks ahead as it delivers in half a second, all together no
more than our own line carries in a few seconds. One that is silent for too long, goes away, has moved on or
gives a wrong chunk is left, and what it still owed is asked of the others. At the end a source with nothing
to do asks again for what another one will not bring in time.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from operator import itemgetter

from talkoot.averaging.digest import CHUNK_BYTES
from talkoot.dht.errors import RemoteError
from talkoot.peer import clock
from talkoot.peer.arriving import Arriving
from talkoot.peer.assembly import Assembly, NotFinite, Piece, WrongChunk
from talkoot.peer.chunk_source import SILENT_S, WINDOW_S, Source
from talkoot.peer.sync_progress import SyncProgress
from talkoot.peer.transfer import Busy, Gone, StateClient

log = logging.getLogger("talkoot.sync")

BUSY_PAUSE_S = 1.0
"""Pause before a source that has too much to do is asked again."""

MAX_BUSY = 60
"""How often in a row a source may have too much to do."""

LOOK_S = 0.25
"""Pause between two looks at what has come, and at what the others are late with."""

AHEAD_S = 4.0
"""While chunks come, another is asked for only where all that is owed comes in this time, at the rate of now:
what a narrow line brings in pieces from many sources at once would be whole from none of them in time."""

QUIET = 0.25
"""When nothing comes for so much of the time of a chunk, somebody else is asked, too."""

LATE = 2.0
"""A chunk is asked for again where it would come in 1/LATE of the time that its source needs still."""

AGAIN_SHARE = 0.03
"""Chunks that may be asked for a second time of those that are coming, as a share of all; two at least."""

OnFailure = Callable[[bytes, Exception], None]
"""(peer, error): a source is left because of this."""


class Incomplete(Exception):  # noqa: N818 - reads well where it is caught
    """No source is left, and chunks are missing."""

    def __init__(self, *, moved_on: bool = False, progressed: bool = False) -> None:
        """`moved_on`: a source does not hold this state any more. `progressed`: chunks came nonetheless."""
        super().__init__("no source is left")
        self.moved_on = moved_on
        self.progressed = progressed


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
        self._sources = [Source(client) for client in clients]
        self._todo = deque(piece for piece in assembly.pieces() if piece in assembly.missing)
        self._left = set(self._todo)
        self._again_left = max(2, int(AGAIN_SHARE * len(self._left)))
        self._changed = asyncio.Event()
        self._moved_on = False
        self._not_finite: NotFinite | None = None
        self._writing: set[asyncio.Future[None]] = set()
        self._arriving = Arriving(clock.now())
        self._line_rate = 0.0  # the highest at which they came; 0: not known
        self._used_s = clock.now()  # when the last byte came, or the last chunk was asked for
        self._news = asyncio.Event()  # a chunk came

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

    async def _drain(self, source: Source) -> None:
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

    async def _ask(self, source: Source) -> None:
        """Ask ahead for as much as this source should owe."""
        while self._todo and self._wants_more(source):
            piece = self._todo.popleft()
            if piece in self._left:
                await self._ask_for(source, piece)

    async def _ask_for(self, source: Source, piece: Piece) -> None:
        self._used_s = clock.now()
        source.asked_for(piece, self._used_s, self._line_s(self._to_come()))
        await source.client.ask_chunk(self._digest, piece.vector, piece.index)

    def _wants_more(self, source: Source) -> bool:
        return (
            self._may_ask.is_set()
            and len(source.owed) < source.window
            and self._is_worth(source)
            and self._has_room()
        )

    def _has_room(self) -> bool:
        """Whether our line can carry more than what is owed, or nobody uses it."""
        now = clock.now()
        self._look(now)
        if self._to_come() <= AHEAD_S * self._arriving.rate(now):
            return True
        return now - self._used_s > max(SILENT_S, QUIET * self._line_s(CHUNK_BYTES))

    def _line_s(self, num_bytes: int) -> float:
        """Seconds that our line takes for so much, as far as it has shown."""
        return num_bytes / self._line_rate if self._line_rate else 0.0

    def _to_come(self) -> int:
        """Bytes that are owed."""
        return sum(source.to_come() for source in self._sources)

    def _look(self, now: float) -> None:
        """At what has come."""
        fresh = sum(source.look(now) for source in self._sources)
        self._arriving.add(fresh, now)
        if fresh:
            self._used_s = now
            self._line_rate = max(self._line_rate, self._arriving.rate(now))

    def _is_worth(self, source: Source) -> bool:
        """Whether it would bring one more chunk before the others, taken for as fast as it where that is not
        known yet, have brought all the rest."""
        if not source.interval_s or not source.owed:
            return True
        speed = sum(1 / (other.interval_s or source.interval_s) for other in self._sources)
        return (1 + len(source.owed)) * source.interval_s <= len(self._left) / speed + WINDOW_S

    async def _receive(self, source: Source) -> None:
        try:
            data = await source.client.next_chunk(timeout_s=LOOK_S)
        except TimeoutError:
            now = clock.now()
            self._look(now)
            if why := source.overdue(now):
                raise TimeoutError(why) from None
            return
        except Busy:
            self._todo.appendleft(source.put_off())
            if source.busy > MAX_BUSY:
                raise TimeoutError("it is busy all the time") from None
            await asyncio.sleep(BUSY_PAUSE_S)
            source.since_s = source.heard_s = clock.now()
            return
        now = clock.now()
        self._look(now)
        piece = source.brought(now)
        self._news.set()
        if piece not in self._left:
            self._progress.received(len(data), wasted=True)
            return
        await self._take(source, piece, data)

    async def _take(self, source: Source, piece: Piece, data: bytes | memoryview) -> None:
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

    async def _idle(self, source: Source) -> None:
        """Nothing to ask for: look whether somebody is late, or wait a little."""
        piece = self._late_piece(source)
        if piece is not None:
            await self._ask_for(source, piece)
            return
        self._news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await self._news.wait()

    def _late_piece(self, source: Source) -> Piece | None:
        """What this source would bring much sooner than the one that owes it. What is coming may then come
        twice, and few may; who is silent for long brings nothing."""
        if self._todo or not self._may_ask.is_set():
            return None
        now = clock.now()
        in_use = now - self._used_s <= max(SILENT_S, self._line_s(CHUNK_BYTES))
        line_s = self._line_s(self._to_come() + CHUNK_BYTES) if in_use else 0.0
        own_s = max(source.interval_s or LOOK_S, line_s)
        late = [
            (other.needs_s(piece, now), piece, other)
            for other in self._sources
            for piece in other.owed
            if piece in self._left and self._owing(piece) == 1 and (self._again_left or other.is_silent(now))
        ]
        needs_s, piece, other = max(late, key=itemgetter(0), default=(0.0, None, source))
        if needs_s <= LATE * own_s:
            return None
        if not other.is_silent(now):
            self._again_left -= 1
        return piece

    def _owing(self, piece: Piece) -> int:
        return sum(piece in source.owed for source in self._sources)

    def _leave(self, source: Source) -> None:
        """Its debts are the others' now."""
        self._sources.remove(source)
        owed = [piece for piece in source.owed if piece in self._left and not self._owing(piece)]
        self._todo.extendleft(reversed(owed))
        self._show_sources()
        self._changed.set()

    def _show_sources(self) -> None:
        self._progress.sources = tuple(source.name for source in self._sources)
