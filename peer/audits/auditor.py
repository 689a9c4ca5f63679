"""Checks what reducers claim, after each round and beside it, and passes on what it can prove.

Which part is checked follows from a secret of this node and the round's outcome: nobody can know it before.
Rounds come first, on the line as on the machine: nothing is fetched while one is exchanged, and what is
fetched is what reducers claim to hold.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

from blake3 import blake3

from talkoot.averaging.certificate import CertificateError, Contribution, Value
from talkoot.averaging.claims import Claim, Claims
from talkoot.averaging.digest import content_hash, root
from talkoot.averaging.inputs import Bytes
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.proof import (
    MAX_PROOF_BYTES,
    Basis,
    Equivocation,
    Lie,
    Slice,
    audit_bytes,
    checked_index,
    recompute,
)
from talkoot.averaging.round import Round
from talkoot.averaging.rules import Rules
from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import Identity, peer_id_of
from talkoot.dht.network import Network
from talkoot.peer.audits.convictions import Convictions
from talkoot.peer.audits.evidence import Evidence
from talkoot.peer.audits.proofs import Proofs
from talkoot.peer.audits.protocol import AskChunk, AskIndex, AuditClient, Busy
from talkoot.peer.holdings import Holdings

log = logging.getLogger("talkoot.audit")

PAUSE_S = 1.0
"""Between two looks at whether a round is still being exchanged."""

AUDIT_S = 900.0
"""How long one audit may take."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """A round, and what is to be checked of it."""

    value: Value
    ledger: Ledger
    """Before the round."""
    basis: Basis
    drawn: tuple[Claim, ...]


class Distrust(TypedDict, total=False):
    """Fields of a round's context that follow from proofs."""

    barred: frozenset[bytes]
    convicted: frozenset[bytes]


