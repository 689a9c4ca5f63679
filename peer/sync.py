"""Getting the state of the swarm: choose a branch that we can trust, then fetch what it certifies.

Trust starts at an anchor: the certificate at our own last final round, or the invite's (number, digest,
voters). From there the hand-overs of voters are followed, each certificate signed by those whom the one
before named. The highest round number alone means nothing.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from talkoot.averaging.branches import choose
from talkoot.averaging.certificate import Certificate, CertificateError, check_chain, check_genesis
from talkoot.averaging.digest import CHUNK_BYTES, StateTree, tensor_bytes
from talkoot.averaging.ledger import Ledger, voters_hash
from talkoot.averaging.signing import Verify
from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import peer_id_of, verify
from talkoot.peer.generation import Generation
from talkoot.peer.holdings import Holdings, number_of
from talkoot.peer.invite import Anchor
from talkoot.peer.transfer import StateClient, Vector

log = logging.getLogger("talkoot.sync")

MAX_CHAIN = 1_000_000
"""Most certificates that are followed in one go."""


@dataclass(slots=True)
class SyncProgress:
    """How far a download is, for people."""

    done_bytes: int = 0
    total_bytes: int = 0
    source: str = ""


@dataclass(frozen=True, slots=True)
class Branch:
    """A verified way from our anchor to a state that a peer can serve."""

    start: Certificate
    """The anchor's certificate."""
    chain: tuple[Certificate, ...]
    """What follows it, up to the head."""
    ledger: Ledger
    """The head's; verified with the tree."""

    @property
    def head(self) -> Certificate:
        """The last certificate."""
        return self.chain[-1] if self.chain else self.start


class SyncError(Exception):
    """No state could be had; one line says why."""


def check_anchor(certificate: Certificate, anchor: Anchor) -> None:
    """Raises CertificateError unless this certificate is what the invite vouches for."""
    value = certificate.value
    if number_of(certificate) != anchor.round or value.digest != anchor.digest:
        raise CertificateError("wrong_anchor", "not the state that the invite names")
    if voters_hash(value.voters) != anchor.voters:
        raise CertificateError("wrong_anchor", "not the voters that the invite names")


async def fetch_branch(
    client: StateClient,
    *,
    ours: Certificate | None,
    anchor: Anchor | None,
    founders: tuple[bytes, ...],
    check: Verify = verify,
) -> Branch:
    """Ask a peer for its head and the chain to it from our anchor. Raises RemoteError, Gone."""
    head, ledger = await client.head()
    number = number_of(ours) if ours else anchor.round if anchor else 0
    if number_of(head) < max(number, anchor.round if anchor else 0):
        raise RemoteError(client.peer, "refused", "it has not come as far as our anchor")
    batch = await client.chain(number)
    if not batch or number_of(batch[0]) != number:
        raise RemoteError(client.peer, "refused", f"it does not hold certificate {number}, our anchor")
    start, *batch = batch
    last, chain = start, list[Certificate]()
    try:
        _check_start(start, ours=ours, anchor=anchor, founders=founders, check=check)
        while True:  # a batch is checked before the next is asked for: a liar's chain ends there
            links = [item for item in batch if number_of(item) <= number_of(head)]
            last = await asyncio.to_thread(check_chain, last, links, check)
            chain += links
            if not links or number_of(last) >= number_of(head) or len(chain) >= MAX_CHAIN:
                break
            batch = await client.chain(number_of(last) + 1)
        _check_passed(chain, number, anchor)
    except CertificateError as error:
        raise RemoteError(client.peer, error.reason, str(error)) from error
    if last.value.hash != head.value.hash:
        raise RemoteError(client.peer, "broken_chain", "the chain does not lead to the peer's head")
    if (ledger.swarm, ledger.round, ledger.voters) != (last.value.swarm, number_of(last), last.value.voters):
        raise RemoteError(client.peer, "malformed", "the ledger does not belong to the certificate")
    return Branch(start, tuple(chain), ledger)


def _check_start(
    start: Certificate,
    *,
    ours: Certificate | None,
    anchor: Anchor | None,
    founders: tuple[bytes, ...],
    check: Verify,
) -> None:
    """Raises CertificateError unless this is where our trust starts."""
    if ours is not None:
        if start.value.hash != ours.value.hash:
            raise CertificateError("wrong_branch", "the peer's chain does not pass our last final round")
    elif anchor is not None:
        check_anchor(start, anchor)
    else:
        check_genesis(start, founders, check)


def _check_passed(chain: Sequence[Certificate], number: int, anchor: Anchor | None) -> None:
    """Raise CertificateError unless the chain after `number` passes an anchor that lies beyond it."""
    if anchor is None or anchor.round <= number:
        return
    passed = next((item for item in chain if number_of(item) == anchor.round), None)
    if passed is None:
        raise CertificateError("wrong_anchor", "the chain ends before the state that the invite names")
    check_anchor(passed, anchor)


def prefers(holdings: Holdings, branch: Branch) -> tuple[bool, str]:
    """Whether a verified branch is to be preferred to ours, and why. It starts at our last final round."""
    choice, reason = choose(_ours_from(holdings, branch), branch.chain, branch.start.value.voters)
    return choice == "theirs", reason


def _ours_from(holdings: Holdings, branch: Branch) -> list[Certificate]:
    """Our own certificates after the branch's start, up to our head."""
    ours: list[Certificate] = []
    while batch := holdings.certificates(number_of(ours[-1] if ours else branch.start) + 1):
        ours += batch  # a peer that was alone for long has more weak rounds than one batch
    return [certificate for certificate in ours if number_of(certificate) <= number_of(holdings.head)]


def ways_apart(holdings: Holdings, branch: Branch) -> tuple[list[Certificate], list[Certificate]]:
    """What comes after the last common round: on our own chain, and on the branch."""
    ours, theirs = _ours_from(holdings, branch), list(branch.chain)
    while ours and theirs and ours[0].value.hash == theirs[0].value.hash:
        del ours[0], theirs[0]
    return ours, theirs


async def download(
    client: StateClient, digest: bytes, ledger: Ledger, staged: Generation, progress: SyncProgress
) -> StateTree:
    """Fetch every chunk of the state with this digest into a staged generation. Raises RemoteError, Gone."""
    tree = await client.tree(digest, ledger, staged.theta.numel())
    progress.total_bytes = 2 * 4 * staged.theta.numel()
    progress.done_bytes = 0
    progress.source = peer_id_of(client.peer)
    vectors: tuple[tuple[Vector, Sequence[bytes], memoryview], ...] = (
        ("theta", tree.theta, tensor_bytes(staged.theta)),
        ("momentum", tree.momentum, tensor_bytes(staged.momentum)),
    )
    for name, leaves, target in vectors:
        for index, expected in enumerate(leaves):
            data = await client.chunk(digest, name, index, expected)
            place = target[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
            if len(data) != len(place):
                raise RemoteError(client.peer, "malformed", "a chunk of the wrong size")
            await asyncio.to_thread(_write, place, data)
            progress.done_bytes += len(data)
    return tree


def _write(target: memoryview, data: bytes | memoryview) -> None:
    """Copy into a mapped file: page faults, and a disk that may be slow. numpy lets other threads run."""
    np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(data, np.uint8))
