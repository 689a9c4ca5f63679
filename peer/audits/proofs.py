"""Proofs against reducers: found here or told of by others, verified, acted on, kept, passed on.

A proof travels to everybody, an opinion to nobody. Whoever tells of a proof is asked for it once for each
reducer; one that proves nothing is held against who sent it, since nobody passes on what it did not verify.
Proofs are on the disk, from their first byte on, and are read in pieces. What lies there after a restart is
verified again before it is passed on; whom it convicts is known at once.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from talkoot.averaging.claims import Claim, Claims
from talkoot.averaging.inputs import Bytes
from talkoot.averaging.inquiry import ProofError
from talkoot.averaging.proof import (
    Charge,
    Equivocation,
    Offence,
    Read,
    encode_head,
    head_bytes,
    open_proof,
)
from talkoot.averaging.rules import Rules
from talkoot.dht.errors import ConfigError, RemoteError
from talkoot.dht.identity import peer_id_of, verify
from talkoot.dht.network import Network
from talkoot.peer.audits.convictions import Convictions, decode_convictions
from talkoot.peer.audits.evidence import Evidence
from talkoot.peer.audits.proof_files import ProofFile, ProofFiles
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
from talkoot.peer.audits.telling import Telling
from talkoot.peer.serving import Gate
from talkoot.peer.small_files import read_small, write_small

log = logging.getLogger("talkoot.audit")

MAX_FETCHES = 4
"""Proofs that are fetched and verified at a time, one from each peer."""

STRANGERS_FETCHES = 1
"""Of them from peers that do not vote: keys are free, and a proof may be long and come slowly."""

FETCH_S = 600.0
"""How long a proof may take to come."""

REMIND_ROUNDS = 16
"""A proof is told of for so many rounds."""

WORDS: dict[Offence, str] = {
    "lied": "a part that it claimed to have added up is wrong",
    "two_claims": "it claimed two results",
}
"""Why a reducer is banned: labels of counters, with what they mean."""


WHAT_TO_DO = "Test memory and processor, then join anew with an empty --state-dir: others refuse this key"
"""For the operator of a peer against which there is a proof."""


class Proofs:
    """One for a node. `load`, `begin`, then `run`, a service, which owns the tasks."""

    def __init__(
        self,
        network: Network,
        swarm: bytes,
        gate: Gate,
        *,
        folder: Path,
        note: Path,
        proven: Callable[[bytes, str], None],
        connected: Callable[[], frozenset[bytes]],
    ) -> None:
        """Proofs lie in `folder`, whom they convict is in the file `note`. `proven` hears, once, of each key
        against which a proof was verified, and why (`WORDS`)."""
        self._network = network
        self._swarm = swarm
        self._proven = proven
        self._telling = Telling(network, swarm, connected)
        self._note = note
        self._rules: Rules | None = None
        self._group: asyncio.TaskGroup | None = None
        self._votes: Callable[[bytes], bool] = lambda _key: False
        self._fetching: set[bytes] = set()
        """From whom."""
        self._judging: set[bytes] = set()
        """Against whom something was found here that is being verified."""
        self._saving = asyncio.Lock()
        self._unsaved = False
        self._complained = False
        self._earlier: dict[bytes, int] = {}
        """What lay on the disk at the start, with its length."""
        self.running = 0
        """Number of the running round."""
        self.claims = Claims()
        self.evidence = Evidence()
        self.convictions = Convictions()
        self.files = ProofFiles(folder)
        AuditServer(network, swarm, self, gate)

    def load(self) -> None:
        """See what an earlier process left. Blocks; raises OSError, ConfigError where it cannot be read."""
        self._earlier = self.files.found()
        data = read_small(self._note)
        try:
            self.convictions = decode_convictions(data) if data is not None else Convictions()
        except ValueError as error:
            log.warning("%s is damaged, proofs are read instead: %s", self._note, error)

    def begin(self, rules: Rules, running: int, votes: Callable[[bytes], bool]) -> None:
        """From now on proofs can be verified. `votes` says who may reduce at all: about others there is
        nothing to prove, however many keys somebody has that lie about themselves."""
        self._rules, self.running, self._votes = rules, running, votes
        self.files.limit(rules.numel)

    async def run(self) -> None:
        """Own what is under way until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                await self.look_again()
                await asyncio.get_running_loop().create_future()
        finally:
            self._group = None

    async def look_again(self) -> None:
        """Verify what `load` found; that convicts also whom a killed process had no time to note down."""
        for offender, num_bytes in self._earlier.items():
            await self._look_at(offender, num_bytes)

    async def _look_at(self, offender: bytes, num_bytes: int) -> None:
        try:
            charge = await asyncio.to_thread(self._read_again, offender, num_bytes)
        except ProofError as error:
            log.warning("a proof against %s on the disk is damaged and goes: %s", peer_id_of(offender), error)
            await asyncio.to_thread(self.files.remove, offender)
        except OSError as error:
            self.disk_failed(error)
        else:
            self.files.adopt(offender, num_bytes)
            if offender not in self.convictions:  # killed before it was noted down
                self._convict(charge)
                await self._save()
            self.remind()

    def _read_again(self, offender: bytes, num_bytes: int) -> Charge:
        with self.files.open(offender) as file:
            charge = self._open(file.read)
            if (charge.offender, charge.num_bytes) != (offender, num_bytes):
                raise ProofError("it is another one, or not whole")
            charge.prove(file.read)
        return charge

    def _open(self, read: Read) -> Charge:
        assert self._rules is not None
        return open_proof(read, self._rules, verify)

    # -- what others ask and say ---------------------------------------------------------------------

    async def held(self, request: AskIndex | AskChunk | AskProof) -> Bytes | None:
        """For `AuditServer`."""
        if isinstance(request, AskProof):
            return await asyncio.to_thread(self.files.read, request.offender, request.offset, PIECE_BYTES)
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
            self._telling.knows(peer, request.offender)
            return True
        wanted = self._votes(request.offender) and request.num_bytes <= self.files.max_bytes
        if not wanted or not self._may_fetch(peer):
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
                with await asyncio.to_thread(self.files.draft, said.num_bytes) as draft:
                    charge = await self._pull(peer, said, draft)
                    if charge is None:
                        return
                    if charge.offender != said.offender:
                        raise ProofError("it is against somebody else")
                    await self.judge(charge, draft)
            self._telling.knows(peer, said.offender)
        except ProofError as error:
            refusal = RemoteError(peer, "unproven", str(error))
            log.warning("peer %s told of a proof that proves nothing: %s", peer_id_of(peer), error)
            self._network.events.reject(refusal.reason, peer, "round")
        except (RemoteError, TimeoutError, Busy) as error:
            log.debug("no proof from %s: %s", peer_id_of(peer), error)
        except OSError as error:
            self.disk_failed(error)
        finally:
            self._fetching.discard(peer)

    async def _pull(self, peer: bytes, said: TellProof, draft: ProofFile) -> Charge | None:
        """Write what the peer sends into the draft. Its head is checked before the rest is asked for."""
        assert self._rules is not None
        client = await AuditClient.connect(self._network, peer, self._swarm)
        charge, have, head = None, 0, 0
        try:
            while have < said.num_bytes:
                piece = await client.ask(AskProof(said.offender, have))
                if not piece or have + len(piece) > said.num_bytes:
                    return None
                head = head or head_bytes(piece, self._rules)
                await asyncio.to_thread(draft.write, have, piece)
                have += len(piece)
                if charge is None and have >= min(head, said.num_bytes):
                    charge = await asyncio.to_thread(self._open, draft.read)
                    if charge.num_bytes != said.num_bytes:
                        raise ProofError("it is of another length than was said")
        finally:
            await client.close()
        return charge

    # -- what we found -------------------------------------------------------------------------------

    def found(self, proof: Equivocation) -> None:
        """Something that should be a proof."""
        offender = proof.first.reducer
        if self._group is not None and offender not in self.convictions and offender not in self._judging:
            self._judging.add(offender)
            self._group.create_task(self.convict(proof))

    async def convict(self, proof: Equivocation) -> None:
        """Verify what was found, act on it and keep it, without a look at what else is going on."""
        data = encode_head(proof)
        offender = proof.first.reducer
        try:
            charge = await asyncio.to_thread(self._open, lambda at, length: data[at : at + length])
            await self._act(charge, partial(self.files.keep_bytes, data, offender))
        except ProofError as error:
            log.error("what was found against %s is no proof: %s", peer_id_of(offender), error)
        finally:
            self._judging.discard(offender)

    async def judge(self, charge: Charge, draft: ProofFile) -> None:
        """Verify as if a stranger had said it, then act, and keep it. Raises ProofError, and OSError where it
        cannot be read; one that cannot be kept convicts all the same."""
        await asyncio.to_thread(charge.prove, draft.read)
        await self._act(charge, partial(self.files.keep, draft, charge.offender, charge.num_bytes))

    async def _act(self, charge: Charge, keep: Callable[[], None]) -> None:
        if charge.offender in self.convictions:
            return
        self._convict(charge)
        try:
            await asyncio.to_thread(keep)
            self._complained = False
        except OSError as error:
            self.disk_failed(error)
        await self._save()
        self.remind()

    def _convict(self, charge: Charge) -> None:
        offender, offence = charge.offender, charge.offence
        self.convictions.convict(offender, offence, self.running)
        self._unsaved = True
        if offender == self._network.key:
            log.error("there is a proof against this peer: %s. %s", WORDS[offence], WHAT_TO_DO)
        else:
            log.warning("there is a proof against peer %s: %s", peer_id_of(offender), WORDS[offence])
            self._proven(offender, offence)

    async def _save(self) -> None:
        """Note down whom we convicted. What the disk refuses is written with the next one."""
        try:
            async with self._saving:
                self._unsaved = False
                await asyncio.to_thread(write_small, self._note, self.convictions.encode())
        except ConfigError as error:
            self._unsaved = True
            self.disk_failed(error)

    def disk_failed(self, error: Exception) -> None:
        """Warn once until the disk takes a proof."""
        level = logging.DEBUG if self._complained else logging.WARNING
        log.log(level, "a proof is not kept or not taken: %s", error)
        self._complained = True

    # -- telling -------------------------------------------------------------------------------------

    def remind(self) -> None:
        """Tell of our proofs those that may not know, as long as they are news."""
        if self._group is None:
            return
        for offender, num_bytes in self.files.sizes.items():
            if offender in self.convictions and self._is_news(offender):
                self._telling.remind(self._group, offender, num_bytes)

    def _is_news(self, offender: bytes) -> bool:
        return self.convictions.since(offender) + REMIND_ROUNDS >= self.running

    def round_over(self) -> None:
        """Once a round: remind the others, and try again what the disk refused."""
        self.remind()
        if self._unsaved and self._group is not None:
            self._group.create_task(self._save())

    def tell_claims(self, claims: list[Claim]) -> None:
        """Tell everybody what we were told."""
        if claims:
            self.say(TellClaims(tuple(claims)))

    def say(self, what: TellClaims | TellProof, but: frozenset[bytes] = frozenset()) -> None:
        """Say something to everybody but some."""
        if self._group is not None:
            self._telling.everybody(self._group, what, but=but)
