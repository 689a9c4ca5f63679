"""Joining a swarm and catching up with it: whom to ask, which branch to follow, what to install."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from talkoot.averaging.certificate import Certificate
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.rules import Rules
from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import peer_id_of
from talkoot.dht.network import Network
from talkoot.peer import clock, unfinished
from talkoot.peer.catchup import WRONG_RECORDS, CatchUp
from talkoot.peer.checks import Checks
from talkoot.peer.choice import Choice
from talkoot.peer.contributor import Contributor
from talkoot.peer.disk import Disk
from talkoot.peer.downloading import Downloader, Job, fetch_tree
from talkoot.peer.fetching import Incomplete
from talkoot.peer.generation import Generation
from talkoot.peer.head import Head
from talkoot.peer.holdings import Holdings
from talkoot.peer.installing import install, remains_of
from talkoot.peer.invite import Anchor
from talkoot.peer.manifest import Manifest, State
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore
from talkoot.peer.survey import MAX_SOURCES, Survey, Target, best_branch, followed
from talkoot.peer.sync import Branch, Standing, is_outvoted, prefers, ways_apart
from talkoot.peer.sync_progress import SyncProgress
from talkoot.peer.trainer.protocol import Mode
from talkoot.peer.transfer import Busy, Gone, StateClient

log = logging.getLogger("talkoot.sync")

BLAME_S = 60.0
"""How long a peer that gave a wrong answer is not asked again."""

BLAMELESS = frozenset(
    {"unreachable", "unsupported", "busy", "timeout", "lost", "ended", "closed", "refused", "unauthenticated"}
)
"""Failures that are no lie: the network's, or those of a peer that has nothing for us."""


