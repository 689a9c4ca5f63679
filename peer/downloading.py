"""From peers that may have a state to a verified one in a staged generation.

Survey, choice, tree, chunks. When the sources have moved on to another round meanwhile all of it begins
again, with a state that they keep for a while if there is one.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from talkoot.averaging.certificate import Certificate
from talkoot.averaging.digest import StateTree
from talkoot.averaging.ledger import Ledger
from talkoot.dht.errors import RemoteError
from talkoot.dht.network import Network
from talkoot.peer import clock, unfinished
from talkoot.peer.assembly import Assembly, NotFinite
from talkoot.peer.checks import Checks
from talkoot.peer.fetching import Fetch, Incomplete, OnFailure
from talkoot.peer.generation import Generation
from talkoot.peer.invite import Anchor
from talkoot.peer.survey import MAX_SOURCES, Survey, Target, best_branch, followed, targets
from talkoot.peer.sync import Branch
from talkoot.peer.sync_progress import SyncProgress, words
from talkoot.peer.transfer import Busy, Gone, StateClient

log = logging.getLogger("talkoot.sync")

MAX_MOVES = 20
"""How often the sources may move on to a later round during one download."""

TREE_PATIENCE_S = 3.0
"""How long a source may take to give its hash tree before the next one is asked, too."""

TELL_S = 2.0
"""Pause between two lines about a download."""

MAX_REFUSED = 64
"""Digests that are remembered because nobody can use what they stand for."""

Own = tuple[Generation, StateTree]
"""A generation and its leaf hashes: what fits is not fetched."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is to be downloaded, and into what."""

    numel: int
    ours: Certificate | None
    """Our last final certificate: trust starts there, else at the anchor, else at the founders."""
    anchor: Anchor | None
    founders: tuple[bytes, ...]
    stage: Callable[[Target], Awaitable[Generation]]
    """Gives the generation to fill, once a state was chosen whose tree is verified."""
    prefer: Callable[[Branch], str | None] = lambda _branch: "there is no other"
    """Why a branch is to be preferred to ours; None if it is not. Called in a thread."""
    outvoted: Callable[[Branch], bool] = lambda _branch: False
    """Whether a branch is not to be followed, whatever the others offer. Called in a thread."""
    replays: int = 0
    """Rounds that can be replayed afterwards: a state that is kept for a while may be so much older."""
    own: Own | None = None
    """The state that we hold."""
    damaged: bytes | None = None
    """Digest of the state on disk of which only some chunks may be right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """A state that lies verified in a staged generation."""

    branch: Branch
    """Ends with it."""
    best: Branch
    """The branch that it is on, up to the newest state that was offered."""
    staged: Generation
    tree: StateTree


class Downloader:
    """Downloads one state at a time."""

    def __init__(
        self,
        network: Network,
        swarm: bytes,
        store: Path,
        usable: Callable[[Iterable[bytes]], list[bytes]],
        on_failure: OnFailure,
    ) -> None:
        """`usable` leaves out those who gave wrong answers, of which `on_failure` hears."""
        self._network = network
        self._swarm = swarm
        self._store = store
        self._usable = usable
        self._on_failure = on_failure
        self._refused: set[bytes] = set()
        self.progress: SyncProgress | None = None
        """Of the download that is under way."""
        self.on_progress: Callable[[SyncProgress], None] = lambda _progress: None
        """Hears of a running download every `TELL_S` seconds, and at its end."""
        self.heard = 0
        """Peers that answered when they were asked for their state."""
        self.checks = Checks()
        """Of all that was fetched."""
        self.may_ask = asyncio.Event()
        """A download that is under way waits while it is not set."""
        self.may_ask.set()
        self.on_fetched: Callable[[float], object] = lambda _seconds: None
        """Hears of each state that was fetched, and of the seconds that it took."""

    async def fetch(self, peers: Sequence[bytes], job: Job) -> Fetched | None:
        """The best state that these peers give, if it is to be preferred to ours."""
        moved, began = False, clock.now()
        for start in range(0, len(peers), MAX_SOURCES):
            for _ in range(MAX_MOVES):
                try:
                    fetched = await self._try(peers[start : start + MAX_SOURCES], job, moved)
                    self.on_fetched(clock.now() - began)
                    return fetched
                except Incomplete as error:
                    if not (error.moved_on or error.progressed):
                        break
                    moved = moved or error.moved_on
        return None

    async def _try(self, peers: Sequence[bytes], job: Job, lasting: bool) -> Fetched:
        """Raises Incomplete."""
        survey = Survey(
            self._network,
            self._swarm,
            ours=job.ours,
            anchor=job.anchor,
            founders=job.founders,
            on_failure=self._on_failure,
            checks=self.checks,
        )
        try:
            offers = await survey.ask(self._usable(peers))
            offers = await asyncio.to_thread(followed, offers, job.outvoted)
            if not offers:
                raise Incomplete
            best = best_branch(offers)
            begun = unfinished.begun(self._store)
            first = job.damaged or (begun[0] if begun is not None else None)
            chosen = targets(offers, best, begun=first, lasting=lasting, replays=job.replays)
            return await self._first_of(chosen, best, job)
        finally:
            self.heard += survey.heard
            self.progress = None
            await survey.close()

    async def _first_of(self, chosen: list[Target], best: Branch, job: Job) -> Fetched:
        """The first state that is wanted and can be had. Raises Incomplete."""
        moved = False
        for target in chosen:
            sources = [
                (offer.client, offer.branch.ledger)
                for offer in target.offers
                if self._usable([offer.client.peer])
            ]
            reason = await asyncio.to_thread(job.prefer, target.branch)
            if reason is None or not sources or target.digest in self._refused:
                continue
            log.info("fetching the state of %s; followed since %s", target.reason, reason)
            try:
                tree, ledger = await fetch_tree(
                    sources, target.digest, job.numel, self._on_failure, self.checks
                )
            except Incomplete as error:
                moved = moved or error.moved_on
                continue
            branch = Branch(target.branch.start, target.branch.chain, ledger)
            staged = await job.stage(target)
            try:
                await self._fill(target.digest, staged, tree, [client for client, _ in sources], job)
                return Fetched(branch=branch, best=best, staged=staged, tree=tree)
            except NotFinite as error:
                log.warning("the state of %s is certified, but cannot be used: %s", target.reason, error)
                self._refuse(target.digest)
                break  # the channels are closed
        raise Incomplete(moved_on=moved)

    def _refuse(self, digest: bytes) -> None:
        self._network.events.rejected["not_finite"] += 1
        if len(self._refused) < MAX_REFUSED:
            self._refused.add(digest)

    async def _fill(
        self, digest: bytes, staged: Generation, tree: StateTree, clients: Sequence[StateClient], job: Job
    ) -> None:
        """One state from all who have it. Raises Incomplete, NotFinite."""
        begun = unfinished.begun(self._store)
        place = (digest, staged.path.name)
        await asyncio.to_thread(unfinished.begin, self._store, *place)
        assembly = Assembly(staged, tree)
        if begun == place or job.damaged == digest:
            await asyncio.to_thread(assembly.find, staged)
        if job.own is not None:
            await asyncio.to_thread(assembly.find, *job.own)
        await self._chunks(digest, assembly, clients)

    async def _chunks(self, digest: bytes, assembly: Assembly, clients: Sequence[StateClient]) -> None:
        progress = self.progress = SyncProgress(checks=self.checks)
        progress.begin(assembly.total_bytes)
        progress.found(assembly.total_bytes - assembly.missing_bytes)
        if progress.found_bytes:
            log.info("%d of %d bytes are here already", progress.found_bytes, progress.total_bytes)
        failure: Exception | None = None
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self._tell(progress))
            try:
                await Fetch(digest, assembly, clients, progress, self._on_failure, self.may_ask).run()
            except (Incomplete, NotFinite) as error:
                failure = error
            watch.cancel()
        self.on_progress(progress)
        if failure is not None:
            raise failure

    async def _tell(self, progress: SyncProgress) -> None:
        """Say how far it is, until cancelled."""
        while True:
            await asyncio.sleep(TELL_S)
            self.on_progress(progress)
            ratio = progress.done_bytes / max(1, progress.total_bytes)
            log.info("state: %s", words(progress), extra={"done_ratio": round(ratio, 4)})

    async def complete(
        self, clients: Sequence[StateClient], staged: Generation, tree: StateTree, own: Own | None
    ) -> bool:
        """Fill a generation with the state of a verified tree; False if these sources cannot give it."""
        assembly = Assembly(staged, tree)
        try:
            if own is not None:
                await asyncio.to_thread(assembly.find, *own)
            await self._chunks(tree.digest, assembly, clients)
        except (Incomplete, NotFinite) as error:
            log.info("a result cannot be had: %s", error)
            return False
        finally:
            self.progress = None
        return True


async def fetch_tree(
    sources: list[tuple[StateClient, Ledger]],
    digest: bytes,
    numel: int,
    on_failure: OnFailure,
    checks: Checks,
) -> tuple[StateTree, Ledger]:
    """The verified tree and ledger of a state, from the first source that gives them. Raises Incomplete.

    One source after the other is asked, the next one also when those before are slow. Sources that failed, or
    still owe an answer, are removed from the list.
    """
    found: list[tuple[StateTree, Ledger]] = []
    moved = False
    over = asyncio.Event()

    async def ask(source: tuple[StateClient, Ledger]) -> None:
        nonlocal moved
        client, ledger = source
        try:
            tree = await client.tree(digest, ledger, numel)
            checks.passed()
            found.append((tree, ledger))
            sources.append(source)
        except (Gone, Busy) as answer:
            moved = moved or isinstance(answer, Gone)
        except (RemoteError, TimeoutError) as error:
            if isinstance(error, RemoteError) and error.reason == "wrong_hash":
                checks.refused("digest")
            on_failure(client.peer, error)
        over.set()

    waiting = list(sources)
    async with asyncio.TaskGroup() as group:
        tasks: list[asyncio.Task[None]] = []
        while not found and (waiting or not all(task.done() for task in tasks)):
            if waiting:
                sources.remove(waiting[0])
                tasks.append(group.create_task(ask(waiting.pop(0))))
            over.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(TREE_PATIENCE_S if waiting else None):
                    await over.wait()
        for task in tasks:
            task.cancel()
    if not found:
        raise Incomplete(moved_on=moved)
    return found[0]
