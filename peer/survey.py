"""Asking several peers at once which states they can give, and choosing one of those that can be trusted.

Every offer is verified from our anchor on before it counts. Which branch is followed is decided by who signed
it (`averaging.branches`), never by who offers it; which state of that branch is fetched, by how many have it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from talkoot.averaging.branches import choose
from talkoot.averaging.certificate import Certificate
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.reasons import REASONS
from talkoot.dht.errors import RemoteError
from talkoot.dht.network import Network
from talkoot.peer import clock
from talkoot.peer.checks import Checks
from talkoot.peer.holdings import number_of
from talkoot.peer.invite import Anchor
from talkoot.peer.sync import Branch, branch_to, fetch_branch
from talkoot.peer.transfer import SLOWEST, Busy, Gone, StateClient

log = logging.getLogger("talkoot.sync")

MAX_SOURCES = 8
"""Peers that are asked at once, and that a state is fetched from at once."""

GRACE_S = 3.0
"""How long slower peers are waited for once the first offer was verified."""

TURN_S = 5.0
"""How long a peer's chain may keep the others' from being looked at; longer while it comes at `BRISK`."""

BRISK = SLOWEST
"""Bytes a second: over a narrow line one chain comes faster than eight times the same one."""

LONGEST_TURNS_S = 60.0
"""Nobody waits longer for its turn, whoever sends whatever how fast."""

Kind = Literal["head", "snapshot"]


@dataclass(frozen=True, slots=True, eq=False)
class Offer:
    """A state that a peer can give now."""

    client: StateClient
    branch: Branch
    """Verified; ends with this state. Its ledger is verified with the tree only."""
    kind: Kind


class Survey:
    """What some peers offer. `ask` once; `close` at the end, always."""

    def __init__(
        self,
        network: Network,
        swarm: bytes,
        *,
        ours: Certificate | None,
        anchor: Anchor | None,
        founders: tuple[bytes, ...],
        on_failure: Callable[[bytes, Exception], None],
        checks: Checks,
    ) -> None:
        """Trust starts at `ours`, our last final certificate; else at `anchor`; else at the founders."""
        self._network = network
        self._swarm = swarm
        self._ours = ours
        self._anchor = anchor
        self._founders = founders
        self._on_failure = on_failure
        self._checks = checks
        self._clients: list[StateClient] = []
        self._verifying = asyncio.Lock()
        self._verified: list[Branch] = []
        self._news = asyncio.Event()
        self.offers: list[Offer] = []
        self.heard = 0
        """Peers that could be connected to."""

    async def ask(self, peers: Sequence[bytes]) -> list[Offer]:
        """What these peers offer, as far as they say so soon enough."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._ask(peer)) for peer in peers[:MAX_SOURCES]]
            for task in tasks:
                task.add_done_callback(lambda _task: self._news.set())
            until: float | None = None
            while not all(task.done() for task in tasks):
                if self.offers and until is None:
                    until = clock.now() + GRACE_S
                if until is not None and clock.now() >= until:
                    break
                self._news.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if until is None else until - clock.now()):
                        await self._news.wait()
            for task in tasks:
                task.cancel()
        return self.offers

    async def close(self) -> None:
        """Close all channels."""
        for client in self._clients:
            await client.close()

    async def _ask(self, peer: bytes) -> None:
        try:
            client = await StateClient.connect(self._network, peer, self._swarm)
            self._clients.append(client)
            self.heard += 1
            head, ledger = await client.head()
            kept = await client.snapshot()
            branch = await self._verify(client, head, ledger)
            self._checks.passed()
            self.offers.append(Offer(client, branch, "head"))
            if kept is not None and kept[0].value.hash != branch.head.value.hash:
                self._add_snapshot(client, *kept)
            self._news.set()
        except (Gone, Busy):
            return  # it has nothing to give
        except (RemoteError, TimeoutError) as error:
            if isinstance(error, RemoteError) and error.reason in REASONS:
                self._checks.refused("certificate")
            self._on_failure(peer, error)

    async def _verify(self, client: StateClient, head: Certificate, ledger: Ledger) -> Branch:
        """The branch to a peer's head. What one peer has proven is not asked of the next."""
        async with self._turn():
            known = self._known(head)
            if known is not None:
                return branch_to(client.peer, known, head, ledger)
            branch = await fetch_branch(
                client, head, ledger, ours=self._ours, anchor=self._anchor, founders=self._founders
            )
            self._verified.append(branch)
            return branch

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One chain after the other, as long as the one before makes no long job of it."""
        held, give_up_s = False, clock.now() + LONGEST_TURNS_S
        while not held and clock.now() < give_up_s:
            before = self._arrived()
            with suppress(TimeoutError):
                async with asyncio.timeout(TURN_S):
                    held = await self._verifying.acquire()
            if not held and self._arrived() - before < TURN_S * BRISK:
                break
        try:
            yield
        finally:
            if held:
                self._verifying.release()

    def _arrived(self) -> int:
        """Bytes from all of them: who waits for its turn sends next to nothing."""
        return sum(client.bytes_arrived for client in self._clients)

    def _known(self, certificate: Certificate) -> Branch | None:
        """A verified branch with this state on it, not before what the invite vouches for."""
        if self._anchor is not None and number_of(certificate) < self._anchor.round:
            return None
        for branch in self._verified:
            at = number_of(certificate) - number_of(branch.start)
            links = (branch.start, *branch.chain)
            if 0 <= at < len(links) and links[at].value.hash == certificate.value.hash:
                return branch
        return None

    def _add_snapshot(self, client: StateClient, certificate: Certificate, ledger: Ledger) -> None:
        """Ignored where it is older than our anchor, or newer than what was verified."""
        known = self._known(certificate)
        if known is not None:
            self.offers.append(Offer(client, branch_to(client.peer, known, certificate, ledger), "snapshot"))


def followed(offers: Sequence[Offer], outvoted: Callable[[Branch], bool]) -> list[Offer]:
    """Those that do not end with weak rounds which a quorum does without."""
    kept = [offer for offer in offers if not outvoted(offer.branch)]
    if len(kept) < len(offers):
        few = len(offers) - len(kept)
        log.info("%d of %d peers offer weak rounds that a quorum does without", few, len(offers))
    return kept


def best_branch(offers: Sequence[Offer]) -> Branch:
    """The branch to follow, of those that start at the same certificate. There is an offer at least."""
    best = offers[0].branch
    for offer in offers[1:]:
        choice, _ = choose(best.chain, offer.branch.chain, best.start.value.voters)
        if choice == "theirs":
            best = offer.branch
    return best


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One state, and who has it."""

    branch: Branch
    """Ends with this state."""
    offers: tuple[Offer, ...]
    reason: str
    """Why it comes before the others, for the log."""

    @property
    def digest(self) -> bytes:
        """Of the state."""
        return self.branch.head.value.digest


