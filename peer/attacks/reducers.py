"""What lying reducers say of their part, and contributors that give their slices to some only.

Who lies about an aggregate lies as loudly as it may: the others see its norm.
"""

from collections.abc import Collection

import torch

from talkoot.averaging.aggregate import EncodedPart, decode_part
from talkoot.averaging.digest import content_hash
from talkoot.averaging.loudness import loudest
from talkoot.averaging.parts import Part
from talkoot.averaging.round import Round
from talkoot.peer.attacks.formulas import norm
from talkoot.peer.node import Node
from talkoot.peer.simulation.villains import Change, Villainy, alone, change_aggregates, go_alone

LOUDNESS = 0.9
"""A lie's norm, in parts of what the others let pass."""


def turned_round(machine: Round, said: EncodedPart) -> EncodedPart:
    """The opposite of what the part adds up to, as loud as it may be."""
    context = machine.context
    rules, codec = context.rules, context.aggregate_codec(context.key)
    part = next(part for part in machine.parts if part.reducer == context.key)
    truth_P = torch.zeros(rules.numel)
    decode_part(part, said.chunks, codec=codec, rules=rules, out_P=truth_P)
    scale = -LOUDNESS * _limit(machine, part) / max(norm(truth_P), 1e-30)
    chunks = []
    for chunk in part.chunks:
        start = chunk * rules.chunk_size
        chunks.append(codec.encode(torch.mul(truth_P[start : start + rules.chunk_numel(chunk)], scale)))
    return EncodedPart(tuple(chunks), tuple(content_hash(chunk) for chunk in chunks))


def _limit(machine: Round, part: Part) -> float:
    """What the others let pass, if all who joined are counted."""
    assert machine.last is not None
    assert machine.last.roster is not None
    context = machine.context
    cut = [join.contribution for join in machine.last.roster.members if join.contribution is not None]
    return loudest(part, cut, machine.slices.indexes(cut), context.ledger, context.rules)


def lie_loudly(node: Node) -> None:
    """To all alike."""
    change_aggregates(node, turned_round, lambda _round, _to: None)


def desert(friends: Collection[bytes]) -> Villainy:
    """Every other round it certifies weakly with its friends alone (`go_alone`), and lies loudly there."""

    def make(node: Node) -> None:
        change_aggregates(
            node,
            lambda machine, said: turned_round(machine, said) if alone(machine) else said,
            lambda _round, _to: None,
        )
        go_alone(friends)(node)

    return make


def equivocate_loudly(node: Node) -> None:
    """To every other peer; the truth to the rest."""

    def other_for(machine: Round, to: bytes) -> Change | None:
        return (lambda said: turned_round(machine, said)) if to[0] % 2 else None

    change_aggregates(node, lambda _round, said: said, other_for)
