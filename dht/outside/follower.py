"""Follows a swarm from outside, in a thread of its own with its own trio loop, for whoever wants to read.

The thread looks at the directory again and again, visits peers in between, and leaves a `Reading` after each
step. Readers take the newest and never wait for the network. Where py-libp2p fails as a whole the thread
begins again.
"""

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeAlias, TypeVar

import trio

from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import Identity
from talkoot.dht.multiaddr import parse_address
from talkoot.dht.outside.directory import OutsideDirectory
from talkoot.dht.outside.host import Outside, running
from talkoot.dht.outside.reading import NOTHING, Followed, Reading
from talkoot.dht.outside.visits import Visit, Visits, is_public

logger = logging.getLogger(__name__)

LOOK_S = 4.0
"""Pause between two looks at the directory."""
SHOW_S = 0.2
"""Pause between two readings while a look goes on."""
VISITORS = 4
"""Peers that are visited at once."""
CONNECT_S = 4.0
MAX_OPEN = 24
"""Connections that are kept after a visit; more are closed."""
RESTART_S = (1.0, 5.0, 30.0)
"""Pauses before the thread begins again."""

ResultT = TypeVar("ResultT")
Work: TypeAlias = Callable[[Outside, OutsideDirectory], Awaitable[ResultT]]
"""What is done in the follower's loop, with its host."""


class Follower:
    """Made by `following`. Its methods may be called from any thread."""

    def __init__(self, identity: Identity, swarm: bytes, bootstrap: Sequence[str]) -> None:
        self._identity = identity
        self._swarm = swarm
        self._bootstrap = bootstrap
        self._reading = NOTHING
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope: trio.CancelScope | None = None
        self._host: Outside | None = None
        self._directory: OutsideDirectory | None = None
        self._heard: dict[bytes, tuple[float, float]] = {}  # issued by its word, and when it came
        self._restarts = self._looks = self._nodes = 0
        self._past: tuple[Counter[str], Counter[str]] = (Counter(), Counter())

    @property
    def reading(self) -> Reading:
        """The newest; `NOTHING` at first."""
        return self._reading

    def wait(self, enough: Callable[[Reading], bool], timeout_s: float) -> Reading:
        """The newest reading, once it is enough or the time is up."""
        with self._changed:
            self._changed.wait_for(lambda: enough(self._reading), timeout_s)
        return self._reading

    def ask(self, work: Work[ResultT]) -> ResultT:
        """Have something done on the host, in the follower's loop, and wait for it. Not on an event loop.

        Raises what `work` raises, and RemoteError (`unreachable`) while there is no host.
        """
        token, host, directory = self._token, self._host, self._directory
        if token is None or host is None or directory is None:
            raise RemoteError(None, "unreachable", "the explorer is being started")
        try:
            return trio.from_thread.run(work, host, directory, trio_token=token)
        except (trio.RunFinishedError, trio.Cancelled) as error:
            raise RemoteError(None, "unreachable", "the explorer is being stopped") from error

    # -- the thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopped.is_set():
            began = time.monotonic()
            try:
                trio.run(self._main)
            except Exception:  # what is wrong inside py-libp2p must not end the explorer
                logger.exception("following the swarm failed; beginning again")
            self._keep_counts()
            if not self._stopped.is_set():
                young = time.monotonic() - began < RESTART_S[-1]
                self._restarts = self._restarts + 1
                pause_s = RESTART_S[min(self._restarts, len(RESTART_S)) - 1] if young else RESTART_S[0]
                self._stopped.wait(pause_s)

    def _stop(self) -> None:
        self._stopped.set()
        token = self._token
        if token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(self._cancel)

    def _cancel(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    async def _main(self) -> None:
        with trio.CancelScope() as self._scope:
            self._token = trio.lowlevel.current_trio_token()
            if self._stopped.is_set():
                return
            async with running(self._identity) as host:
                self._directory = OutsideDirectory(host, self._swarm, self._bootstrap)
                self._host = host
                visits = Visits(public=is_public(map(parse_address, self._bootstrap)))
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._look_again_and_again, self._directory, visits)
                        nursery.start_soon(self._visit_again_and_again, host, self._directory, visits)
                finally:
                    self._host = self._directory = None

    async def _look_again_and_again(self, directory: OutsideDirectory, visits: Visits) -> None:
        while True:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._show_while_looking, directory, visits)
                look = await directory.look()
                nursery.cancel_scope.cancel()
            self._looks += 1
            self._nodes = len(look.answered)
            self._show(directory, visits)
            await trio.sleep(LOOK_S)

    async def _show_while_looking(self, directory: OutsideDirectory, visits: Visits) -> None:
        """One node that never answers keeps nobody from seeing what the others said."""
        while True:
            await trio.sleep(SHOW_S)
            self._show(directory, visits)

    async def _visit_again_and_again(
        self, host: Outside, directory: OutsideDirectory, visits: Visits
    ) -> None:
        while True:
            peers = directory.peers()
            visits.forget(peers)
            due = visits.due((peer for peer in peers if peer != host.key), trio.current_time(), most=VISITORS)
            async with trio.open_nursery() as nursery:
                for peer in due:
                    nursery.start_soon(self._visit, host, directory, visits, peer)
            if due:
                self._show(directory, visits)
            else:
                await trio.sleep(0.5)

    async def _visit(self, host: Outside, directory: OutsideDirectory, visits: Visits, peer: bytes) -> None:
        now = trio.current_time()
        known = directory.book.of(peer)
        relayed = bool(known) and all(address.relay is not None for address in known)
        visit = Visit("relayed" if relayed else "unreachable", now)
        try:
            if not host.is_connected(peer):
                await host.connect(peer, visits.places(known, now), timeout_s=CONNECT_S)
            before = trio.current_time()
            offset = await directory.ping(peer)
            visit = Visit("direct", now, trio.current_time() - before, offset)
        except RemoteError as error:
            logger.debug("a visit failed: %s", error)
        visits.note(peer, visit)
        if host.num_connections > MAX_OPEN and not directory.needs(peer):
            await host.disconnect(peer)

    # -- what is shown -------------------------------------------------------------------------------

    def _show(self, directory: OutsideDirectory, visits: Visits) -> None:
        now, peers = time.time(), directory.peers()
        heard = {}
        for key, signed in peers.items():
            before = self._heard.get(key)
            heard[key] = before if before is not None and before[0] == signed.issued else (signed.issued, now)
        self._heard = heard
        followed = tuple(
            Followed(key, signed.record, heard[key][1], visits.last.get(key))
            for key, signed in sorted(peers.items())
            if key != self._identity.key
        )
        rejected, failures = self._past[0] + directory.rejected, self._past[1] + directory.failures
        reading = Reading(now, followed, self._nodes, self._looks, rejected, failures, self._restarts)
        with self._changed:
            self._reading = reading
            self._changed.notify_all()

    def _keep_counts(self) -> None:
        """Counts outlive what counted them."""
        self._past = Counter(self._reading.rejected), Counter(self._reading.failures)


@contextlib.contextmanager
def following(swarm: bytes, bootstrap: Sequence[str]) -> Iterator[Follower]:
    """Follow a swarm from its peers at `bootstrap` (multiaddrs with /p2p) on, under a key made for it."""
    follower = Follower(Identity.generate(), swarm, bootstrap)
    thread = threading.Thread(target=follower._run, name="follower", daemon=True)
    thread.start()
    try:
        yield follower
    finally:
        follower._stop()
        thread.join(10.0)
