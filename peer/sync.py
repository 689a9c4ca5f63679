"""Getting the state of the swarm: choose a branch that we can trust, then fetch what it certifies.

Trust starts at an anchor: the certificate at our own last final round, or the invite's (number, digest,
voters). From there the hand-overs of voters are followed, each certificate signed by those whom the one
before named. The highest round number alone means nothing.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

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
    certificates: list[Certificate] = []
    while len(certificates) < MAX_CHAIN:
        batch = await client.chain(number + len(certificates))
        certificates += [item for item in batch if number_of(item) <= number_of(head)]
        if not batch or number_of(batch[-1]) >= number_of(head):
            break
    if not certificates or number_of(certificates[0]) != number:
        raise RemoteError(client.peer, "refused", f"it does not hold certificate {number}, our anchor")
    try:
        start, chain = certificates[0], certificates[1:]
        if ours is not None:
            if start.value.hash != ours.value.hash:
                raise CertificateError("wrong_branch", "the peer's chain does not pass our last final round")
        elif anchor is not None:
            check_anchor(start, anchor)
        else:
            check_genesis(start, founders, check)
        last = await asyncio.to_thread(check_chain, start, chain, check)
    except CertificateError as error:
        raise RemoteError(client.peer, error.reason, str(error)) from error
    if last.value.hash != head.value.hash:
        raise RemoteError(client.peer, "broken_chain", "the chain does not lead to the peer's head")
    return Branch(start, tuple(chain), ledger)


def prefers(holdings: Holdings, branch: Branch) -> tuple[bool, str]:
    """Whether a verified branch is to be preferred to ours, and why. It starts at our last final round."""
    ours = [
        certificate
        for certificate in holdings.certificates(number_of(branch.start) + 1)
        if number_of(certificate) <= number_of(holdings.head)
    ]
    choice, reason = choose(ours, branch.chain, branch.start.value.voters)
    return choice == "theirs", reason


async def download(
    client: StateClient, branch: Branch, staged: Generation, progress: SyncProgress
) -> StateTree:
    """Fetch every chunk of the branch's head into a staged generation. Raises RemoteError, Gone."""
    digest = branch.head.value.digest
    tree = await client.tree(digest, branch.ledger, staged.theta.numel())
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
            start = index * CHUNK_BYTES
            if len(data) != len(target[start : start + CHUNK_BYTES]):
                raise RemoteError(client.peer, "malformed", "a chunk of the wrong size")
            target[start : start + len(data)] = data
            progress.done_bytes += len(data)
    return tree
