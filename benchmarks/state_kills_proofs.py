"""Liars for `state_kills.py`: one is convicted in each round, by two claims that differ."""

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec

from talkoot.averaging.claims import Claim, sign_claim
from talkoot.averaging.proof import Equivocation
from talkoot.averaging.rules import Rules
from talkoot.dht.identity import Identity
from talkoot.peer.audits.proofs import Proofs
from talkoot.peer.serving import Gate
from talkoot.peer.statedir import StateDir


def liar(number: int) -> Identity:
    """Who is convicted in a round."""
    return Identity.from_seed(number.to_bytes(32, "big"))


def open_proofs(paths: StateDir, rules: Rules) -> Proofs:
    """As a node does at its start, without a network."""
    network: Any = SimpleNamespace(key=bytes(32), serve=lambda *_: None)
    proofs = Proofs(
        network,
        rules.swarm,
        Gate(),
        folder=paths.proofs,
        note=paths.convictions,
        proven=lambda *_: None,
        connected=frozenset,
    )
    proofs.load()
    proofs.begin(rules, 0, lambda _key: True)
    asyncio.run(proofs.look_again())
    return proofs


def convict(proofs: Proofs, number: int, swarm: bytes) -> None:
    """Prove that this round's liar said two things, if that is not known yet."""
    key = liar(number).key
    if key in proofs.convictions:
        return
    claim = Claim(
        swarm=swarm,
        round=number,
        prior=bytes(32),
        cut=bytes(32),
        reducer=key,
        first_chunk=0,
        num_chunks=1,
        root=bytes(32),
    )
    other = msgspec.structs.replace(claim, root=b"x" * 32)
    first, second = (sign_claim(one, liar(number)) for one in (claim, other))
    asyncio.run(proofs.convict(Equivocation(first=first, second=second)))
