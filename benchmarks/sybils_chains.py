"""Forged pasts, shown to a joiner beside the true one; and what grinding keys for leadership gains."""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec

from talkoot.averaging.certificate import (
    MAX_CLAIM,
    Certificate,
    Contribution,
    Signature,
    Value,
    genesis,
    vote_bytes,
)
from talkoot.averaging.digest import content_hash
from talkoot.averaging.ledger import Ledger, voters_hash
from talkoot.averaging.quorum import leader_order
from talkoot.compression.arithmetic import ARITHMETIC_VERSION
from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import Identity
from talkoot.peer.holdings import number_of
from talkoot.peer.invite import Anchor
from talkoot.peer.survey import Offer, best_branch
from talkoot.peer.sync import Branch, fetch_branch

SWARM = content_hash(b"sybils")
BATCH = 1000
FINAL_ROUNDS = 5


def identities(random: Random, count: int) -> list[Identity]:
    """Ascending by key."""
    return sorted((Identity(random.randbytes(32)) for _ in range(count)), key=lambda one: one.key)


def continued(
    before: Certificate,
    signers: Sequence[Identity],
    *,
    weak: bool,
    voters: Sequence[bytes] | None = None,
    tokens: int = 100,
    salt: bytes = b"",
) -> Certificate:
    """One more round after a certificate, contributed to and signed by these."""
    value, number = before.value, before.value.round + 1
    cut = []
    for one in sorted(signers, key=lambda one: one.key):
        header = Contribution(
            swarm=SWARM, round=number, prior=value.digest, key=one.key, root=bytes(32), norm2=1.0,
            steps=10**9, tokens=tokens, numel=1000, codec="int8",
        )  # fmt: skip
        cut.append(msgspec.structs.replace(header, signature=one.sign(header.unsigned())))
    fresh = Value(
        swarm=SWARM,
        round=number,
        prior=value.digest,
        cut=tuple(cut),
        present=tuple(item.key for item in cut),
        parts=(),
        digest=content_hash(value.digest + salt),
        voters=tuple(sorted(voters)) if voters is not None else value.voters,
    )
    message = vote_bytes(fresh, fresh.hash, 0, "commit", weak)
    votes = tuple(Signature(one.key, one.sign(message)) for one in sorted(signers, key=lambda one: one.key))
    return Certificate(value=fresh, attempt=0, weak=weak, votes=votes)


class Source:
    """Stands for `StateClient`: a peer with a chain."""

    def __init__(self, peer: bytes, chain: Sequence[Certificate]) -> None:
        self.peer = peer
        self._chain = chain
        value = chain[-1].value
        self.ledger = Ledger(
            swarm=SWARM, arithmetic=ARITHMETIC_VERSION, round=number_of(chain[-1]), voters=value.voters,
            absent=(0,) * len(value.voters), global_step=0, tokens=0, reference_steps=1, codec="int8",
            aggregate_codec="int8",
        )  # fmt: skip

    async def chain(self, number: int) -> list[Certificate]:
        """Certificates from a number on."""
        first = number_of(self._chain[0])
        return list(self._chain[number - first :][:BATCH]) if number >= first else []

    async def verified(self, *, founders: tuple[bytes, ...], anchor: Anchor | None) -> Branch | str:
        """What a joiner makes of it, or why it refuses."""
        client: Any = self
        try:
            return await fetch_branch(
                client, self._chain[-1], self.ledger, ours=None, anchor=anchor, founders=founders
            )
        except RemoteError as error:
            return error.reason


def adopted(sources: Sequence[Source], founders: tuple[bytes, ...], anchor: Anchor | None) -> bytes | None:
    """Digest of the state that a joiner follows whom these answer, in this order."""

    async def ask() -> list[Branch | str]:
        return [await source.verified(founders=founders, anchor=anchor) for source in sources]

    offers = []
    for source, branch in zip(sources, asyncio.run(ask()), strict=True):
        if isinstance(branch, Branch):
            client: Any = source
            offers.append(Offer(client, branch, "head"))
    return best_branch(offers).head.value.digest if offers else None


