"""Rounds with every codec, in both exchanges: the same bits for all, and retries that send the same bytes."""

from collections import defaultdict
from typing import Any, Literal

import pytest
import torch
from round_swarm import Node, Swarm

from talkoot.averaging import outputs
from talkoot.averaging.ladder import LADDERS
from talkoot.averaging.rules import Adaptive
from talkoot.compression.codec import NAMES

NUMEL = 5 * 8192 - 1000
"""Chunks of two blocks of rotation and of top-k; the last one is short."""

EXCHANGES: tuple[Literal["dense", "sparse"], ...] = ("dense", "sparse")
CODECS = (*NAMES, "int8:64", "int4:32", "sign:32", "topk:8", "topk:1024")
BIASED = ("sign", "topk")
LOSES = {"sign": 0.7, "topk": 0.995, "lloyd2": 0.5, "int4": 0.2, "lloyd4": 0.2}
"""Relative error of an aggregate of three, at most, where it is more than that of int8."""


class Wire(Swarm):
    """Notes the encoded contributions that travel."""

    def __init__(self, codec: str, exchange: Literal["dense", "sparse"], **options: Any) -> None:
        super().__init__(
            4,
            numel=NUMEL,
            chunk_size=8192,
            codec=codec,
            aggregate_codec="lloyd4" if codec.startswith(BIASED) else codec,
            error_feedback="auto",
            exchange=exchange,
            **options,
        )
        self.seen: defaultdict[tuple[int, str, bytes, int], set[bytes]] = defaultdict(set)

    def _perform(self, node: Node, out: outputs.Output) -> None:
        if isinstance(out, outputs.SendBulk) and out.header.kind in ("index", "slice", "piece"):
            header = out.header
            self.seen[header.round, header.kind, header.owner, header.chunk].add(bytes(out.payload))
        super()._perform(node, out)

    def play(self, victim: bytes | None = None) -> None:
        """One round; the victim dies when slices are under way."""
        self.start_round()
        self.close()
        if victim is not None:
            before = len(self.seen)
            self.run_until(lambda: len(self.seen) > before + 4)
            self.kill(victim)
        self.run(self.now + 60.0)

    @property
    def living(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.alive]


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("codec", CODECS)
def test_a_round_is_retried_with_the_same_bytes_and_ends_on_the_same_bits(
    codec: str, exchange: Literal["dense", "sparse"]
) -> None:
    swarm = Wire(codec, exchange)
    swarm.start_round()
    victim = next(iter(swarm.nodes.values())).machine.context.order[0]  # it leads the first attempt
    deltas = {key: (node.theta - node.local).double() for key, node in swarm.nodes.items()}
    swarm.play(victim)
    assert all(len(node.commits) == 1 and node.commits[0].attempt > 0 for node in swarm.living)
    assert len({node.digest for node in swarm.living}) == 1
    cut = swarm.living[0].commits[0].value.cut
    exact = sum((deltas[item.key] for item in cut), torch.zeros(NUMEL, dtype=torch.float64)) / len(cut)
    error = (swarm.living[0].aggregate.double() - exact).norm() / exact.norm()
    assert error < LOSES.get(codec.partition(":")[0], 0.02)
    swarm.play()
    assert all(len(node.commits) == 2 for node in swarm.living)
    assert len({node.digest for node in swarm.living}) == 1
    assert all(len(payloads) == 1 for payloads in swarm.seen.values())


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_slow_uplinks_lead_a_swarm_down_its_ladder_and_fast_ones_up_again(
    exchange: Literal["dense", "sparse"],
) -> None:
    rungs = LADDERS[exchange]
    adaptive = Adaptive(rungs=rungs, share=0.1, warm_rounds=0, exchange_ms=4000, certify_ms=2000)
    swarm = Wire("int8", exchange, adaptive=adaptive)
    walk = []
    for upload in [1000.0] * len(rungs) + [1e9] * len(rungs):
        for node in swarm.nodes.values():
            node.upload = upload
        swarm.play()
        assert len({node.digest for node in swarm.nodes.values()}) == 1
        (rung,) = {(node.ledger.codec, node.ledger.aggregate_codec) for node in swarm.nodes.values()}
        walk.append(rungs.index(rung))
        (counted,) = {item.codec for node in swarm.nodes.values() for item in node.commits[-1].value.cut}
        assert counted == rungs[walk[-2] if len(walk) > 1 else 0][0]
    down = [*range(1, len(rungs)), len(rungs) - 1]
    assert walk == [*down, *reversed(range(len(rungs) - 1)), 0]
