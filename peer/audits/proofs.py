"""Proofs against reducers: found here or told of by others, verified, acted on, passed on.

A proof travels to everybody, an opinion to nobody. Whoever tells of a proof is asked for it once for each
reducer; one that proves nothing is held against who sent it, since nobody passes on what it did not verify.
"""

import asyncio
import logging
from collections.abc import Callable

from talkoot.averaging.claims import Claim, Claims
from talkoot.averaging.inputs import Bytes
from talkoot.averaging.proof import (
    Equivocation,
    Proof,
    ProofError,
    check_proof,
    decode_proof,
    encode_proof,
    offender_of,
)
from talkoot.averaging.rules import Rules
from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import peer_id_of, verify
from talkoot.dht.network import Network
from talkoot.peer.audits.convictions import Convictions
from talkoot.peer.audits.evidence import Evidence
from talkoot.peer.audits.protocol import (
    PIECE_BYTES,
    AskChunk,
    AskIndex,
    AskProof,
    AuditClient,
    AuditServer,
    Busy,
    TellClaims,
    TellProof,
)
from talkoot.peer.serving import Gate

log = logging.getLogger("talkoot.audit")

MAX_FETCHES = 4
"""Proofs that are fetched and verified at a time, one from each peer."""

STRANGERS_FETCHES = 1
"""Of them from peers that do not vote: keys are free, and a proof may be long and come slowly."""

FETCH_S = 600.0
"""How long a proof may take to come."""

MAX_TELLS = 128
"""Messages to others that may be under way; reminders come every round."""

REMIND_ROUNDS = 16
"""A proof is told of for so many rounds."""

WORDS = {"lied": "a part that it claimed to have added up is wrong", "two_claims": "it claimed two results"}
"""Why a reducer is banned: labels of counters, with what they mean."""