class _Overtaken(Exception):  # noqa: N818 - internal signal
    """Our own round was committed while we looked at somebody else's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Installed:
    """An outer state that was just installed."""

    branch: Branch
    missed: int
    """Rounds of the branch that our own chain did not have."""
    left: int
    """Rounds of our own chain that are not part of the branch; all of them were weak."""
    choice: Choice
    """How it was obtained, and why so."""

    @property
    def mode(self) -> Mode:
        """How the trainer takes it up: local work is kept; after more than one round AdamW starts cold."""
        return "rebase" if max(self.missed, self.left) <= 1 else "rewarm"


async def _nothing() -> None:
    """Nothing is to be done before the download: no round is running."""


class Joiner:
    """Fetches manifest and state from peers. Keeps track of who gave wrong answers."""

    def __init__(
        self,
        network: Network,
        swarm: bytes,
        paths: StateDir,
        anchor: Anchor | None,
        *,
        disk: Disk | None = None,
    ) -> None:
        """`anchor` is the invite's; without it trust starts at the founders that the manifest lists."""
        self._disk = disk or Disk(paths.path)
        self._network = network
        self._swarm = swarm
        self._paths = paths
        self._anchor = anchor
        self._blamed: dict[bytes, float] = {}
        self._blamed_for_records: dict[bytes, float] = {}
        """Their records are not asked for, but their states: a disk may rot in one place."""
        self._downloader = Downloader(network, swarm, paths.outer, self._usable, self._blame)
        self.replays = 0
        """Rounds that `update` can replay: a snapshot that is no further behind is the better start."""
        self.keep = State()
        """What the manifest says about the state that is kept."""
        self.standing: Standing = lambda _round: ()
        """Who might make the next round final with us."""

    @property
    def progress(self) -> SyncProgress | None:
        """Of the download that is under way."""
        return self._downloader.progress

    def tell(
        self,
        hear: Callable[[SyncProgress], None],
        fetched: Callable[[float], object] = lambda _seconds: None,
    ) -> None:
        """Have `hear` called now and then while a download runs, and at its end; `fetched` with the seconds
        that each state took which is here."""
        self._downloader.on_progress = hear
        self._downloader.on_fetched = fetched

    def wait(self, on: bool) -> None:
        """A download that is under way, or begins, waits from now on, or goes on."""
        (self._downloader.may_ask.clear if on else self._downloader.may_ask.set)()

    @property
    def checks(self) -> Checks:
        """Of all that was fetched."""
        return self._downloader.checks

    @property
    def heard(self) -> int:
        """Peers that answered when they were asked for their state."""
        return self._downloader.heard

    def _usable(self, peers: Iterable[bytes]) -> list[bytes]:
        now = clock.now()
        self._blamed = {peer: until for peer, until in self._blamed.items() if until > now}
        unique = dict.fromkeys(peer for peer in peers if peer != self._network.key)
        return [p for p in unique if p not in self._blamed and p not in self._network.company.banned]

    def _blame(self, peer: bytes, error: Exception) -> None:
        reason = error.reason if isinstance(error, RemoteError) else "timeout"
        if reason not in BLAMELESS:
            self._network.events.reject(reason, peer, "state")
            self._blamed[peer] = clock.now() + BLAME_S
        log.info("state from %s: %s", peer_id_of(peer)[-8:], error or reason)

    def _blame_for_record(self, peer: bytes, error: Exception) -> None:
        if isinstance(error, RemoteError) and error.reason in WRONG_RECORDS:
            self._network.events.reject(error.reason, peer, "state")
            self._blamed_for_records[peer] = clock.now() + BLAME_S
        log.info("record from %s: %s", peer_id_of(peer)[-8:], error or "timeout")

    async def manifest(self, peers: Iterable[bytes]) -> Manifest | None:
        """The swarm's manifest from the first peer that has it; None when nobody answers."""
        for peer in self._usable(peers):
            try:
                client = await StateClient.connect(self._network, peer, self._swarm)
                try:
                    return await client.manifest(self._swarm)
                finally:
                    await client.close()
            except (RemoteError, TimeoutError, Gone, Busy) as error:
                self._blame(peer, error)
        return None

    async def tokenizer(self, peers: Iterable[bytes], expected_hash: str) -> bytes | None:
        """The swarm's tokenizer file, verified; None when nobody answers."""
        for peer in self._usable(peers):
            try:
                client = await StateClient.connect(self._network, peer, self._swarm)
                try:
                    return await client.tokenizer(expected_hash)
                finally:
                    await client.close()
            except (RemoteError, TimeoutError, Gone, Busy) as error:
                self._blame(peer, error)
        return None

    # -- states --------------------------------------------------------------------------------------

    async def first_state(
        self, peers: Iterable[bytes], rules: Rules, founders: tuple[bytes, ...]
    ) -> Holdings | None:
        """Fetch a state into an empty state directory. None when nobody could give one.

        It may be a snapshot: catch up afterwards.
        """
        store = await self._disk.run(OuterStore.prepare, self._paths.outer, rules.numel)
        return await self._fill(store, peers, rules, founders)

    async def repair(
        self, peers: Iterable[bytes], rules: Rules, founders: tuple[bytes, ...]
    ) -> Holdings | None:
        """Fetch what is damaged in a state directory, or a newer state. None when nobody could give it.

        Until that is complete the directory stays as it is, apart from chunks that were put right.
        """
        remains = await self._disk.run(remains_of, self._paths)
        store = await self._disk.run(OuterStore.salvage, self._paths.outer, rules.numel)
        return await self._fill(store, peers, rules, founders, ours=remains.final, damaged=remains.head)

    async def _fill(
        self,
        store: OuterStore,
        peers: Iterable[bytes],
        rules: Rules,
        founders: tuple[bytes, ...],
        *,
        ours: Certificate | None = None,
        damaged: Head | None = None,
    ) -> Holdings | None:
        """Fetch a state into a store without a head; `damaged` is what its HEAD on disk says."""

        async def stage(target: Target) -> Generation:
            before = unfinished.begun(store.path)
            if damaged is not None and damaged.digest == target.digest:
                name = damaged.generation  # chunks are put right where they are
            elif before is not None and before[0] == target.digest:
                name = before[1]
            else:
                name = "b" if damaged is not None and damaged.generation == "a" else "a"
            return await self._disk.run(store.stage_generation, name)

        job = Job(
            numel=rules.numel,
            ours=ours,
            anchor=self._anchor,
            founders=founders,
            stage=stage,
            replays=self.replays,
            damaged=damaged.digest if damaged is not None else None,
        )
        usable = self._usable(peers)
        fetched = await self._downloader.fetch(usable, job)
        if fetched is None:
            return None
        return await self._disk.run(
            install, self._paths, store, fetched.staged, fetched.tree, fetched.branch, rules, self.keep
        )

    async def update(
        self,
        peers: Iterable[bytes],
        holdings: Holdings,
        founders: tuple[bytes, ...],
        *,
        before_download: Callable[[], Awaitable[None]] = _nothing,
        still_wanted: Callable[[], bool] = lambda: True,
    ) -> Installed | None:
        """Fetch a branch that is to be preferred to ours, if one of the peers has it.

        `before_download` is called once it is verified and preferred: the running round ends there.
        `still_wanted` says whether our own head is still the one that the branch was compared with.
        """

        async def begin() -> None:
            if not still_wanted():
                raise _Overtaken
            await before_download()

        async def stage(_target: Target) -> Generation:
            await begin()
            return await self._disk.run(holdings.stage_download)

        def prefer(branch: Branch) -> str | None:
            wanted, reason = prefers(holdings, branch)
            return reason if wanted else None

        job = Job(
            numel=holdings.rules.numel,
            ours=holdings.last_final(),
            anchor=self._anchor,
            founders=founders,
            stage=stage,
            prefer=prefer,
            outvoted=partial(is_outvoted, holdings, standing=self.standing),
            replays=self.replays,
            own=(holdings.store.current, holdings.tree),
        )
        try:
            replayed = await self._replay(self._usable(peers), holdings, founders, begin)
            if not isinstance(replayed, Choice):
                return replayed
            fetched = await self._downloader.fetch(self._usable(peers), job)
        except _Overtaken:
            return None
        if fetched is None:
            return None
        branch, chain = fetched.branch, list(fetched.branch.chain)
        ours, theirs = await asyncio.to_thread(ways_apart, holdings, branch)
        await self._disk.run(
            holdings.install_download, fetched.staged, fetched.tree, branch.head, branch.ledger, chain
        )
        unfinished.end(holdings.store.path)
        return Installed(branch=branch, missed=len(theirs), left=len(ours), choice=replayed)

    async def _replay(
        self,
        usable: Sequence[bytes],
        holdings: Holdings,
        founders: tuple[bytes, ...],
        begin: Callable[[], Awaitable[None]],
    ) -> Installed | Choice | None:
        """Replay the rounds that we missed, where that is cheaper than a snapshot and somebody has them.

        The choice where a snapshot is to be fetched; None when nobody has anything better than we.
        """
        branch, peers = await self._better_branch(usable, holdings, founders)
        if branch is None:
            return None
        now = clock.now()
        sources = [peer for peer in peers if self._blamed_for_records.get(peer, now) <= now]
        async with CatchUp(
            holdings, branch, sources, connect=self._connect, blame=self._blame_for_record
        ) as catch_up:
            installed = await self._catch_up(catch_up, holdings, branch, begin)
        log.info("catching up with %s", catch_up.choice)
        return installed or catch_up.choice

    async def _connect(self, peer: bytes) -> StateClient:
        return await StateClient.connect(self._network, peer, self._swarm)

    async def _better_branch(
        self, peers: Sequence[bytes], holdings: Holdings, founders: tuple[bytes, ...]
    ) -> tuple[Branch | None, list[bytes]]:
        """The branch to follow, if it is to be preferred to ours, and whom to ask about it first."""
        survey = Survey(
            self._network,
            self._swarm,
            ours=holdings.last_final(),
            anchor=self._anchor,
            founders=founders,
            on_failure=self._blame,
            checks=self.checks,
        )
        try:
            offers = await survey.ask(peers[:MAX_SOURCES])
        finally:
            self._downloader.heard += survey.heard
            await survey.close()
        outvoted = partial(is_outvoted, holdings, standing=self.standing)
        offers = await asyncio.to_thread(followed, offers, outvoted)
        if not offers:
            return None, []
        best = best_branch(offers)
        wanted, _ = await asyncio.to_thread(prefers, holdings, best)
        there = [offer.client.peer for offer in offers if offer.branch.head == best.head]
        return best if wanted else None, list(dict.fromkeys([*there, *peers]))

    async def _catch_up(
        self,
        catch_up: CatchUp,
        holdings: Holdings,
        branch: Branch,
        begin: Callable[[], Awaitable[None]],
    ) -> Installed | None:
        """None where a snapshot is to be fetched."""
        choice = await catch_up.choose()
        if choice.way != "replay":
            return None
        await begin()
        progress = self._downloader.progress = SyncProgress(checks=self.checks)
        try:
            staged = await self._disk.run(holdings.stage_download)
            if not await catch_up.replay(staged, progress):
                return None
            branch = replace(branch, ledger=catch_up.ledger)
            await self._disk.run(holdings.install_held, branch.head, branch.ledger, list(branch.chain))
        finally:
            self._downloader.progress = None
        return Installed(branch=branch, missed=choice.rounds, left=0, choice=choice)

    async def obtain(self, peers: Iterable[bytes], holdings: Holdings, digest: bytes, ledger: Ledger) -> bool:
        """Stage the result with this digest, which the round waits to certify; False if nobody has it.

        What our own computation got right is not fetched.
        """
        async with self._connected(self._usable(peers)[:MAX_SOURCES]) as clients:
            sources = [(client, ledger) for client in clients]
            try:
                tree, _ = await fetch_tree(sources, digest, holdings.rules.numel, self._blame, self.checks)
            except Incomplete:
                return False
            own = holdings.staged
            staged = await self._disk.run(holdings.stage_download)
            if own is not None and own[0] is not staged:
                own = None
            if not await self._downloader.complete([client for client, _ in sources], staged, tree, own):
                return False
            holdings.hold_download(staged, tree)
            return True

    @asynccontextmanager
    async def _connected(self, peers: Sequence[bytes]) -> AsyncIterator[list[StateClient]]:
        """Channels to those of the peers that can be reached, dialled at the same time."""
        clients: list[StateClient] = []

        async def dial(peer: bytes) -> None:
            try:
                clients.append(await StateClient.connect(self._network, peer, self._swarm))
            except (RemoteError, TimeoutError) as error:
                self._blame(peer, error)

        try:
            async with asyncio.TaskGroup() as group:
                for peer in peers:
                    group.create_task(dial(peer))
            yield clients
        finally:
            for client in clients:
                await client.close()


async def catch_up_at_start(
    joiner: Joiner,
    peers: Iterable[bytes],
    holdings: Holdings,
    contributor: Contributor,
    caught_up: Callable[[Choice], None],
) -> None:
    """Catch up, and then with what was committed while a snapshot came.

    A trainer that works from our state already follows in between: the second change overwrites what it has
    started from.
    """
    asked, founders = list(peers), holdings.rules.founders
    try:
        for _ in range(2):
            installed = await joiner.update(
                asked, holdings, founders, before_download=contributor.begin_change
            )
            if installed is None:
                break
            caught_up(installed.choice)
            await contributor.follow(installed.mode, 0)
            if installed.choice.way == "replay":
                break
    finally:
        contributor.end_change()