class Auditor:
    """One for a node. `run` is a service; the round's driver tells it what happens."""

    def __init__(
        self,
        identity: Identity,
        network: Network,
        rules: Rules,
        holdings: Holdings,
        proofs: Proofs,
        *,
        parts: int,
        busy: Callable[[], bool],
        connected: Callable[[], frozenset[bytes]],
        count: Callable[[str], None],
    ) -> None:
        """`parts` are checked of each round; nothing is fetched while `busy`; `count` hears of results."""
        self._key = identity.key
        self._secret = identity.sign(b"talkoot audits")  # a signature that nobody else sees
        self._network = network
        self._rules = rules
        self._holdings = holdings
        self._proofs = proofs
        self._parts = parts
        self._busy = busy
        self._connected = connected
        self._count = count
        self._ended: _Ended | None = None
        self._wake = asyncio.Event()

    @property
    def convictions(self) -> Convictions:
        """Whom we hold proofs against, and whom we do not trust for a while."""
        return self._proofs.convictions

    def distrusts(self) -> Distrust:
        """For the context of the running round: who gets no part from us, and whose parts we do not take."""
        running = self._holdings.ledger.round
        return {
            "barred": self.convictions.barred(running),
            "convicted": self.convictions.known_to_all(running),
        }

    @property
    def _claims(self) -> Claims:
        return self._proofs.claims

    @property
    def _evidence(self) -> Evidence:
        return self._proofs.evidence

    # -- what the driver tells -----------------------------------------------------------------------

    def claimed(self, claim: Claim) -> None:
        """A reducer made a checked claim to us."""
        self._claims.keep(claim)
        for first, second in self._claims.doubled():
            self._proofs.found(Equivocation(first=first, second=second))

    def heard(self, value: Value) -> None:
        """A value was proposed or certified: whoever was told otherwise by a reducer says so."""
        if value.swarm == self._rules.swarm and value.parts:
            self._proofs.tell_claims(self._claims.contradicted(value))

    def attempt_over(self, reason: str) -> None:
        """An attempt failed: where nobody could agree, each may have been told something else."""
        if "certif" in reason or reason == "different_value":
            self._proofs.tell_claims(self._claims.of_round(self._holdings.ledger.round))

    def ending(self, machine: Round, value: Value) -> None:
        """A round is certified and about to be committed: what we hold is still the state before it."""
        ledger = machine.context.ledger
        self._proofs.running = ledger.round + 1
        self._claims.forget(ledger.round + 1)
        if self._rules.exchange != "dense":
            return
        self._evidence.keep(value.prior, machine.slices.whole(), machine.local)
        self._proofs.remind()
        tree = self._holdings.tree
        if self._parts and tree.digest == value.prior:
            basis = Basis(root(tree.theta), root(tree.momentum), ledger.encode())
            self._ended = _Ended(value, ledger, basis, self._draw(value))
            self._wake.set()

    def _draw(self, value: Value) -> tuple[Claim, ...]:
        """What is checked of a round: parts that fit into a proof, in an order that nobody else knows."""
        open_to = [
            claim
            for claim in self._claims.certified(value)
            if claim.reducer != self._key
            and claim.reducer not in self.convictions
            and audit_bytes(claim.part, value.cut, self._rules) <= MAX_PROOF_BYTES
        ]
        open_to.sort(key=lambda claim: blake3(self._secret + value.digest + claim.reducer).digest())
        return tuple(open_to[: self._parts])

    # -- auditing ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Check until cancelled; a round that ends meanwhile is checked next, older ones are not any more."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            ended, self._ended = self._ended, None
            for claim in ended.drawn if ended is not None else ():
                assert ended is not None
                self._count(await self._audit(ended, claim))

    async def _audit(self, ended: _Ended, claim: Claim) -> str:
        """Check one claim; in a word, how that went."""
        try:
            async with asyncio.timeout(AUDIT_S):
                slices = await self._slices(ended, claim)
        except TimeoutError:
            slices = None
        if slices is None:
            log.info("round %d: the part of %s cannot be checked", claim.round, peer_id_of(claim.reducer))
            return "unavailable"
        true = await asyncio.to_thread(recompute, claim, ended.ledger, slices, self._rules)
        if true == claim.root:
            return "right"
        self._proofs.found(Lie(claim=claim, basis=ended.basis, slices=tuple(slices)))
        return "wrong"

    async def _slices(self, ended: _Ended, claim: Claim) -> list[Slice] | None:
        """What the part was made of: from its reducer, which claims to have all of it, else from those that
        contributed it. None where somebody's is not to be had."""
        slices = []
        reducer: bytes | None = claim.reducer
        for item in ended.value.cut:
            got = self._ours(item, claim)
            if got is None and reducer is not None:
                got = await self._fetch(reducer, item, claim)
                if got is None:
                    reducer = None
            if got is None and item.key not in (claim.reducer, self._key):
                got = await self._fetch(item.key, item, claim, doubt=False)
            if got is None:
                return None
            slices.append(got)
        return slices

    def _ours(self, item: Contribution, claim: Claim) -> Slice | None:
        kept = self._evidence.find(claim.prior, item.key)
        if kept is None:
            return None
        chunks = [kept.chunk(chunk) for chunk in claim.part.chunks]
        if any(chunk is None for chunk in chunks):
            return None
        return Slice(item, kept.index.encode(), tuple(bytes(chunk) for chunk in chunks if chunk is not None))

    async def _fetch(
        self, peer: bytes, item: Contribution, claim: Claim, *, doubt: bool = True
    ) -> Slice | None:
        """One contribution's slice from a peer. With `doubt`, one that is there and does not give it gets no
        part from us for a while: an opinion, which nobody else hears."""
        try:
            client = await AuditClient.connect(self._network, peer, self._rules.swarm)
            try:
                got = await self._ask(client, item, claim)
            finally:
                await client.close()
        except Busy:
            return None
        except (RemoteError, TimeoutError) as error:
            log.debug("no slice from %s: %s", peer_id_of(peer), error)
            got = None
        if got is None and doubt and peer in self._connected():
            log.info("peer %s does not produce what it claims to hold: no part for it", peer_id_of(peer))
            self.convictions.doubt(peer, self._proofs.running)
        return got

    async def _ask(self, client: AuditClient, item: Contribution, claim: Claim) -> Slice | None:
        data = await self._when_quiet(client, AskIndex(claim.prior, item.key))
        if data is None:
            return None
        try:
            index = checked_index(data, item, self._rules)
        except CertificateError:
            return None
        chunks = []
        for number in claim.part.chunks:
            chunk = await self._when_quiet(client, AskChunk(claim.prior, item.key, number))
            if chunk is None or content_hash(chunk) != index.entries[number].hash:
                return None
            chunks.append(chunk)
        return Slice(item, bytes(data), tuple(bytes(chunk) for chunk in chunks))

    async def _when_quiet(self, client: AuditClient, request: AskIndex | AskChunk) -> Bytes | None:
        for _ in range(int(AUDIT_S / PAUSE_S)):
            if not self._busy():
                break
            await asyncio.sleep(PAUSE_S)
        return await client.ask(request)