class Proofs:
    """One for a node. `run` is a service, which owns the tasks."""

    def __init__(
        self,
        network: Network,
        swarm: bytes,
        gate: Gate,
        *,
        proven: Callable[[bytes, str], None],
        connected: Callable[[], frozenset[bytes]],
    ) -> None:
        """`proven` hears, once, of each key against which a proof was verified, and why (`WORDS`)."""
        self._network = network
        self._swarm = swarm
        self._proven = proven
        self._connected = connected
        self._rules: Rules | None = None
        self._group: asyncio.TaskGroup | None = None
        self._votes: Callable[[bytes], bool] = lambda _key: False
        self._fetching: set[bytes] = set()
        """From whom."""
        self._judging: set[bytes] = set()
        """Against whom something was found here that is being verified."""
        self._tells = 0
        self._told: dict[bytes, set[bytes]] = {}
        """By offender: who knows."""
        self.since: dict[bytes, int] = {}
        """By offender: the round in which its proof came."""
        self.running = 0
        """Number of the running round."""
        self.claims = Claims()
        self.evidence = Evidence()
        self.convictions = Convictions()
        AuditServer(network, swarm, self, gate)

    def begin(self, rules: Rules, running: int, votes: Callable[[bytes], bool]) -> None:
        """From now on proofs can be verified. `votes` says who may reduce at all: about others there is
        nothing to prove, however many keys somebody has that lie about themselves."""
        self._rules, self.running, self._votes = rules, running, votes

    async def run(self) -> None:
        """Own what is under way until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                await asyncio.get_running_loop().create_future()
        finally:
            self._group = None

    # -- what others ask and say ---------------------------------------------------------------------

    def held(self, request: AskIndex | AskChunk | AskProof) -> Bytes | None:
        """For `AuditServer`."""
        if isinstance(request, AskProof):
            proof = self.convictions.proofs.get(request.offender)
            start = request.offset
            return (
                proof[start : start + PIECE_BYTES] if proof is not None and 0 <= start < len(proof) else None
            )
        kept = self.evidence.find(request.prior, request.contributor)
        if kept is None:
            return None
        return kept.index.encode() if isinstance(request, AskIndex) else kept.chunk(request.chunk)

    def told(self, peer: bytes, request: TellClaims | TellProof) -> bool:
        """For `AuditServer`: whether we deal with it. Nothing of it is believed."""
        if self._group is None or self._rules is None:
            return False
        if isinstance(request, TellClaims):
            for claim in request.claims:
                pair = self.claims.against(claim)
                if pair is not None and claim.reducer not in self.convictions and claim.signed(verify):
                    self.found(Equivocation(first=pair[0], second=pair[1]))
            return True
        if request.offender in self.convictions:
            if peer in self._connected():
                self._told.setdefault(request.offender, set()).add(peer)
            return True
        if not self._votes(request.offender) or not self._may_fetch(peer):
            return False
        self._fetching.add(peer)
        self._group.create_task(self._fetch(peer, request))
        return True

    def _may_fetch(self, peer: bytes) -> bool:
        strangers = sum(not self._votes(other) for other in self._fetching)
        room = len(self._fetching) < MAX_FETCHES and (self._votes(peer) or strangers < STRANGERS_FETCHES)
        return room and peer not in self._fetching

    async def _fetch(self, peer: bytes, said: TellProof) -> None:
        try:
            async with asyncio.timeout(FETCH_S):
                data = await self._pull(peer, said)
                if data is None:
                    return
                proof = await asyncio.to_thread(decode_proof, data)
                if offender_of(proof) != said.offender:
                    raise ProofError("it is against somebody else")
                await self._verify(proof, data)
                self._told.setdefault(said.offender, set()).add(peer)
        except ProofError as error:
            refusal = RemoteError(peer, "unproven", str(error))
            log.warning("peer %s told of a proof that proves nothing: %s", peer_id_of(peer), error)
            self._network.events.reject(refusal.reason, peer, "round")
        except (RemoteError, TimeoutError, Busy) as error:
            log.debug("no proof from %s: %s", peer_id_of(peer), error)
        finally:
            self._fetching.discard(peer)

    async def _pull(self, peer: bytes, said: TellProof) -> bytes | None:
        client = await AuditClient.connect(self._network, peer, self._swarm)
        data = bytearray()
        try:
            while len(data) < said.num_bytes:
                piece = await client.ask(AskProof(said.offender, len(data)))
                if not piece or len(data) + len(piece) > said.num_bytes:
                    return None
                data += piece
        finally:
            await client.close()
        return bytes(data)

    # -- what we found -------------------------------------------------------------------------------

    def found(self, proof: Proof) -> None:
        """Something that should be a proof."""
        offender = offender_of(proof)
        if self._group is not None and offender not in self.convictions and offender not in self._judging:
            self._judging.add(offender)
            self._group.create_task(self._found(proof))

    async def _found(self, proof: Proof) -> None:
        try:
            await self._verify(proof, await asyncio.to_thread(encode_proof, proof))
        except ProofError as error:
            log.error("what was found against %s is no proof: %s", peer_id_of(offender_of(proof)), error)
        finally:
            self._judging.discard(offender_of(proof))

    async def _verify(self, proof: Proof, data: bytes) -> None:
        """Verify as if a stranger had said it, then act. Raises ProofError."""
        assert self._rules is not None
        await asyncio.to_thread(check_proof, proof, self._rules, verify)
        offender = offender_of(proof)
        if offender in self.convictions:
            return
        self.convictions.convict(offender, data, self.running)
        self.since[offender] = self.running
        reason = "two_claims" if isinstance(proof, Equivocation) else "lied"
        if offender == self._network.key:
            log.error(
                "there is a proof against this peer: %s. Does its memory or processor fail?", WORDS[reason]
            )
        else:
            log.warning("there is a proof against peer %s: %s", peer_id_of(offender), WORDS[reason])
            self._proven(offender, reason)
        self.remind()

    # -- telling -------------------------------------------------------------------------------------

    def remind(self) -> None:
        """Tell of our proofs those that may not know."""
        for offender, data in self.convictions.proofs.items():
            if self.since[offender] + REMIND_ROUNDS < self.running:
                continue
            knowing = self._told.setdefault(offender, set())
            knowing &= self._connected()
            for peer in sorted(self._connected() - knowing - {offender}):
                self._tell(peer, TellProof(offender, len(data)))

    def tell_claims(self, claims: list[Claim]) -> None:
        """Tell everybody what we were told."""
        if claims:
            for peer in sorted(self._connected()):
                self._tell(peer, TellClaims(tuple(claims)))

    def _tell(self, peer: bytes, what: TellClaims | TellProof) -> None:
        if self._group is not None and self._tells < MAX_TELLS:
            self._tells += 1
            self._group.create_task(self._say(peer, what))

    async def _say(self, peer: bytes, what: TellClaims | TellProof) -> None:
        try:
            client = await AuditClient.connect(self._network, peer, self._swarm)
            try:
                await client.ask(what)
                if isinstance(what, TellProof):
                    self._told.setdefault(what.offender, set()).add(peer)
            finally:
                await client.close()
        except (RemoteError, TimeoutError, Busy) as error:
            log.debug("peer %s is not told: %s", peer_id_of(peer), error)
        finally:
            self._tells -= 1
