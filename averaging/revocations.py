"""Invite keys that a founder takes back, for good: nobody is admitted by them from then on.

A founder hands revocations in with its joins. Like verdicts they follow from the signed roster, so that a
leader can neither drop nor add one, and enter the certificate; the ledger then remembers the key as used by
nobody. Each is signed alone and not for a round: it says the same whenever it is shown.
"""

from collections.abc import Collection, Sequence

import msgspec

from talkoot.averaging.ledger import MAX_TOKENS_USED, Ledger, Used
from talkoot.averaging.rules import Rules
from talkoot.averaging.signing import Signer, Verify

MAX_REVOKED = 8
"""Most revocations in one join; a founder with more of them takes more rounds."""

MAX_PERMISSION_BYTES = 128

NOBODY = bytes(32)
"""The ledger's word for the peer of a key that was taken back."""


class Revocation(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One invite key that its founder takes back."""

    founder: bytes
    token: bytes
    """Public half of the invite key."""
    permission: bytes
    """What shows that this founder issued it (`Rules.issued`)."""
    signature: bytes = b""
    """The founder's."""

    @property
    def sizes_ok(self) -> bool:
        """Whether all fields are in bounds."""
        lengths = (len(self.founder), len(self.token), len(self.signature))
        return lengths == (32, 32, 64) and len(self.permission) <= MAX_PERMISSION_BYTES


def _message(swarm: bytes, token: bytes) -> bytes:
    return b"talkoot revocation\0" + msgspec.msgpack.encode((swarm, token))


def sign_revocation(signer: Signer, *, swarm: bytes, token: bytes, permission: bytes) -> Revocation:
    """Our revocation of a key that we issued."""
    return Revocation(signer.key, token, permission, signer.sign(_message(swarm, token)))


def check(revocation: Revocation, *, swarm: bytes, verify: Verify) -> bool:
    """Whether it is in bounds and its founder's; the rest is for `problem`, which needs the ledger."""
    if not revocation.sizes_ok:
        return False
    return verify(revocation.founder, _message(swarm, revocation.token), revocation.signature)


def is_revoked(token: bytes, ledger: Ledger) -> bool:
    """Whether a key was taken back."""
    return any(use.token == token and use.peer == NOBODY for use in ledger.used)


def problem(revocations: Sequence[Revocation], ledger: Ledger, rules: Rules) -> tuple[str, str] | None:
    """Why these may not be in a join or a value of the next round: a reason and its words, or None."""
    if not rules.invited_vote or rules.listed:
        return "unasked", "a revocation in a swarm without invites"
    tokens = [revocation.token for revocation in revocations]
    if not tokens or tokens != sorted(set(tokens)):
        return "malformed", "revocations repeat, are none, or are not in ascending order"
    if any(revocation.founder not in rules.founders for revocation in revocations):
        return "not_a_founder", "a revocation by somebody who issues no invites"
    revoked = {use.token for use in ledger.used if use.peer == NOBODY}
    if not revoked.isdisjoint(tokens):
        return "revoked", "an invite that was revoked before"
    if not all(rules.issued(item.founder, item.token, item.permission) for item in revocations):
        return "not_issued", "a revocation of an invite that its founder did not issue"
    return None


def take_back(
    uses: dict[bytes, Used],
    revocations: Sequence[Revocation],
    ledger: Ledger,
    founders: Collection[bytes],
    majority: bool,
) -> frozenset[bytes]:
    """Note in `uses` (by key) that these belong to nobody; returns the peers that lose what they had by them.

    Only a majority of the voters takes a vote away. Otherwise a part of the swarm that is cut off could make
    itself all of it. Founders, and who holds another key, lose nothing.
    """
    owners = set[bytes]()
    for token in (item.token for item in revocations):
        owner = uses[token].peer if token in uses else NOBODY
        holds = majority or owner not in ledger.voters
        if holds and (token in uses or len(uses) < MAX_TOKENS_USED):
            uses[token] = Used(token, NOBODY)
            owners.add(owner)
    return frozenset(owners.difference(founders, (use.peer for use in uses.values())))
