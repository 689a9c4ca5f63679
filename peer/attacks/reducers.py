"""What lying reducers say of their part, and contributors that give their slices to some only.

Who lies about an aggregate lies as loudly as it may: the others see its norm.
"""

import torch

from talkoot.averaging.aggregate import EncodedPart, decode_part
from talkoot.averaging.digest import content_hash
from talkoot.averaging.round import Round
from talkoot.peer.attacks.formulas import norm
from talkoot.peer.node import Node
from talkoot.peer.simulation.villains import Change, change_aggregates

LOUDNESS = 10.0
"""A lie is the truth times minus this."""


def turned_round(machine: Round, said: EncodedPart) -> EncodedPart:
    """Minus ten times what the part adds up to: as sign flips, but nothing clips a reducer."""
    context = machine.context
    rules, codec = context.rules, context.aggregate_codec(context.key)
    part = next(part for part in machine.parts if part.reducer == context.key)
    out_P = torch.zeros(rules.numel)
    decode_part(part, said.chunks, codec=codec, rules=rules, out_P=out_P)
    chunks = []
    for chunk in part.chunks:
        start = chunk * rules.chunk_size
        lie_C = torch.mul(out_P[start : start + rules.chunk_numel(chunk)], -LOUDNESS)
        chunks.append(codec.encode(lie_C))
    return EncodedPart(tuple(chunks), tuple(content_hash(chunk) for chunk in chunks))


def lie_loudly(node: Node) -> None:
    """To all alike."""
    change_aggregates(node, turned_round, lambda _round, _to: None)


def equivocate_loudly(node: Node) -> None:
    """To every other peer; the truth to the rest."""

    def other_for(machine: Round, to: bytes) -> Change | None:
        return (lambda said: turned_round(machine, said)) if to[0] % 2 else None

    change_aggregates(node, lambda _round, said: said, other_for)