def solo_chain(rounds: int, seed: int = 0) -> dict[str, Any]:
    """A stranger and a lying founder each forge so many rounds alone, each with the largest claims there
    are; a joiner without an anchor but the founders hears of both, in either order."""
    random = Random(f"solo {seed}")
    voters, stranger = identities(random, 5), Identity(random.randbytes(32))
    keys = tuple(one.key for one in voters)
    start = genesis(SWARM, content_hash(b"start"), keys, voters[0])
    honest = [start]
    for _ in range(FINAL_ROUNDS):
        honest.append(continued(honest[-1], voters[1:], weak=False))
    forged = {}
    for name, liar in (("stranger", stranger), ("voter", voters[0])):
        chain = [start]
        for _ in range(rounds):
            alone = continued(chain[-1], [liar], weak=True, voters=[liar.key], tokens=MAX_CLAIM, salt=b"f")
            chain.append(alone)
        forged[name] = Source(liar.key, chain)
    true = Source(voters[1].key, honest)
    taken = 0
    for order in ([*forged.values(), true], [true, *forged.values()]):
        taken += adopted(order, keys, None) != honest[-1].value.digest
    alone_with = adopted([forged["stranger"]], keys, None)
    return {
        "trial": "solo chain", "rounds": rounds, "adopted": taken + (alone_with is not None),
        "ok": taken == 0 and alone_with is None,
    }  # fmt: skip


def old_keys(trials: int, seed: int = 0) -> dict[str, Any]:
    """All first voters have left long ago and sign another past with their old keys, as far as they like."""
    taken = 0
    for trial in range(trials):
        random = Random(f"old {seed} {trial}")
        old, new = identities(random, 4), identities(random, 4)
        keys = tuple(one.key for one in old)
        start = genesis(SWARM, content_hash(b"start"), keys, old[0])
        handed = continued(start, old, weak=False, voters=[one.key for one in new])
        honest = [start, handed]
        for _ in range(FINAL_ROUNDS):
            honest.append(continued(honest[-1], new, weak=False))
        forged = [start, *([handed] if trial % 2 else [])]
        for _ in range(2 * FINAL_ROUNDS):
            forged.append(continued(forged[-1], old, weak=bool(trial % 2), voters=keys, salt=b"f"))
        vouched = honest[-2]
        value = vouched.value
        anchor = Anchor(number_of(vouched), value.digest, voters_hash(value.voters), 0)
        true, false = Source(new[0].key, honest), Source(old[0].key, forged)
        for order in ([false, true], [true, false]):
            taken += adopted(order, keys, anchor) != honest[-1].value.digest
        taken += adopted([false], keys, anchor) is not None
    return {"trial": "old keys", "trials": trials, "adopted": taken, "ok": taken == 0}


def ground_keys(rounds: int, ground: int = 64, seed: int = 0) -> dict[str, Any]:
    """An attacker has one place among ten voters, and for it the best of many keys by the order of a state
    that it knew. How many of the first attempts of later rounds does it lead? 1 in 10 is fair."""
    random = Random(f"ground {seed}")
    honest = [random.randbytes(32) for _ in range(9)]
    known = random.randbytes(32)
    keys = [random.randbytes(32) for _ in range(ground)]
    places = {key: leader_order([*honest, key], known).index(key) for key in keys}
    best = min(keys, key=lambda key: places[key])
    led = sum(leader_order([*honest, best], random.randbytes(32))[0] == best for _ in range(rounds))
    share, fair = led / rounds, 1 / 10
    spread = 3 * (fair * (1 - fair) / rounds) ** 0.5
    return {
        "trial": "ground keys", "keys": ground, "rounds": rounds, "led": round(share, 4), "fair": fair,
        "ok": share <= fair + spread,
    }  # fmt: skip
