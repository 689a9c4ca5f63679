"""Swarms of round machines that keep the record of every round, and a deliberately plain replay of one."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Literal

import torch
from round_swarm import Node, Swarm

from talkoot.averaging import outputs
from talkoot.averaging.certificate import Certificate
from talkoot.averaging.encoded import Encoded
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.outer import outer_step
from talkoot.averaging.record import RecordLayout
from talkoot.averaging.replay import Replay
from talkoot.averaging.rules import Rules

CHUNK = 1024
NUMEL = 5 * CHUNK - 100

ExchangeName = Literal["dense", "sparse"]


@dataclass
class Kept:
    """One committed round of one node: what came before, what it was made of, what came of it."""

    certificate: Certificate
    before: Ledger
    theta: torch.Tensor
    momentum: torch.Tensor
    aggregate: torch.Tensor
    data: bytes
    """The record."""
    after: tuple[torch.Tensor, torch.Tensor, Ledger]


class LoggedSwarm(Swarm):
    """Keeps the records of all nodes, made as a daemon makes them. `unrecorded` counts those that it cannot
    make, since the result of the round was not computed there."""

    def __init__(self, num_peers: int, **options: Any) -> None:
        super().__init__(num_peers, **({"numel": NUMEL, "chunk_size": CHUNK} | options))
        self.encoded: dict[bytes, Encoded] = {}
        self.kept: defaultdict[bytes, list[Kept]] = defaultdict(list)

    def give_round(self, node: Node) -> None:
        super().give_round(node)
        self.encoded[node.key] = Encoded(self.rules.num_chunks)

    def _perform(self, node: Node, out: outputs.Output) -> None:
        match out:
            case outputs.DecodePart():
                self.encoded[node.key].decoded(out.attempt, out.part, out.chunks)
            case outputs.Combine():
                self.encoded[node.key].combined(out.attempt, out.sources)
            case _:
                pass
        super()._perform(node, out)

    def _commit(self, node: Node, certificate: Certificate, ledger: Ledger) -> None:
        before, theta, momentum = node.ledger, node.theta, node.momentum
        super()._commit(node, certificate, ledger)
        layout = RecordLayout(certificate.value, before, self.rules)
        data = b"".join(self.encoded[node.key].pieces(certificate.value, layout))
        assert len(data) == layout.num_bytes
        after = (node.theta, node.momentum, ledger)
        self.kept[node.key].append(
            Kept(certificate, before, theta, momentum, node.aggregate.clone(), data, after)
        )

    def play(self, seconds: float = 60.0) -> None:
        """One round of all that live."""
        self.start_round()
        self.close()
        self.run(self.now + seconds)


def replay(kept: Kept, rules: Rules, *, data: bytes | None = None) -> tuple[torch.Tensor, Ledger]:
    """The aggregate and the next ledger, from the record."""
    data = kept.data if data is None else data
    again = Replay(kept.certificate.value, kept.before, rules)
    again.take_index(data[: again.layout.index_bytes])
    aggregate = torch.full((rules.numel,), torch.nan)
    for chunk in range(rules.num_chunks):
        offset, length = again.layout.span(chunk)
        place = aggregate[chunk * rules.chunk_size :][: rules.chunk_numel(chunk)]
        again.chunk(chunk, data[offset : offset + length], place)
    return aggregate, again.ledger


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.view(torch.int32), other.view(torch.int32))


def check_replay(kept: Kept, rules: Rules) -> None:
    """Replaying gives what applying gave, bit for bit."""
    aggregate, ledger = replay(kept, rules)
    assert same_bits(aggregate, kept.aggregate)
    theta, momentum = torch.empty(rules.numel), torch.empty(rules.numel)
    outer_step(
        kept.theta,
        kept.momentum,
        aggregate,
        learning_rate=rules.outer_learning_rate,
        momentum=rules.outer_momentum,
        theta_out_P=theta,
        momentum_out_P=momentum,
    )
    theta_after, momentum_after, ledger_after = kept.after
    assert same_bits(theta, theta_after)
    assert same_bits(momentum, momentum_after)
    assert ledger.encode() == ledger_after.encode()
