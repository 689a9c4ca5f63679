"""Joining a swarm and catching up with it: whom to ask, which branch to follow, what to install."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace

from talkoot.averaging.ledger import Ledger
from talkoot.averaging.rules import Rules
from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import peer_id_of
from talkoot.dht.network import Network
from talkoot.peer import clock
from talkoot.peer.catchup import WRONG_RECORDS, CatchUp
from talkoot.peer.certlog import CertLog
from talkoot.peer.choice import Choice
from talkoot.peer.generation import Generation
from talkoot.peer.holdings import Holdings, number_of, open_holdings
from talkoot.peer.invite import Anchor
from talkoot.peer.manifest import Manifest
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore
from talkoot.peer.sync import Branch, SyncProgress, download, fetch_branch, prefers, ways_apart
from talkoot.peer.trainer.protocol import Mode
from talkoot.peer.transfer import Gone, StateClient

log = logging.getLogger("talkoot.sync")

MAX_MOVES = 20
"""How often a source may move on to a later round during one download."""

BLAME_S = 60.0
"""How long a peer that gave a wrong answer is not asked again."""


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

    def __init__(self, network: Network, swarm: bytes, paths: StateDir, anchor: Anchor | None) -> None:
        """`anchor` is the invite's; without it trust starts at the founders that the manifest lists."""
        self._network = network
        self._swarm = swarm
        self._paths = paths
        self._anchor = anchor
        self._blamed: dict[bytes, float] = {}
        self._blamed_for_records: dict[bytes, float] = {}
        """Their records are not asked for, but their states: a disk may rot in one place."""
        self.progress: SyncProgress | None = None
        self.heard = 0
        """Peers that answered when they were asked for their state."""

    def _usable(self, peers: Iterable[bytes]) -> list[bytes]:
        now = clock.now()
        self._blamed = {peer: until for peer, until in self._blamed.items() if until > now}
        unique = dict.fromkeys(peer for peer in peers if peer != self._network.key)
        return [peer for peer in unique if peer not in self._blamed]

    def _blame(self, peer: bytes, error: Exception) -> None:
        reason = error.reason if isinstance(error, RemoteError) else "timeout"
        if reason not in ("unreachable", "timeout", "lost", "ended", "refused"):
            self._network.events.rejected[reason] += 1
            self._blamed[peer] = clock.now() + BLAME_S
        log.info("state from %s: %s", peer_id_of(peer)[-8:], error or reason)

    def _blame_for_record(self, peer: bytes, error: Exception) -> None:
        if isinstance(error, RemoteError) and error.reason in WRONG_RECORDS:
            self._network.events.rejected[error.reason] += 1
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
            except (RemoteError, TimeoutError, Gone) as error:
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
            except (RemoteError, TimeoutError, Gone) as error:
                self._blame(peer, error)
        return None

    async def first_state(
        self, peers: Iterable[bytes], rules: Rules, founders: tuple[bytes, ...]
    ) -> Holdings | None:
        """Fetch a state into an empty state directory. None when nobody could give one."""
        store = await asyncio.to_thread(OuterStore.prepare, self._paths.outer, rules.numel)
        for peer in self._usable(peers):
            try:
                staged = await asyncio.to_thread(store.stage)
                branch = await self._fetch(peer, None, founders, _nothing, staged)
            except (RemoteError, TimeoutError) as error:
                self._blame(peer, error)
                continue
            finally:
                self.progress = None
            if branch is not None:
                return await asyncio.to_thread(_install_first, self._paths, store, staged, branch, rules)
        return None

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

        try:
            replayed = await self._replay(peers, holdings, founders, begin)
        except _Overtaken:
            return None
        if not isinstance(replayed, Choice):
            return replayed
        for peer in self._usable(peers):
            try:
                staged: list[Generation] = []

                async def stage(staged: list[Generation] = staged) -> None:
                    await begin()
                    staged.append(holdings.stage_download())

                branch = await self._fetch(peer, holdings, founders, stage, None, staged)
                if branch is None:
                    continue
                ours, theirs = await asyncio.to_thread(ways_apart, holdings, branch)
                await asyncio.to_thread(
                    holdings.install_download, staged[-1], branch.head, branch.ledger, list(branch.chain)
                )
            except _Overtaken:
                return None
            except (RemoteError, TimeoutError) as error:
                self._blame(peer, error)
                continue
            finally:
                self.progress = None
            return Installed(branch=branch, missed=len(theirs), left=len(ours), choice=replayed)
        return None

    async def _replay(
        self,
        peers: Iterable[bytes],
        holdings: Holdings,
        founders: tuple[bytes, ...],
        begin: Callable[[], Awaitable[None]],
    ) -> Installed | Choice | None:
        """Replay the rounds that we missed, where that is cheaper than a snapshot and somebody has them.

        The choice where a snapshot is to be fetched; None when nobody has anything better than we.
        """
        usable = self._usable(peers)
        for peer in usable:
            try:
                branch = await self._better_branch(peer, holdings, founders)
            except (RemoteError, TimeoutError, Gone) as error:
                self._blame(peer, error)
                continue
            if branch is None:
                continue
            now = clock.now()
            sources = [one for one in (peer, *usable) if self._blamed_for_records.get(one, now) <= now]
            async with CatchUp(
                holdings,
                branch,
                dict.fromkeys(sources),
                connect=self._connect,
                blame=self._blame_for_record,
            ) as catch_up:
                installed = await self._catch_up(catch_up, holdings, branch, begin)
            log.info("catching up with %s", catch_up.choice)
            return installed or catch_up.choice
        return None

    async def _connect(self, peer: bytes) -> StateClient:
        return await StateClient.connect(self._network, peer, self._swarm)

    async def _better_branch(
        self, peer: bytes, holdings: Holdings, founders: tuple[bytes, ...]
    ) -> Branch | None:
        """A peer's branch, verified; None when ours is to be preferred."""
        client = await self._connect(peer)
        self.heard += 1
        try:
            branch = await fetch_branch(
                client, ours=holdings.last_final(), anchor=self._anchor, founders=founders
            )
        finally:
            await client.close()
        wanted, _ = await asyncio.to_thread(prefers, holdings, branch)
        return branch if wanted else None

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
        self.progress = SyncProgress()
        try:
            staged = await asyncio.to_thread(holdings.stage_download)
            if not await catch_up.replay(staged, self.progress):
                return None
            branch = replace(branch, ledger=catch_up.ledger)
            await asyncio.to_thread(holdings.install_held, branch.head, branch.ledger, list(branch.chain))
        finally:
            self.progress = None
        return Installed(branch=branch, missed=choice.rounds, left=0, choice=choice)

    async def obtain(self, peers: Iterable[bytes], holdings: Holdings, digest: bytes, ledger: Ledger) -> bool:
        """Stage the result with this digest, which the round waits to certify; False if nobody has it."""
        for peer in self._usable(peers):
            try:
                client = await StateClient.connect(self._network, peer, self._swarm)
                try:
                    staged = await asyncio.to_thread(holdings.stage_download)
                    await download(client, digest, ledger, staged, SyncProgress())
                finally:
                    await client.close()
            except Gone:
                continue
            except (RemoteError, TimeoutError) as error:
                self._blame(peer, error)
                continue
            if await asyncio.to_thread(holdings.hold_download, staged, ledger, digest):
                log.info("took the result that the round had agreed on from %s", peer_id_of(peer)[-8:])
                return True
        return False

    async def _fetch(
        self,
        peer: bytes,
        holdings: Holdings | None,
        founders: tuple[bytes, ...],
        stage: Callable[[], Awaitable[None]],
        target: Generation | None,
        staged: list[Generation] | None = None,
    ) -> Branch | None:
        """One peer's branch and its state; None when ours is to be preferred."""
        client = await StateClient.connect(self._network, peer, self._swarm)
        self.heard += 1
        try:
            for _ in range(MAX_MOVES):
                try:
                    branch = await fetch_branch(
                        client,
                        ours=holdings.last_final() if holdings else None,
                        anchor=self._anchor,
                        founders=founders,
                    )
                    if holdings is not None:
                        wanted, reason = prefers(holdings, branch)
                        if not wanted:
                            return None
                        log.info("following %s: %s", peer_id_of(peer)[-8:], reason)
                    if target is None:
                        await stage()
                        assert staged
                        target = staged[-1]
                    self.progress = SyncProgress()
                    await download(client, branch.head.value.digest, branch.ledger, target, self.progress)
                except Gone:
                    continue  # the source has committed another round meanwhile
                return branch
            return None
        finally:
            await client.close()


async def catch_up_at_start(
    joiner: Joiner, peers: Iterable[bytes], holdings: Holdings, caught_up: Callable[[Choice], None]
) -> None:
    """Catch up, and then with what was committed while a snapshot came.

    Only where no trainer works from our state: it would have to follow in between, as the second change
    overwrites the generation that it started from.
    """
    for _ in range(2):
        installed = await joiner.update(peers, holdings, holdings.rules.founders)
        if installed is None:
            break
        caught_up(installed.choice)
        if installed.choice.way == "replay":
            break


def _install_first(
    paths: StateDir, store: OuterStore, staged: Generation, branch: Branch, rules: Rules
) -> Holdings:
    """Commit a verified download into an empty state directory."""
    with CertLog(paths.round_log) as certificates:
        certificates.truncate_from(0)  # what a process left that died between log and store
        for link in (branch.start, *branch.chain):
            certificates.append(number_of(link), link.encode())
    store.commit(
        staged,
        round=branch.ledger.round,
        digest=branch.head.value.digest,
        ledger=branch.ledger.encode(),
        certificate=branch.head.encode(),
    )
    return open_holdings(paths, rules)
