"""Getting the state of the swarm: choose a branch that we can trust, then fetch what it certifies.

Trust starts at an anchor: the certificate at our own last final round, or the invite's (number, digest,
voters). From there the hand-overs of voters are followed, each certificate signed by those whom the one
before named. The highest round number alone means nothing.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from talkoot.averaging.branches import choose, loose_end, outvoted
from talkoot.averaging.certificate import (
    Certificate,
    CertificateError,
    check_certificate,
    check_chain,
    check_genesis,
)
from talkoot.averaging.ledger import Ledger, voters_hash
from talkoot.averaging.signing import Verify
from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import verify
from talkoot.peer.holdings import Holdings, number_of
from talkoot.peer.invite import Anchor
from talkoot.peer.transfer import StateClient

log = logging.getLogger("talkoot.sync")

MAX_CHAIN = 1_000_000
"""Most certificates that are followed in one go."""


Standing = Callable[[int], Collection[bytes]]
"""Who is here, ourselves included, and is not known to be beyond so many rounds."""


@dataclass(frozen=True, slots=True)
class Branch:
    """A verified way from our anchor to a state that a peer can serve."""

    start: Certificate
    """The anchor's certificate."""
    chain: tuple[Certificate, ...]
    """What follows it, up to the head."""
    ledger: Ledger
    """That of the last certificate; verified with the tree."""

    @property
    def head(self) -> Certificate:
        """The last certificate."""
        return self.chain[-1] if self.chain else self.start


def check_anchor(certificate: Certificate, anchor: Anchor, check: Verify = verify) -> None:
    """Raises CertificateError unless this certificate is what the invite vouches for.

    Its own voters are not known. But all who signed it must have done so, one of the next voters among them:
    a stranger could otherwise change what the invite does not name, and we would hand it on.
    """
    value = certificate.value
    if number_of(certificate) != anchor.round or value.digest != anchor.digest:
        raise CertificateError("wrong_anchor", "not the state that the invite names")
    if voters_hash(value.voters) != anchor.voters:
        raise CertificateError("wrong_anchor", "not the voters that the invite names")
    signers = tuple(vote.voter for vote in certificate.votes)
    check_certificate(certificate, signers, check)
    if not set(signers) & set(value.voters):
        raise CertificateError("not_a_voter", "none of the next voters has signed it")


async def fetch_branch(
    client: StateClient,
    head: Certificate,
    ledger: Ledger,
    *,
    ours: Certificate | None,
    anchor: Anchor | None,
    founders: tuple[bytes, ...],
    check: Verify = verify,
) -> Branch:
    """Ask a peer for the chain to its head from our anchor, and check it. Raises RemoteError, Gone."""
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
    start = ours or start  # the same value, with votes that we have checked
    return branch_to(client.peer, Branch(start, tuple(chain), ledger), last, ledger)


def branch_to(peer: bytes, verified: Branch, certificate: Certificate, ledger: Ledger) -> Branch:
    """The part of a verified branch that ends with a state that a peer offers, with its ledger.

    Raises RemoteError if the state is not on the branch, or if the ledger is not that state's.
    """
    value = certificate.value
    if (ledger.swarm, ledger.round, ledger.voters) != (value.swarm, number_of(certificate), value.voters):
        raise RemoteError(peer, "malformed", "the ledger does not belong to the certificate")
    steps = number_of(certificate) - number_of(verified.start)
    on_branch = 0 <= steps <= len(verified.chain)
    last = ([verified.start, *verified.chain])[steps] if on_branch else None
    if last is None or last.value.hash != value.hash:
        raise RemoteError(peer, "wrong_branch", "the state is not on the peer's own branch")
    return Branch(verified.start, verified.chain[:steps], ledger)


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
        check_anchor(start, anchor, check)
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


def is_outvoted(holdings: Holdings, branch: Branch, standing: Standing) -> bool:
    """Whether a verified branch that starts at our last final round ends with weak rounds that a quorum does
    without (`outvoted`). Not where our own rounds are weak, too, and others: there more voters decide."""
    ours, theirs = ways_apart(holdings, branch)
    rest, voters = loose_end(theirs, branch.start.value.voters)
    if not rest or (ours and len(rest) == len(theirs)):
        return False
    return outvoted(rest, voters, standing(rest[0].value.round))


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
