"""A contributor that gives its slices to some only is left out, and stretches few rounds to the deadline."""

from dataclasses import replace
from typing import Literal

import pytest
from round_swarm import Node, Swarm

from talkoot.averaging import outputs
from talkoot.averaging.deadlines import Pace
from talkoot.averaging.patience import TIMES, WATCHED, Patience
from talkoot.averaging.round import Round
from talkoot.averaging.rules import Timing

TIMING = Timing(form_s=8.0, exchange_s=64.0, certify_s=2.0, floor_s=4.0)


class Withheld(Swarm):
    """Four peers, one of which gives one other no slices, or gives them late."""

    def __init__(self, exchange: Literal["dense", "sparse"]) -> None:
        super().__init__(4, numel=12 * 1024 - 100, chunk_size=1024, timing=TIMING, exchange=exchange)
        self.liar, self.victim, *_ = self.nodes
        self.paces = {key: Pace() for key in self.nodes}
        self.late_s: float | None = None
        """None: for ever."""

    def give_round(self, node: Node) -> None:
        super().give_round(node)
        context = replace(node.machine.context, pace=self.paces[node.key])
        node.round = Round(context, role=node.role, upload=0.0, earliest=self.now)

    def _perform(self, node: Node, out: outputs.Output) -> None:
        withheld = isinstance(out, outputs.SendBulk) and node.key == self.liar
        if isinstance(out, outputs.SendBulk) and withheld and self._is_kept_back(out):
            if self.late_s is not None:
                give = super()._perform
                self.at(self.now + self.late_s, lambda: give(node, out))
        else:
            super()._perform(node, out)

    def _is_kept_back(self, out: outputs.SendBulk) -> bool:
        if self.rules.exchange == "sparse":
            return out.header.kind == "piece"  # from all: who has one passes it on
        return out.header.kind == "slice" and out.to == self.victim

    def play(self) -> tuple[float, frozenset[bytes], bytes]:
        """A round: how long it took, whose contributions it counted, who led."""
        began = self.now
        before = len(next(iter(self.nodes.values())).commits)
        self.start_round()
        self.close()
        self.run_until(lambda: all(len(node.commits) > before for node in self.nodes.values()))
        certificate = self.nodes[self.victim].commits[-1]
        assert certificate.attempt == 0
        leader = self.nodes[self.victim].machine.context.leader(0)
        return self.now - began, frozenset(item.key for item in certificate.value.cut), leader


@pytest.mark.parametrize("exchange", ["dense", "sparse"])
def test_a_contributor_that_withholds_slows_down_few_rounds(exchange: Literal["dense", "sparse"]) -> None:
    swarm = Withheld(exchange)
    others = frozenset(swarm.nodes) - {swarm.liar}
    slow = []
    for _ in range(WATCHED):
        took_s, cut, leader = swarm.play()
        assert cut == others
        if took_s > TIMING.floor_s * 0.9:
            slow.append(leader)
    assert 0 < len(slow) < WATCHED / 2 + TIMES
    assert all(slow.count(leader) <= TIMES for leader in swarm.nodes)
    assert all(key not in node.machine.suspects for node in swarm.nodes.values() for key in others)
    swarm.late_s = 0.3
    assert all(swarm.play()[1] == frozenset(swarm.nodes) for _ in range(4))  # late, but in time


def test_patience_comes_back() -> None:
    patience, late = Patience(), b"late"
    for _ in range(TIMES):
        assert late not in patience.exhausted
        patience.exchanged({late})
    for _ in range(WATCHED - TIMES):
        assert patience.exhausted == {late}
        patience.exchanged(())
    patience.exchanged(())
    assert not patience.exhausted


def test_a_reducer_that_lacks_many_is_not_held_against_those_that_it_lacks() -> None:
    swarm = Withheld("dense")
    swarm.start_round()
    swarm.close()
    swarm.run_until(
        lambda: any(
            node.machine.last is not None
            and node.machine.last._leader is not None
            and len(node.machine.last._leader._receipts) == 4
            for node in swarm.nodes.values()
        )
    )
    leading = next(
        node.machine.last._leader
        for node in swarm.nodes.values()
        if node.machine.last is not None and node.machine.last._leader is not None
    )
    reducer, *_ = leading._reducers
    for number, acknowledged in enumerate(leading._receipts.values()):
        acknowledged |= leading._reducers
        if number < 3:
            acknowledged.discard(reducer)
    assert len(leading.awaited()) == 3
    assert leading.late() == set()
