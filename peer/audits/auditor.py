"""Checks what reducers claim, after each round and beside it, and passes on what it can prove.

Which part is checked follows from a secret of this node and the round's outcome: nobody can know it before.
Rounds come first, on the line as on the machine: nothing is fetched while one is exchanged, and what is
fetched is what reducers claim to hold.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

from blake3 import blake3

from talkoot.averaging.certificate import Value
from talkoot.averaging.claims import Claim, Claims
from talkoot.averaging.contribution import Entry
from talkoot.averaging.digest import root
from talkoot.averaging.inputs import Bytes
from talkoot.averaging.inquiry import Inquiry, ProofError
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.proof import Basis, Equivocation, Lie, encode_head, open_proof
from talkoot.averaging.round import Round
from talkoot.averaging.rules import Rules
from talkoot.dht.identity import Identity, peer_id_of, verify
from talkoot.dht.network import Network
from talkoot.peer.audits.convictions import Convictions
from talkoot.peer.audits.evidence import Evidence, due_rounds
from talkoot.peer.audits.gathering import Gathering, GoneError
from talkoot.peer.audits.proof_files import ProofFile
from talkoot.peer.audits.proofs import Proofs
from talkoot.peer.holdings import Holdings

log = logging.getLogger("talkoot.audit")

AUDIT_S = 900.0
"""How long one audit may take."""

MAX_WAITING = 4
"""Rounds whose drawn parts wait to be checked, the newest first; older ones are not checked any more. Half of
the rounds that small slices are held for, so that what is begun can be ended."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """A round, and what is to be checked of it."""

    value: Value
    ledger: Ledger
    """Before the round."""
    basis: Basis
    drawn: tuple[tuple[Claim, tuple[bytes, ...]], ...]
    """With the hashes of the chunks that were claimed."""


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
        self._waiting: deque[_Ended] = deque(maxlen=MAX_WAITING)
        self._hashes: dict[bytes, tuple[bytes, ...]] = {}
        """Of the chunks that reducers claimed in the running round, by the claim's signature."""
        self._impossible: set[bytes] = set()
        """Who made a claim in the running round that can only be wrong."""
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

    def claimed(self, claim: Claim, hashes: tuple[bytes, ...]) -> None:
        """A reducer made a checked claim to us, of chunks with these hashes."""
        self._claims.keep(claim)
        self._hashes[claim.signature] = hashes
        for first, second in self._claims.doubled():
            self._proofs.found(Equivocation(first=first, second=second))

    def impossible(self, reducer: bytes) -> None:
        """A part was not taken, since no cut adds up to so much: its reducer gets none from us for a while,
        and is audited, for others go by proofs."""
        if reducer != self._key:
            self._impossible.add(reducer)
            self.convictions.doubt(reducer, self._holdings.ledger.round)

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
        hashes, self._hashes = self._hashes, {}
        if self._rules.exchange != "dense":
            return
        self._evidence.keep(value.prior, machine.slices.whole(), machine.local)
        self._proofs.round_over()
        tree = self._holdings.tree
        if self._parts and tree.digest == value.prior:
            basis = Basis(root(tree.theta), root(tree.momentum), ledger.encode())
            self._waiting.append(_Ended(value, ledger, basis, self._draw(value, hashes)))
            self._wake.set()

    def _draw(
        self, value: Value, hashes: dict[bytes, tuple[bytes, ...]]
    ) -> tuple[tuple[Claim, tuple[bytes, ...]], ...]:
        """What is checked of a round: claims that can only be wrong, then others in an order that nobody else
        knows."""
        suspected, self._impossible = self._impossible, set()
        wrong = [claim for claim in self._claims.about(value) if claim.reducer in suspected]
        open_to = [claim for claim in self._claims.certified(value) if claim.reducer != self._key]
        open_to.sort(key=lambda claim: blake3(self._secret + value.digest + claim.reducer).digest())
        drawn = [claim for claim in open_to if self._may_audit(claim, hashes)][: self._parts]
        return tuple(
            (claim, hashes[claim.signature])
            for claim in (
                *(claim for claim in wrong if self._may_audit(claim, hashes)),
                *(claim for claim in drawn if self._affords(claim, value)),
            )
        )

    def _affords(self, claim: Claim, value: Value) -> bool:
        """Whether this one is checked this time: on average that takes no more bytes than a contribution has.

        Of few reducers each has a large part, which all peers could check at once: one of them will do.
        """
        share = self._rules.num_chunks / (claim.part.num_chunks * len(value.cut))
        lot = blake3(self._secret + value.digest + claim.reducer + b"afford").digest(8)
        return int.from_bytes(lot, "big") < share * 2**64

    def _may_audit(self, claim: Claim, hashes: dict[bytes, tuple[bytes, ...]]) -> bool:
        return claim.reducer not in self.convictions and claim.signature in hashes

    # -- auditing ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Check until cancelled: the newest round first, then what waits, see `MAX_WAITING`."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                ended = self._waiting.pop()
                for claim, hashes in ended.drawn:
                    if claim.reducer not in self.convictions:
                        self._count(await self._audit(ended, claim, hashes))

    async def _audit(self, ended: _Ended, claim: Claim, hashes: tuple[bytes, ...]) -> str:
        """Check one claim; in a word, how that went."""
        lie = Lie(claim=claim, basis=ended.basis, cut=ended.value.cut, hashes=hashes)
        inquiry = Inquiry(claim, lie.cut, hashes, ended.ledger, self._rules)
        most = len(encode_head(lie)) + max(map(inquiry.body_bytes, inquiry.scopes()))
        try:
            with await asyncio.to_thread(self._proofs.files.draft, most) as draft:
                async with asyncio.timeout(AUDIT_S):
                    wrong = await self._wrong(lie, inquiry, draft)
                if wrong:
                    charge = await asyncio.to_thread(open_proof, draft.read, self._rules, verify)
                    await self._proofs.judge(charge, draft)
        except (GoneError, TimeoutError):
            log.info("round %d: the part of %s cannot be checked", claim.round, peer_id_of(claim.reducer))
            return "unavailable"
        except OSError as error:
            self._proofs.disk_failed(error)
            return "unavailable"
        except ProofError as error:
            log.error("what was found against %s is no proof: %s", peer_id_of(claim.reducer), error)
            return "unavailable"
        return "wrong" if wrong else "right"

    async def _wrong(self, lie: Lie, inquiry: Inquiry, draft: ProofFile) -> bool:
        """Whether the claim is wrong; then the draft is the proof. It has room for one scope, which the next
        one overwrites. Raises GoneError, OSError."""

        part_bytes = len(inquiry.cut) * sum(inquiry.chunk_bytes(n) for n in lie.claim.part.chunks)

        def doubt(peer: bytes) -> None:
            if self._proofs.running > lie.claim.round + due_rounds(part_bytes):
                return  # an honest reducer may have let go of it, too
            if peer in self._connected():
                log.info("peer %s does not produce what it claims to hold: no part for it", peer_id_of(peer))
                self.convictions.doubt(peer, self._proofs.running)

        gathering = Gathering(self._network, inquiry, self._evidence, busy=self._busy, doubt=doubt)
        start = len(encode_head(lie))
        async with gathering:
            entries = []
            for position in range(len(inquiry.cut)):
                index, found = await gathering.index(position)
                await asyncio.to_thread(draft.write, start + inquiry.index_at(position), index)
                entries.append(found)
            for scope in inquiry.scopes():
                for chunk in scope:
                    for position in range(len(inquiry.cut)):
                        data = await gathering.chunk(position, chunk, entries[position])
                        at = start + inquiry.chunk_at(position, chunk, scope)
                        await asyncio.to_thread(draft.write, at, data)
                if await asyncio.to_thread(self.is_wrong, inquiry, scope, entries, draft, start):
                    await asyncio.to_thread(draft.write, 0, encode_head(lie, scope.start))
                    return True
        return False

    def is_wrong(
        self, inquiry: Inquiry, scope: range, entries: Sequence[Sequence[Entry]], draft: ProofFile, start: int
    ) -> bool:
        """Of one scope whose chunks are in the draft, from `start` on. Raises OSError."""

        def chunk(position: int, number: int) -> Bytes:
            at = start + inquiry.chunk_at(position, number, scope)
            return draft.read(at, inquiry.chunk_bytes(number))

        return inquiry.wrong(scope, entries, chunk)