def targets(
    offers: Sequence[Offer], best: Branch, *, begun: bytes | None, lasting: bool, replays: int
) -> list[Target]:
    """States on the best branch, the one to fetch first.

    `begun` is the digest of a download that was cut off: it goes on. A snapshot that several peers keep comes
    before the head, which vanishes as rounds are committed, where that has happened (`lasting`) and where it
    is behind by no more than half of the rounds that can be replayed (`replays`), since more are committed
    while it is fetched. Otherwise whatever most peers have, and of those the latest.
    """
    newest = number_of(best.head)
    on_best = {link.value.hash for link in (best.start, *best.chain)}
    groups: dict[bytes, list[Offer]] = {}
    for offer in offers:
        value = offer.branch.head.value
        if value.hash in on_best:
            groups.setdefault(value.hash, []).append(offer)

    def rank(group: list[Offer]) -> tuple[bool, bool, int, int]:
        branch = group[0].branch
        near = newest - number_of(branch.head) <= replays // 2
        kept = (lasting or near) and len(group) > 1 and branch.head.kind != "weak" and _is_kept(group)
        return branch.head.value.digest == begun, kept, len(group), number_of(branch.head)

    found = []
    for group in sorted(groups.values(), key=rank, reverse=True):
        resumed, kept, count, number = rank(group)
        words = "begun before" if resumed else "kept by several" if kept else "of most peers"
        reason = f"round {number}, {words}, {count} source" + "s" * (count > 1)
        found.append(Target(branch=group[0].branch, offers=tuple(group), reason=reason))
    return found


def _is_kept(group: list[Offer]) -> bool:
    return any(offer.kind == "snapshot" for offer in group)
