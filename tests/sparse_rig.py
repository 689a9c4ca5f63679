"""Swarms with a sparse exchange of small blobs, in pieces that are passed on as large ones are."""

from collections import Counter
from dataclasses import replace
from typing import Any

from round_swarm import Node, Swarm

from talkoot.averaging import outputs
from talkoot.averaging.messages import Call, Committed, Join, Message
from talkoot.averaging.sparse import SparseExchange

CHUNK = 2**10
NUMEL = 6 * CHUNK - 100


class SparseSwarm(Swarm):
    """Every chunk is a piece, and none is handed to everybody. Counts the copies that peers send."""

    def __init__(self, num_peers: int, *, eager: bool = False, **options: Any) -> None:
        super().__init__(num_peers, **({"numel": NUMEL, "chunk_size": CHUNK} | options), exchange="sparse")
        if not eager:
            self.rules = replace(self.rules, piece_bytes=1, eager_bytes=0)
        self.own: Counter[bytes] = Counter()
        """Pieces of its own blob that each peer sent."""
        self.relayed: Counter[bytes] = Counter()

    def _perform(self, node: Node, out: outputs.Output) -> None:
        if isinstance(out, outputs.SendBulk) and out.header.kind == "piece":
            (self.own if out.header.owner == node.key else self.relayed)[node.key] += 1
        super()._perform(node, out)

    def _receive(self, to: bytes, sender: bytes, message: Message) -> None:
        node = self.nodes[to]
        if node.commits and isinstance(message, Call | Join):  # as a daemon answers
            last = node.commits[-1]
            answer = Committed(round=last.value.round, attempt=last.attempt, certificate=last)
            self._perform(node, outputs.Send(sender, answer))
            return
        super()._receive(to, sender, message)

    @property
    def order(self) -> list[bytes]:
        """Voters in the order in which they lead."""
        return next(node for node in self.nodes.values() if node.alive).machine.context.order

    def play(self, seconds: float = 60.0) -> None:
        """A whole round."""
        self.start_round()
        self.close()
        self.run(self.now + seconds)

    def digests(self) -> set[bytes]:
        """Of all that committed and live."""
        return {n.commits[-1].value.digest for n in self.nodes.values() if n.alive and n.commits}


def exchange_of(node: Node) -> SparseExchange:
    """The running exchange of a node."""
    running = node.machine._running
    assert running is not None
    assert isinstance(running._exchange, SparseExchange)
    return running._exchange


def reasons(node: Node) -> list[str]:
    """Why attempts ended."""
    return [note.reason for note in node.notes if isinstance(note, outputs.AttemptOver)]
