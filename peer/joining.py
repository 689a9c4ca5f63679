"""Joining a swarm and catching up with it: whom to ask, which branch to follow, what to install."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from talkoot.averaging.ledger import Ledger
from talkoot.averaging.rules import Rules
from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import peer_id_of
from talkoot.dht.network import Network
from talkoot.peer import clock
from talkoot.peer.certlog import CertLog
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
        for peer in self._usable(peers):
            try:
                staged: list[Generation] = []

                async def stage(staged: list[Generation] = staged) -> None:
                    if not still_wanted():
                        raise _Overtaken
                    await before_download()
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
            return Installed(branch=branch, missed=len(theirs), left=len(ours))
        return None

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
